"""Whether to adopt a model: one stated rule, and its sentence."""

from __future__ import annotations

from dataclasses import dataclass

from adapt.evaluation.bootstrap import Interval
from adapt.evaluation.compare import DOMAIN, SPEED, Comparison, Figure
from adapt.evaluation.result import SAME_TIME

# Within this share of the other's bits per byte two models count as equally good.
_MARGIN = 0.01

# The least share of tokens saved that speed is worth having for.
_WORTH = 0.03

# Of fewer documents no two-sided test can come below 0.05: 2 / 2^5 is 0.0625.
_ENOUGH = 6


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


def verdict(comparisons: dict[str, Comparison], tokens_saved: float) -> Verdict:
    """Decides by `decide` against the control, or the base where there is none.

    What the model has over the control of the same time stands in the sentence and decides
    nothing: on another machine the clock says something else.

    Args:
        comparisons: By `control`, `control-time` and `base`, as far as there are any.
        tokens_saved: Share of tokens saved on held-out domain text.
    """
    against = "control" if "control" in comparisons else "base"
    if against not in comparisons:
        return Verdict(
            "not compared",
            f"Not compared: a head has no untrained base to set it against, {_tokens(tokens_saved)}"
            " (evaluation.control trains the same head on the base's tokenizer).",
        )
    return judge(
        comparisons[against],
        "adapted",
        tokens_saved,
        comparisons.get("base"),
        comparisons.get(SAME_TIME),
    )


def judge(
    comparison: Comparison,
    name: str,
    tokens_saved: float | None,
    base: Comparison | None = None,
    same_time: Comparison | None = None,
) -> Verdict:
    """`decide`, and the sentence that goes with it.

    Args:
        comparison: Of the model with its reference.
        name: The model's.
        tokens_saved: Share of tokens saved on held-out domain text; None where it is not known,
            and then nothing is adopted for speed.
        base: Of the model with its own base, where both were scored.
        same_time: With a control that trained for as long as the model, where there is one.
    """
    figure, against = comparison.leading, comparison.against
    if figure is None or figure.difference is None:
        return Verdict("not compared", f"Not compared: {name} and {against} share no figure.")
    change = figure.difference
    worse = change if figure.better == "lower" else _negative(change)
    task, _, metric = figure.name.partition(": ")
    measured = f"{metric} on held-out rows of {task}"
    if figure.name.endswith(DOMAIN):
        measured = f"{figure.name.removesuffix(DOMAIN)} on held-out domain text"
    figures = (
        f"{name} {figure.value:.3f} {measured}, {against} {figure.other:.3f}: "
        f"{_share(figure, worse)}"
        f"(difference {change.value:+.3f}, 95 % interval {change.low:+.3f} to {change.high:+.3f})"
        f", {_tokens(tokens_saved)}"
    )
    if same_time and (timed := same_time.leading) and timed.difference:
        change = timed.difference
        worse_then = change if timed.better == "lower" else _negative(change)
        figures += (
            f"; at equal time {_share(timed, worse_then)}"
            f"(95 % interval {change.low:+.3f} to {change.high:+.3f})"
        )
    better_base = _better_base(base)
    if better_base:
        figures += f"; the base itself has {better_base.other:.3f}"
    loses = better_base is not None
    choice = decide(worse, figure.other, tokens_saved or 0.0, loses_to_base=loses)
    if figure.rows < _ENOUGH:
        choice = "no difference"
        figures += f"; {figure.rows} held-out documents or rows are too few to tell one"
    speeds = [f for f in comparison.figures if f.name.endswith(SPEED) and f.other]
    if choice == "adopt for speed" and speeds:
        times = speeds[0].value / speeds[0].other
        figures += f"; {times:.2f} times the {speeds[0].name} of {against}"
    return Verdict(choice, f"{choice.capitalize()}: {figures}.")


def _better_base(base: Comparison | None) -> Figure | None:
    """Bits per byte on domain text, where the base's are told to be lower than the model's."""
    figure = base.leading if base and base.domain else None
    return figure if figure and figure.difference and figure.difference.low > 0 else None


def _share(figure: Figure, worse: Interval) -> str:
    """By how much of the other's figure the model is worse or better; nothing has no shares."""
    if not worse.value:
        return "equal "
    better = "worse" if worse.value > 0 else "better"
    return f"{abs(worse.value / figure.other):.1%} {better} " if figure.other else f"{better} "


def _negative(interval: Interval) -> Interval:
    return Interval(-interval.value, -interval.high, -interval.low)


def _tokens(saved: float | None) -> str:
    if saved is None:
        return "tokens not counted on the same text"
    return f"with {saved:.1%} of tokens saved" if saved >= 0 else f"with {-saved:.1%} more tokens"
