"""The control of the same time in every report; a run without it stays as it was."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from adapt.reporting.by_data import parts
from adapt.reporting.console import print_summary
from adapt.reporting.cost import costs, same_time
from adapt.reporting.html import render
from adapt.reporting.side_by_side import Opened, columns, sections
from adapt.reporting.side_by_side import render as render_several
from adapt.reporting.summary import edge_rows, likelihood_rows, speed_rows, table
from adapt.reporting.tasks import defeats, ranking
from adapt.reporting.trackers import scalars
from tests.reporting.test_html import Page

MODELS = ["base", "control", "control-time", "adapted"]


def rows_of(summary):
    return {row.measure: row for row in table(summary)}


def test_every_row_has_a_value_or_none_for_it(timed):
    rows = [*table(timed), *speed_rows(timed), *edge_rows(timed)]
    assert all(list(row.values) == MODELS for row in rows)
    found = {row.measure: row.values["control-time"] for row in rows}
    assert found["bits per byte, domain text"] == 0.95
    assert found["training, bytes/s"] == pytest.approx(48_000 * 0.8 / 12)
    assert found["organ: accuracy"] is None
    assert found["generated characters/s"] is None
    assert rows_of(timed)["bits per byte, general text"].intervals["control-time"] == (
        pytest.approx((1.03, 1.13))
    )


def test_other_models_keep_their_figures(summary, timed):
    for before, now in zip(table(summary), table(timed), strict=True):
        assert before.measure == now.measure
        assert {m: v for m, v in now.values.items() if m != "control-time"} == before.values
    assert len(speed_rows(timed)) == len(speed_rows(summary)) > 0
    assert ranking(timed.scores, "organ") == ranking(summary.scores, "organ")
    assert defeats(timed.scores) == defeats(summary.scores)


def test_the_note_says_what_it_took_and_read(summary, timed):
    assert same_time(timed) == (
        "The adapted model trained for 16.0 s, the control of the same time for 12.0 s, on "
        "38.4 kB: 80.0% of what the control read."
    )
    assert same_time(summary) == ""
    shared = {**summary.trained, "control-time": summary.trained["control"]}
    said = same_time(replace(timed, trained=shared))
    assert said.startswith("Adapted model and control trained for the same time within 1 %")
    assert costs(timed)["training time"] == {
        "adapted": "16.0 s",
        "control": "16.0 s",
        "control-time": "12.0 s",
    }


def test_the_page_shows_it_beside_the_control(summary, timed):
    html = render(timed)
    page = Page(html)
    assert page.faults == []
    assert "Base, control and adapted" in page.text
    assert "measure base control control, same time adapted" in page.text
    assert "cost base control control, same time adapted" in page.text
    assert "adapted − control, same time −0.100 −0.120 to −0.080 adapted is better" in page.text
    assert page.text.count(same_time(timed)) == 2
    forest = [a["aria-label"] for a in page.attributes("svg")][0]
    assert "control, same time: 0.950, 95 % interval 0.900 to 1.000" in forest
    assert "domain, control, same time 20 80 32.0 kB" in page.text
    assert html.count("var(--control-time)") > 2
    assert "--control-time: #" in html
    without = Page(render(summary))
    assert "same time" not in without.text
    assert "var(--control-time)" not in render(summary)


def test_a_head_is_scored_on_its_task(timed):
    """As of an encoder: every model has the task, and none says how likely text is."""
    scores = {
        m: replace(timed.scores["control"], domain=None, general=None, edge=None, speed=None)
        for m in ("control", "control-time", "adapted")
    }
    compared = {m: replace(timed.comparisons[m], domain=None) for m in ("control", "control-time")}
    head = replace(timed, scores=scores, comparisons=compared)
    assert rows_of(head)["organ: accuracy"].values == dict.fromkeys(scores, 0.5)
    assert [one.name for one in ranking(head.scores, "organ")] == []
    assert "control, same time control says" in Page(render(head)).text


def test_the_terminal_shows_it(timed):
    console = Console(file=io.StringIO(), width=80)
    print_summary(timed, console)
    text = console.file.getvalue()
    assert "same time" in text
    (line,) = [one for one in text.splitlines() if "bits per byte, domain text ↓" in one]
    assert line.split()[-4:] == ["1.200", "0.900", "0.950", "0.850"]
    assert " ".join(text.split()).count(same_time(timed)) == 1


def test_trackers_get_its_figures(timed):
    found = scalars(timed)
    assert found["bits per byte, domain text/control-time"] == 0.95
    assert "organ: accuracy/control-time" not in found


def test_a_slice_of_which_nothing_is_scored_has_no_row(timed):
    def emptied(one):
        bits, bytes_ = (*one.domain.bits, 0.0), (*one.domain.bytes_, 0)
        return replace(one, domain=replace(one.domain, bits=bits, bytes_=bytes_, fragmented=(1,)))

    scores = {model: emptied(one) for model, one in timed.scores.items()}
    rows = likelihood_rows(replace(timed, scores=scores), "domain")
    assert not [row for row in rows if "fragmented" in row.measure]


def test_runs_with_and_without_it_side_by_side(summary, timed, tmp_path):
    runs = [Opened(tmp_path / "a", timed), Opened(tmp_path / "b", summary)]
    assert columns(runs) == [
        (0, "adapted"), (0, "control"), (0, "control-time"), (1, "adapted"), (1, "control")
    ]  # fmt: skip
    assert all(len(line.cells) == 5 for one in sections(runs) for line in one.lines)
    rows, _ = parts([timed])["Time and energy"](timed)
    assert {row.measure: row for row in rows}["training, s"].values["control-time"] == 12
    page = Page(render_several(runs, tmp_path))
    assert page.text.count("control, same time") == 1
