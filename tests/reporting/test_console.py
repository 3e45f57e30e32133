import io

import pytest
from rich.console import Console

from adapt.reporting.console import (
    fertility_table,
    most_split_table,
    print_summary,
    summary_table,
)
from adapt.reporting.summary import Row, table

BOLD = "\x1b[1m"


def printed(thing, *, styled=False):
    console = Console(
        file=io.StringIO(),
        width=120,
        force_terminal=styled,
        color_system="standard" if styled else None,
    )
    console.print(thing)
    return console.file.getvalue()


def line(text, measure):
    return next(line for line in text.splitlines() if measure in line)


def test_all_rows_and_models_are_shown(summary):
    rows = table(summary)
    text = printed(summary_table(rows, "medical: base"))
    assert "medical: base" in text
    assert all(model in text for model in ("base", "control", "adapted"))
    for row in rows:
        arrow = "↑" if row.better == "higher" else "↓"
        assert f"{row.measure} {arrow}" in text


def test_digits_and_thousands(summary):
    text = printed(summary_table(table(summary), ""))
    assert line(text, "domain text").split()[-3:] == ["1.200", "0.900", "0.850"]
    assert line(text, "training").split()[-3:] == ["–", "3,000", "3,000"]


@pytest.mark.parametrize(("better", "best"), [("higher", "3.0"), ("lower", "1.0")])
def test_the_best_and_only_the_best_is_bold(better, best):
    row = Row("measure", better, {"base": 1.0, "control": 2.0, "adapted": 3.0}, 1, {})
    text = line(printed(summary_table([row], ""), styled=True), "measure")
    assert text.count(BOLD) == 1
    assert f"{BOLD}{best}" in text


def test_a_missing_value_is_a_dash_and_never_best():
    row = Row("speed", "lower", {"base": None, "adapted": 3.0}, 1, {})
    text = line(printed(summary_table([row], ""), styled=True), "speed")
    assert "–" in text
    assert f"{BOLD}3.0" in text
    nothing = Row("speed", "lower", {"base": None, "adapted": None}, 1, {})
    assert line(printed(summary_table([nothing], "")), "speed").count("–") == 2


def test_a_run_without_control_has_two_columns(bare):
    text = printed(summary_table(table(bare), ""))
    assert "control" not in text


def test_the_summary_ends_in_notes_and_verdict_as_they_are(summary):
    console = Console(file=io.StringIO(), width=200)
    print_summary(summary, console)
    lines = console.file.getvalue().rstrip().splitlines()
    assert lines[-2:] == ["note: units stay inside digits", summary.verdict.sentence]


def test_fertility_side_by_side(summary):
    text = printed(fertility_table(summary.fertility.domain, "domain text"))
    assert line(text, "tokens per word").split()[-2:] == ["2.000", "1.500"]
    assert line(text, "one token").split()[-2:] == ["12.5%", "12.5%"]


def test_split_words_show_pieces_without_text(summary):
    text = printed(most_split_table(summary.fertility.domain[0], 2))
    assert "ab|normal|ity" in text
    assert "心|·" in text
