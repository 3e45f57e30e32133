import json
from dataclasses import replace

from adapt.evaluation.bootstrap import Interval
from adapt.evaluation.result import ModelScores
from adapt.reporting.summary import edge_rows, speed_rows, table


def by_measure(summary):
    return {row.measure: row for row in table(summary)}


def test_every_measure_has_a_row_in_order(summary):
    assert [row.measure for row in table(summary)] == [
        "tokens per word",
        "bytes per token",
        "bits per byte, domain text",
        "bits per byte, general text",
        "organ: accuracy",
        "organ: macro-F1",
        "define: ROUGE-L",
        "define: chrF",
        "training, bytes/s",
        "generated characters/s",
    ]


def test_values_stand_under_their_model(summary):
    rows = by_measure(summary)
    assert rows["tokens per word"].values == {"base": 2.0, "control": 2.0, "adapted": 1.5}
    domain = rows["bits per byte, domain text"]
    assert domain.values == {"base": 1.2, "control": 0.9, "adapted": 0.85}
    assert domain.better == "lower"
    assert domain.intervals["control"] == (0.9 - 0.05, 0.9 + 0.05)
    assert rows["organ: macro-F1"].intervals == {}
    assert rows["organ: accuracy"].better == "higher"


def test_the_base_was_not_trained(summary):
    speeds = by_measure(summary)["training, bytes/s"].values
    assert speeds == {"base": None, "control": 3000.0, "adapted": 3000.0}


def test_what_was_not_measured_has_no_row(bare):
    rows = table(bare)
    assert [row.measure for row in rows] == [
        "tokens per word",
        "bytes per token",
        "bits per byte, domain text",
        "training, bytes/s",
        "generated characters/s",
    ]
    assert all(list(row.values) == ["base", "adapted"] for row in rows)


def test_the_summary_is_plain_json(summary, bare):
    for one in (summary, bare):
        record = json.loads(json.dumps(one.to_json()))
        assert record["table"][0]["values"]["base"] == 2.0
        assert record["verdict"]["choice"] == "adopt"


def test_a_model_without_general_scores_takes_the_row_away(summary):
    scores = {**summary.scores, "base": replace(summary.scores["base"], general=None)}
    assert "bits per byte, general text" not in by_measure(replace(summary, scores=scores))


def test_edges_are_rows_of_their_own(summary, bare):
    rows = {row.measure.split(", ")[1]: row for row in edge_rows(summary)}
    assert list(rows) == ["plain", "healed", "healed minus plain"]
    assert rows["plain"].values["base"] == 1.4
    assert rows["plain"].intervals["base"] == (1.4 - 0.02, 1.4 + 0.02)
    assert [row["measure"] for row in summary.to_json()["edge"]] == [
        row.measure for row in rows.values()
    ]
    assert edge_rows(bare) == []
    assert bare.to_json()["edge"] == []


def test_edges_on_fragmented_documents_stand_below(summary):
    part = {"plain": Interval(1.7, 1.5, 1.9), "healed": Interval(1.6, 1.4, 1.8)}
    adapted = summary.scores["adapted"]
    adapted = replace(adapted, edge=replace(adapted.edge, on_fragmented=part))
    rows = edge_rows(replace(summary, scores={**summary.scores, "adapted": adapted}))
    assert [row.measure for row in rows[3:]] == [
        "bits per byte after a cut, plain, fragmented text",
        "bits per byte after a cut, healed, fragmented text",
    ]
    assert rows[3].values == {"base": None, "control": None, "adapted": 1.7}
    assert rows[4].intervals == {"adapted": (1.4, 1.8)}
    assert ModelScores.from_json(json.loads(json.dumps(adapted.to_json()))) == adapted


def test_speeds_are_medians_with_the_range_of_rounds(summary):
    rows = {row.measure: row for row in speed_rows(summary)}
    generated = rows["generated characters/s"]
    speed = summary.scores["adapted"].speed.decode_characters_per_second
    assert generated.values["adapted"] == speed.median
    assert generated.intervals["adapted"] == (min(speed.values), max(speed.values))
    assert rows["one request, 90 % took at most; ms"].values["base"] == 200.5
    assert rows["memory, MB (weights and cache)"].values["control"] == 250
    scores = {**summary.scores, "control": replace(summary.scores["control"], speed=None)}
    assert speed_rows(replace(summary, scores=scores)) == []


def test_the_harness_has_a_row_a_task_and_metric(summary):
    found = {"arc": {"acc": Interval(0.3, 0.2, 0.4)}}
    scores = {m: replace(one, harness=found) for m, one in summary.scores.items()}
    (row,) = [r for r in table(replace(summary, scores=scores)) if "harness" in r.measure]
    assert (row.measure, row.better) == ("harness, arc: acc", "")
    assert row.values["adapted"] == 0.3
    assert row.intervals["control"] == (0.2, 0.4)


def test_a_model_whose_edges_were_not_measured_has_a_dash(summary):
    scores = {**summary.scores, "control": replace(summary.scores["control"], edge=None)}
    row = edge_rows(replace(summary, scores=scores))[0]
    assert list(row.values) == ["base", "control", "adapted"]
    assert row.values["control"] is None
    assert "control" not in row.intervals


def test_scores_survive_their_manifest(summary, bare):
    for scores in (summary.scores["adapted"], bare.scores["adapted"]):
        record = json.loads(json.dumps(scores.to_json()))
        assert ModelScores.from_json(record) == scores
    del record["edge"]  # as an earlier version wrote it
    assert ModelScores.from_json(record) == bare.scores["adapted"]
