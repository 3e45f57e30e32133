"""`VocabDelta`: what changed between two vocabularies; the hand-off from tokenizer to model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from adapt.errors import VocabularyError
from adapt.workspace import write_json

FILE_NAME = "vocab_delta.json"


@dataclass(frozen=True)
class NewToken:
    """A token that the base does not have.

    Attributes:
        id: Its id in the new vocabulary.
        token: Its spelling in `tokenizer.json` (byte-level characters for byte-level families).
        text: What it decodes to; U+FFFD where it holds part of a character.
        constituents: Base ids of the tokens it glues together, in order; at least two.
    """

    id: int
    token: str
    text: str
    constituents: tuple[int, ...]


@dataclass(frozen=True)
class VocabDelta:
    """Base vocabulary to new vocabulary.

    Attributes:
        base_size: Ids of the base lie in `[0, base_size)`; some may be unused.
        kept: Number of base tokens that keep their id.
        added: New tokens, by ascending id, all at or above `base_size`.
        removed: Base ids that no longer stand for their token.
    """

    base_size: int
    kept: int
    added: tuple[NewToken, ...] = ()
    removed: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Rows that an embedding needs: the highest id plus one."""
        return max([self.base_size - 1, *(token.id for token in self.added)]) + 1

    @property
    def added_ids(self) -> list[int]:
        """Ids of the new tokens, ascending."""
        return [token.id for token in self.added]

    def save(self, folder: Path) -> None:
        """Writes `vocab_delta.json` into `folder`."""
        write_json(folder / FILE_NAME, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> VocabDelta:
        """Reads `vocab_delta.json` from `folder`.

        Raises:
            VocabularyError: There is none, or it cannot be read.
        """
        path = folder / FILE_NAME
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            added = tuple(
                NewToken(t["id"], t["token"], t["text"], tuple(t["constituents"]))
                for t in data["added"]
            )
            return cls(data["base_size"], data["kept"], added, tuple(data["removed"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VocabularyError(
                f"no readable vocabulary delta, {type(error).__name__}", where=str(path)
            ) from None
