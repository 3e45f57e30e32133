"""The word trigrams of texts as numbers, for any amount of text: what is long lies in a file.

A text is its set of trigrams; a trigram is a hash of 48 bits of its words. So nothing has to be
remembered of one text to read the next, equal trigrams have equal numbers, and of two texts of
1,000 trigrams one in 3 x 10^8 pairs shares a number by chance, and counts one too many. Hashes are
sums over the characters of a random number for each, times a power for its place (Rabin and
Karp's, modulo 2^64), which numpy makes of a batch of texts at once.
"""

from __future__ import annotations

import io
import re
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_Hashes = npt.NDArray[np.uint64]

# A word is a run of letters and digits; scripts written without spaces (kana, Han) count each
# character, or a whole Chinese sentence would be one word.
_LONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_RUN = r"[^\W\u3040-\u9fff\uf900-\ufaff]+"
_WORD = re.compile(f"[{_LONE}]|{_RUN}")
_SHINGLE_WORDS = 3

HASH_BITS = 48
KEY_BITS = HASH_BITS + 7  # with a class of rarity
_CLASSES_AN_OCTAVE = 4  # of the count of a shingle: 124 classes, 7 bits, reach 2^31 occurrences
_MOST_CELLS = 2**24  # of the table that counts shingles; 64 MB, and counting need not be exact
# Characters or shingles worked on at a time: some 20 MB; a text with more is a piece by itself. A
# text counts for 16 more than it has, so that 14 bits tell the texts of a piece apart: with a hash
# they make a positive int64.
_PIECE = 2**18
_A_TEXT = 16

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_PLACES = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93)  # of a trigram's words
_SHORT = 0xA0761D6478BD642F  # tells one or two words from a trigram


@dataclass(frozen=True)
class ShingleSets:
    """The distinct word trigrams of texts, as numbers: the smaller, the rarer.

    Attributes:
        starts: (texts + 1,) where each text's shingles begin in `shingles`; every text has one.
        shingles: (sum of set sizes,) each text's shingles in rising order; hashes of `HASH_BITS`
            below a class of rarity. Mapped from a file where there is a folder; read only.
        folder: For files of what grows with the text; None keeps it in memory.
    """

    starts: Ints
    shingles: Ints
    folder: Path | None = None

    @property
    def sizes(self) -> Ints:
        """(texts,) distinct shingles of each text."""
        return np.diff(self.starts)

    def sizes_of(self, texts: Ints) -> Ints:
        """(given texts,) distinct shingles of some texts."""
        return self.starts[texts + 1] - self.starts[texts]

    def head(self, count: int) -> ShingleSets:
        """The first `count` texts."""
        first = self.starts[: count + 1]
        return ShingleSets(first, self.shingles[: first[-1]], self.folder)


def words_of(folded: str) -> list[str]:
    """The words that shingles are made of, without punctuation."""
    return _WORD.findall(folded)


def shingle_sets(folded: Iterable[str], folder: Path | None = None) -> ShingleSets:
    """Numbers the distinct word trigrams of texts.

    A text of fewer than three words is one shingle, all of it.

    Args:
        folded: Texts as `clean.fold` leaves them; read once.
        folder: Where the shingles lie, 8 bytes each, in a file without a name that goes with the
            result; None keeps them in memory. Memory then grows with the texts by 16 bytes each.

    Raises:
        OSError: The disk is full.
    """
    sizes = array("q")
    with scratch_file(folder) as file:
        for batch in _batches(folded):
            owners, hashes = _hashes(batch)
            keys = distinct(owners << HASH_BITS | hashes)
            sizes.extend(np.bincount(keys >> HASH_BITS, minlength=len(batch)).tolist())
            file.write((keys & ((1 << HASH_BITS) - 1)).tobytes())
        starts = starts_of(np.array(sizes, dtype=np.int64))
        _rarest_first(file, starts)
        return ShingleSets(starts, _all_of(file), folder)


def scratch_file(folder: Path | None) -> IO[bytes]:
    """A file without a name, of which nothing is left once it is closed; None: in memory.

    It is written as any file, and mapped only to be read: writing to a mapped page kills the
    process where the disk is full.
    """
    return io.BytesIO() if folder is None else tempfile.TemporaryFile(dir=folder)


