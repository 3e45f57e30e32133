"""The adapted base: an ordinary checkpoint with rows for the new tokens."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapt.embeddings.surgery import write_adapted_base
from adapt.recipe.schema import EmbeddingsSection
from adapt.vocab import Vocabulary
from adapt.workspace import new_folder

__all__ = ["AdaptedBase", "make_adapted_base"]


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


def make_adapted_base(
    section: EmbeddingsSection,
    base: Path,
    vocabulary: Vocabulary,
    folder: Path,
    *,
    trust_remote_code: bool = False,
) -> AdaptedBase:
    """The stage: writes the adapted base into `folder`, whole or not at all.

    Raises:
        ModelError: The base cannot be edited.
    """
    with new_folder(folder) as unfinished:
        rows = write_adapted_base(
            base,
            vocabulary.folder,
            vocabulary.delta,
            section.init,
            unfinished,
            trust_remote_code=trust_remote_code,
        )
    return AdaptedBase(folder, section.init, rows)
