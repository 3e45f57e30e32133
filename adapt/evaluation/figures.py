"""Figures of a set of rows with their intervals, of all rows or of some, from the same columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from adapt.evaluation.bootstrap import (
    Interval,
    jackknife_interval,
    mean_interval,
    ratio_interval,
    statistic_interval,
)
from adapt.evaluation.result import Baseline

Column = NDArray[np.float64]
Statistic = Callable[[NDArray[np.int64]], float]


@dataclass(frozen=True)
class Columns:
    """What the figures of rows are made of, by name.

    Attributes:
        means: A value a row, whose mean is the figure; shape (rows,).
        ratios: Two values a row, whose sums make the figure; rows with 0 below count for nothing.
        statistics: What is no mean over rows, such as macro-F1: of the rows with these indices.
        shares: The same, of what a row that is drawn twice would shift, such as different words.
    """

    means: dict[str, Column]
    ratios: dict[str, tuple[Column, Column]] = field(default_factory=dict)
    statistics: dict[str, Statistic] = field(default_factory=dict)
    shares: dict[str, Statistic] = field(default_factory=dict)

    def intervals(self, seed: int, rows: Sequence[int] | None = None) -> dict[str, Interval]:
        """Every figure with its 95 % interval, by the bootstrap; of `shares` by the jackknife.

        Args:
            seed: Of the draws.
            rows: Which rows, from 0; None: all. Of none there are no figures, and of rows with
                nothing below no ratio.
        """
        size = len(next(iter(self.means.values())))
        chosen = np.arange(size) if rows is None else np.array(rows, dtype=np.int64)
        if not len(chosen):
            return {}
        found = {name: mean_interval(v[chosen], seed) for name, v in self.means.items()}
        for name, statistic in self.statistics.items():
            drawn = _of(statistic, chosen)
            found[name] = statistic_interval(drawn, len(chosen), seed)
        for name, share in self.shares.items():
            found[name] = jackknife_interval(_of(share, chosen), len(chosen))
        for name, (above, below) in self.ratios.items():
            if len(some := chosen[below[chosen] > 0]):
                found[name] = ratio_interval(above[some], below[some], seed)
        return found


def baseline_of(
    metrics: dict[str, float], columns: Columns, main: str, seed: int, part: Sequence[int]
) -> Baseline:
    """A baseline with its figures on all rows and on the fragmented ones.

    Args:
        metrics: Of all rows.
        columns: What they are made of.
        main: The main metric, which is among the means.
        seed: Of the draws.
        part: The fragmented rows, from 0.
    """
    each = columns.means[main]
    return Baseline(
        metrics, mean_interval(each, seed), tuple(each.tolist()), columns.intervals(seed, part)
    )


def _of(statistic: Statistic, chosen: NDArray[np.int64]) -> Statistic:
    """A statistic of places among the chosen rows."""
    return lambda places: statistic(chosen[places])
