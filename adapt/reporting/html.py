"""`report.html`: one file for people, which opens offline and runs no script.

All text of the data is hostile until escaped: autoescape is on, nothing is ever marked safe, and
the page's own content security policy forbids scripts and any request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from adapt.fertility import RENYI_ALPHA, Fertility, SplitWord, saved
from adapt.reporting import plots
from adapt.reporting.comparison import probability
from adapt.reporting.summary import MODELS, Row, Summary, edge_rows, speed_rows, table, task_rows
from adapt.reporting.tasks import defeats, ranking
from adapt.training.result import PhaseResult
from adapt.vocab.budget import cheapest
from adapt.workspace import write_text

# How the verdict looks, by choice; a sign as well, for colour alone tells not everyone.
_LOOKS = {
    "adopt": ("good", "✓"),
    "adopt for speed": ("fast", "»"),
    "no difference": ("same", "="),
    "do not extend": ("bad", "✕"),
}
_EXAMPLES = 10  # of each task, where the worst and the best are not known
_CONFUSIONS = 15  # of each classification task
_WORDS = 15  # of each list of split words
_NEW_TOKENS = 60
_REPLACED = 50

# Browsers drop control characters, or the rest of the page with them; their pictures are shown.
_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}


def write_report(summary: Summary, path: Path) -> None:
    """Writes the report of a run, whole or not at all.

    Args:
        summary: Of a run whose stages are done.
        path: The file; one that is there is replaced.
    """
    write_text(path, render(summary))


def render(summary: Summary) -> str:
    """The report as HTML."""
    environment = Environment(
        loader=PackageLoader("adapt", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "signed": lambda value, digits: _number(value, digits, "+"),
        "share": _share,
        "size": _size,
        "duration": _duration,
        "visible": visible,
        "probability": probability,
    }
    rows, phases = table(summary), _phases(summary)
    before, after = summary.fertility.domain[0], summary.fertility.domain[-1]
    page = environment.get_template("report.html.jinja").render(
        summary=summary,
        models=[name for name in MODELS if name in summary.scores],
        trained=[(name, summary.trained[name]) for name in MODELS if name in summary.trained],
        look=_LOOKS.get(summary.verdict.choice, ("same", "?")),
        rows=rows,
        edge_rows=edge_rows(summary),
        speed_rows=speed_rows(summary),
        fragmented=any(one.domain and one.domain.fragmented for one in summary.scores.values()),
        edges=[
            (name, edge)
            for name in MODELS
            if name in summary.scores and (edge := summary.scores[name].edge)
        ],
        best=_best,
        saved=saved,
        tokenization_lines=_tokenization_lines,
        segmentations=_segmentations(before, after),
        split_now=after.most_split_words[:_WORDS],
        new_tokens=summary.vocabulary.delta.added[:_NEW_TOKENS],
        phases=phases,
        loss_plots=[plot for phase in phases if (plot := plots.losses(phase))],
        savings=plots.savings(summary.vocabulary.curve),
        chosen=cheapest(summary.vocabulary.curve) if summary.vocabulary.curve else None,
        replaced=summary.vocabulary.replaced[:_REPLACED],
        plot_size=plots.PLOT,
        tasks=[
            (name, task_rows(summary, name), _examples(summary, name))
            for name in summary.scores["adapted"].tasks
        ],
        ranking=lambda task: ranking(summary.scores, task),
        defeats=defeats(summary.scores),
        confusions=lambda task: [
            cell for cell in summary.scores["adapted"].tasks[task].confusion if cell[0] != cell[1]
        ][:_CONFUSIONS],
    )
    return page.translate(_CONTROL)


# -- tables ---------------------------------------------------------------------------------


def _best(row: Row) -> float | None:
    """The best value of a row; None where no model has one, or where none is better."""
    if not row.better:
        return None
    known = [value for value in row.values.values() if value is not None]
    return (max if row.better == "higher" else min)(known) if known else None


@dataclass(frozen=True)
class _Example:
    """One row of a task, with each model's answer."""

    prompt: str
    reference: str
    answers: dict[str, str]


