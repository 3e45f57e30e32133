import io
from dataclasses import replace

import pytest
from rich.console import Console

from adapt.fertility import FertilityReport, SplitWord
from adapt.reporting.console import (
    fertility_table,
    most_split_table,
    most_split_terms_table,
    print_summary,
    summary_table,
)
from adapt.reporting.summary import Row, table

BOLD = "\x1b[1m"


def printed(thing, *, styled=False, width=120):
    console = Console(
        file=io.StringIO(),
        width=width,
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


def test_what_deserves_a_look_in_the_data_is_one_line_and_else_none(summary, bare):
    def warned(one):
        console = Console(file=io.StringIO(), width=400)
        print_summary(one, console)
        return [line for line in console.file.getvalue().splitlines() if "data audit" in line]

    assert warned(summary) == [
        "data audit: exact duplicates, dropped by the run (3 of 1,000); "
        "organ: labels, 3 to 40 rows each (5); e-mail addresses (25); places are in report.html"
    ]
    several = replace(summary.audit, findings=summary.audit.findings * 2)
    assert "and 3 more; places are" in warned(replace(summary, audit=several))[0]
    calm = [finding for finding in summary.audit.findings if not finding.warn]
    assert warned(replace(summary, audit=replace(summary.audit, findings=tuple(calm)))) == []
    assert warned(bare) == []


def test_fertility_side_by_side(summary):
    text = printed(fertility_table(summary.fertility.domain, "domain text"))
    assert line(text, "tokens per word").split()[-2:] == ["2.000", "1.500"]
    assert line(text, "one token").split()[-2:] == ["12.5%", "12.5%"]


def test_split_words_show_pieces_without_text(summary):
    text = printed(most_split_table(summary.fertility.domain[0], 2))
    assert "ab|normal|ity" in text
    assert "心|·" in text
    assert "心|· " in text
    assert "· stands for a token that begins no" in text
    assert "stands for" not in printed(most_split_table(summary.fertility.domain[0], 1))


def test_fertility_of_a_context_and_of_older_reports(summary):
    none = dict.fromkeys(
        ("renyi_efficiency", "vocabulary", "vocabulary_used_share", "context", "words_in_context")
    )
    old = [replace(one, **none) for one in summary.fertility.domain]
    text = printed(fertility_table(old, "domain text"))
    assert line(text, "length").split()[-2:] == ["1.000", "0.750"]
    assert not any(name in text for name in ("Rényi", "vocabulary", "words in"))
    figures = {"renyi_efficiency": 0.4321, "vocabulary": 49152, "vocabulary_used_share": 0.25}
    one = replace(old[0], context=4096, words_in_context=2048.0, **figures)
    new = FertilityReport((one, replace(old[1], context=4096, words_in_context=2730.7)), ())
    text = printed(fertility_table(new.domain, "domain text"))
    assert line(text, "words in 4,096 tokens").split()[-2:] == ["2,048", "2,731"]
    assert line(text, "Rényi efficiency, α = 2.5").split()[-2:] == ["0.432", "–"]
    assert line(text, "vocabulary in use").split()[-2:] == ["25.0%", "–"]


def test_no_line_is_wider_than_the_terminal(summary):
    name = "a/very/long/path/of/a/run/that/someone/made/tokenizer"
    measured = [replace(summary.fertility.domain[0], name=name + str(i)) for i in range(3)]
    word = SplitWord("w" * 64, 3, ("w" * 60, "w" * 4))
    long = replace(measured[0], most_split_words=(word,), most_split_terms=(word,))
    for width in (80, 120):
        for thing in (
            fertility_table(measured, "x"),
            most_split_table(long, 1),
            most_split_terms_table(long, 1),
        ):
            text = printed(thing, width=width)
            assert max(map(len, text.splitlines())) <= width
            assert "…" not in text, "nothing is cut off"


def test_a_long_measure_takes_two_lines_and_no_figure_is_cut_off():
    models = ("base", "control", "control-time", "adapted")
    values = dict.fromkeys(models, 1_234_567.0)
    row = Row("told by the number of masks, at most; bits per byte", "", values, 0, {})
    text = printed(summary_table([row], "run: base"), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count("1,234,567") == 4
    assert "same time" in text


def test_terms_are_shown_cut(summary):
    terms = (SplitWord("renal cysts", 1, ("renal", " c", "ysts")), SplitWord("é", 1, ("é", "")))
    text = printed(
        most_split_terms_table(replace(summary.fertility.domain[0], most_split_terms=terms), 5)
    )
    assert line(text, "renal").split() == ["3", "renal|␣c|ysts"]
    assert line(text, "é").split() == ["2", "é|·"]


def test_control_characters_of_a_word_do_not_reach_the_terminal(summary):
    word = SplitWord("\x1b[2Jx", 1, ("\x1b[2J", "x"))
    hostile = replace(summary.fertility.domain[0], most_split_words=(word,))
    assert "\x1b" not in printed(most_split_table(hostile, 1))
