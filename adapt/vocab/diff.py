"""Where two tokenizers cut a text differently, in the smallest spans that say so.

A span runs from one place where both tokenizers cut to the next, so that a unit across spaces
stands beside all the tokens whose place it takes, and tokens that both make alike stay out. Places
are characters of the text: tokenizers of any two families can be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from adapt.progress import watched
from adapt.vocab.offsets import batched, cells, counting, word_spans

Pieces = tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """A span of text that two tokenizers cut differently.

    Attributes:
        before: The span by tokens of the first tokenizer, one entry a token; joined they are the
            span. A token that begins no character of its own (further bytes of a character, a
            space put before the text) adds an empty string. Empty where no token covers the span.
        after: The same of the second tokenizer.
        text: The span.
        count: How often it is cut in these two ways.
    """

    before: Pieces
    after: Pieces
    text: str
    count: int

    @property
    def saved(self) -> int:
        """Tokens that the second tokenizer saves in all; negative where it needs more."""
        return self.count * (len(self.before) - len(self.after))


@dataclass(frozen=True)
class Diff:
    """How two tokenizers cut the same documents.

    Attributes:
        documents: Texts compared.
        documents_changed: Those with at least one change.
        words: Maximal runs of non-whitespace.
        words_changed: Those whose characters, punctuation around them left out, a change touches.
        tokens_before: Of the first tokenizer, without special tokens.
        tokens_after: Of the second.
        changes: What saves most first; the savings sum to the difference in tokens.
    """

    documents: int
    documents_changed: int
    words: int
    words_changed: int
    tokens_before: int
    tokens_after: int
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """The difference as plain dicts and lists of what JSON knows, with each change's saving."""
        changes = [{**asdict(change), "saved": change.saved} for change in self.changes]
        return {**asdict(self), "changes": changes}


def compare(
    before: Tokenizer, after: Tokenizer, texts: Sequence[str], *, progress: bool = False
) -> Diff:
    """Compares how two tokenizers cut texts.

    Args:
        before: Left as it is; stored truncation and padding are off, as for `after`.
        after: Of any family.
        texts: Documents.
        progress: Show a progress bar on the error stream.

    Returns:
        Every change with its count. Equal cuts whose ids differ are no change.
    """
    before, after = counting(before), counting(after)
    documents_changed = words = words_changed = tokens_before = tokens_after = 0
    found: Counter[tuple[str, Pieces, Pieces]] = Counter()
    for batch in batched(watched(texts, "Comparing") if progress else texts):
        pairs = zip(
            batch,
            before.encode_batch(batch, add_special_tokens=False),
            after.encode_batch(batch, add_special_tokens=False),
            strict=True,
        )
        for text, one, other in pairs:
            words += len(text.split())
            tokens_before += len(one)
            tokens_after += len(other)
            if spans := list(_changed(text, one, other)):
                documents_changed += 1
                words_changed += _touched(text, [(start, end) for start, end, _, _ in spans])
                found.update((text[s:e], first, second) for s, e, first, second in spans)
    changes = (Change(first, second, text, count) for (text, first, second), count in found.items())
    return Diff(
        documents=len(texts),
        documents_changed=documents_changed,
        words=words,
        words_changed=words_changed,
        tokens_before=tokens_before,
        tokens_after=tokens_after,
        # Ties in the order of the text, so that runs agree.
        changes=tuple(sorted(changes, key=lambda c: (-c.saved, c.text, c.before, c.after))),
    )


def _changed(
    text: str, before: Encoding, after: Encoding
) -> Iterator[tuple[int, int, Pieces, Pieces]]:
    """Start and end of every span that is cut differently, and its pieces by either tokenizer."""
    if not text or before.offsets == after.offsets:
        return
    one, other = cells(len(text), before.offsets), cells(len(text), after.offsets)
    _, at_one, at_other = np.intersect1d(one[0], other[0], assume_unique=True, return_indices=True)
    start = first = second = 0  # where the span begins, in the text and in either list of cells
    for i, j in zip((at_one + 1).tolist(), (at_other + 1).tolist(), strict=True):
        end = int(one[0][i - 1])
        mine, its = _pieces(text, start, first, i, one), _pieces(text, start, second, j, other)
        if mine != its:
            yield start, end, mine, its
        start, first, second = end, i, j


def _pieces(text: str, start: int, first: int, last: int, cut: tuple[Any, Any]) -> Pieces:
    """Cells [first, last) as one string a token; `start` is where the first one begins."""
    pieces: list[str] = []
    ends, counts = cut
    tokens = counts[first - 1] if first else 0
    for end, upto in zip(ends[first:last].tolist(), counts[first:last].tolist(), strict=True):
        if upto > tokens:
            pieces += [text[start:end], *[""] * (upto - tokens - 1)]
        start, tokens = end, upto
    return tuple(pieces)


def _touched(text: str, spans: Sequence[tuple[int, int]]) -> int:
    """Words of which any character lies in one of the spans, which are ascending and disjoint."""
    words, changed = word_spans(text), np.array(spans)
    lower = np.searchsorted(changed[:, 1], words[:, 0], side="right")
    upper = np.searchsorted(changed[:, 0], words[:, 1], side="left")
    return int((upper > lower).sum())
