"""Two models on the same data: differences with intervals and p-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapt.evaluation.bootstrap import (
    Interval,
    mean_interval,
    paired_statistic_test,
    paired_test,
    statistic_interval,
)
from adapt.evaluation.result import Likelihood, ModelScores, TaskScores
from adapt.evaluation.significance import mcnemar
from adapt.evaluation.slices import on_slice

_NAMES = {"rouge_l": "ROUGE-L"}  # metrics that are not called by their own name
SPEED = "characters/s"  # of what is generated, or read
DOMAIN = ", domain text"  # after what is measured: bits per byte, or pseudo ones
GENERAL = ", general text"
_MACRO_F1 = ": macro-F1"
FRAGMENTED = ", fragmented text"  # after the name of a figure


@dataclass(frozen=True)
class Figure:
    """One figure of two models, read on the same documents or rows.

    Attributes:
        name: What is measured, with its unit.
        better: `lower` or `higher`.
        rows: Documents or rows; 0 where the figure is of no text.
        data: SHA-256 of them; empty in results of older versions.
        value: The model's.
        other: The other model's.
        interval: The model's 95 % interval; None where it has none.
        other_interval: The other's.
        difference: Model minus other, with its paired 95 % interval; None where nothing is paired.
        p_value: Two-sided, of no difference.
        test: What the p-value comes from.
    """

    name: str
    better: str
    rows: int
    data: str
    value: float
    other: float
    interval: Interval | None = None
    other_interval: Interval | None = None
    difference: Interval | None = None
    p_value: float | None = None
    test: str = ""

    @property
    def digits(self) -> int:
        """Places after the point that are worth showing."""
        return 0 if self.name.endswith(SPEED) else 3


@dataclass(frozen=True)
class Comparison:
    """What the adapted model gained.

    Attributes:
        against: `control`, `control-time` or `base`; or the name of another run.
        domain: Difference in bits per byte on domain text, adapted minus the other, with its
            paired 95 % interval; below zero is better. None where the models write no text.
        general: The same on general text.
        figures: Every figure that both have on the same data, those two among them.
        notes: Figures that were not compared, and why.
    """

    against: str
    domain: Interval | None
    general: Interval | None
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def leading(self) -> Figure | None:
        """The figure that decides.

        Bits per byte on domain text; of models with a head of classes the macro-F1 of its task, or
        the share of rows whose labels are all right where a row has several. None where the two
        share no such figure.
        """
        paired = [figure for figure in self.figures if figure.difference is not None]
        first = [f for f in paired if f.name.endswith(DOMAIN)] if self.domain else []
        first = first or [f for f in paired if f.name.endswith(_MACRO_F1)] or paired
        return first[0] if first else None


def compare(adapted: ModelScores, other: ModelScores, against: str, seed: int) -> Comparison:
    """Pairs two models document by document and row by row.

    Args:
        adapted: Scores of the adapted model.
        other: Scores of a control or the base, on the same documents.
        against: Which of them.
        seed: Of the bootstrap.

    Raises:
        ValueError: The held-out domain documents are not the same.
    """
    found: list[Figure] = []
    notes = []
    domain = None
    if adapted.domain and other.domain:
        if not same_documents(adapted.domain, other.domain):
            raise ValueError("the two models were not scored on the same documents")
        measure = adapted.domain.measure
        found.append(_likelihood(f"{measure}{DOMAIN}", adapted.domain, other.domain, seed))
        domain = found[0].difference
        rows = other.domain.fragmented or adapted.domain.fragmented
        if any(adapted.domain.bytes_[i] for i in rows):  # of a document maybe nothing is scored
            name = f"{measure}{FRAGMENTED}"
            found.append(_likelihood(name, adapted.domain, other.domain, seed, rows))
    elif adapted.domain or other.domain:
        notes.append("domain text: one of the two writes no text, not compared")
    general = None
    if adapted.general and other.general:
        if same_documents(adapted.general, other.general):
            name = f"{adapted.general.measure}{GENERAL}"
            found.append(_likelihood(name, adapted.general, other.general, seed))
            general = found[-1].difference
        else:
            notes.append("general text: other documents, not compared")
    for task, scores in adapted.tasks.items():
        theirs = other.tasks.get(task)
        if theirs is None or (reason := _incomparable(scores, theirs)):
            reason = reason if theirs else "the other has no such task"
            notes.append(f"task {task}: {reason}, not compared")
            continue
        found += _task(task, scores, theirs, seed)
    found += _speeds(adapted, other)
    return Comparison(against, domain, general, tuple(found), tuple(notes))


def _speeds(a: ModelScores, b: ModelScores) -> list[Figure]:
    """Medians over rounds, of what was timed in turns."""
    if a.speed is None or b.speed is None:
        return []
    return [
        Figure(name, "higher", 0, "", rounds.median, b.speed.rounds[name].median)
        for name, rounds in a.speed.rounds.items()
        if name.endswith(SPEED) and name in b.speed.rounds
    ]


def same_documents(a: Likelihood, b: Likelihood) -> bool:
    """Whether two figures are of the same kind and documents, in the same order.

    By their hash; where an older version left none, by the bytes of every document.
    """
    if a.measure != b.measure:
        return False
    return a.data == b.data if a.data and b.data else a.bytes_ == b.bytes_


def _likelihood(
    name: str, a: Likelihood, b: Likelihood, seed: int, rows: Sequence[int] | None = None
) -> Figure:
    """Bits per byte on all documents, or on some."""
    chosen = [i for i in (range(len(a.bytes_)) if rows is None else rows) if a.bytes_[i]]
    bits, others, bytes_ = ([column[i] for i in chosen] for column in (a.bits, b.bits, a.bytes_))
    tested = paired_test(bits, others, bytes_, seed)
    first, second = (
        one.interval if rows is None else on_slice(one, chosen, seed) for one in (a, b)
    )
    assert first is not None
    assert second is not None
    return Figure(
        name,
        "lower",
        len(chosen),
        a.data or b.data,
        first.value,
        second.value,
        first,
        second,
        tested.interval,
        tested.p_value,
        "paired bootstrap",
    )


def _incomparable(a: TaskScores, b: TaskScores) -> str:
    """Why a task of two models cannot be compared; empty where it can."""
    if a.kind != b.kind or a.rows != b.rows or (a.data and b.data and a.data != b.data):
        return "other rows"
    return "" if next(iter(a.metrics)) in b.metrics else "another metric"


def _task(name: str, a: TaskScores, b: TaskScores, seed: int) -> list[Figure]:
    """A task's main metric, and macro-F1 where it has one; then both on its fragmented rows."""
    part = b.fragmented or a.fragmented
    found = [_main(name, a, b, seed), _macro_f1(name, a, b, seed)]
    if part:
        found += [_main(name, a, b, seed, part), _macro_f1(name, a, b, seed, part)]
    return [figure for figure in found if figure is not None]


