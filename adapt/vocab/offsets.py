"""Where words and tokens lie in a text, by character offsets, whatever the tokenizer's family."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

BATCH_CHARACTERS = 500_000  # encoded at once: bounds the memory that offsets take
PREFIX_MARKS = ("\N{LOWER ONE EIGHTH BLOCK}", "Ġ")  # a lone space in SentencePiece and byte-level

_RUN = re.compile(r"\S+")


def counting(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that neither cuts nor fills; the given one where it already does not."""
    if tokenizer.truncation is None and tokenizer.padding is None:
        return tokenizer
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def batched(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in lists of about `BATCH_CHARACTERS`."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def word_spans(text: str) -> NDArray[np.int64]:
    """Character spans [start, end) of words without their punctuation; shape (words, 2).

    A word is a maximal run of non-whitespace; a run of punctuation alone keeps its whole span.
    """
    punctuation = "".join(c for c in set(text) if unicodedata.category(c).startswith("P"))
    spans = []
    for run in _RUN.finditer(text):
        start, end = run.span()
        whole = run.group()
        if bare := whole.strip(punctuation):
            start += len(whole) - len(whole.lstrip(punctuation))
            end = start + len(bare)
        spans.append((start, end))
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


def token_spans(
    text: str, encoding: Encoding, tokenizer: Tokenizer
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and ends, in characters, of tokens that cover any; each shape (tokens,), ascending."""
    offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    mark = tokenizer.id_to_token(encoding.ids[0])
    claimed = text[offsets[0, 0] : offsets[0, 1]]
    if mark in PREFIX_MARKS and claimed != mark and not claimed.isspace():
        offsets[0] = 0  # a space put before the text; its offsets claim the first character
    offsets = offsets[offsets[:, 1] > offsets[:, 0]]  # trimmed whitespace covers nothing
    return np.sort(offsets[:, 0]), np.sort(offsets[:, 1])


def cells(
    length: int, token_offsets: Sequence[tuple[int, int]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A text cut wherever no token lies across the cut; each piece has one token or more.

    Tokens that share a character (its bytes, a space put before the text) are one piece. What no
    token covers, such as a space that a tokenizer drops, begins the next piece.

    Args:
        length: Of the text in characters; at least 1.
        token_offsets: Start and end of each token in characters, in the order of the tokens.

    Returns:
        The ends of the pieces in characters, ascending, the last being the text's own end; and the
        number of tokens up to each. Both shape (pieces,).
    """
    offsets = np.array(token_offsets, dtype=np.int64).reshape(-1, 2)
    if not len(offsets):
        return np.array([length]), np.array([0])
    reached = np.maximum.accumulate(offsets[:, 1])
    ahead = np.minimum.accumulate(offsets[::-1, 0])[::-1]
    # A cut after token i: all before end by there, all after begin there or later. Tokens of no
    # width belong to the piece before, so of several cuts at one place the last counts.
    place = np.append(ahead[1:] >= reached[:-1], True)
    place[:-1] &= (reached[1:] > reached[:-1]) & (reached[:-1] > 0)
    counts = np.flatnonzero(place) + 1
    ends = reached[counts - 1]
    ends[-1] = length
    return ends, counts
