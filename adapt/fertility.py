"""How many tokens a tokenizer needs for a text, and which words it breaks up.

A **word** is a maximal run of non-whitespace. Its **span** leaves surrounding punctuation (Unicode
categories P*) out, as the word lists do on which fertility was defined: "mellitus," is not split by
its comma. A run of punctuation alone keeps its whole span. Tokens are attributed to words by
character offsets in the running text, so that a unit which covers a word together with its
neighbours counts as one of the word's tokens. In scripts that write no spaces a "word" is a clause;
read `bytes_per_token` and `tokens_per_character` there.

Fertility and the proportion of continued words: Rust et al. 2021, How Good is Your Tokenizer?,
https://aclanthology.org/2021.acl-long.243.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from adapt.progress import watched

MOST_SPLIT = 50  # words listed
LONGEST_LISTED = 64  # characters; a longer run is a link, a sequence or text without spaces
BATCH_CHARACTERS = 500_000  # encoded at once: bounds the memory that offsets take
PREFIX_MARKS = ("\N{LOWER ONE EIGHTH BLOCK}", "Ġ")  # a lone space in SentencePiece and byte-level

_RUN = re.compile(r"\S+")


@dataclass(frozen=True)
class SplitWord:
    """A word that takes several tokens, and how.

    Attributes:
        word: As it stands in the text, without surrounding punctuation.
        count: Occurrences split in this way; a word that its context splits in two ways is two
            entries.
        pieces: The word's characters by token, one entry a token; joined they are the word. A token
            that only carries on with a character begun by the one before (bytes of one character)
            adds an empty string.
    """

    word: str
    count: int
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Fertility:
    """What one tokenizer makes of one text. Ratios of an empty text are 0.

    Attributes:
        name: Of the tokenizer, for tables.
        documents: Texts measured.
        bytes_: Of the texts in UTF-8.
        characters: Unicode code points.
        words: Maximal runs of non-whitespace.
        tokens: Without special tokens, padding or truncation.
        tokens_per_word: All tokens over all words; "fertility" in Rust et al. 2021, though here
            tokens of punctuation and whitespace count as well.
        bytes_per_token: Higher is shorter; comparable between tokenizers.
        tokens_per_character: For scripts without spaces.
        continued_word_share: Share of words whose span two or more tokens overlap (proportion of
            continued words, Rust et al. 2021).
        single_token_term_share: Share of the given terms that are one known token after a space, as
            in running text; None when no terms were given.
        unknown_rate: Share of tokens that are the unknown token; 0 where the model has none.
        most_split_words: The 50 that cost most tokens above one each, count x (pieces - 1), among
            words of at most 64 characters.
    """

    name: str
    documents: int
    bytes_: int
    characters: int
    words: int
    tokens: int
    tokens_per_word: float
    bytes_per_token: float
    tokens_per_character: float
    continued_word_share: float
    single_token_term_share: float | None
    unknown_rate: float
    most_split_words: tuple[SplitWord, ...]


@dataclass(frozen=True)
class FertilityReport:
    """Several tokenizers on the same two texts; the first of each tuple is the reference.

    Attributes:
        domain: On domain text, one a tokenizer.
        general: On general text, the same tokenizers in the same order; empty without such text.
    """

    domain: tuple[Fertility, ...]
    general: tuple[Fertility, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as plain dicts and lists of what JSON knows."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> FertilityReport:
        """What `to_json` and JSON made of a report."""
        return cls(*(tuple(map(_fertility, record[kind])) for kind in ("domain", "general")))


def _fertility(record: dict[str, Any]) -> Fertility:
    words = (
        SplitWord(w["word"], w["count"], tuple(w["pieces"])) for w in record["most_split_words"]
    )
    return Fertility(**{**record, "most_split_words": tuple(words)})


@dataclass
class _Tally:
    """Counts that grow document by document."""

    tokens: int = 0
    words: int = 0
    continued: int = 0
    unknown: int = 0
    splits: Counter[tuple[str, ...]] = field(default_factory=Counter)


def measure(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    name: str,
    terms: Sequence[str] = (),
    progress: bool = False,
) -> Fertility:
    """Measures one tokenizer on one text.

    Args:
        tokenizer: Left as it is; stored truncation and padding are off while counting.
        texts: Documents.
        name: Of the tokenizer, for tables.
        terms: Domain terms, for `single_token_term_share`; blank ones are left out.
        progress: Show a progress bar on the error stream.

    Returns:
        The metrics; every count of texts `a + b` is the sum of those of `a` and of `b`.
    """
    tokenizer = _counting(tokenizer)
    unknown = _unknown_id(tokenizer)
    tally = _Tally()
    for batch in _batches(watched(texts, f"Measuring {name}") if progress else texts):
        encodings = tokenizer.encode_batch(batch, add_special_tokens=False)
        for text, encoding in zip(batch, encodings, strict=True):
            _add(tally, text, encoding, unknown, tokenizer)
    bytes_ = sum(len(text.encode()) for text in texts)
    characters = sum(map(len, texts))
    return Fertility(
        name=name,
        documents=len(texts),
        bytes_=bytes_,
        characters=characters,
        words=tally.words,
        tokens=tally.tokens,
        tokens_per_word=_share(tally.tokens, tally.words),
        bytes_per_token=_share(bytes_, tally.tokens),
        tokens_per_character=_share(tally.tokens, characters),
        continued_word_share=_share(tally.continued, tally.words),
        single_token_term_share=_single_token_share(tokenizer, terms, unknown),
        unknown_rate=_share(tally.unknown, tally.tokens),
        most_split_words=_most_split(tally.splits),
    )


def saved(before: Fertility, after: Fertility) -> float:
    """Share of tokens saved on the same text; negative where `after` needs more.

    Raises:
        ValueError: The two were not measured on the same number of documents and bytes.
    """
    if (before.documents, before.bytes_) != (after.documents, after.bytes_):
        raise ValueError(
            f"{before.name} and {after.name} were measured on different texts: "
            f"{before.documents} documents of {before.bytes_} bytes, "
            f"{after.documents} of {after.bytes_}"
        )
    return _share(before.tokens - after.tokens, before.tokens)


def _counting(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that neither cuts nor fills; the given one where it already does not."""
    if tokenizer.truncation is None and tokenizer.padding is None:
        return tokenizer
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    """The id that stands for what the model does not know, None where it knows every byte."""
    model = tokenizer.model
    if hasattr(model, "unk_token"):
        return None if model.unk_token is None else tokenizer.token_to_id(model.unk_token)
    # Unigram keeps a number instead and shows it nowhere but in its JSON.
    return cast(int | None, json.loads(tokenizer.to_str())["model"].get("unk_id"))


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
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


