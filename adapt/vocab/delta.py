"""`VocabDelta`: what changed between two vocabularies; the hand-off from tokenizer to model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        constituents: Base ids of the tokens that the base makes of it, in order; two or more for
            a unit that is learned, at least one for a token of a retrained vocabulary.
    """

    id: int
    token: str
    text: str
    constituents: tuple[int, ...]


@dataclass(frozen=True)
class Kept:
    """A run of tokens that both vocabularies have, in the same order.

    Attributes:
        base: Id of the first in the base.
        new: Id of the first in the new vocabulary.
        count: How many follow one another in both.
    """

    base: int
    new: int
    count: int


@dataclass(frozen=True)
class VocabDelta:
    """Base vocabulary to new vocabulary.

    The ids of the base are those of `kept` and `removed`, the new ids those of `kept` and `added`;
    no id is in two of them, and ids in neither stand for no token.

    Attributes:
        base_size: Ids of the base lie in `[0, base_size)`.
        size: New ids lie in `[0, size)`: the rows that an embedding needs.
        kept: Tokens of both, as runs, by ascending new id.
        added: New tokens, by ascending id; may take the id of a removed one.
        removed: Base ids whose token the new vocabulary does not have, ascending.
        read_only: Whether the new tokens are only ever read (`embeddings.units: input`).
    """

    base_size: int
    size: int
    kept: tuple[Kept, ...]
    added: tuple[NewToken, ...] = ()
    removed: tuple[int, ...] = ()
    read_only: bool = False

    @classmethod
    def between(
        cls,
        base: Mapping[str, int],
        new: Mapping[str, int],
        constituents: Callable[[str], Sequence[int]],
        text: Callable[[str], str],
    ) -> VocabDelta:
        """Compares two vocabularies by spelling.

        Args:
            base: Spelling to id, special tokens included.
            new: The same of the new tokenizer.
            constituents: Base ids of a spelling that the base does not have.
            text: What a spelling decodes to.
        """
        both = sorted((id_, base[token]) for token, id_ in new.items() if token in base)
        added = sorted((id_, token) for token, id_ in new.items() if token not in base)
        return cls(
            max(base.values(), default=-1) + 1,
            max(new.values(), default=-1) + 1,
            _runs(both),
            tuple(
                NewToken(i, token, text(token), tuple(constituents(token))) for i, token in added
            ),
            tuple(sorted(id_ for token, id_ in base.items() if token not in new)),
        )

    @property
    def added_ids(self) -> list[int]:
        """Ids of the new tokens, ascending."""
        return [token.id for token in self.added]

    @property
    def kept_ids(self) -> tuple[list[int], list[int]]:
        """Base ids and new ids of the tokens that both have, aligned, by ascending new id."""
        base = [run.base + i for run in self.kept for i in range(run.count)]
        return base, [run.new + i for run in self.kept for i in range(run.count)]

    @property
    def moves_ids(self) -> bool:
        """Whether any token that both have has another id now, or fewer rows are needed.

        Then an adapter works on the adapted base alone; otherwise its own rows are all that the
        original base lacks.
        """
        return self.size < self.base_size or any(run.base != run.new for run in self.kept)

    def save(self, folder: Path) -> None:
        """Writes `vocab_delta.json` into `folder`."""
        record = asdict(self)
        record["kept"] = [[run.base, run.new, run.count] for run in self.kept]
        record["removed"] = [[i, n] for i, _, n in _spans((i, i) for i in self.removed)]
        write_json(folder / FILE_NAME, record)

    @classmethod
    def load(cls, folder: Path) -> VocabDelta:
        """Reads `vocab_delta.json` from `folder`.

        Raises:
            VocabularyError: There is none, or it cannot be read.
        """
        path = folder / FILE_NAME
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                data["base_size"],
                data["size"],
                tuple(Kept(*run) for run in data["kept"]),
                tuple(
                    NewToken(t["id"], t["token"], t["text"], tuple(t["constituents"]))
                    for t in data["added"]
                ),
                tuple(first + i for first, count in data["removed"] for i in range(count)),
                data["read_only"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VocabularyError(
                f"no readable vocabulary delta, {type(error).__name__}", where=str(path)
            ) from None


def _runs(pairs: Iterable[tuple[int, int]]) -> tuple[Kept, ...]:
    """Pairs of (new id, base id), ascending, as runs."""
    return tuple(Kept(base, new, count) for new, base, count in _spans(pairs))


def _spans(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Groups (a, b), (a + 1, b + 1), ... to (a, b, length)."""
    spans: list[tuple[int, int, int]] = []
    for a, b in pairs:
        if spans and (a, b) == (spans[-1][0] + spans[-1][2], spans[-1][1] + spans[-1][2]):
            spans[-1] = (*spans[-1][:2], spans[-1][2] + 1)
        else:
            spans.append((a, b, 1))
    return spans
