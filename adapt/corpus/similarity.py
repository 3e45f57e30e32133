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

Memory grows with the number of texts, not with their length: shingles lie in a file (`shingles`),
and those that come first in their texts are dealt into parts by their hashes, each small enough to
be sorted in memory. Equal shingles meet in one part, so no pair is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from adapt.corpus.shingles import (
    KEY_BITS,
    Ints,
    Mask,
    ShingleSets,
    cuts,
    distinct,
    first_of_each,
    pieces_of,
    ranges,
    scratch_file,
    shingle_sets,
    starts_of,
    words_of,
)
from adapt.progress import watched

__all__ = ["Ints", "Mask", "ShingleSets", "jaccard", "shingle_sets", "similar_pairs", "words_of"]

_PART = 2**20  # shingles sorted at a time; some 60 MB
_MOST_PARTS = 2**16  # so that 16 bits tell them apart, which numpy sorts in no time
_BUCKET_BITS = 31  # with 32 for the text's place a positive int64; with a part's 16 still a hash
_EVENTS = 1_000_000  # candidate pairs held at a time; some 50 MB
_VERIFIED_SHINGLES = 1_000_000  # shingles of candidate pairs compared at a time; some 50 MB
# Texts that share a shingle: from so many on, one is compared with the others before all are. The
# 105 pairs of fifteen cost less than telling which can be spared.
_CROWD = 16
_SLACK = 1e-12  # share by which floats may be off, or ceil() would round a whole number up

_ENTRY = np.dtype([("code", np.int64), ("position", np.int32)])  # of a part, as in `_Part`

Wanted = Callable[[Ints, Ints], Mask]


def _never(texts: Ints, centres: Ints) -> Mask:
    unsettled: Mask = np.zeros(len(texts), np.bool_)
    return unsettled


def similar_pairs(
    sets: ShingleSets, threshold: float, wanted: Wanted, settled: Wanted = _never
) -> Iterator[tuple[Ints, Ints]]:
    """Yields every wanted pair of texts with Jaccard similarity >= threshold, in batches.

    Args:
        sets: Shingles of the texts.
        threshold: In (0, 1].
        wanted: Which pairs are still of interest, asked with two arrays of text numbers; it may
            change its mind from batch to batch, which spares the work on what is settled.
        settled: Of texts, each given with a centre: those that are of no interest any more as a
            pair with each other, if settled by the same centre. The centre is the first of many
            texts that share a shingle. Keeps ten thousand copies of a page from being ten
            thousand times as much work as one.

    Yields:
        Two arrays of text numbers, pair by pair; the smaller number first.

    Raises:
        OSError: The disk is full.
    """
    texts = _Ordered.of(sets, threshold)
    for part in watched(_parts(sets, texts), "Comparing texts"):
        for events in (_stars(part, texts), _others(part, texts, settled)):
            for one, other in events:
                yield from _verified(sets, threshold, wanted, texts, part, one, other)


def jaccard(sets: ShingleSets, left: Ints, right: Ints) -> npt.NDArray[np.float64]:
    """(pairs,) shared shingles of each pair over all shingles of the pair."""
    # The pair's number, and below it as many bits of the shingle as there is room for. What is cut
    # off may make two shingles one, which counts one too many, never one too few.
    free = 63 - max(len(left) - 1, 0).bit_length()
    cut = max(KEY_BITS - free, 0)
    sizes_left, sizes_right = sets.sizes_of(left), sets.sizes_of(right)
    number = np.arange(len(left)) << (KEY_BITS - cut)
    keys = np.concatenate(
        [
            np.repeat(number, sizes) | (sets.shingles[ranges(sets.starts[texts], sizes)] >> cut)
            for texts, sizes in ((left, sizes_left), (right, sizes_right))
        ]
    )
    keys.sort(kind="stable")  # two rising runs: a merge
    twice = keys[1:][keys[1:] == keys[:-1]]
    shared = np.bincount(twice >> (KEY_BITS - cut), minlength=len(left))
    result: npt.NDArray[np.float64] = shared / (sizes_left + sizes_right - shared)
    return result


