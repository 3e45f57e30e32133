"""What becomes of a document before the split: normalised, then kept or dropped for a reason."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from typing import Literal

from adapt.corpus.read import Document

Verdict = Literal[True] | tuple[Literal[False], str]
Filter = Callable[[str], Verdict]

NORMALIZERS: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "nfc": partial(unicodedata.normalize, "NFC"),
    "nfkc": partial(unicodedata.normalize, "NFKC"),
}


def fold(text: str) -> str:
    """The text without differences of case and white space; equal folds are one text."""
    return " ".join(text.casefold().split())


def text_digest(folded: str) -> bytes:
    """A short name (16 bytes) for a folded text, the same on every machine."""
    return blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def valid_unicode(text: str) -> Verdict:
    r"""Refuses halves of surrogate pairs (JSON may hold `"\ud800"`): no tokenizer takes them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False, "not valid Unicode"
    return True


def not_empty(text: str) -> Verdict:
    """Refuses texts of white space alone."""
    return True if text.strip() else (False, "empty")


def long_enough(text: str, min_characters: int) -> Verdict:
    """Refuses texts shorter than `min_characters`."""
    return True if len(text) >= min_characters else (False, "shorter than min_characters")


class Unseen:
    """Refuses a text that it has been asked about before, whatever its case and white space.

    Args:
        seen: The digests of texts, each with its number, to which new ones are added; some 200
            bytes a text.
    """

    def __init__(self, seen: dict[bytes, int]) -> None:
        self._seen = seen

    def __call__(self, text: str) -> Verdict:
        """Judges one text and remembers it."""
        digest, count = text_digest(fold(text)), len(self._seen)
        if self._seen.setdefault(digest, count) < count:
            return False, "exact duplicate"
        return True


def filters(min_characters: int, seen: dict[bytes, int] | None = None) -> tuple[Filter, ...]:
    """Every document passes these in order; `Unseen` comes last so that it sees only good ones.

    Args:
        min_characters: The shortest text that passes.
        seen: For `Unseen`; None begins with nothing seen.
    """
    return (
        valid_unicode,
        not_empty,
        partial(long_enough, min_characters=min_characters),
        Unseen({} if seen is None else seen),
    )


def judge(text: str, judges: Sequence[Filter]) -> Verdict:
    """True, or False with the first filter's reason."""
    for accept in judges:
        verdict = accept(text)
        if verdict is not True:
            return verdict
    return True


def clean(
    documents: Iterable[Document],
    normalize: Callable[[str], str],
    judges: Sequence[Filter],
    dropped: Counter[str],
    prefix: str = "",
) -> Iterator[Document]:
    """Passes on the documents that every filter accepts, normalised.

    Args:
        documents: What was read.
        normalize: One of `NORMALIZERS`.
        judges: Filters, asked in order.
        dropped: Where the reasons are counted; documents.
        prefix: Put before each reason.
    """
    for document in documents:
        text = normalize(document.text)
        verdict = judge(text, judges)
        if verdict is True:
            yield Document(text, document.origin)
        else:
            dropped[prefix + verdict[1]] += 1
