"""Two models on the same data: differences with intervals and p-values, and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adapt.evaluation.bootstrap import Interval, paired_statistic_test, paired_test
from adapt.evaluation.result import SAME_TIME, Likelihood, ModelScores, TaskScores
from adapt.evaluation.significance import mcnemar
from adapt.evaluation.slices import on_slice

# Within this share of the other's bits per byte two models count as equally good.
_MARGIN = 0.01

# The least share of tokens saved that speed is worth having for.
_WORTH = 0.03

_NAMES = {"rouge_l": "ROUGE-L"}  # metrics that are not called by their own name
SPEED = "characters/s"  # of what is generated, or read
_DOMAIN = ", domain text"  # after what is measured: bits per byte, or pseudo ones
_MACRO_F1 = ": macro-F1"


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
        first = [f for f in paired if f.name.endswith(_DOMAIN)] if self.domain else []
        first = first or [f for f in paired if f.name.endswith(_MACRO_F1)] or paired
        return first[0] if first else None


@dataclass(frozen=True)
class Verdict:
    """The recommendation.

    Attributes:
        choice: `adopt`, `adopt for speed`, `no difference` or `do not extend`; `not compared` where
            there is nothing to compare with.
        sentence: The choice with the figures that it rests on.
    """

    choice: str
    sentence: str


# -- figures ----------------------------------------------------------------------------------


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
        found.append(_likelihood(f"{measure}{_DOMAIN}", adapted.domain, other.domain, seed))
        domain = found[0].difference
        rows = other.domain.fragmented or adapted.domain.fragmented
        if any(adapted.domain.bytes_[i] for i in rows):  # of a document maybe nothing is scored
            name = f"{measure}, fragmented text"
            found.append(_likelihood(name, adapted.domain, other.domain, seed, rows))
    elif adapted.domain or other.domain:
        notes.append("domain text: one of the two writes no text, not compared")
    general = None
    if adapted.general and other.general:
        if same_documents(adapted.general, other.general):
            name = f"{adapted.general.measure}, general text"
            found.append(_likelihood(name, adapted.general, other.general, seed))
            general = found[-1].difference
        else:
            notes.append("general text: other documents, not compared")
    for task, scores in adapted.tasks.items():
        figure = _task(task, scores, other.tasks.get(task), seed)
        if isinstance(figure, Figure):
            found.append(figure)
            found += _macro_f1(task, scores, other.tasks[task], seed)
        else:
            notes.append(f"task {task}: {figure}, not compared")
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


def _task(name: str, a: TaskScores, b: TaskScores | None, seed: int) -> Figure | str:
    """A task's main metric, or why it cannot be compared."""
    if b is None:
        return "the other has no such task"
    if a.kind != b.kind or a.rows != b.rows or (a.data and b.data and a.data != b.data):
        return "other rows"
    metric = next(iter(a.metrics))
    if metric not in b.metrics:
        return "another metric"
    shown = f"{name}: {_NAMES.get(metric, metric)}"
    values = a.metrics[metric], b.metrics[metric]
    if len(a.each) != a.rows or len(b.each) != b.rows:
        return Figure(shown, "higher", a.rows, a.data, *values, a.main, b.main)
    tested = paired_test(a.each, b.each, [1.0] * a.rows, seed)
    p_value, test = tested.p_value, "paired bootstrap"
    if a.kind == "classification" and {*a.each, *b.each} <= {0, 1}:
        p_value, test = mcnemar(a.each, b.each).p_value, "McNemar, exact"
    return Figure(
        shown, "higher", a.rows, a.data, *values, a.main, b.main, tested.interval, p_value, test
    )


def _macro_f1(name: str, a: TaskScores, b: TaskScores, seed: int) -> list[Figure]:
    """Macro-F1 of a classification task, where both have every row's answer and label."""
    metric = "macro_f1"
    known = len(a.answers) == len(b.answers) == len(a.references) == a.rows
    if not known or metric not in a.metrics or metric not in b.metrics:
        return []
    # scikit-learn comes with it, and not every comparison has such a task.
    from adapt.evaluation.label_metrics import label_statistics

    ours, theirs = (label_statistics(one.answers, a.references)[metric] for one in (a, b))
    tested = paired_statistic_test(ours, theirs, a.rows, seed)
    return [
        Figure(
            f"{name}{_MACRO_F1}",
            "higher",
            a.rows,
            a.data,
            a.metrics[metric],
            b.metrics[metric],
            a.intervals.get(metric),
            b.intervals.get(metric),
            tested.interval,
            tested.p_value,
            "paired bootstrap",
        )
    ]


# -- verdict ----------------------------------------------------------------------------------


