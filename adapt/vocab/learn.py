"""Learning units: domain text as base ids, and the merges that shorten it most.

The Rust trainer of `tokenizers` learns over strings, so each id becomes one private code point:
a text of ids is a string, its segments are slices of it, and all of it happens outside Python's
loops. Memory grows with distinct segments, not with the text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, models, trainers

from adapt.vocab.spec import SENTENCEPIECE, Spec, added_ids, family, text_of, vocabulary
from adapt.vocab.units import Units

# Supplementary planes: room for 1,048,576 ids, one code point each, none of them a surrogate.
_PRIVATE = 0x10000
_BATCH = 1000  # texts; and as many characters: an encoding takes up to 100 bytes a character
_BATCH_CHARACTERS = 1_000_000
_MOST_CELLS = 2**22
_CHUNK = 200_000

Segments = Counter[str]


@dataclass(frozen=True)
class Limits:
    """What no unit may hold.

    Attributes:
        never: By id, whether the token is in no unit: special tokens, line breaks, bytes that
            stand for themselves.
        first: By id, whether the token can only begin a unit: it ends in a space, so that nothing
            before it may be glued to it, or it begins a word and units stay inside words.
    """

    never: NDArray[np.bool_]
    first: NDArray[np.bool_]


def limits(spec: Spec, *, multiword: bool) -> Limits:
    """The limits of a base.

    Args:
        spec: Its `tokenizer.json`.
        multiword: Whether units may cross spaces, as far as the pre-tokenizer lets them.
    """
    ids = vocabulary(spec)
    text = text_of(spec)
    special = added_ids(spec)
    never = np.zeros(max(ids.values(), default=-1) + 1, dtype=np.bool_)
    first = never.copy()
    splits = family(spec) != SENTENCEPIECE
    for token, id_ in ids.items():
        spelled = text(token)
        never[id_] = id_ in special or not spelled or _is_barred(token, spelled, splits=splits)
        first[id_] = spelled[-1:].isspace() or (not multiword and spelled[:1].isspace())
    if (unknown := spec["model"].get("unk_token")) in ids:
        never[ids[unknown]] = True
    return Limits(never, first)


def _is_barred(token: str, text: str, *, splits: bool) -> bool:
    """Whether a token may be in no unit.

    Where no pre-tokenizer splits, nothing else keeps numbers apart: they would be learned in
    chunks, and one number be cut in several ways.
    """
    if "\n" in text or "\r" in text:
        return True
    if splits:
        return False
    is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return is_byte or any(character.isdigit() for character in text)


def count_segments(tokenizer: Tokenizer, limit: Limits, texts: Iterable[str]) -> Segments:
    """Counts the runs of tokens that units can be learned from, as private strings.

    Args:
        tokenizer: The base, with the pre-tokenizer that the adapted one will have.
        limit: Of the base.
        texts: Training text; streamed.
    """
    counts: Segments = Counter()
    for batch in batches(texts):
        counts.update(_segments(tokenizer.encode_batch(batch, add_special_tokens=False), limit))
    return counts


def _segments(encodings: list[Encoding], limit: Limits) -> Iterator[str]:
    """Segments of two tokens or more, in the order of the text."""
    ids = np.fromiter(chain.from_iterable(e.ids for e in encodings), dtype=np.uint32)
    if not len(ids):
        return
    never = limit.never[ids] if len(limit.never) else np.zeros(len(ids), dtype=np.bool_)
    starts = _piece_starts(encodings) | limit.first[ids] | never
    starts[1:] |= never[:-1]
    begins = np.flatnonzero(starts)
    ends = np.append(begins[1:], len(ids))
    wanted = ends - begins > 1
    text = as_text(ids)
    for begin, end in zip(begins[wanted].tolist(), ends[wanted].tolist(), strict=True):
        yield text[begin:end]


def _piece_starts(encodings: list[Encoding]) -> NDArray[np.bool_]:
    """By token of all encodings in a row, whether a piece of the pre-tokenizer begins there."""
    marks = []
    for encoding in encodings:
        words = np.array(encoding.word_ids, dtype=np.float64)  # None, of added tokens: NaN
        begins = np.ones(len(words), dtype=np.bool_)
        begins[1:] = words[1:] != words[:-1]
        marks.append(begins)
    return np.concatenate(marks)


def as_text(ids: NDArray[np.uint32]) -> str:
    """Ids as a string, one private code point each."""
    return (ids + np.uint32(_PRIVATE)).astype("<u4").tobytes().decode("utf-32-le")


def learn(units: Units, counts: Segments, budget: int, min_frequency: int) -> None:
    """Adds the merges that plain BPE learns over segments, until `budget` tokens are new.

    No unit spans neighbours that occur less often than the unit. So the segments are cut between
    rare neighbours before the trainer sees them, which leaves little of a large text; where the
    budget is not spent on what occurs so often, more is let in. The merges are those that the
    whole segments would give.

    Args:
        units: Extended in place; the segments hold ids that it knows.
        counts: Segments with their counts.
        budget: Units in all; there are fewer where the text has no more.
        min_frequency: A pair is merged only if it occurs so often.
    """
    cells = _neighbours(counts)
    # As many neighbours occur at least so often as there are units to learn; units are rarer, and
    # a quarter of it is seldom too much (100 MB of clinical text, 9,100 units).
    place = min(max(budget - len(units), 0), len(cells) - 1)
    common = int(np.partition(cells, -place - 1)[-place - 1])
    least = max(common // 4, min_frequency)
    while True:
        learned = units.copy()
        _train(learned, _cut(counts, cells, least), budget, least)
        if len(learned) >= budget or least == min_frequency:
            break
        least = max(least // 4, min_frequency)
    for pair in learned.pairs[len(units.pairs) :]:
        units.add(*pair)


def _train(units: Units, counts: Segments, budget: int, min_frequency: int) -> None:
    """Adds what the Rust trainer learns over private strings."""
    alphabet = set[str]().union(*counts)
    trainer = trainers.BpeTrainer(
        # A merge whose result the base has costs no token: a bigger budget leaves room for those.
        vocab_size=len(alphabet) + budget + max(budget // 4, 1000),
        min_frequency=min_frequency,
        show_progress=False,
    )
    scratch = Tokenizer(models.BPE())
    ordered = sorted(counts.items())
    scratch.train_from_iterator(
        (segment for segment, count in ordered for _ in range(count)), trainer
    )
    result_of = {character: ord(character) - _PRIVATE for character in alphabet}
    for left, right in json.loads(scratch.to_str())["model"]["merges"]:
        pair = result_of[left], result_of[right]
        if len(units) >= budget and units.result(*pair) is None:
            break
        result_of[left + right] = units.add(*pair)


def _neighbours(counts: Segments) -> NDArray[np.int64]:
    """Occurrences of neighbours inside segments, by cell; shape (a power of two,).

    Neighbours that share a cell are counted together, so a count is never too low.
    """
    most = 4 * sum(map(len, counts))
    cells = np.zeros(min(_MOST_CELLS, 2 ** most.bit_length()), dtype=np.int64)
    for ids, ends, weights in _chunks(counts):
        inside = ~ends[:-1]
        found = np.bincount(
            _cells(ids, len(cells))[inside], weights[:-1][inside], minlength=len(cells)
        )
        cells += found.astype(np.int64)
    return cells


def _cut(counts: Segments, cells: NDArray[np.int64], least: int) -> Segments:
    """The segments, cut between neighbours that occur less often than `least`."""
    cut: Segments = Counter()
    for ids, ends, weights in _chunks(counts):
        ends[:-1] |= cells[_cells(ids, len(cells))] < least
        stops = np.flatnonzero(ends) + 1
        starts = np.concatenate([[0], stops[:-1]])
        long = stops - starts > 1
        text = as_text(ids)
        for start, stop in zip(starts[long].tolist(), stops[long].tolist(), strict=True):
            cut[text[start:stop]] += int(weights[start])
    return cut


def _chunks(
    counts: Segments,
) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.bool_], NDArray[np.int64]]]:
    """Segments in a row: ids, whether a segment ends there, and its count; shapes (ids,)."""
    stream = iter(counts.items())
    while chunk := list(islice(stream, _CHUNK)):
        text = "".join(segment for segment, _ in chunk)
        lengths = np.array([len(segment) for segment, _ in chunk])
        ids = np.frombuffer(text.encode("utf-32-le"), dtype="<u4") - np.uint32(_PRIVATE)
        ends = np.zeros(len(ids), dtype=np.bool_)
        ends[np.cumsum(lengths) - 1] = True
        yield ids, ends, np.repeat(np.array([count for _, count in chunk]), lengths)


def _cells(ids: NDArray[np.uint32], cells: int) -> NDArray[np.int64]:
    """The cell, of a power of two, of each id and its neighbour to the right; shape (ids - 1,)."""
    keys = (ids[:-1].astype(np.uint64) << np.uint64(32)) | ids[1:]
    # Fibonacci hashing: the top bits of a product with 2^64 over the golden ratio are well mixed.
    shift = np.uint64(65 - cells.bit_length())
    return ((keys * np.uint64(0x9E3779B97F4A7C15)) >> shift).astype(np.int64)


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in lists that the Rust tokenizers encode in parallel; streamed."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) >= _BATCH or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def pieces(ids: Sequence[int], word_ids: Sequence[int | None]) -> Iterator[list[int]]:
    """Groups ids by the pre-tokenizer's piece they come from; added tokens are in none."""
    for word, group in groupby(zip(word_ids, ids, strict=True), key=itemgetter(0)):
        if word is not None:
            yield [id_ for _, id_ in group]
