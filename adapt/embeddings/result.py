"""What the embeddings stage leaves behind; needs no torch to be read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class AdaptedBase:
    """Result of the stage.

    Attributes:
        folder: The checkpoint, with the adapted tokenizer.
        init: Strategy that made the new rows.
        rows: Rows of each edited matrix, by parameter name; empty when nothing was added.
    """

    folder: Path
    init: str
    rows: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """For the stage's manifest."""
        record = asdict(self)
        del record["folder"]
        return record

    @classmethod
    def from_json(cls, folder: Path, record: dict[str, Any]) -> AdaptedBase:
        """The result of a finished stage."""
        return cls(folder, **record)
