"""All pairs of texts whose word-trigram Jaccard similarity reaches a threshold: exact, no sampling.

MinHash would find such pairs with some probability; a split that promises that nothing leaks
needs all of them. Prefix filtering gives all of them at the same cost for texts like these: order
every text's shingles rarest first, and two texts can only be similar enough if they share one of
their few rarest. Source: Xiao, Wang, Lin, Yu: Efficient similarity joins for near-duplicate
detection (PPJoin), WWW 2008; Bayardo, Ma, Srikant: Scaling up all pairs similarity search,
WWW 2007. With |x| <= |y| and Jaccard >= t the overlap is at least

    t / (1 + t) * (|x| + |y|)  >=  max(2t / (1 + t) * |x|,  t * |y|)

so it shows among the first |x| - ceil(2t / (1 + t) * |x|) + 1 shingles of x and the first
|y| - ceil(t * |y|) + 1 of y.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from adapt.progress import watched

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# A word is a run of letters and digits; scripts written without spaces (kana, Han) count each
# character, or a whole Chinese sentence would be one word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W\u3040-\u9fff]+")
_SHINGLE_WORDS = 3
_EVENTS = 2_000_000  # candidate pairs held at a time; some 100 MB
_VERIFIED_SHINGLES = 4_000_000  # shingles of candidate pairs compared at a time; some 100 MB
_SLACK = 1e-9  # keeps ceil() of a product of floats from rounding a whole number up


@dataclass(frozen=True)
class ShingleSets:
    """The distinct word trigrams of texts, as numbers: the smaller, the rarer.

    Attributes:
        starts: (texts + 1,) where each text's shingles begin in `shingles`; every text has one.
        shingles: (sum of set sizes,) each text's shingles in rising order.
    """

    starts: Ints
    shingles: Ints

    @property
    def sizes(self) -> Ints:
        """(texts,) distinct shingles of each text."""
        return np.diff(self.starts)

    def head(self, count: int) -> ShingleSets:
        """The first `count` texts."""
        return ShingleSets(self.starts[: count + 1], self.shingles[: self.starts[count]])

    def take(self, texts: Ints) -> ShingleSets:
        """The given texts, in the given order."""
        sizes = self.sizes[texts]
        return ShingleSets(_starts(sizes), self.shingles[_ranges(self.starts[texts], sizes)])


def words_of(folded: str) -> list[str]:
    """The words that shingles are made of, without punctuation."""
    return _WORD.findall(folded)


def shingle_sets(folded: Sequence[str]) -> ShingleSets:
    """Numbers the distinct word trigrams of texts.

    A text of fewer than three words is one shingle, all of it.

    Args:
        folded: Texts as `clean.fold` leaves them.
    """
    vocabulary: dict[str, int] = {}
    short: dict[str, int] = {}
    short_texts, short_shingles = array("q"), array("q")
    flat, lengths = array("q"), array("q")
    for text_number, text in enumerate(watched(folded, "Comparing texts")):
        words = words_of(text)
        if len(words) < _SHINGLE_WORDS:
            short_texts.append(text_number)
            short_shingles.append(short.setdefault(" ".join(words) or text, len(short)))
            words = []
        flat.extend([vocabulary.setdefault(word, len(vocabulary)) for word in words])
        lengths.append(len(words))
    texts, shingles = _trigrams(_ints(flat), _ints(lengths), len(vocabulary))
    trigrams = int(shingles.max(initial=-1)) + 1
    texts = np.concatenate([texts, _ints(short_texts)])
    shingles = np.concatenate([shingles, _ints(short_shingles) + trigrams])
    return _rarest_first(texts, shingles, len(folded), trigrams + len(short))


def _trigrams(words: Ints, lengths: Ints, vocabulary: int) -> tuple[Ints, Ints]:
    """The text and the number of every trigram, equal trigrams having equal numbers."""
    if len(words) < _SHINGLE_WORDS:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    texts = np.repeat(np.arange(len(lengths)), lengths)
    # Numbering pairs first keeps the products below 2**63 and so free of collisions.
    pairs = np.unique(words[:-1] * vocabulary + words[1:], return_inverse=True)[1]
    inside = texts[:-2] == texts[2:]
    keys = (pairs[:-1] * vocabulary + words[2:])[inside]
    return texts[:-2][inside], np.unique(keys, return_inverse=True)[1].astype(np.int64)


def _rarest_first(texts: Ints, shingles: Ints, count: int, kinds: int) -> ShingleSets:
    distinct = _distinct(texts * kinds + shingles)
    texts, shingles = distinct // max(kinds, 1), distinct % max(kinds, 1)
    rank = np.empty(kinds, np.int64)
    rank[np.argsort(np.bincount(shingles, minlength=kinds), kind="stable")] = np.arange(kinds)
    ordered = np.sort(texts * kinds + rank[shingles])
    sizes = np.bincount(texts, minlength=count)
    return ShingleSets(_starts(sizes), ordered % max(kinds, 1))


def similar_pairs(
    sets: ShingleSets, threshold: float, wanted: Callable[[Ints, Ints], Mask]
) -> Iterator[tuple[Ints, Ints]]:
    """Yields every wanted pair of texts with Jaccard similarity >= threshold, in batches.

    Args:
        sets: Shingles of the texts.
        threshold: In (0, 1].
        wanted: Which pairs are still of interest, asked with two arrays of text numbers; it may
            change its mind from batch to batch, which spares the work on what is settled.

    Yields:
        Two arrays of text numbers, pair by pair; the smaller number first.
    """
    by_size = np.argsort(sets.sizes, kind="stable")
    ordered = sets.take(by_size)
    for left, right in _candidates(ordered, threshold):
        first, second = by_size[left], by_size[right]
        pairs = _distinct(np.minimum(first, second) * len(by_size) + np.maximum(first, second))
        pairs = pairs[wanted(pairs // len(by_size), pairs % len(by_size))]
        for batch in _batches(sets, pairs, len(by_size)):
            first, second = batch // len(by_size), batch % len(by_size)
            still = wanted(first, second)
            first, second = first[still], second[still]
            similar = jaccard(sets, first, second) >= threshold
            if similar.any():
                yield first[similar], second[similar]


def jaccard(sets: ShingleSets, left: Ints, right: Ints) -> npt.NDArray[np.float64]:
    """(pairs,) shared shingles of each pair over all shingles of the pair."""
    kinds = int(sets.shingles.max(initial=0)) + 1
    sizes_left, sizes_right = sets.sizes[left], sets.sizes[right]
    number = np.arange(len(left))
    keys = np.concatenate(
        [
            np.repeat(number, sizes) * kinds + sets.shingles[_ranges(sets.starts[texts], sizes)]
            for texts, sizes in ((left, sizes_left), (right, sizes_right))
        ]
    )
    keys.sort(kind="stable")  # two rising runs: a merge
    twice = keys[1:][keys[1:] == keys[:-1]]
    shared = np.bincount(twice // kinds, minlength=len(left))
    result: npt.NDArray[np.float64] = shared / (sizes_left + sizes_right - shared)
    return result


def _candidates(sets: ShingleSets, threshold: float) -> Iterator[tuple[Ints, Ints]]:
    """Pairs that share a rare shingle; `sets` come smallest first. May repeat a pair."""
    sizes, count = sets.sizes, len(sets.sizes)
    owners = np.repeat(np.arange(count), sizes)
    positions = np.arange(len(sets.shingles)) - sets.starts[owners]
    keys = sets.shingles * count + owners
    probed = np.flatnonzero(positions <= (sizes - _ceil(threshold * sizes))[owners])
    indexed = np.flatnonzero(
        positions <= (sizes - _ceil(2 * threshold / (1 + threshold) * sizes))[owners]
    )
    probed = probed[np.argsort(keys[probed])]
    indexed = indexed[np.argsort(keys[indexed])]
    largest = np.searchsorted(sizes, sizes / threshold + _SLACK, side="right") - 1
    lowest = np.searchsorted(keys[probed], keys[indexed], side="right")
    highest = np.searchsorted(
        keys[probed],
        sets.shingles[indexed] * count + largest[owners[indexed]],
        side="right",
    )
    partners = highest - lowest
    indexed, lowest, partners = (a[partners > 0] for a in (indexed, lowest, partners))
    for start, stop in _cuts(partners, _EVENTS):
        here = partners[start:stop]
        one = np.repeat(indexed[start:stop], here)
        other = probed[_ranges(lowest[start:stop], here)]
        left, right = owners[one], owners[other]
        # What can still be shared from these positions on, against what must be.
        rest = np.minimum(sizes[left] - positions[one], sizes[right] - positions[other])
        enough = rest >= _ceil(threshold / (1 + threshold) * (sizes[left] + sizes[right]))
        if enough.any():
            yield left[enough], right[enough]


def _batches(sets: ShingleSets, pairs: Ints, count: int) -> Iterator[Ints]:
    work = sets.sizes[pairs // count] + sets.sizes[pairs % count]
    for start, stop in _cuts(work, _VERIFIED_SHINGLES):
        yield pairs[start:stop]


def _cuts(work: Ints, most: int) -> Iterator[tuple[int, int]]:
    """Cuts a row of costs into pieces of about `most`, each of at least one element."""
    total = np.cumsum(work)
    start = 0
    while start < len(work):
        done = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + most, side="right")))
        yield start, stop
        start = stop


def _distinct(values: Ints) -> Ints:
    # np.unique hashes whole numbers since numpy 2.3; sorting millions of them is four times faster.
    values = np.sort(values)
    new = np.ones(len(values), np.bool_)
    new[1:] = values[1:] != values[:-1]
    distinct: Ints = values[new]
    return distinct


def _ceil(values: npt.NDArray[np.floating[Any]]) -> Ints:
    whole: Ints = np.ceil(values - _SLACK).astype(np.int64)
    return whole


def _ints(values: array[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def _starts(sizes: Ints) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def _ranges(starts: Ints, sizes: Ints) -> Ints:
    """start, start + 1, ... of each start, `size` of them, in one row."""
    return np.repeat(starts - _starts(sizes)[:-1], sizes) + np.arange(int(sizes.sum()))
