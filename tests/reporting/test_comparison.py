"""Tables of two models, for the terminal and for files, and where reports show them."""

import csv
import io
from dataclasses import replace

import pytest

from adapt.evaluation.bootstrap import Interval
from adapt.evaluation.compare import Comparison, Figure
from adapt.evaluation.verdict import Verdict
from adapt.reporting.comparison import comparison_table, explained, probability, to_csv, to_json
from adapt.reporting.console import print_summary
from adapt.reporting.html import render
from adapt.reporting.summary import table
from tests.reporting.test_console import line, printed

FIGURES = (
    Figure(
        "bits per byte, domain text",
        "lower",
        60,
        "0123456789abcdef" * 4,
        0.85,
        0.9,
        Interval(0.85, 0.8, 0.9),
        Interval(0.9, 0.85, 0.95),
        Interval(-0.05, -0.07, -0.03),
        0.0002,
        "paired bootstrap",
    ),
    Figure("generated characters/s", "higher", 0, "", 60.0, 50.0),
)
COMPARED = Comparison("runs/a", Interval(-0.05, -0.07, -0.03), None, FIGURES)


def test_a_table_has_values_intervals_and_p_values():
    text = printed(comparison_table(COMPARED, "runs/b", "b against a"), width=160)
    domain = line(text, "domain text")
    for part in ("0.900 (0.850 to 0.950)", "0.850 (0.800 to 0.900)", "-0.050 (-0.070 to -0.030)"):
        assert part in domain
    assert "< 0.001" in domain
    assert line(text, "characters").split()[-2:] == ["–", "–"]
    assert text.index("runs/a") < text.index("runs/b")
    assert "paired bootstrap" in explained(FIGURES)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.00099, "< 0.001"), (0.001, "0.001"), (0.0496, "0.050"), (1.0, "1.000")]
)
def test_p_values_are_never_zero(value, shown):
    assert probability(value) == shown


def test_files_have_every_figure():
    judged = [("runs/b", COMPARED, Verdict("adopt", "Adopt: ..."))]
    rows = list(csv.DictReader(io.StringIO(to_csv("runs/a", judged))))
    assert [row["name"] for row in rows] == [figure.name for figure in FIGURES]
    assert float(rows[0]["difference"]) == -0.05
    assert float(rows[0]["difference_low"]) == -0.07
    assert rows[0]["data"] == FIGURES[0].data
    assert rows[1]["p_value"] == rows[1]["difference_high"] == ""
    record = to_json("runs/a", judged)
    assert record["reference"] == "runs/a"
    assert record["comparisons"][0]["figures"][0]["p_value"] == 0.0002
    assert record["comparisons"][0]["verdict"]["choice"] == "adopt"


@pytest.fixture
def sliced(summary):
    """A run whose base says which documents are fragmented, with shares of new tokens."""

    def cut(model, **fields):
        one = summary.scores[model]
        return replace(one, domain=replace(one.domain, **fields))

    scores = {
        "base": cut("base", fragmented=(0,)),
        "control": summary.scores["control"],
        "adapted": cut(
            "adapted",
            new_token_share=Interval(0.125, 0.1, 0.15),
            share_on_fragmented=Interval(0.25, 0.2, 0.3),
        ),
    }
    comparisons = {k: replace(v, figures=FIGURES) for k, v in summary.comparisons.items()}
    return replace(summary, scores=scores, comparisons=comparisons)


def test_reports_show_the_slice_the_share_and_the_tests(sliced, summary):
    rows = {row.measure: row for row in table(sliced)}
    cut = rows["bits per byte, fragmented text"]
    assert cut.values == pytest.approx({"base": 1.2, "control": 0.9, "adapted": 0.85})
    assert rows["probability on new tokens"].values == {
        "base": None,
        "control": None,
        "adapted": 0.125,
    }
    assert rows["probability on new tokens, fragmented text"].values["adapted"] == 0.25
    assert not {row.measure for row in table(summary)} & {cut.measure, "probability on new tokens"}
    page = render(sliced)
    assert "fragmented text" in page
    assert "&lt; 0.001" in page
    assert FIGURES[0].data[:16] in page
    from rich.console import Console

    console = Console(file=io.StringIO(), width=160)
    print_summary(sliced, console)
    text = console.file.getvalue()
    assert "adapted against control" in text
    assert "< 0.001" in text


def test_a_slice_of_other_documents_is_not_shown(sliced):
    other = replace(sliced.scores["adapted"].domain, data="other")
    base = replace(sliced.scores["base"].domain, data="base")
    scores = {
        **sliced.scores,
        "base": replace(sliced.scores["base"], domain=base),
        "adapted": replace(sliced.scores["adapted"], domain=other),
    }
    assert "fragmented" not in str([r.measure for r in table(replace(sliced, scores=scores))])
