"""Baselines, labels and examples of tasks in the reports."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from adapt.evaluation.bootstrap import Interval
from adapt.evaluation.result import Baseline, ClassScores
from adapt.reporting.console import print_summary
from adapt.reporting.html import render
from adapt.reporting.summary import table, task_rows
from adapt.reporting.tasks import METRICS, defeats, forgotten, ranking

HOSTILE = "<script>alert(1)</script>"
CUT, LOWER = Interval(0.4, 0.2, 0.6), Interval(0.3, 0.1, 0.5)


def baseline(accuracy):
    each = tuple(float(i < accuracy * 50) for i in range(50))
    metrics = {"accuracy": accuracy, "macro_f1": accuracy - 0.1}
    return Baseline(metrics, Interval(accuracy, accuracy - 0.1, accuracy + 0.1), each)


@pytest.fixture
def judged(summary):
    """The summary, with baselines, labels and examples such as `score_model` gives."""

    def model(name, one):
        task = one.tasks["organ"]
        task = replace(
            task,
            each=baseline(task.main.value).each,
            answers=tuple(f"{name} {HOSTILE} {i}" for i in range(50)),
            example_rows=(7, 3),
            examples=(("p7", "r7", "a"), ("p3", "r3", "b")),
            worst=1,
            intervals={"macro_f1": Interval(0.4, 0.3, 0.5)},
            metrics={**task.metrics, "mcc": 0.1, "ece": 0.2},
            classes=(ClassScores(HOSTILE, 0.5, 0.25, 1 / 3, 4),),
            confusion=(("heart", "heart", 9), ("heart", HOSTILE, 3)),
            notes=(f"note {HOSTILE}",),
            baselines={"tf-idf": baseline(0.86), "majority": baseline(0.1)}
            if name == "base"
            else {},
        )
        return replace(one, tasks={**one.tasks, "organ": task})

    return replace(summary, scores={n: model(n, one) for n, one in summary.scores.items()})


def test_a_model_that_loses_to_a_baseline_is_said_to(judged):
    (sentence,) = defeats(judged.scores)
    assert sentence.startswith(
        "organ: the adapted model loses to tf-idf and logistic regression: accuracy 0.600 against "
        "0.860, macro-F1 0.500 against 0.760 (difference in accuracy -0.260, 95 % interval -0."
    )
    assert defeats({**judged.scores, "base": judged.scores["control"]}) == []


def test_models_and_baselines_stand_in_one_order(judged, summary):
    names = [row.name for row in ranking(judged.scores, "organ")]
    assert names == ["tf-idf", "adapted", "control", "base", "majority"]
    assert ranking(judged.scores, "define") == []
    assert ranking(summary.scores, "organ") == []


def test_baselines_stand_beside_models_on_fragmented_rows_too(judged):
    base = judged.scores["base"]
    task, part = base.tasks["organ"], {"accuracy": CUT, "macro_f1": LOWER}
    beside = {**task.baselines, "tf-idf": replace(task.baselines["tf-idf"], on_fragmented=part)}
    task = replace(task, on_fragmented={"accuracy": CUT}, baselines=beside)
    scores = {**judged.scores, "base": replace(base, tasks={**base.tasks, "organ": task})}
    found = {row.name: row for row in ranking(scores, "organ")}
    tf_idf = found.pop("tf-idf")
    assert (tf_idf.fragmented, tf_idf.fragmented_macro_f1) == (0.4, 0.3)
    assert found.pop("base").fragmented == 0.4
    assert {(row.fragmented, row.fragmented_macro_f1) for row in found.values()} == {(None, None)}
    page = render(replace(judged, scores=scores))
    assert "macro-F1, fragmented text" in page
    assert "<td>0.400</td><td>0.300</td></tr>" in page
    assert "<td>0.400</td><td>–</td></tr>" in page


def test_labels_of_sets_have_their_own_names(judged):
    base = judged.scores["base"]
    names = {"accuracy": "subset_accuracy", "macro_f1": "set_macro_f1"}
    one = baseline(0.5)
    one = replace(one, metrics={names[name]: value for name, value in one.metrics.items()})
    one = replace(one, on_fragmented={"subset_accuracy": CUT, "set_macro_f1": LOWER})
    task = replace(base.tasks["organ"], metrics=one.metrics, baselines={"tf-idf": one})
    (row, _) = ranking({"base": replace(base, tasks={"organ": task})}, "organ")
    assert (row.macro_f1, row.fragmented, row.fragmented_macro_f1) == (0.4, 0.4, 0.3)


def test_the_main_table_has_few_metrics_and_the_task_all(judged):
    measures = [row.measure for row in table(judged)]
    assert "organ: macro-F1" in measures
    assert "organ: Matthews correlation" not in measures
    rows = {row.measure: row for row in task_rows(judged, "organ")}
    assert rows["organ: calibration error, 15 bins"].better == "lower"
    assert rows["organ: macro-F1"].intervals["base"] == (0.3, 0.5)
    assert len(rows) == 4


def test_the_fragmented_rows_of_a_task_have_lines_of_their_own(judged):
    cut = {"accuracy": CUT, "macro_f1": LOWER}

    def slice_of(one):
        task = replace(one.tasks["organ"], fragmented=(1, 4), on_fragmented=cut)
        return replace(one, tasks={**one.tasks, "organ": task})

    scores = {name: slice_of(one) for name, one in judged.scores.items()}
    sliced = replace(judged, scores=scores)
    before = len(task_rows(judged, "organ"))
    whole = {row.measure: row for row in task_rows(sliced, "organ")[before:]}
    assert list(whole) == ["organ: accuracy, fragmented text", "organ: macro-F1, fragmented text"]
    assert whole["organ: macro-F1, fragmented text"].values["base"] == 0.3
    assert whole["organ: macro-F1, fragmented text"].intervals["adapted"] == (0.1, 0.5)
    shown = [row.measure for row in table(sliced) if "fragmented" in row.measure]
    assert shown == ["organ: accuracy, fragmented text"]
    page = render(sliced)
    assert "Fragmented text is the fifth" in page
    assert "Fragmented text is the fifth" not in render(judged)


def test_every_metric_of_the_evaluation_has_a_name():
    from adapt.evaluation.metrics import CONFIDENCE, SETS
    from adapt.evaluation.metrics import METRICS as MEASURED

    assert {*MEASURED, *SETS, *CONFIDENCE} <= set(METRICS)


def test_console_and_page_and_json(judged):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_summary(judged, console)
    text = console.export_text()
    assert "organ: models and baselines" in text
    assert "loses to tf-idf" in text
    page = render(judged)
    assert page.count("<script") == 1
    for part in (
        "loses to tf-idf",
        "Models and baselines",
        "Most frequent confusions",
        "1 labels one by one",
        "rows where the adapted model is worst",
        "rows where the adapted model is best",
        "control &lt;script&gt;alert(1)&lt;/script&gt; 7",
        "note &lt;script&gt;",
    ):
        assert part in page, part
    record = json.loads(json.dumps(judged.to_json()))
    assert record["ranking"]["organ"][0]["name"] == "tf-idf"
    assert record["defeats"]


def test_what_is_forgotten_of_a_task_is_said(summary):
    scores = summary.scores
    one = scores["adapted"].tasks["organ"]
    kept_out = replace(one, trained=False)
    before = replace(kept_out, metrics={**one.metrics, "accuracy": 0.75})
    known = {
        "base": replace(scores["base"], tasks={"organ": before}),
        "adapted": replace(scores["adapted"], tasks={"organ": kept_out}),
    }
    (sentence,) = forgotten(known)
    assert sentence.startswith("organ, which nothing was trained on: accuracy 0.750 before, ")
    assert forgotten({"adapted": known["adapted"]}) == []  # no base, so nothing was before
    assert forgotten(scores) == []
