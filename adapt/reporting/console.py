"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from adapt.evaluation.compare import FRAGMENTED
from adapt.fertility import RENYI_ALPHA, Fertility, SplitWord
from adapt.reporting.audit import audit_sentence
from adapt.reporting.comparison import comparison_table, explained
from adapt.reporting.cost import same_time
from adapt.reporting.formats import shown, visible
from adapt.reporting.summary import MODELS, Row, Summary, table
from adapt.reporting.tasks import Ranked, defeats, forgotten, ranking
from adapt.reporting.tokens import NO_TEXT_NOTE, cut


def print_summary(summary: Summary, console: Console) -> None:
    """The table of a finished run, the verdict, and what the user should know."""
    console.print(summary_table(table(summary), f"{summary.name}: {summary.base}"))
    for task in summary.scores["adapted"].tasks:
        if ranked := ranking(summary.scores, task):
            console.print(ranking_table(ranked, f"{task}: models and baselines"))
    against = "control" if "control" in summary.comparisons else "base"
    comparison = summary.comparisons.get(against)
    if comparison and comparison.figures:
        console.print(comparison_table(comparison, "adapted", f"adapted against {against}"))
        console.print(explained(comparison.figures), markup=False)
    if timed := same_time(summary):
        console.print(timed, markup=False)
    if summary.audit and (found := audit_sentence(summary.audit)):
        console.print(found, markup=False)
    for note in summary.vocabulary.notes:
        console.print(f"note: {note}", markup=False)
    console.print(summary.verdict.sentence, style="bold", markup=False)
    for sentence in (*defeats(summary.scores), *forgotten(summary.scores)):
        console.print(sentence, style="bold", markup=False)


def summary_table(rows: Sequence[Row], title: str) -> Table:
    """Base, controls and adapted side by side; the best of each line in bold."""
    models = [m for m in MODELS if m in rows[0].values]
    drawn = Table(title=escape(title), box=box.SIMPLE_HEAD, title_justify="left")
    drawn.add_column("held-out text and rows")
    for model in models:  # a name may take two lines, a figure never
        drawn.add_column(shown(model).replace(", ", ",\n"), justify="right", no_wrap=True)
    for row in rows:
        known = [value for value in row.values.values() if value is not None]
        best = (max if row.better == "higher" else min)(known) if known and row.better else None
        cells = [_cell(row, model, best) for model in models]
        arrow = {"higher": " ↑", "lower": " ↓"}.get(row.better, "")
        drawn.add_row(escape(f"{row.measure}{arrow}"), *cells)
    return drawn


def ranking_table(ranked: Sequence[Ranked], title: str) -> Table:
    """Models and baselines of a classification task, the best first; baselines in italics."""
    drawn = Table(title=escape(title), box=box.SIMPLE_HEAD, title_justify="left")
    drawn.add_column("")
    for column in ("accuracy ↑", "95 % interval", "macro-F1 ↑"):
        drawn.add_column(column, justify="right")
    for column in ("accuracy", "macro-F1"):
        drawn.add_column(f"{column}{FRAGMENTED} ↑", justify="right")
    for row in ranked:
        accuracy = row.accuracy
        drawn.add_row(
            Text(shown(row.name), style="italic" if row.baseline else ""),
            f"{accuracy.value:.3f}",
            f"{accuracy.low:.3f} to {accuracy.high:.3f}",
            f"{row.macro_f1:.3f}",
            *(
                "–" if part is None else f"{part:.3f}"
                for part in (row.fragmented, row.fragmented_macro_f1)
            ),
        )
    return drawn


def _cell(row: Row, model: str, best: float | None) -> str:
    value = row.values[model]
    if value is None:
        return "–"
    text = f"{value:,.{row.digits}f}"
    return f"[bold]{text}[/bold]" if value == best else text


def fertility_table(measured: Sequence[Fertility], title: str) -> Table:
    """Tokenizers side by side on one text; the first is what lengths are relative to."""
    drawn = Table(title=escape(title), box=box.SIMPLE_HEAD, title_justify="left")
    drawn.add_column("", no_wrap=True)
    for fertility in measured:
        drawn.add_column(escape(fertility.name), justify="right", overflow="fold")
    for label, cell in _LINES.items():
        cells = [cell(fertility) for fertility in measured]
        if any(cells):
            drawn.add_row(label, *(text or "–" for text in cells))
    contexts = {f.context for f in measured if f.context}
    if len(contexts) == 1:
        words = [f"{f.words_in_context or 0:,.0f}" for f in measured]
        drawn.add_row(f"words in {contexts.pop():,} tokens", *words)
    return drawn


def _formatted(metric: str, form: str) -> Callable[[Fertility], str]:
    """A cell of the table: empty where the metric has no value."""

    def cell(fertility: Fertility) -> str:
        value = getattr(fertility, metric)
        return "" if value is None else format(value, form)

    return cell


# The lines of the table; one that no tokenizer has a value for is left out.
_LINES: dict[str, Callable[[Fertility], str]] = {
    "tokens": _formatted("tokens", ",d"),
    "length, the first being 1": _formatted("normalized_sequence_length", ".3f"),
    "tokens per word": _formatted("tokens_per_word", ".3f"),
    "tokens per character": _formatted("tokens_per_character", ".3f"),
    "bytes per token": _formatted("bytes_per_token", ".3f"),
    "words of two tokens or more": _formatted("continued_word_share", ".1%"),
    "terms that are one token": _formatted("single_token_term_share", ".1%"),
    "unknown tokens": _formatted("unknown_rate", ".2%"),
    f"Rényi efficiency, α = {RENYI_ALPHA}": _formatted("renyi_efficiency", ".3f"),
    "vocabulary": _formatted("vocabulary", ",d"),
    "vocabulary in use": _formatted("vocabulary_used_share", ".1%"),
}


def most_split_table(fertility: Fertility, count: int) -> Table:
    """The words that cost most, with their pieces."""
    drawn = Table(
        title=f"{escape(fertility.name)}: words that cost most",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    drawn.add_column("word", overflow="fold")
    drawn.add_column("times", justify="right", no_wrap=True)
    drawn.add_column("tokens", justify="right", no_wrap=True)
    drawn.add_column("pieces", overflow="fold")
    shown = fertility.most_split_words[:count]
    for word in shown:
        numbers = (f"{word.count:,}", f"{len(word.pieces)}")
        drawn.add_row(Text(visible(word.word)), *numbers, cut(word.pieces))
    return _noted(drawn, shown)


def most_split_terms_table(fertility: Fertility, count: int) -> Table:
    """The terms that need most tokens, cut as they are."""
    drawn = Table(
        title=f"{escape(fertility.name)}: terms that cost most",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    drawn.add_column("tokens", justify="right", no_wrap=True)
    drawn.add_column("term, after a space", overflow="fold")
    shown = fertility.most_split_terms[:count]
    for term in shown:
        drawn.add_row(f"{len(term.pieces)}", cut(term.pieces))
    return _noted(drawn, shown)


def _noted(drawn: Table, shown: Sequence[SplitWord]) -> Table:
    if any("" in word.pieces for word in shown):
        drawn.caption, drawn.caption_justify = NO_TEXT_NOTE, "left"
    return drawn
