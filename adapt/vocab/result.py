"""What the vocabulary stage leaves behind."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapt.vocab.audit import Audit
from adapt.vocab.budget import Point
from adapt.vocab.delta import VocabDelta
from adapt.vocab.prune import Replaced


@dataclass(frozen=True)
class Vocabulary:
    """Result of the stage.

    Attributes:
        folder: The tokenizer, as `AutoTokenizer` loads it, and `vocab_delta.json`.
        delta: What changed.
        joints: Text between words that units may cross.
        notes: What the user should know: why units stay inside words, pieces that were dropped.
        audit: The guarantees, checked.
        curve: Tokens saved by number of units, where the number was to be found.
        replaced: Tokens of the base whose ids new units took.
    """

    folder: Path
    delta: VocabDelta
    joints: tuple[str, ...]
    notes: tuple[str, ...]
    audit: Audit
    curve: tuple[Point, ...] = ()
    replaced: tuple[Replaced, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For the stage's manifest; the delta is a file of its own."""
        return {
            "added": len(self.delta.added),
            "removed": len(self.delta.removed),
            "joints": list(self.joints),
            "notes": list(self.notes),
            "audit": asdict(self.audit),
            "curve": [asdict(point) for point in self.curve],
            "replaced": [asdict(token) for token in self.replaced],
        }

    @classmethod
    def from_json(cls, folder: Path, record: dict[str, Any]) -> Vocabulary:
        """The result of a finished stage."""
        return cls(
            folder,
            VocabDelta.load(folder),
            tuple(record["joints"]),
            tuple(record["notes"]),
            Audit(**record["audit"]),
            tuple(Point(**point) for point in record["curve"]),
            tuple(Replaced(**token) for token in record["replaced"]),
        )
