"""`tokenizer.new_tokens: auto`: how many units pay, by what they save and what they lose.

Tokens alone say how many units are cheap to have (`adapt.vocab.budget`), not how many the text at
hand can teach: on little text a few hundred units may already cost more bits than they save
tokens. So sizes are tried from the smallest on, each by a short training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from adapt.probe.benefit import WORTH, NetBenefit
from adapt.vocab.budget import Point, cheapest

LOSS = 0.02  # most that bits per byte may rise, relative to the base's after the same text

_NONE = "none worth it, the tokenizer is kept"
_SMALLEST, _APART = 125, 4  # the first size, and how many times as many the next one adds


@dataclass(frozen=True)
class Tried:
    """One size, and what a short training made of it.

    Attributes:
        new_tokens: Units added.
        benefit: Against the base, after the same text.
        multiword: Whether units may cross spaces.
    """

    new_tokens: int
    benefit: NetBenefit
    multiword: bool = True

    @property
    def pays(self) -> bool:
        """Whether it saves more than it loses, and loses little."""
        return self.benefit.worth_it and self.benefit.quality_loss <= LOSS


@dataclass(frozen=True)
class Units:
    """How many units to add, and of which kind.

    Attributes:
        tried: By kind and size, the smallest first.
        curve: What each size saves in tokens, and costs in parameters; of the kind tried last.
        steps: Optimizer steps of a probe.
    """

    tried: tuple[Tried, ...]
    curve: tuple[Point, ...]
    steps: int

    @property
    def best(self) -> Tried | None:
        """What is added: the most net benefit of all that pay; None where none do."""
        paying = [one for one in self.tried if one.pays]
        return max(paying, key=lambda one: one.benefit.net, default=None)

    @property
    def note(self) -> str:
        """What was tried and what came of it, in one sentence."""
        if not self.tried:
            return (
                f"auto: no number of units saves {WORTH:.0%} more in tokens than it adds in "
                "parameters; none added"
            )
        told = "; ".join(
            f"{_named(one)} save {one.benefit.saved:.1%} of the tokens, bits per byte "
            f"{one.benefit.quality_loss:+.1%}, net benefit {one.benefit.net:+.1%}"
            for one in self.tried
        )
        rule = f"(at least {WORTH:.0%} net and at most {LOSS:.0%} more bits per byte)"
        chose = f"{_named(self.best)} chosen" if self.best else _NONE
        return f"auto, by probes of {self.steps} steps: {told}; {chose} {rule}"

    def to_json(self) -> dict[str, Any]:
        """For the stage's manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Units:
        """The result of a finished stage."""
        known = [field.name for field in fields(NetBenefit)]
        return cls(
            tuple(
                Tried(
                    one["new_tokens"],
                    NetBenefit(**{k: one["benefit"][k] for k in known}),
                    one.get("multiword", True),
                )
                for one in record["tried"]
            ),
            tuple(Point(**point) for point in record["curve"]),
            record["steps"],
        )


def sizes(curve: Sequence[Point]) -> list[int]:
    """Sizes to try: 125, four times as many each time, and the most that pay by tokens alone.

    A size that saves less than is worth it, even if it lost nothing, is left out.

    Args:
        curve: What sizes save and cost, ascending.
    """
    most, size = cheapest(curve).new_tokens, _SMALLEST
    found = [most] if most else []
    while size < most:
        found.append(size)
        size *= _APART
    return [size for size in sorted(found) if _cost_at(curve, size) <= 1 - WORTH]


def _cost_at(curve: Sequence[Point], size: int) -> float:
    """Of the first point that has so many units."""
    return next(point.cost for point in curve if point.new_tokens >= size)


def search(
    candidates: Sequence[int], benefit: Callable[[int], NetBenefit]
) -> dict[int, NetBenefit]:
    """Tries sizes until one loses too much; what each was found to bring.

    Args:
        candidates: Ascending.
        benefit: Of a size; minutes each.
    """
    tried: dict[int, NetBenefit] = {}
    for size in candidates:
        tried[size] = benefit(size)
        if tried[size].quality_loss > LOSS:  # more units would lose more
            break
    return tried


def _named(one: Tried) -> str:
    return f"{one.new_tokens:,} units {'' if one.multiword else 'inside words '}".rstrip()
