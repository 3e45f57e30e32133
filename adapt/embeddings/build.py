"""The embeddings stage."""

from __future__ import annotations

from pathlib import Path

from adapt.embeddings.result import AdaptedBase
from adapt.embeddings.surgery import write_adapted_base
from adapt.recipe.schema import EmbeddingsSection
from adapt.vocab import Vocabulary
from adapt.workspace import new_folder


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