def _examples(summary: Summary, task: str) -> dict[str, list[_Example]]:
    """Rows of a task side by side, by what they are: the adapted model's worst and its best.

    All models answered the same rows in the same order.
    """
    by_model = {m: summary.scores[m].tasks[task] for m in MODELS if m in summary.scores}
    adapted = by_model["adapted"]
    if not adapted.example_rows or not all(one.answers for one in by_model.values()):
        rows = list(zip(*(one.examples for one in by_model.values()), strict=True))[:_EXAMPLES]
        first = [
            _Example(row[0][0], row[0][1], {m: e[2] for m, e in zip(by_model, row, strict=True)})
            for row in rows
        ]
        return {"": first} if first else {}
    chosen = [
        _Example(prompt, reference, {m: one.answers[row] for m, one in by_model.items()})
        for (prompt, reference, _), row in zip(adapted.examples, adapted.example_rows, strict=True)
    ]
    halves = {"worst": chosen[: adapted.worst], "best": chosen[adapted.worst :]}
    return {name: half for name, half in halves.items() if half}


def _segmentations(before: Fertility, after: Fertility) -> list[tuple[SplitWord, list[SplitWord]]]:
    """The words that cost most before, with every way that `after` lists them as split."""
    now: dict[str, list[SplitWord]] = {}
    for word in after.most_split_words:
        now.setdefault(word.word, []).append(word)
    return [(word, now.get(word.word, [])) for word in before.most_split_words[:_WORDS]]


def _phases(summary: Summary) -> list[dict[str, PhaseResult]]:
    """Each phase by model; all models go through the same ones."""
    trained = {name: summary.trained[name].phases for name in MODELS if name in summary.trained}
    return [dict(zip(trained, phase, strict=True)) for phase in zip(*trained.values(), strict=True)]


@dataclass(frozen=True)
class _Line:
    """One measure of tokenization; `better` is empty where neither more nor less is."""

    measure: str
    better: str
    before: str
    after: str


def _tokenization_lines(before: Fertility, after: Fertility) -> list[_Line]:
    """Every measure of tokenization that either has."""

    def number(digits: int) -> Callable[[float | None], str]:
        return lambda value: _number(value, digits)

    measures: list[tuple[str, str, str, Callable[[float | None], str]]] = [
        ("tokens", "lower", "tokens", number(0)),
        ("length, the base's being 1", "lower", "normalized_sequence_length", number(3)),
        ("tokens per word", "lower", "tokens_per_word", number(3)),
        ("bytes per token", "higher", "bytes_per_token", number(3)),
        ("tokens per character", "lower", "tokens_per_character", number(3)),
        (f"words in {before.context or 0:,} tokens", "higher", "words_in_context", number(0)),
        ("words of two tokens or more", "lower", "continued_word_share", _share),
        ("terms that are one token", "higher", "single_token_term_share", _share),
        ("unknown tokens", "lower", "unknown_rate", _share),
        ("vocabulary", "", "vocabulary", number(0)),
        ("different tokens used", "", "vocabulary_used", number(0)),
        ("share of the vocabulary used", "", "vocabulary_used_share", _share),
        (f"Rényi efficiency, α = {RENYI_ALPHA}", "higher", "renyi_efficiency", number(3)),
    ]
    lines = []
    for measure, better, field, form in measures:
        values = getattr(before, field), getattr(after, field)
        if values != (None, None):
            lines.append(_Line(measure, better, *map(form, values)))
    return lines


# -- numbers and text -----------------------------------------------------------------------


def _number(value: float | None, digits: int = 0, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign},.{digits}f}".replace("-", "−")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}".replace("-", "−")


def _size(bytes_: float) -> str:
    """1,500 bytes are 1.5 kB."""
    power = min(max(len(str(int(bytes_))) - 1, 0) // 3, 4)
    unit = ("B", "kB", "MB", "GB", "TB")[power]
    return f"{bytes_ / 1000**power:,.{1 if power else 0}f} {unit}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def visible(text: str) -> str:
    """Text of a token with blanks as signs, and what has no picture as its code point."""
    return "".join(_SIGNS.get(c) or (c if c.isprintable() else f"\\u{ord(c):04x}") for c in text)