def _add(
    tally: _Tally, text: str, encoding: Encoding, unknown: int | None, tokenizer: Tokenizer
) -> None:
    tally.tokens += len(encoding)
    if unknown is not None:
        tally.unknown += encoding.ids.count(unknown)
    words = _word_spans(text)
    tally.words += len(words)
    if not len(words) or not len(encoding):
        return
    starts, ends = _token_spans(text, encoding, tokenizer)
    # A token overlaps [first, last) when it starts before last and ends after first; those that end
    # by first also start before last, so two counts and a difference find the overlapping ones.
    lower = np.searchsorted(ends, words[:, 0], side="right")
    upper = np.searchsorted(starts, words[:, 1], side="left")
    continued = np.flatnonzero(upper - lower >= 2)
    tally.continued += len(continued)
    bounds = ends.tolist()
    rows = np.column_stack((words, lower, upper))[continued].tolist()
    tally.splits.update(
        _pieces(text, start, end, bounds[low:high])
        for start, end, low, high in rows
        if end - start <= LONGEST_LISTED
    )


def _word_spans(text: str) -> NDArray[np.int64]:
    """Character spans [start, end) of words without their punctuation; shape (words, 2)."""
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


def _token_spans(
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


def _pieces(text: str, start: int, end: int, token_ends: Sequence[int]) -> tuple[str, ...]:
    """The word text[start:end] cut where its tokens end; the last piece takes what is left."""
    cuts = [start, *token_ends[:-1], end]
    return tuple(text[a:b] for a, b in zip(cuts, cuts[1:], strict=False))


def _single_token_share(
    tokenizer: Tokenizer, terms: Sequence[str], unknown: int | None
) -> float | None:
    if not (spaced := [f" {term.strip()}" for term in terms if term.strip()]):
        return None
    ids = [one.ids for one in tokenizer.encode_batch_fast(spaced, add_special_tokens=False)]
    return sum(len(one) == 1 and one[0] != unknown for one in ids) / len(ids)


def _most_split(splits: Counter[tuple[str, ...]]) -> tuple[SplitWord, ...]:
    """The costliest splits first; equal costs in alphabetical order, so that runs agree."""
    costliest = sorted(splits.items(), key=lambda item: (-item[1] * (len(item[0]) - 1), item[0]))[
        :MOST_SPLIT
    ]
    return tuple(SplitWord("".join(pieces), count, pieces) for pieces, count in costliest)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
