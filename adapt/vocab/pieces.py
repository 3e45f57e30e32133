"""Tokens by the bytes they stand for: which of them can go on with a text that has to come."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from adapt.vocab.spelling import speller


@dataclass(frozen=True, eq=False)
class Pieces:
    """The bytes that each token stands for, and the tokens sorted by them.

    Attributes:
        spelling: By id; empty for special tokens, which stand for no text, and for ids without
            a token. Empty throughout where text is not the sum of its tokens (WordPiece).
    """

    spelling: tuple[bytes, ...]

    @cached_property
    def _ids(self) -> list[int]:
        return sorted((i for i, s in enumerate(self.spelling) if s), key=self.spelling.__getitem__)

    @cached_property
    def _sorted(self) -> list[bytes]:
        return [self.spelling[i] for i in self._ids]

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max(map(len, self.spelling), default=0)

    def __bool__(self) -> bool:
        """Whether any token spells anything."""
        return self.longest > 0

    def text(self, ids: Iterable[int]) -> bytes:
        """What tokens spell together; ids beyond the vocabulary spell nothing."""
        size = len(self.spelling)
        return b"".join(self.spelling[i] for i in ids if i < size)

    def beginning_with(self, text: bytes) -> list[int]:
        """Ids of the tokens that begin with `text` or are it."""
        return self._ids[slice(*self._range(text))]

    def reach_beyond(self, text: bytes) -> bool:
        """Whether a token begins with `text` and goes on."""
        first, end = self._range(text)
        return first < end and self._sorted[end - 1] != text

    def allowed(self, rest: bytes) -> list[int]:
        """Ids of the tokens that can come next where the text has to begin with `rest`.

        Those that begin with it, and those that it begins with, if other tokens can go on.

        Args:
            rest: At least one byte.
        """
        can_end = [False] * len(rest)  # whether tokens can lead from a position past the end
        found: list[int] = []
        for start in range(len(rest) - 1, -1, -1):
            found = self.beginning_with(rest[start:])
            for end in range(start + 1, min(len(rest), start + self.longest + 1)):
                if can_end[end]:
                    found += self._equal_to(rest[start:end])
            can_end[start] = bool(found)
        return found

    def rest(self, text: bytes, ids: Iterable[int]) -> bytes:
        """What is left of `text` once these tokens have been written."""
        for i in ids:
            if not text:
                break
            text = text[len(self.text([i])) :]
        return text

    def _equal_to(self, text: bytes) -> list[int]:
        first, end = self._range(text)
        stop = first
        while stop < end and self._sorted[stop] == text:
            stop += 1
        return self._ids[first:stop]

    def _range(self, text: bytes) -> tuple[int, int]:
        """Where tokens that begin with `text` stand among the sorted."""
        first = bisect_left(self._sorted, text)
        stem = text.rstrip(b"\xff")
        if not stem:  # nothing sorts after a run of the last byte
            return first, len(self._sorted)
        after = stem[:-1] + bytes([stem[-1] + 1])
        return first, bisect_left(self._sorted, after, lo=first)


_known: WeakKeyDictionary[Any, tuple[object, Pieces]] = WeakKeyDictionary()


def pieces_of(tokenizer: Any) -> Pieces:  # noqa: ANN401 - no typed base in transformers
    """What the tokens of a fast tokenizer spell; worked out once a tokenizer.

    How a token spells its text is the decoder's to say: byte-level, or SentencePiece's way with
    its sign for a space and `<0x0A>` for bytes. With any other decoder no token spells anything.
    """
    backend = tokenizer.backend_tokenizer
    special = set(tokenizer.all_special_ids)
    mark = (backend.get_vocab_size(with_added_tokens=True), special)  # tokens may be added later
    known = _known.get(tokenizer)
    if known is None or known[0] != mark:
        spell = speller(json.loads(backend.decoder.__getstate__()) if backend.decoder else None)
        vocabulary = backend.get_vocab(with_added_tokens=True) if spell else {}
        spelling = [b""] * (max(vocabulary.values(), default=-1) + 1)
        added = backend.get_added_tokens_decoder().items()
        silent = special | {i for i, token in added if token.special}
        for token, i in vocabulary.items():
            if spell and i not in silent:
                spelling[i] = spell(token)
        known = _known[tokenizer] = (mark, Pieces(tuple(spelling)))
    return known[1]
