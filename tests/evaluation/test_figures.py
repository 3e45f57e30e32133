"""Figures of some rows are those that the rows would have alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.evaluation.figures import Columns
from adapt.evaluation.label_metrics import Ece, MacroF1, calibration_error, label_statistics
from adapt.evaluation.text_metrics import Distinct1, distinct_share

ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.integers(0, 3)),
    min_size=1,
    max_size=30,
)


def columns(rows):
    said, right, weight = zip(*rows, strict=True)
    hit = np.array([a == b for a, b in zip(said, right, strict=True)], dtype=np.float64)
    below = np.array(weight, dtype=np.float64)
    sure = below / 3
    return Columns(
        {"hit": hit},
        {"ratio": (hit * below, below)},
        label_statistics(said, right),
        {"ece": calibration_error(sure, hit), "distinct": distinct_share(said, 1)},
    )


@settings(max_examples=30, deadline=None)
@given(ROWS, st.data())
def test_figures_of_some_rows_are_those_of_the_rows_alone(rows, data):
    part = data.draw(st.lists(st.sampled_from(range(len(rows))), min_size=1, unique=True))
    cut = [rows[i] for i in part]
    found = columns(rows).intervals(0, part)
    alone = columns(cut).intervals(0)
    assert list(found) == list(alone)
    for name, one in found.items():
        for value, other in zip(
            (one.value, one.low, one.high),
            (alone[name].value, alone[name].low, alone[name].high),
            strict=True,
        ):
            assert value == pytest.approx(other), name
    said, right, weight = zip(*cut, strict=True)
    assert ("ratio" in found) == any(weight)
    macro = MacroF1().compute(predictions=list(said), references=list(right))["macro_f1"]
    assert found["macro_f1"].value == pytest.approx(macro)
    given = {"predictions": list(said), "references": list(right)}
    ece = Ece().compute(**given, confidences=[w / 3 for w in weight])["ece"]
    assert found["ece"].value == pytest.approx(ece)
    assert found["distinct"].value == pytest.approx(Distinct1().compute(**given)["distinct_1"])


def test_all_rows_without_any_named_and_no_figures_of_none():
    every = columns([("a", "a", 1), ("a", "b", 2)])
    assert every.intervals(3) == every.intervals(3, [0, 1])
    assert every.intervals(3, ()) == {}