def decide(worse: Interval, reference: float, saved: float, *, loses_to_base: bool) -> str:
    """The one rule, on the figure that `Comparison.leading` names.

    - A model that is worse than its own base, the whole interval above zero: do not extend.
    - The whole interval against the reference below zero: adopt.
    - Otherwise, worse by no more than 1 % of the reference's, and at least 3 % of tokens saved:
      adopt for speed.
    - The whole interval above zero: do not extend.
    - Anything else: no difference.

    Args:
        worse: By how much the model is worse than the reference, paired.
        reference: The reference's figure.
        saved: Share of tokens saved against the reference.
        loses_to_base: Whether the model is worse than its own base.
    """
    if loses_to_base:
        return "do not extend"
    if worse.high < 0:
        return "adopt"
    # A share of zero has no size: a reference with nothing right is not lost to by a little.
    share = worse.value / reference if reference else worse.value
    if share <= _MARGIN and saved >= _WORTH:
        return "adopt for speed"
    return "do not extend" if worse.low > 0 else "no difference"


def verdict(
    comparisons: dict[str, Comparison], scores: dict[str, ModelScores], tokens_saved: float
) -> Verdict:
    """Decides by `decide` against the control, or the base where there is none.

    What the model has over the control of the same time stands in the sentence and decides
    nothing: on another machine the clock says something else.

    Args:
        comparisons: By `control`, `control-time` and `base`, as far as there are any.
        scores: By `base`, `adapted` and the controls.
        tokens_saved: Share of tokens saved on held-out domain text.
    """
    against = "control" if "control" in comparisons else "base"
    if against not in comparisons:
        return Verdict(
            "not compared",
            f"Not compared: a head has no untrained base to set it against, {_tokens(tokens_saved)}"
            " (evaluation.control trains the same head on the base's tokenizer).",
        )
    base = comparisons["base"].domain if "base" in comparisons else None
    better = scores["base"].domain if base and base.low > 0 else None
    return judge(
        comparisons[against],
        "adapted",
        tokens_saved,
        better.interval.value if better else None,
        comparisons.get(SAME_TIME),
    )


def judge(
    comparison: Comparison,
    name: str,
    tokens_saved: float | None,
    better_base: float | None,
    same_time: Comparison | None = None,
) -> Verdict:
    """`decide`, and the sentence that goes with it.

    Args:
        comparison: Of the model with its reference.
        name: The model's.
        tokens_saved: Share of tokens saved on held-out domain text; None where it is not known,
            and then nothing is adopted for speed.
        better_base: Bits per byte of the model's own base, where it is told to be better.
        same_time: With a control that trained for as long as the model, where there is one.
    """
    figure, against = comparison.leading, comparison.against
    if figure is None or figure.difference is None:
        return Verdict("not compared", f"Not compared: {name} and {against} share no figure.")
    change = figure.difference
    worse = change if figure.better == "lower" else _negative(change)
    task, _, metric = figure.name.partition(": ")
    measured = f"{metric} on held-out rows of {task}"
    if figure.name.endswith(_DOMAIN):
        measured = f"{figure.name.removesuffix(_DOMAIN)} on held-out domain text"
    figures = (
        f"{name} {figure.value:.3f} {measured}, {against} {figure.other:.3f}: "
        f"{_share(figure, worse)} "
        f"(difference {change.value:+.3f}, 95 % interval {change.low:+.3f} to {change.high:+.3f})"
        f", {_tokens(tokens_saved)}"
    )
    if same_time and (timed := same_time.leading) and timed.difference:
        change = timed.difference
        worse_then = change if timed.better == "lower" else _negative(change)
        figures += (
            f"; at equal time {_share(timed, worse_then)} "
            f"(95 % interval {change.low:+.3f} to {change.high:+.3f})"
        )
    if better_base is not None:
        figures += f"; the base itself has {better_base:.3f}"
    choice = decide(worse, figure.other, tokens_saved or 0.0, loses_to_base=better_base is not None)
    speeds = [f for f in comparison.figures if f.name.endswith(SPEED) and f.other]
    if choice == "adopt for speed" and speeds:
        times = speeds[0].value / speeds[0].other
        figures += f"; {times:.2f} times the {speeds[0].name} of {against}"
    return Verdict(choice, f"{choice.capitalize()}: {figures}.")


def _share(figure: Figure, worse: Interval) -> str:
    """By how much of the other's figure the model is worse or better."""
    share = worse.value / figure.other if figure.other else 0.0
    return f"{abs(share):.1%} {'worse' if share > 0 else 'better'}"


def _negative(interval: Interval) -> Interval:
    return Interval(-interval.value, -interval.high, -interval.low)


def _tokens(saved: float | None) -> str:
    if saved is None:
        return "tokens not counted on the same text"
    return f"with {saved:.1%} of tokens saved" if saved >= 0 else f"with {-saved:.1%} more tokens"
