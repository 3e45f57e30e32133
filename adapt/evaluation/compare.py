"""Adapted against control and base: differences with intervals, and one sentence."""

from __future__ import annotations

from dataclasses import dataclass

from adapt.evaluation.bootstrap import Interval, paired_ratio_difference
from adapt.evaluation.result import Likelihood, ModelScores

# Within this share of the other's bits per byte two models count as equally good.
_MARGIN = 0.01


@dataclass(frozen=True)
class Comparison:
    """What the adapted model gained.

    Attributes:
        against: `control` or `base`.
        domain: Difference in bits per byte on domain text, adapted minus the other, with its
            paired 95 % interval; below zero is better.
        general: The same on general text.
    """

    against: str
    domain: Interval
    general: Interval | None


@dataclass(frozen=True)
class Verdict:
    """The recommendation.

    Attributes:
        choice: `adopt`, `adopt for speed`, `no difference` or `do not extend`.
        sentence: The choice with the figures that it rests on.
    """

    choice: str
    sentence: str


def compare(adapted: ModelScores, other: ModelScores, against: str, seed: int) -> Comparison:
    """Pairs two models document by document.

    Args:
        adapted: Scores of the adapted model.
        other: Scores of the control or the base, on the same documents.
        against: Which of the two.
        seed: Of the bootstrap.
    """
    general = None
    if adapted.general and other.general:
        general = _difference(adapted.general, other.general, seed)
    return Comparison(against, _difference(adapted.domain, other.domain, seed), general)


def _difference(a: Likelihood, b: Likelihood, seed: int) -> Interval:
    if a.bytes_ != b.bytes_:
        raise ValueError("the two models were not scored on the same documents")
    return paired_ratio_difference(a.bits, b.bits, a.bytes_, seed)


def verdict(
    comparisons: dict[str, Comparison], scores: dict[str, ModelScores], tokens_saved: float
) -> Verdict:
    """Decides by a stated rule on bits per byte of held-out domain text, against the control.

    - The whole interval below zero: adopt.
    - Otherwise, worse by no more than 1 % of the control's, and at least 3 % of tokens saved:
      adopt for speed.
    - The whole interval above zero: do not extend.
    - Anything else: no difference.

    A model that is not better than its own base is never adopted.

    Args:
        comparisons: By `control` and `base`.
        scores: By `base`, `control` and `adapted`.
        tokens_saved: Share of tokens saved on held-out domain text.
    """
    against = "control" if "control" in comparisons else "base"
    domain = comparisons[against].domain
    reference = scores[against].domain.interval.value
    share = domain.value / reference
    figures = (
        f"adapted {scores['adapted'].domain.interval.value:.3f} bits per byte on held-out domain "
        f"text, {against} {reference:.3f}: {abs(share):.1%} {'worse' if share > 0 else 'better'} "
        f"(difference {domain.value:+.3f}, 95 % interval {domain.low:+.3f} to {domain.high:+.3f}), "
        f"with {tokens_saved:.1%} of tokens saved"
    )
    base = comparisons["base"].domain
    if base.low > 0:
        choice = "do not extend"
        figures += f"; the base itself has {scores['base'].domain.interval.value:.3f}"
    elif domain.high < 0:
        choice = "adopt"
    elif share <= _MARGIN and tokens_saved >= 0.03:
        choice = "adopt for speed"
    elif domain.low > 0:
        choice = "do not extend"
    else:
        choice = "no difference"
    return Verdict(choice, f"{choice.capitalize()}: {figures}.")
