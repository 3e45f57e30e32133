"""McNemar's exact test: two classifiers on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest


@dataclass(frozen=True)
class McNemar:
    """Rows on which two classifiers differ.

    Attributes:
        only_first: Rows that only the first has right.
        only_second: Rows that only the second has right.
        p_value: Two-sided, of neither being right more often; 1 where they never differ.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Sequence[float], second: Sequence[float]) -> McNemar:
    """The exact test: under no difference each row that differs is a fair coin.

    Source: McNemar 1947, Note on the sampling error of the difference between correlated
    proportions; the exact binomial form, which holds for few rows as well.

    Args:
        first: Right or wrong as 1 or 0, of each row.
        second: The same of the other classifier, in the same order.

    Raises:
        ValueError: Not as many rows, none, or a value that is neither 0 nor 1.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"the same rows are needed, got {len(first)} and {len(second)}")
    if not {*first, *second} <= {0, 1}:
        raise ValueError("each row is right or wrong: 1 or 0")
    wins = sum(a > b for a, b in zip(first, second, strict=True))
    losses = sum(a < b for a, b in zip(first, second, strict=True))
    if not wins + losses:
        return McNemar(0, 0, 1.0)
    return McNemar(wins, losses, float(binomtest(wins, wins + losses, 0.5).pvalue))
