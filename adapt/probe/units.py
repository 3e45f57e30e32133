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
from adapt.vocab.budget import Point

LOSS = 0.02  # most that bits per byte may rise, relative to the base's after the same text

_SMALLEST, _APART = 125, 4  # the first size, and how many times as many the next one adds


@dataclass(frozen=True)
class Tried:
    """One size, and what a short training made of it.

    Attributes:
        new_tokens: Units added.
        benefit: Against the base, after the same text.
    """

    new_tokens: int
    benefit: NetBenefit

    @property
    def pays(self) -> bool:
        """Whether it saves more than it loses, and loses little."""
        return self.benefit.worth_it and self.benefit.quality_loss <= LOSS


@dataclass(frozen=True)
class Units:
    """How many units to add.

    Attributes:
        chosen: Units; 0 where none pay.
        tried: By size, the smallest first.
        curve: What each size saves in tokens, and costs in parameters.
        steps: Optimizer steps of a probe.
    """

    chosen: int
    tried: tuple[Tried, ...]
    curve: tuple[Point, ...]
    steps: int

    @property
    def note(self) -> str:
        """What was tried and what came of it, in one sentence."""
        if not self.tried:
            return "auto: no number of units saves more tokens than it adds parameters; none added"
        told = "; ".join(
            f"{one.new_tokens:,} units save {one.benefit.saved:.1%} of the tokens, bits per byte "
            f"{one.benefit.quality_loss:+.1%}, net benefit {one.benefit.net:+.1%}"
            for one in self.tried
        )
        rule = f"(at least {WORTH:.0%} net and at most {LOSS:.0%} more bits per byte)"
        chose = f"{self.chosen:,} chosen" if self.chosen else "none worth it, the tokenizer is kept"
        return f"auto, by probes of {self.steps} steps: {told}; {chose} {rule}"

    def to_json(self) -> dict[str, Any]:
        """For the stage's manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Units:
        """The result of a finished stage."""
        known = [field.name for field in fields(NetBenefit)]
        return cls(
            record["chosen"],
            tuple(
                Tried(one["new_tokens"], NetBenefit(**{k: one["benefit"][k] for k in known}))
                for one in record["tried"]
            ),
            tuple(Point(**point) for point in record["curve"]),
            record["steps"],
        )


def sizes(most: int) -> list[int]:
    """Sizes to try: 125, four times as many each time, and the most that pay by tokens alone."""
    found, size = [], _SMALLEST
    while size < most:
        found.append(size)
        size *= _APART
    return [*found, most] if most > 0 else []


def search(
    candidates: Sequence[int],
    benefit: Callable[[int], NetBenefit],
    curve: tuple[Point, ...],
    steps: int,
) -> Units:
    """Tries sizes until one loses too much, and takes the best of those that pay.

    Args:
        candidates: Ascending.
        benefit: Of a size; minutes each.
        curve: For the record.
        steps: For the record.
    """
    tried: list[Tried] = []
    for size in candidates:
        tried.append(Tried(size, benefit(size)))
        if tried[-1].benefit.quality_loss > LOSS:  # more units would lose more
            break
    paying = [one for one in tried if one.pays]
    best = max(paying, key=lambda one: one.benefit.net, default=None)
    return Units(best.new_tokens if best else 0, tuple(tried), curve, steps)
