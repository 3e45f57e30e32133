"""`report.html`: one file for people, which opens offline and runs no script.

All text of the data is hostile until escaped: autoescape is on, nothing is ever marked safe, and
the page's own content security policy forbids scripts and any request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
        "signed": lambda value, digits: _number(value, digits, "+"),
        "share": lambda value: f"{value:.1%}",
        "size": _size,
        "duration": _duration,
        "visible": visible,
    }
    rows, phases = table(summary), _phases(summary)
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
        phases=phases,
        charts=[chart for phase in phases if (chart := _chart(phase))],
        plot=_PLOT,
        tasks=[
            (
                name,
                [row for row in rows if row.measure.startswith(f"{name}: ")],
                _examples(summary, name),
            )
            for name in summary.scores["adapted"].tasks
        ],
    )
    return page.translate(_CONTROL)


# -- tables ---------------------------------------------------------------------------------


def _best(row: Row) -> float | None:
    """The best value of a row; None where no model has one."""
    known = [value for value in row.values.values() if value is not None]
    return (max if row.better == "higher" else min)(known) if known else None


@dataclass(frozen=True)
class _Example:
    """One row of a task, with each model's answer."""

    prompt: str
    reference: str
    answers: dict[str, str]


def _examples(summary: Summary, task: str) -> list[_Example]:
    """The first rows of a task; all models answered the same rows in the same order."""
    by_model = {m: summary.scores[m].tasks[task].examples for m in MODELS if m in summary.scores}
    rows = list(zip(*by_model.values(), strict=True))[:_EXAMPLES]
    return [
        _Example(
            prompt=row[0][0],
            reference=row[0][1],
            answers={model: example[2] for model, example in zip(by_model, row, strict=True)},
        )
        for row in rows
    ]


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


# -- numbers and text -----------------------------------------------------------------------


def _number(value: float | None, digits: int = 0, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign},.{digits}f}".replace("-", "−")


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


# -- loss curves ----------------------------------------------------------------------------

_PLOT = (376, 182)  # width and height of the plot in the drawing's units; the page scales it


@dataclass(frozen=True)
class _Curve:
    """A model's losses: `points` for a polyline, its end, first and last loss."""

    model: str
    points: str
    end: tuple[float, float]
    first: float
    last: float


@dataclass(frozen=True)
class _Chart:
    """A phase: curves, and ticks as (position, label)."""

    phase: str
    curves: list[_Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def _chart(phase: dict[str, PhaseResult]) -> _Chart | None:
    """Draws one phase of each model; None where no loss was logged."""
    width, height = _PLOT
    logged = {model: result for model, result in phase.items() if result.losses}
    if not logged:
        return None
    losses = [loss for result in logged.values() for _, loss in result.losses]
    room = 0.05 * (max(losses) - min(losses)) or 0.5
    low, high = min(losses) - room, max(losses) + room
    steps = max(result.losses[-1][0] for result in logged.values())

    def x(step: float) -> float:
        return round(width * step / steps, 1)

    def y(loss: float) -> float:
        return round(height * (high - loss) / (high - low), 1)

    curves = []
    for model, result in logged.items():
        points = [(x(step), y(loss)) for step, loss in result.losses]
        drawn = " ".join(f"{a},{b}" for a, b in points)
        curves.append(_Curve(model, drawn, points[-1], result.losses[0][1], result.losses[-1][1]))
    return _Chart(
        next(iter(logged.values())).name,
        curves,
        [(x(tick), f"{tick:,.0f}") for tick in _ticks(0, steps, at_least=1)],
        [(y(tick), f"{tick:g}") for tick in _ticks(low, high)],
    )


def _ticks(low: float, high: float, at_least: float = 0) -> list[float]:
    """Up to nine numbers in [low, high], apart by 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / 8))
    apart = next(m * power for m in (1, 2, 5, 10, 20) if (high - low) / (m * power) <= 8)
    apart = max(apart, at_least)
    return [
        round(n * apart, 10) for n in range(math.ceil(low / apart), math.floor(high / apart) + 1)
    ]