def _main(
    name: str, a: TaskScores, b: TaskScores, seed: int, part: Sequence[int] | None = None
) -> Figure | None:
    """The main metric, on all rows or on some; of some only where every row has its own value."""
    metric = next(iter(a.metrics))
    shown = f"{name}: {_NAMES.get(metric, metric)}"
    if len(a.each) != a.rows or len(b.each) != b.rows:
        values = a.metrics[metric], b.metrics[metric]
        whole = Figure(shown, "higher", a.rows, a.data, *values, a.main, b.main)
        return whole if part is None else None
    rows = range(a.rows) if part is None else part
    ours, theirs = ([one.each[i] for i in rows] for one in (a, b))
    tested = paired_test(ours, theirs, [1.0] * len(rows), seed)
    p_value, test = tested.p_value, "paired bootstrap"
    if a.kind == "classification" and {*ours, *theirs} <= {0, 1}:
        p_value, test = mcnemar(ours, theirs).p_value, "McNemar, exact"
    first, second = (
        one.main if part is None else mean_interval(column, seed)
        for one, column in ((a, ours), (b, theirs))
    )
    return Figure(
        shown if part is None else f"{shown}{FRAGMENTED}",
        "higher",
        len(rows),
        a.data,
        first.value,
        second.value,
        first,
        second,
        tested.interval,
        p_value,
        test,
    )


def _macro_f1(
    name: str, a: TaskScores, b: TaskScores, seed: int, part: Sequence[int] | None = None
) -> Figure | None:
    """Macro-F1 of a classification task, where both have every row's answer and label."""
    metric = "macro_f1"
    known = len(a.answers) == len(b.answers) == len(a.references) == a.rows
    if not known or metric not in a.metrics or metric not in b.metrics:
        return None
    # scikit-learn comes with it, and not every comparison has such a task.
    from adapt.evaluation.label_metrics import label_statistics

    rows = range(a.rows) if part is None else part
    references = [a.references[i] for i in rows]
    ours, theirs = (
        label_statistics([one.answers[i] for i in rows], references)[metric] for one in (a, b)
    )
    tested = paired_statistic_test(ours, theirs, len(rows), seed)
    # The other may have had other rows for its fragmented ones.
    first, second = (
        one.intervals.get(metric) if part is None else statistic_interval(found, len(rows), seed)
        for one, found in ((a, ours), (b, theirs))
    )
    everything = np.arange(len(rows))
    return Figure(
        f"{name}{_MACRO_F1}" if part is None else f"{name}{_MACRO_F1}{FRAGMENTED}",
        "higher",
        len(rows),
        a.data,
        ours(everything),
        theirs(everything),
        first,
        second,
        tested.interval,
        tested.p_value,
        "paired bootstrap",
    )
