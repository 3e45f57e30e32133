"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from adapt.fertility import Fertility
from adapt.reporting.summary import MODELS, Row, Summary, table


def print_summary(summary: Summary, console: Console) -> None:
    """The table of a finished run, the verdict, and what the user should know."""
    console.print(summary_table(table(summary), f"{summary.name}: {summary.base}"))
    for note in summary.vocabulary.notes:
        console.print(f"note: {note}", markup=False)
    console.print(summary.verdict.sentence, style="bold", markup=False)


def summary_table(rows: Sequence[Row], title: str) -> Table:
    """Base, control and adapted side by side; the best of each line in bold."""
    models = [m for m in MODELS if m in rows[0].values]
    drawn = Table(title=escape(title), box=box.SIMPLE_HEAD, title_justify="left")
    drawn.add_column("held-out text and rows", no_wrap=True)
    for model in models:
        drawn.add_column(model, justify="right")
    for row in rows:
        known = [value for value in row.values.values() if value is not None]
        best = (max if row.better == "higher" else min)(known) if known else None
        cells = [_cell(row, model, best) for model in models]
        arrow = "↑" if row.better == "higher" else "↓"
        drawn.add_row(escape(f"{row.measure} {arrow}"), *cells)
    return drawn


def _cell(row: Row, model: str, best: float | None) -> str:
    value = row.values[model]
    if value is None:
        return "–"
    text = f"{value:,.{row.digits}f}"
    return f"[bold]{text}[/bold]" if value == best else text


def fertility_table(measured: Sequence[Fertility], title: str) -> Table:
    """Tokenizers side by side on one text."""
    drawn = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    drawn.add_column("")
    for fertility in measured:
        drawn.add_column(escape(fertility.name), justify="right", overflow="fold")
    lines = {
        "tokens": [f"{f.tokens:,}" for f in measured],
        "tokens per word": [f"{f.tokens_per_word:.3f}" for f in measured],
        "bytes per token": [f"{f.bytes_per_token:.3f}" for f in measured],
        "words of two tokens or more": [f"{f.continued_word_share:.1%}" for f in measured],
        "terms that are one token": [
            "–" if f.single_token_term_share is None else f"{f.single_token_term_share:.1%}"
            for f in measured
        ],
        "unknown tokens": [f"{f.unknown_rate:.2%}" for f in measured],
    }
    for name, cells in lines.items():
        drawn.add_row(name, *cells)
    return drawn


def most_split_table(fertility: Fertility, count: int) -> Table:
    """The words that cost most, with their pieces."""
    drawn = Table(title=f"{escape(fertility.name)}: words that cost most", box=box.SIMPLE_HEAD)
    for column in ("word", "times", "pieces"):
        drawn.add_column(column, justify="right" if column == "times" else "left")
    for word in fertility.most_split_words[:count]:
        # A piece that only continues a character has no text of its own.
        pieces = "|".join(p or "·" for p in word.pieces)
        drawn.add_row(Text(word.word), f"{word.count:,}", Text(pieces))
    return drawn
