"""Whether a change pays: what it saves in cost less what it loses in quality."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from adapt.bases import size
from adapt.embeddings.result import AdaptedBase

WORTH = 0.03  # least net benefit that is worth a change


@dataclass(frozen=True)
class NetBenefit:
    """What a change saves in cost, against what it loses in quality, after the same text.

    The cost of a byte is its tokens times the parameters that each passes, so a change makes it
    (1 - saved) x (1 + parameters_added / parameters) of what it was. The loss in quality is the
    relative rise of bits per byte after a short training of either model on the same documents.

    Attributes:
        saved: Share of tokens saved.
        parameters: Of the model before.
        parameters_added: By the change.
        before: Bits per byte of validation text by the model before, after its probe.
        after: The same by the changed one.
    """

    saved: float
    parameters: int
    parameters_added: int
    before: float
    after: float

    @classmethod
    def of(cls, adapted: AdaptedBase, saved: float, before: float, after: float) -> NetBenefit:
        """The same of an adapted base, whose checkpoint tells the parameters."""
        added = adapted.parameters_added
        return cls(saved, size(adapted.folder).parameters - added, added, before, after)

    @property
    def cost(self) -> float:
        """Cost of a byte, relative to before."""
        return (1 - self.saved) * (1 + self.parameters_added / self.parameters)

    @property
    def quality_loss(self) -> float:
        """Relative rise of bits per byte; negative where they fell."""
        return (self.after - self.before) / self.before

    @property
    def net(self) -> float:
        """What is saved in cost less what is lost in quality."""
        return 1 - self.cost - self.quality_loss

    @property
    def worth_it(self) -> bool:
        """Whether it pays, by at least `WORTH`."""
        return self.net >= WORTH

    def to_json(self) -> dict[str, Any]:
        """What went in and what follows from it."""
        derived = {k: getattr(self, k) for k in ("cost", "quality_loss", "net", "worth_it")}
        return {**asdict(self), **derived}
