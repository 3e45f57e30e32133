"""What the report draws: curves and ticks in the units of an inline SVG, which the page scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapt.training.result import PhaseResult
from adapt.vocab.budget import Point, cheapest

PLOT = (376, 182)  # width and height

_OCTAVE = 125  # units; the curve of savings is linear below about so many, and logarithmic above
_APART = 34  # between two ticks with labels as wide as 32,000

Place = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """One line of a plot.

    Attributes:
        model: Whose it is, for its colour and its label.
        places: From left to right.
    """

    model: str
    places: tuple[Place, ...]

    @property
    def points(self) -> str:
        """For a polyline."""
        return " ".join(f"{x},{y}" for x, y in self.places)


@dataclass(frozen=True)
class Plot:
    """A drawing.

    Attributes:
        title: Above it.
        described: The same in words, for who cannot see it.
        x_label: What runs to the right.
        y_label: What rises.
        curves: With a legend where there are several.
        x_ticks: Place and label.
        y_ticks: Place and label.
        mark: A place to point out, and what it is.
    """

    title: str
    described: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    mark: tuple[Place, str] | None = None


def losses(phase: dict[str, PhaseResult]) -> Plot | None:
    """Losses of one phase by step, a curve a model; None where none was logged."""
    logged = {model: result for model, result in phase.items() if result.losses}
    if not logged:
        return None
    found = [loss for result in logged.values() for _, loss in result.losses]
    room = 0.05 * (max(found) - min(found)) or 0.5
    low, high = min(found) - room, max(found) + room
    steps = max(result.losses[-1][0] for result in logged.values())

    def x(step: float) -> float:
        return round(PLOT[0] * step / steps, 1)

    name = next(iter(logged.values())).name
    ends = [f"{m} from {r.losses[0][1]:.2f} to {r.losses[-1][1]:.2f}" for m, r in logged.items()]
    return Plot(
        f"Phase {name}",
        f"Loss by step in phase {name}: {', '.join(ends)}",
        "optimizer step",
        "loss, nats per token",
        tuple(
            Curve(model, tuple((x(step), _height(loss, low, high)) for step, loss in result.losses))
            for model, result in logged.items()
        ),
        tuple((x(tick), f"{tick:,.0f}") for tick in _ticks(0, steps, at_least=1)),
        tuple((_height(tick, low, high), f"{tick:g}") for tick in _ticks(low, high)),
    )


def savings(curve: Sequence[Point]) -> Plot | None:
    """Tokens saved by units added, and the size of least cost; None for fewer than two sizes."""
    if len(curve) < 2:
        return None
    best, most = cheapest(curve), max(point.new_tokens for point in curve)
    shares = [100 * point.saved for point in curve]
    low, high = min(0.0, *shares), max(*shares, 1e-3)
    high += 0.05 * (high - low)

    def x(units: float) -> float:
        return round(PLOT[0] * math.log1p(units / _OCTAVE) / math.log1p(most / _OCTAVE), 1)

    def place(point: Point) -> Place:
        return x(point.new_tokens), _height(100 * point.saved, low, high)

    last = curve[-1]
    return Plot(
        "Tokens saved on validation text, by units added",
        f"Tokens saved by units added: {last.saved:.1%} with {last.new_tokens:,} units; "
        f"chosen {best.new_tokens:,} units, which save {best.saved:.1%}",
        "units added",
        "tokens saved, %",
        (Curve("adapted", tuple(map(place, curve))),),
        tuple((x(tick), f"{tick:,}") for tick in _sizes(x, most)),
        tuple((_height(tick, low, high), f"{tick:g}") for tick in _ticks(low, high)),
        (place(best), f"{best.new_tokens:,} units"),
    )


def _sizes(x: Callable[[float], float], most: int) -> list[int]:
    """Ticks: nothing, the largest size, and every second octave that has room before it."""
    wanted = [_OCTAVE * 4**n for n in range(20) if x(_OCTAVE * 4**n) < PLOT[0] - _APART]
    return [0, *(size for size in wanted if x(size) > _APART), most]


def _height(value: float, low: float, high: float) -> float:
    """Where a value stands on the page, whose y runs downwards."""
    return round(PLOT[1] * (high - value) / (high - low), 1)


def _ticks(low: float, high: float, at_least: float = 0) -> list[float]:
    """Up to nine numbers in [low, high], apart by 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / 8))
    apart = next(m * power for m in (1, 2, 5, 10, 20) if (high - low) / (m * power) <= 8)
    apart = max(apart, at_least)
    return [
        round(n * apart, 10) for n in range(math.ceil(low / apart), math.floor(high / apart) + 1)
    ]
