import csv
import io

import pytest
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers

from adapt.errors import AdaptError
from adapt.fertility import METRICS, FertilityReport, measure
from adapt.reporting.tokens import (
    Limit,
    broken,
    cut,
    diff_sentence,
    diff_tables,
    parse_limit,
    to_csv,
)
from adapt.vocab.diff import Change, Diff


def printed(thing, *, colour=False, width=100):
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
    )
    console.print(thing)
    return console.file.getvalue()


def words(name, *known):
    vocabulary = {word: number for number, word in enumerate(["[UNK]", *known])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return measure(tokenizer, ["heart heart rate"], name=name)


def diff(*changes):
    return Diff(4, 3, 100, 30, 1000, 1000 - sum(c.saved for c in changes), tuple(changes))


SAVES = Change((" is", " by"), (" is by",), " is by", 12)
COSTS = Change(("heart",), ("he", "art"), "heart", 3)
LEVEL = Change((" a", "b"), (" ", "ab"), " ab", 2)


def test_tokens_are_told_apart_without_and_with_colour():
    assert cut((" is", "\nby", "", "\x1b")).plain == "␣is|⏎by|·|\\u001b"
    styles = [str(span.style) for span in cut(("a", "b", "c")).spans]
    assert styles == ["cyan", "dim", "magenta", "dim", "cyan"]


def test_savings_and_costs_are_tables_of_their_own():
    saves, costs = (printed(t) for t in diff_tables(diff(SAVES, LEVEL, COSTS), 20))
    assert "saves most: 1 of 1 different spans" in saves
    assert "12      12   ␣is|␣by   ␣is␣by" in saves
    assert "costs most: 1 of 1 different spans" in costs
    assert " 3       3   heart    he|art" in costs


def test_limit_and_level_changes():
    many = [Change((" x", str(i)), (f" x{i}",), f" x{i}", 1) for i in range(9)]
    [table] = diff_tables(diff(*many), 4)
    assert "4 of 9 different spans" in printed(table)
    [table] = diff_tables(diff(LEVEL), 20)
    assert "cut elsewhere, in as many tokens" in printed(table)
    assert diff_tables(diff(), 20) == []


def test_what_has_no_text_is_explained_where_it_is_shown():
    [table] = diff_tables(diff(Change(("é", ""), ("é",), "é", 1)), 5)
    assert "é|·" in printed(table)
    assert "· stands for a token" in printed(table)
    assert "stands for" not in printed(diff_tables(diff(SAVES), 5)[0])


@pytest.mark.parametrize("width", [80, 120])
def test_long_spans_are_folded_not_cut_off(width):
    text = "".join(f" word{number}" for number in range(40))
    long = Change(tuple(text.split()), (text,), text, 1)
    shown = printed(diff_tables(diff(long), 5)[0], width=width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown


def test_the_difference_in_a_line():
    assert diff_sentence(diff(SAVES)) == (
        "1,000 → 988 tokens (1.2% fewer); changed: 3 of 4 documents (75.0%), "
        "30 of 100 words (30.0%)"
    )
    assert "1,000 → 1,003 tokens (0.3% more)" in diff_sentence(diff(COSTS))
    assert diff_sentence(Diff(0, 0, 0, 0, 0, 0, ())).startswith("no change")


def test_csv_has_a_row_a_tokenizer_and_group():
    one, other = words("one, with a comma", "heart"), words("other")
    report = FertilityReport((one, other), (), {"de": (one,)})
    rows = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert [(row["tokenizer"], row["group"]) for row in rows] == [
        ("one, with a comma", ""),
        ("other", ""),
        ("one, with a comma", "de"),
    ]
    assert list(rows[0])[2:] == list(METRICS)
    assert float(rows[0]["unknown_rate"]) == pytest.approx(1 / 3)
    assert rows[0]["single_token_term_share"] == "", "no terms, no share"


def test_limits_name_tokenizer_metric_value_and_limit():
    one, other = FertilityReport((words("one", "heart"), words("other")), ()).domain
    over = parse_limit("unknown_rate=0.5", over=True, terms=False)
    assert broken([one], [over]) == []
    assert broken([one, other], [over]) == ["other: unknown_rate is 1, over the limit of 0.5"]
    under = parse_limit(" vocabulary_used = 2", over=False, terms=False)
    assert broken([one, other], [under, over]) == [
        "other: vocabulary_used is 1, under the limit of 2",
        "other: unknown_rate is 1, over the limit of 0.5",
    ]


def test_a_limit_itself_is_allowed():
    one = words("one", "heart")
    for over in (True, False):
        assert broken([one], [Limit("tokens", 3.0, over)]) == []


def test_the_first_is_held_to_no_length():
    measured = FertilityReport((words("one", "heart"), words("other")), ()).domain
    limit = Limit("normalized_sequence_length", 0.5, True)
    assert broken(measured, [limit]) == [
        "other: normalized_sequence_length is 1, over the limit of 0.5"
    ]


@pytest.mark.parametrize("given", ["tokens", "tokens=", "tokens=x", "tokens=inf", "", "="])
def test_what_is_no_limit(given):
    with pytest.raises(AdaptError) as caught:
        parse_limit(given, over=True, terms=True)
    assert str(caught.value).startswith("--fail-over: ")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("metric", ["name", "most_split_words", "tokens_per_wrd"])
def test_metrics_are_numbers(metric):
    with pytest.raises(AdaptError, match="no such metric"):
        parse_limit(f"{metric}=1", over=False, terms=True)


def test_a_share_of_terms_needs_terms():
    with pytest.raises(AdaptError, match="needs terms"):
        parse_limit("single_token_term_share=1", over=False, terms=False)
    assert parse_limit("single_token_term_share=1", over=False, terms=True).value == 1.0
