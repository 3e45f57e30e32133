"""95 % confidence intervals by resampling documents, or by leaving some out.

The percentile bootstrap (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13):
draw as many documents as there are, with replacement, compute the statistic, and take the 2.5th and
97.5th percentile over the draws. Two systems are compared by drawing the same documents for both
(Koehn 2004, Statistical Significance Tests for Machine Translation Evaluation, W04-3250): what
makes a document hard for both then cancels out.

The p-value of a difference is the smallest level at which that interval still holds 0, so that the
two never contradict each other (the achieved significance level by inverting the percentile
interval; Efron and Tibshirani 1993, chapters 13 and 15). One draw is added to both tails, for no
number of draws shows a probability of 0 (Davison and Hinkley 1997, section 4.2). Of n documents no
p-value is below 2 / 2^n, which is what their signs alone can show (Fisher 1935, The Design of
Experiments, section 21): the percentile interval of a few documents is far too narrow.

A statistic that repeated documents shift, such as the share of different words, has no such draws:
drawn twice, a document says nothing new. The jackknife (Efron and Tibshirani, chapter 11), which
only ever leaves documents out, gives its standard error.

The interval speaks for other documents of the same kind, not for another training seed. It is
somewhat too narrow below some 30 documents, and with a single one it has no width at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

PERCENTILES = (2.5, 97.5)
RESAMPLES = 10_000
CELLS = 4_000_000  # indices drawn at once, 32 MB: memory does not grow with the documents


@dataclass(frozen=True)
class Interval:
    """A measured value with its 95 % confidence interval, in the value's own unit.

    Attributes:
        value: The statistic on the documents as they are.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A paired difference with what it takes to judge it.

    Attributes:
        interval: The difference with its 95 % interval.
        p_value: Two-sided, of no difference; below 0.05 where the interval leaves 0 out, up to a
            draw, and where there are six documents at least. It says nothing of two systems that
            never differ.
    """

    interval: Interval
    p_value: float


def ratio_interval(
    numerators: ArrayLike, denominators: ArrayLike, seed: int, resamples: int = RESAMPLES
) -> Interval:
    """Interval of a ratio of sums, such as all bits over all bytes.

    Not the mean of the documents' ratios, in which a short document would weigh like a long one.

    Args:
        numerators: Of each document, such as its bits; shape (documents,).
        denominators: Of each document, such as its bytes, all positive; shape (documents,).
        seed: Of the draws; the same seed gives the same interval.
        resamples: Draws.

    Raises:
        ValueError: No documents, lengths that differ, a value that is not finite, a denominator
            that is not positive, or `resamples` below 1.
    """
    value, draws = _ratio_draws(numerators, denominators, seed, resamples)
    return _interval(value, draws)


def mean_interval(values: ArrayLike, seed: int, resamples: int = RESAMPLES) -> Interval:
    """Interval of the mean of one value a document, such as right or wrong as 1 or 0.

    Args:
        values: Shape (documents,).
        seed: Of the draws; the same seed gives the same interval.
        resamples: Draws.

    Raises:
        ValueError: No documents, a value that is not finite, or `resamples` below 1.
    """
    (column,) = _columns(values)
    draws = [column[rows].mean(axis=1) for rows in _rows(column, seed, resamples)]
    return _interval(column.mean(), np.concatenate(draws))


def statistic_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    documents: int,
    seed: int,
    resamples: int = 2000,
) -> Interval:
    """Interval of any statistic of a set, such as macro-F1, whose value is no mean over documents.

    Args:
        statistic: Of the documents with these indices; an index may come several times.
        documents: How many there are.
        seed: Of the draws; the same seed gives the same interval.
        resamples: Draws; fewer than elsewhere, for each is a call.

    Raises:
        ValueError: No documents, or `resamples` below 1.
    """
    everything = np.arange(documents)
    (column,) = _columns(everything)
    draws = [
        np.array([statistic(drawn) for drawn in rows]) for rows in _rows(column, seed, resamples)
    ]
    return _interval(statistic(everything), np.concatenate(draws))


def jackknife_interval(
    statistic: Callable[[NDArray[np.int64]], float], documents: int, groups: int = 200
) -> Interval:
    """Interval of a share, such as of different words, that documents drawn twice would shift.

    The value, 1.96 standard errors to both sides of it, kept from 0 to 1. Past `groups` documents
    they are left out in groups (the grouped jackknife; Efron and Tibshirani 1993, chapter 11).

    Args:
        statistic: From 0 to 1, of the documents with these indices, each given once.
        documents: How many there are; a single one has an interval without width.
        groups: The most that are left out in turn; each is a call.

    Raises:
        ValueError: No documents, or fewer than two groups.
    """
    if documents < 1 or groups < 2:
        raise ValueError(f"a document and two groups are needed, got {documents} and {groups}")
    everything = np.arange(documents)
    value = statistic(everything)
    turns = min(groups, documents)
    if turns == 1:
        return Interval(value, value, value)
    left = np.array([statistic(everything[everything % turns != turn]) for turn in range(turns)])
    error = np.sqrt((turns - 1) * left.var())
    return Interval(
        value, float(max(0.0, value - 1.96 * error)), float(min(1.0, value + 1.96 * error))
    )


def paired_ratio_difference(
    numerators_a: ArrayLike,
    numerators_b: ArrayLike,
    denominators: ArrayLike,
    seed: int,
    resamples: int = RESAMPLES,
) -> Interval:
    """Interval of a's ratio of sums minus b's, both read on the same documents in each draw.

    Below 0 throughout, a's ratio is the lower one with some confidence; an interval that holds 0
    does not tell the two apart.

    Args:
        numerators_a: Of each document under a, such as its bits; shape (documents,).
        numerators_b: Of the same documents in the same order under b; shape (documents,).
        denominators: Of each document, all positive, such as its bytes, which no tokenizer
            changes; ones make this the difference of two means. Shape (documents,).
        seed: Of the draws; the same seed gives the same interval.
        resamples: Draws.

    Raises:
        ValueError: No documents, lengths that differ, a value that is not finite, a denominator
            that is not positive, or `resamples` below 1.
    """
    return paired_test(numerators_a, numerators_b, denominators, seed, resamples).interval


def paired_test(
    numerators_a: ArrayLike,
    numerators_b: ArrayLike,
    denominators: ArrayLike,
    seed: int,
    resamples: int = RESAMPLES,
) -> Difference:
    """`paired_ratio_difference` with the p-value of no difference, from the same draws.

    Args:
        numerators_a: As for `paired_ratio_difference`.
        numerators_b: The same.
        denominators: The same.
        seed: The same.
        resamples: The same; the smallest p-value is 2 / (resamples + 1).

    Raises:
        ValueError: As `paired_ratio_difference`.
    """
    a, b, bottom = _columns(numerators_a, numerators_b, denominators)
    # sum(a)/D - sum(b)/D = sum(a - b)/D
    return _difference(*_ratio_draws(a - b, bottom, seed, resamples), len(bottom))


def paired_statistic_test(
    statistic_a: Callable[[NDArray[np.int64]], float],
    statistic_b: Callable[[NDArray[np.int64]], float],
    documents: int,
    seed: int,
    resamples: int = 2000,
) -> Difference:
    """`paired_test` of any statistic of a set, such as macro-F1.

    Args:
        statistic_a: As for `statistic_interval`, of the first system.
        statistic_b: The same of the second.
        documents: How many there are.
        seed: Of the draws.
        resamples: Draws; fewer than elsewhere, for each is two calls.

    Raises:
        ValueError: No documents, or `resamples` below 1.
    """
    everything = np.arange(documents)
    (column,) = _columns(everything)
    draws = [
        np.array([statistic_a(drawn) - statistic_b(drawn) for drawn in rows])
        for rows in _rows(column, seed, resamples)
    ]
    value = statistic_a(everything) - statistic_b(everything)
    return _difference(value, np.concatenate(draws), documents)


def _difference(value: float, draws: NDArray[np.float64], documents: int) -> Difference:
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p_value = max(2 * (tail + 1) / (draws.size + 1), 2.0 ** (1 - documents))
    return Difference(_interval(value, draws), min(1.0, p_value))


def _ratio_draws(
    numerators: ArrayLike, denominators: ArrayLike, seed: int, resamples: int
) -> tuple[float, NDArray[np.float64]]:
    """The ratio of sums, and that of every draw; shape (resamples,)."""
    top, bottom = _columns(numerators, denominators)
    _positive(bottom)
    draws = [
        top[rows].sum(axis=1) / bottom[rows].sum(axis=1) for rows in _rows(top, seed, resamples)
    ]
    return float(top.sum() / bottom.sum()), np.concatenate(draws)


def _columns(*given: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    columns = tuple(np.asarray(values, dtype=np.float64) for values in given)
    shapes = [column.shape for column in columns]
    if any(len(shape) != 1 for shape in shapes) or len(set(shapes)) > 1:
        raise ValueError(f"one value a document is needed, got shapes {shapes}")
    if not columns[0].size:
        raise ValueError("no documents to resample")
    if not all(np.isfinite(column).all() for column in columns):
        raise ValueError("values must be finite")
    return columns


def _positive(denominators: NDArray[np.float64]) -> None:
    if (denominators <= 0).any():
        raise ValueError(f"denominators must be positive, got {denominators.min()}")


def _rows(column: NDArray[np.float64], seed: int, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Drawn document indices, a block of draws at a time; shape (draws, documents)."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    generator = np.random.default_rng(seed)
    documents = column.size
    step = max(1, CELLS // documents)
    for done in range(0, resamples, step):
        yield generator.integers(documents, size=(min(step, resamples - done), documents))


def _interval(value: float, draws: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(draws, PERCENTILES)
    return Interval(value=float(value), low=float(low), high=float(high))