def _all_of(file: IO[bytes]) -> Ints:
    file.flush()
    if isinstance(file, io.BytesIO):
        return np.frombuffer(file.getvalue(), np.int64)
    size = file.seek(0, io.SEEK_END)  # an empty file cannot be mapped
    return np.asarray(np.memmap(file, np.int64, "r")) if size else np.empty(0, np.int64)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    work = 0
    for text in texts:
        batch.append(text)
        work += len(text) + _A_TEXT
        if work >= _PIECE:
            yield batch
            batch, work = [], 0
    if batch:
        yield batch


# -- hashes -----------------------------------------------------------------------------------


def _hashes(texts: list[str]) -> tuple[Ints, Ints]:
    """The text and the hash of every shingle of some texts."""
    words, lengths = _words(texts)
    owners = np.repeat(np.arange(len(texts)), lengths)
    one, two, three = map(np.uint64, _PLACES)
    inside = owners[:-2] == owners[2:]
    trigrams = words[:-2] * one
    trigrams += words[1:-1] * two
    trigrams += words[2:] * three
    trigrams = trigrams[inside]
    firsts = starts_of(lengths)[:-1]
    single, double = np.flatnonzero(lengths == 1), np.flatnonzero(lengths == 2)
    none = np.flatnonzero(lengths == 0)
    short = [
        words[firsts[single]] * one,
        words[firsts[double]] * one + words[firsts[double] + 1] * two,
        np.array([_of_text(texts[i]) for i in none.tolist()], dtype=np.uint64),
    ]
    found = np.concatenate([owners[:-2][inside], single, double, none])
    hashes = np.concatenate([trigrams, *(hash_ + np.uint64(_SHORT) for hash_ in short)])
    return found, _mixed(hashes)


def _words(texts: list[str]) -> tuple[_Hashes, Ints]:
    """The hashes of the words of texts in a row, and (texts,) how many each text has."""
    kinds_of, values_of = _alphabet()
    row = "\n".join(texts) + "\n"
    codes = np.frombuffer(row.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    kinds = kinds_of[codes]
    begins = kinds == 2
    begins[0] |= kinds[0] == 1
    begins[1:] |= (kinds[1:] == 1) & (kinds[:-1] != 1)
    places = np.flatnonzero(begins)
    bounds = starts_of(np.array([len(text) + 1 for text in texts], dtype=np.int64))
    lengths = np.diff(np.searchsorted(places, bounds))
    hashes = np.empty(len(places), np.uint64)
    # Some words at a time, or a text of 50 MB would need 2 GB.
    stops = np.append(places[1:], len(codes))
    for start, stop in cuts(stops - places, _PIECE):
        first, last = places[start], stops[stop - 1]
        hashes[start:stop] = _sums(values_of[codes[first:last]], places[start:stop] - first)
    return hashes, lengths


def _sums(values: _Hashes, places: Ints) -> _Hashes:
    """The hashes of the words that begin in the given places of a row of characters' numbers."""
    powers, inverses = _powers(max(_PIECE, 1 << (len(values) - 1).bit_length()))
    values *= powers[: len(values)]
    sums: _Hashes = np.add.reduceat(values, places)
    return sums * inverses[places]


@cache
def _alphabet() -> tuple[npt.NDArray[np.uint8], _Hashes]:
    """By code point: 0 in no word, 1 part of one, 2 a word by itself; and a random number or 0."""
    count = 0x110000
    every = "".join(map(chr, range(count)))
    kinds = np.zeros(count, np.uint8)
    for kind, pattern in ((1, _RUN), (2, f"[{_LONE}]+")):
        for run in re.finditer(pattern, every):
            kinds[run.start() : run.end()] = kind
    values = np.random.default_rng(0).integers(1, 2**64, count, dtype=np.uint64)
    return kinds, np.where(kinds > 0, values, np.uint64(0))


@lru_cache(maxsize=1)
def _powers(count: int) -> tuple[_Hashes, _Hashes]:
    """The powers of the base modulo 2^64, from 0 on, and their inverses."""
    powers = []
    for base in (_BASE, pow(_BASE, -1, 2**64)):
        factors = np.full(count, base, np.uint64)
        factors[0] = 1
        powers.append(np.multiply.accumulate(factors))
    return powers[0], powers[1]


def _of_text(text: str) -> int:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest)


