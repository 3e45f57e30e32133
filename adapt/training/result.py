"""What the training stage leaves behind; needs no torch to be read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PhaseResult:
    """What one phase did.

    Attributes:
        name: The phase.
        steps: Optimizer steps.
        documents: Documents or rows seen, repeats counted.
        bytes_: UTF-8 bytes of text seen.
        tokens: Tokens seen, padding left out.
        seconds: Time of the training loop; of one that went on from a checkpoint, with the time
            up to that.
        losses: (step, mean loss in nats a predicted token since the last entry).
        truncated_documents: Of the phase's documents, those longer than max_length that lost text.
        truncated_bytes: UTF-8 bytes that they lost.
        validation_losses: (step, loss on the validation side).
        energy_kwh: Electricity of the training loop, estimated, kWh; None where not known.
        bits_per_byte: (step, bits per byte of the text read since the last entry), comparable
            between tokenizers; empty where the loss is not over every token that is read, and in
            results of older versions.
    """

    name: str
    steps: int
    documents: int
    bytes_: int
    tokens: int
    seconds: float
    losses: tuple[tuple[int, float], ...]
    truncated_documents: int = 0
    truncated_bytes: int = 0
    validation_losses: tuple[tuple[int, float], ...] = ()
    energy_kwh: float | None = None
    bits_per_byte: tuple[tuple[int, float], ...] = ()

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> PhaseResult:
        """What `dataclasses.asdict` and JSON made of a result."""
        pairs = {
            name: tuple((step, value) for step, value in record.get(name, ()))
            for name in ("losses", "validation_losses", "bits_per_byte")
        }
        return cls(**{**record, **pairs})


@dataclass(frozen=True)
class Trained:
    """Result of the stage.

    Attributes:
        folder: The adapter.
        phases: In order.
        trainable: Parameters that trained.
        adapter_bytes: Size of the adapter's weights.
    """

    folder: Path
    phases: tuple[PhaseResult, ...]
    trainable: int
    adapter_bytes: int

    @property
    def seconds(self) -> float:
        """Time of all phases' training loops."""
        return sum(p.seconds for p in self.phases)

    @property
    def bytes_(self) -> int:
        """UTF-8 bytes of training text, over all phases."""
        return sum(p.bytes_ for p in self.phases)

    @property
    def bytes_per_second(self) -> float:
        """UTF-8 bytes of training text a second, over all phases."""
        return self.bytes_ / self.seconds

    @property
    def energy_kwh(self) -> float | None:
        """Electricity of all phases, estimated, kWh; None unless that of each is known."""
        known = [p.energy_kwh for p in self.phases if p.energy_kwh is not None]
        return sum(known) if known and len(known) == len(self.phases) else None

    @property
    def documents(self) -> list[int]:
        """Documents of each phase, for a control to repeat."""
        return [phase.documents for phase in self.phases]

    def to_json(self) -> dict[str, Any]:
        """For the stage's manifest."""
        record = asdict(self)
        del record["folder"]
        return record

    @classmethod
    def from_json(cls, folder: Path, record: dict[str, Any]) -> Trained:
        """The result of a finished stage."""
        phases = tuple(PhaseResult.from_json(phase) for phase in record["phases"])
        return cls(folder, phases, record["trainable"], record["adapter_bytes"])
