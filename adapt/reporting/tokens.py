"""What the terminal, a CSV file and a CI job are told of tokens: cuts, differences, limits."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from adapt.errors import AdaptError, nearest
from adapt.fertility import METRICS, Fertility, FertilityReport
from adapt.fertility.drift import Drift
from adapt.reporting.html import visible
from adapt.vocab.diff import Change, Diff

_STYLES = ("cyan", "magenta")  # of one token and the next; the bar tells them apart without colour
_NO_TEXT = "·"
NO_TEXT_NOTE = f"{_NO_TEXT} stands for a token that begins no character of its own"


def cut(pieces: Sequence[str]) -> Text:
    """A text by its tokens: a bar between them, colours in turn, blanks as signs."""
    drawn = Text()
    for number, piece in enumerate(pieces):
        if number:
            drawn.append("|", "dim")
        drawn.append(visible(piece) or _NO_TEXT, _STYLES[number % len(_STYLES)])
    return drawn


# -- differences ----------------------------------------------------------------------------


def diff_tables(diff: Diff, limit: int) -> list[Table]:
    """What saves most, and what costs most where anything does; each at most `limit` changes."""
    saves = [change for change in diff.changes if change.saved > 0]
    costs = [change for change in reversed(diff.changes) if change.saved < 0]
    level = [change for change in diff.changes if not change.saved]
    kinds = (
        ("saves most", "saved", saves),
        ("costs most", "added", costs),
        ("cut elsewhere, in as many tokens", "saved", level if not saves and not costs else []),
    )
    return [
        _diff_table(title, column, changes, limit) for title, column, changes in kinds if changes
    ]


def _diff_table(title: str, column: str, changes: Sequence[Change], limit: int) -> Table:
    shown = changes[:limit]
    drawn = Table(
        title=f"{title}: {len(shown):,} of {len(changes):,} different spans",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    drawn.add_column(column, justify="right", no_wrap=True)
    drawn.add_column("times", justify="right", no_wrap=True)
    drawn.add_column("before", overflow="fold")
    drawn.add_column("after", overflow="fold")
    for change in shown:
        numbers = (f"{abs(change.saved):,}", f"{change.count:,}")
        drawn.add_row(*numbers, cut(change.before), cut(change.after))
    if any("" in change.before + change.after for change in shown):
        drawn.caption, drawn.caption_justify = NO_TEXT_NOTE, "left"
    return drawn


def diff_sentence(diff: Diff) -> str:
    """The difference in a line."""
    if not diff.changes:
        return f"no change: {diff.tokens_before:,} tokens, cut alike in all documents"
    fewer = (diff.tokens_before - diff.tokens_after) / (diff.tokens_before or 1)
    return (
        f"{diff.tokens_before:,} → {diff.tokens_after:,} tokens "
        f"({abs(fewer):.1%} {'fewer' if fewer >= 0 else 'more'}); "
        f"changed: {diff.documents_changed:,} of {diff.documents:,} documents "
        f"({diff.documents_changed / diff.documents:.1%}), "
        f"{diff.words_changed:,} of {diff.words:,} words "
        f"({diff.words_changed / (diff.words or 1):.1%})"
    )


# -- drift ----------------------------------------------------------------------------------


def drift_tables(found: Drift, words: int) -> list[Table]:
    """A run's held-out text beside new text, and the words that are new among the costliest."""
    drawn = Table(title="the run's tokenizer", box=box.SIMPLE_HEAD, title_justify="left")
    drawn.add_column("", no_wrap=True)
    for name in ("held-out text", "this text"):
        drawn.add_column(name, justify="right")
    for label, metric, form in _DRIFT:
        values = [getattr(one, metric) for one in (found.before, found.now)]
        drawn.add_row(label, *(format(value, form) for value in values))
    shown = found.new_words[:words]
    if not shown:
        return [drawn]
    split = Table(
        title="costs most here, and was not among the costliest",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    split.add_column("word", overflow="fold")
    split.add_column("times", justify="right", no_wrap=True)
    split.add_column("pieces", overflow="fold")
    for word in shown:
        split.add_row(Text(visible(word.word)), f"{word.count:,}", cut(word.pieces))
    return [drawn, split]


_DRIFT = (
    ("documents", "documents", ",d"),
    ("words", "words", ",d"),
    ("tokens per word", "tokens_per_word", ".3f"),
    ("tokens per character", "tokens_per_character", ".3f"),
    ("bytes per token", "bytes_per_token", ".3f"),
    ("words of two tokens or more", "continued_word_share", ".1%"),
    ("unknown tokens", "unknown_rate", ".2%"),
)


# -- files ----------------------------------------------------------------------------------


def to_csv(report: FertilityReport) -> str:
    """The figures of a report: a row a tokenizer, for the whole text and for each of its groups.

    Columns are `tokenizer`, `group` (empty for the whole text) and every metric; one without a
    value is empty.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("tokenizer", "group", *METRICS))
    for group, measured in {"": report.domain, **report.groups}.items():
        for one in measured:
            writer.writerow((one.name, group, *(getattr(one, metric) for metric in METRICS)))
    return out.getvalue()


# -- limits ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """A bound on a metric.

    Attributes:
        metric: A field of `Fertility` that is a number.
        value: The bound, itself allowed.
        over: Whether more is too much; else less is too little.
    """

    metric: str
    value: float
    over: bool


def parse_limit(given: str, *, over: bool, terms: bool) -> Limit:
    """Reads `metric=value`.

    Args:
        given: As the user wrote it.
        over: For `Limit.over`.
        terms: Whether there are terms, without which their share has no value.

    Raises:
        AdaptError: It does not read so, there is no such metric, or no value of it.
    """
    where = "--fail-over" if over else "--fail-under"
    metric, separator, number = given.partition("=")
    metric = metric.strip()
    if separator and metric not in METRICS:
        raise AdaptError("no such metric", where=where, got=metric, fix=nearest(metric, METRICS))
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise AdaptError(
            "a limit reads metric=number", where=where, got=given, fix="as in tokens_per_word=1.5"
        )
    if metric == "single_token_term_share" and not terms:
        raise AdaptError(f"{metric} needs terms", where=where, fix="name their file by --terms")
    return Limit(metric, value, over)


def broken(measured: Sequence[Fertility], limits: Sequence[Limit]) -> list[str]:
    """A line for every tokenizer and limit that it does not keep, or has no value to keep it with.

    The first tokenizer's normalised sequence length is 1 by definition, and held to no limit.
    """
    lines = []
    for limit in limits:
        by_definition = limit.metric == "normalized_sequence_length"
        for one in measured[1:] if by_definition else measured:
            value = getattr(one, limit.metric)
            if value is None or (value > limit.value if limit.over else value < limit.value):
                found = "has no value" if value is None else f"is {value:.6g}"
                side = "over" if limit.over else "under"
                lines.append(
                    f"{one.name}: {limit.metric} {found}, {side} the limit of {limit.value:.6g}"
                )
    return lines
