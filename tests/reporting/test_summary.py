import json
from dataclasses import replace

from adapt.reporting.summary import table


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