@dataclass(frozen=True)
class _Ordered:
    """Texts by the number of their shingles, smallest first; their places in that order.

    Attributes:
        threshold: The similarity sought.
        numbers: (texts,) the number of the text in each place.
        places: (texts,) the place of each text.
        sizes: (texts,) shingles of the text in each place.
        probed: (texts,) how many first shingles of a text, by its number, may meet another's.
        indexed: (texts,) the same by place, where the other is no smaller.
        largest: (texts,) the last place whose text is not too large for the text in each place.
    """

    threshold: float
    numbers: Ints
    places: Ints
    sizes: Ints
    probed: Ints
    indexed: Ints
    largest: Ints

    @classmethod
    def of(cls, sets: ShingleSets, threshold: float) -> _Ordered:
        sizes = sets.sizes
        numbers = np.argsort(sizes, kind="stable")
        places = np.empty(len(sizes), np.int64)
        places[numbers] = np.arange(len(sizes))
        rising = sizes[numbers]
        return cls(
            threshold,
            numbers,
            places,
            rising,
            sizes - _ceil(threshold * sizes) + 1,
            rising - _ceil(2 * threshold / (1 + threshold) * rising) + 1,
            np.searchsorted(rising * (threshold * (1 - _SLACK)), rising, side="right") - 1,
        )


@dataclass(frozen=True)
class _Part:
    """First shingles of texts whose hashes fall into one part, sorted by bucket, then by place.

    A bucket holds those of one hash; of two, seldom, which costs a comparison and no pair.

    Attributes:
        codes: (shingles,) the bucket, and in the lower 32 bits the place of the text.
        positions: (shingles,) how many shingles of the text come before.
    """

    codes: Ints
    positions: npt.NDArray[np.int32]

    @property
    def places(self) -> Ints:
        """(shingles,) the place of each one's text among the texts."""
        return self.codes & 0xFFFFFFFF


# -- parts ------------------------------------------------------------------------------------