def _mixed(hashes: _Hashes) -> Ints:
    """Hashes of `HASH_BITS` whose bits all depend on all bits of the given ones."""
    hashes = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(_PLACES[1])
    hashes = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(_PLACES[0])
    return (hashes >> np.uint64(64 - HASH_BITS)).astype(np.int64)


# -- order ------------------------------------------------------------------------------------


def _rarest_first(file: IO[bytes], starts: Ints) -> None:
    """Puts the class of its rarity before each hash and sorts each text's anew, in the file."""
    # Shingles that share a cell count together. Any order gives the same pairs; this one is quick.
    cells = np.zeros(min(_MOST_CELLS, 2 ** int(2 * starts[-1]).bit_length()), np.int32)
    last = len(cells) - 1
    for start, stop in pieces_of(starts):
        found = np.sort(_read(file, starts[start], starts[stop]) & last)
        firsts = np.flatnonzero(first_of_each(found))
        cells[found[firsts]] += np.diff(np.append(firsts, len(found))).astype(np.int32)
    for start, stop in pieces_of(starts):
        hashes = _read(file, starts[start], starts[stop])
        classes = _rarity(cells[hashes & last])
        owners = np.repeat(np.arange(stop - start), np.diff(starts[start : stop + 1]))
        # Each text's hashes rise already; numpy sorts numbers of 8 and 16 bits in no time.
        order = np.argsort(classes, kind="stable")
        order = order[np.argsort(owners[order].astype(np.uint16), kind="stable")]
        file.seek(8 * int(starts[start]))
        file.write((classes[order].astype(np.int64) << HASH_BITS | hashes[order]).tobytes())


def _read(file: IO[bytes], start: int, stop: int) -> Ints:
    file.seek(8 * int(start))
    return np.frombuffer(file.read(8 * int(stop - start)), np.int64)


def _rarity(counts: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """The class of each count, 0 for one: its octave, and which quarter of it."""
    # Exact, where the last bit of a logarithm might differ between two places of an array; then
    # two texts would not have one order, and a pair could be lost.
    mantissas, octaves = np.frexp(counts)
    quarters = ((2 * mantissas - 1) * _CLASSES_AN_OCTAVE).astype(np.uint8)
    return (octaves.astype(np.uint8) - np.uint8(1)) * np.uint8(_CLASSES_AN_OCTAVE) + quarters


def pieces_of(starts: Ints) -> Iterator[tuple[int, int]]:
    """Runs of texts [start, stop) of some `_PIECE` shingles, or of a text that has more.

    Args:
        starts: As of `ShingleSets`.
    """
    return cuts(np.diff(starts) + _A_TEXT, _PIECE)


def distinct(values: Ints) -> Ints:
    """Each different number once, in rising order."""
    # np.unique hashes whole numbers since numpy 2.3; sorting millions of them is four times faster.
    values = np.sort(values)
    rising: Ints = values[first_of_each(values)]
    return rising


def first_of_each(values: Ints) -> Mask:
    """(values,) where a run of equal ones begins."""
    new: Mask = np.ones(len(values), np.bool_)
    new[1:] = values[1:] != values[:-1]
    return new


def cuts(work: Ints, most: int) -> Iterator[tuple[int, int]]:
    """Cuts a row of costs into pieces of about `most`, each of at least one element."""
    total = np.cumsum(work)
    start = 0
    while start < len(work):
        done = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + most, side="right")))
        yield start, stop
        start = stop


def starts_of(sizes: Ints) -> Ints:
    """Where each of some runs in a row begins, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def ranges(starts: Ints, sizes: Ints) -> Ints:
    """start, start + 1, ... of each start, `size` of them, in one row."""
    return np.repeat(starts - starts_of(sizes)[:-1], sizes) + np.arange(int(sizes.sum()))
