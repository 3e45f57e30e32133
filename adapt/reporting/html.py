"""`report.html`: one file for people, which opens offline and runs no script.

All text of the data is hostile until escaped: autoescape is on, nothing is ever marked safe, and
the page's own content security policy forbids scripts and any request.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from adapt.fertility import Fertility, SplitWord, saved
from adapt.reporting.summary import MODELS, Row, Summary, table
from adapt.training.result import PhaseResult
from adapt.workspace import write_text

# How the verdict looks, by choice; a sign as well, for colour alone tells not everyone.
_LOOKS = {
    "adopt": ("good", "✓"),
    "adopt for speed": ("fast", "»"),
    "no difference": ("same", "="),
    "do not extend": ("bad", "✕"),
}
_EXAMPLES = 10  # of each task
_WORDS = 15  # of each list of split words
_NEW_TOKENS = 60

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
        "signed": _signed,
        "share": lambda value: f"{value:.1%}",
        "size": _size,
        "duration": _duration,
        "visible": visible,
    }
    rows = table(summary)
    before, after = summary.fertility.domain[0], summary.fertility.domain[-1]
    page = environment.get_template("report.html.jinja").render(
        summary=summary,
        models=[name for name in MODELS if name in summary.scores],
        trained=[(name, summary.trained[name]) for name in MODELS if name in summary.trained],
        look=_LOOKS.get(summary.verdict.choice, ("same", "?")),
        rows=rows,
        best=_best,
        saved=saved,
        segmentations=_segmentations(before, after),
        split_now=after.most_split_words[:_WORDS],
        new_tokens=summary.vocabulary.delta.added[:_NEW_TOKENS],
        charts=list(_charts(summary)),
        tasks=[
            (name, _of_task(rows, name), _examples(summary, name))
            for name in summary.scores["adapted"].tasks
        ],
    )
    return page.translate(_CONTROL)


# -- tables ---------------------------------------------------------------------------------


def _best(row: Row) -> float | None:
    """The best value of a row; None where no model has one."""
    known = [value for value in row.values.values() if value is not None]
    return (max if row.better == "higher" else min)(known) if known else None


def _of_task(rows: Sequence[Row], task: str) -> list[Row]:
    return [row for row in rows if row.measure.startswith(f"{task}: ")]


@dataclass(frozen=True)
class _Example:
    """One row of a task, with each model's answer."""

    prompt: str
    reference: str
    answers: dict[str, str]


def _examples(summary: Summary, task: str) -> list[_Example]:
    """The first rows of a task; all models answered the same rows in the same order."""
    by_model = {m: summary.scores[m].tasks[task].examples for m in MODELS if m in summary.scores}
    shown = zip(*by_model.values(), strict=True)
    return [
        _Example(*row[0][:2], {m: answer for m, (_, _, answer) in zip(by_model, row, strict=True)})
        for row in list(shown)[:_EXAMPLES]
    ]


def _segmentations(
    before: Fertility, after: Fertility
) -> list[tuple[SplitWord, list[SplitWord]]]:
    """The words that cost most before, with every way that `after` lists them as split."""
    now: dict[str, list[SplitWord]] = {}
    for word in after.most_split_words:
        now.setdefault(word.word, []).append(word)
    return [(word, now.get(word.word, [])) for word in before.most_split_words[:_WORDS]]


# -- numbers and text -----------------------------------------------------------------------


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def _signed(value: float, digits: int) -> str:
    return f"{value:+,.{digits}f}".replace("-", "−")


def _size(bytes_: float) -> str:
    """1,500 bytes are 1.5 kB."""
    for unit in ("B", "kB", "MB", "GB"):
        if bytes_ < 1000:
            break
        bytes_ /= 1000
    else:
        unit = "TB"
    return f"{bytes_:,.{0 if unit == 'B' else 1}f} {unit}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def visible(text: str) -> str:
    """Text of a token with blanks as signs, and what has no picture as its code point."""
    return "".join(
        _SIGNS.get(c) or (c if c.isprintable() else f"\\u{ord(c):04x}") for c in text
    )


# -- loss curves ----------------------------------------------------------------------------

_WIDTH, _HEIGHT = 440, 240  # user units of the drawing; the page scales it
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 428, 14, 196  # of the plot in it


@dataclass(frozen=True)
class _Curve:
    """A model's losses: `points` for a polyline, the last one, and first and last loss."""

    model: str
    points: str
    end: tuple[float, float]
    first: float
    last: float


@dataclass(frozen=True)
class _Chart:
    """A phase: curves and ticks as (position, label) in user units."""

    phase: str
    curves: list[_Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _RIGHT
    top: int = _TOP
    bottom: int = _BOTTOM


def _charts(summary: Summary) -> Iterator[_Chart]:
    """A chart for each phase in which anything was logged."""
    models = [name for name in MODELS if name in summary.trained]
    # By place, not by name: a recipe may give two phases one name.
    for phases in zip_longest(*(summary.trained[name].phases for name in models)):
        logged = {m: p for m, p in zip(models, phases, strict=True) if p and p.losses}
        if logged:
            yield _chart(logged)


def _chart(phases: dict[str, PhaseResult]) -> _Chart:
    losses = [loss for phase in phases.values() for _, loss in phase.losses]
    low, high = min(losses), max(losses)
    if low == high:
        low, high = low - 0.5, high + 0.5
    steps = max(step for phase in phases.values() for step, _ in phase.losses) or 1

    def x(step: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * step / steps, 1)

    def y(loss: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (loss - low) / (high - low), 1)

    curves = [
        _Curve(
            model,
            " ".join(f"{x(step)},{y(loss)}" for step, loss in phase.losses),
            (x(phase.losses[-1][0]), y(phase.losses[-1][1])),
            phase.losses[0][1],
            phase.losses[-1][1],
        )
        for model, phase in phases.items()
    ]
    return _Chart(
        next(iter(phases.values())).name,
        curves,
        [(x(tick), f"{tick:,.0f}") for tick in _ticks(0, steps, whole=True)],
        [(y(tick), f"{tick:g}") for tick in _ticks(low, high)],
    )


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """At most six round numbers (1, 2 or 5 times a power of ten apart) in [low, high]."""
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    apart = next(m * power for m in (1, 2, 5, 10) if (high - low) / (m * power) <= 5.0001)
    apart = max(apart, 1.0) if whole else apart
    return [
        round(n * apart, 10) for n in range(math.ceil(low / apart), math.floor(high / apart) + 1)
    ]
