"""How many units to add by tokens alone (`tokenizer.new_tokens: curve`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapt.bases import ModelSize

MOST = 32_000  # units that the curve goes up to


@dataclass(frozen=True)
class Point:
    """One size on the curve of tokens saved against tokens added.

    Attributes:
        new_tokens: Units added.
        tokens: Of the held-out text.
        saved: Share of the base's tokens saved.
        cost: Tokens times parameters, relative to the base: below 1 the units pay for themselves.
    """

    new_tokens: int
    tokens: int
    saved: float
    cost: float


def sizes_up_to(most: int) -> list[int]:
    """0 and log-spaced sizes, two to an octave from 125."""
    sizes, size = [0], 125.0
    while size < most:
        sizes.append(round(size))
        size *= 2**0.5
    return [*sizes, most]


def curve(
    sizes: Sequence[int], tokens_at: Callable[[int], int], model: ModelSize
) -> tuple[Point, ...]:
    """Tokens and cost by size.

    The cost of a text is its tokens times the parameters that each passes, so n units are worth
    it as long as tokens(n) x (1 + n x row / parameters) falls: the next unit must save a larger
    share of the tokens than it adds to the parameters, output layer included.
    """
    before = tokens_at(0)
    points = []
    for size in sizes:
        tokens = tokens_at(size)
        share = tokens / max(before, 1)
        cost = share * (1 + size * model.row / model.parameters)
        points.append(Point(size, tokens, 1 - share, cost))
    return tuple(points)


def cheapest(points: Sequence[Point]) -> Point:
    """The point of least cost; the smaller one of equals."""
    return min(points, key=lambda point: (point.cost, point.new_tokens))


def chosen(points: Sequence[Point], added: int) -> Point:
    """The point of as many units as were added; the cheapest where no point has that size."""
    return next((point for point in points if point.new_tokens == added), cheapest(points))