def _parts(sets: ShingleSets, texts: _Ordered) -> Iterator[_Part]:
    """Deals first shingles out by the lowest bits of their hashes, then sorts part by part."""
    total = int(texts.probed.sum())
    bits = min(total // _PART, _MOST_PARTS - 1).bit_length()
    sizes = np.zeros(2**bits, np.int64)
    for part, _ in _entries(sets, texts, bits):
        sizes += np.bincount(part, minlength=len(sizes))
    starts = starts_of(sizes)
    filled = starts[:-1].copy()
    with scratch_file(sets.folder if bits else None) as file:
        for part, entries in _entries(sets, texts, bits):
            entries = entries[np.argsort(part, kind="stable")]
            bounds = starts_of(np.bincount(part, minlength=len(sizes)))
            for i in np.flatnonzero(np.diff(bounds)).tolist():
                file.seek(int(filled[i]) * _ENTRY.itemsize)
                file.write(entries[bounds[i] : bounds[i + 1]].tobytes())
            filled += np.diff(bounds)
        file.seek(0)
        for size in sizes.tolist():
            entries = np.frombuffer(file.read(size * _ENTRY.itemsize), _ENTRY)
            entries = entries[np.argsort(entries["code"])]
            yield _Part(entries["code"].copy(), entries["position"].copy())


def _entries(
    sets: ShingleSets, texts: _Ordered, bits: int
) -> Iterator[tuple[npt.NDArray[np.uint16], npt.NDArray[np.void]]]:
    """First shingles of texts, by pieces: the part of each, and its entry there."""
    for start, stop in pieces_of(sets.starts):
        first, most = sets.starts[start], texts.probed[start:stop]
        shingles = sets.shingles[first : sets.starts[stop]]
        hashes = shingles[ranges(sets.starts[start:stop] - first, most)]
        entries = np.empty(len(hashes), _ENTRY)
        buckets = hashes >> bits & (2**_BUCKET_BITS - 1)
        entries["code"] = buckets << 32 | np.repeat(texts.places[start:stop], most)
        entries["position"] = ranges(np.zeros(len(most), np.int64), most)
        yield (hashes & (2**bits - 1)).astype(np.uint16), entries


# -- candidates -------------------------------------------------------------------------------


def _stars(part: _Part, texts: _Ordered) -> Iterator[tuple[Ints, Ints]]:
    """Of each crowd its first text with every other; entries of the part, the smaller first."""
    crowded, centres = _crowds(part, texts)
    for start in range(0, len(crowded), _EVENTS):
        some, centre = crowded[start : start + _EVENTS], centres[start : start + _EVENTS]
        yield np.minimum(some, centre), np.maximum(some, centre)


def _crowds(part: _Part, texts: _Ordered) -> tuple[Ints, Ints]:
    """Entries in buckets of many, and for each the entry of the text that was read first."""
    buckets = part.codes >> 32
    sizes = np.diff(np.append(np.flatnonzero(first_of_each(buckets)), len(buckets)))
    entries = np.flatnonzero(np.repeat(sizes >= _CROWD, sizes))
    if not len(entries):
        return entries, entries
    sizes = sizes[sizes >= _CROWD]
    starts = starts_of(sizes)[:-1]
    numbers = texts.numbers[part.places[entries]]
    first = numbers == np.repeat(np.minimum.reduceat(numbers, starts), sizes)
    centres = np.maximum.reduceat(np.where(first, entries, -1), starts)
    return entries, np.repeat(centres, sizes)


def _others(part: _Part, texts: _Ordered, settled: Wanted) -> Iterator[tuple[Ints, Ints]]:
    """All pairs of entries that share a bucket, but for those of two settled texts."""
    closed = np.zeros(len(part.codes), np.bool_)
    crowded, centres = _crowds(part, texts)
    numbers = texts.numbers[part.places]
    closed[crowded] = settled(numbers[crowded], numbers[centres])
    indexed = part.positions < texts.indexed[part.places]
    buckets = part.codes >> 32 << 32
    entries = np.arange(len(part.codes))
    # Each open one with all that are larger, then with closed ones that are smaller.
    small = np.flatnonzero(indexed & ~closed)
    most = np.searchsorted(
        part.codes, buckets[small] | texts.largest[part.places[small]], side="right"
    )
    yield from _expanded(small, entries, small + 1, most)
    if closed.any():
        smaller, large = np.flatnonzero(indexed & closed), np.flatnonzero(~closed)
        codes = part.codes[smaller]
        yield from (
            (one, other)
            for other, one in _expanded(
                large,
                smaller,
                np.searchsorted(codes, buckets[large]),
                np.searchsorted(codes, part.codes[large]),
            )
        )


def _expanded(ones: Ints, others: Ints, starts: Ints, stops: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Each one with others[start:stop]."""
    some = stops > starts
    ones, starts, counts = ones[some], starts[some], (stops - starts)[some]
    for begin, end in cuts(counts, _EVENTS):
        here = counts[begin:end]
        yield np.repeat(ones[begin:end], here), others[ranges(starts[begin:end], here)]


def _verified(
    sets: ShingleSets,
    threshold: float,
    wanted: Wanted,
    texts: _Ordered,
    part: _Part,
    one: Ints,
    other: Ints,
) -> Iterator[tuple[Ints, Ints]]:
    """The similar pairs among pairs of entries, the first of each with the smaller text."""
    pairs = _possible(part, texts, one, other)
    count = len(texts.sizes)
    pairs = pairs[wanted(pairs // count, pairs % count)]
    work = sets.sizes_of(pairs // count) + sets.sizes_of(pairs % count)
    for start, stop in cuts(work, _VERIFIED_SHINGLES):
        left, right = pairs[start:stop] // count, pairs[start:stop] % count
        still = wanted(left, right)
        left, right = left[still], right[still]
        similar = jaccard(sets, left, right) >= threshold
        if similar.any():
            yield left[similar], right[similar]


def _possible(part: _Part, texts: _Ordered, one: Ints, other: Ints) -> Ints:
    """Pairs that may be similar, as smaller number x texts + larger number; each once."""
    left, right = part.codes[one] & 0xFFFFFFFF, part.codes[other] & 0xFFFFFFFF
    before, after = part.positions[one], part.positions[other]
    sizes_left, sizes_right = texts.sizes[left], texts.sizes[right]
    # What can still be shared from these positions on, against what must be.
    rest = np.minimum(sizes_left - before, sizes_right - after)
    share = texts.threshold / (1 + texts.threshold)
    possible = rest >= _ceil(share * (sizes_left + sizes_right))
    possible &= (left < right) & (right <= texts.largest[left]) & (before < texts.indexed[left])
    first, second = texts.numbers[left[possible]], texts.numbers[right[possible]]
    return distinct(np.minimum(first, second) * len(texts.sizes) + np.maximum(first, second))


def _ceil(values: npt.NDArray[np.floating[Any]]) -> Ints:
    whole: Ints = np.ceil(values * (1 - _SLACK)).astype(np.int64)
    return whole
