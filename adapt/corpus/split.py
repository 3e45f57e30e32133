"""A split that does not leak: similar texts share a cluster, a cluster falls on one side."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

import numpy as np

from adapt.corpus.clean import text_digest
from adapt.corpus.shingles import Ints, Mask, ShingleSets, first_of_each
from adapt.corpus.similarity import similar_pairs

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def sides(
    texts: Sequence[str] | Sequence[bytes],
    sets: ShingleSets,
    *,
    seed: int,
    test_fraction: float,
    validation_fraction: float,
    leak_threshold: float,
) -> list[Split]:
    """The side of each text, by a hash of the seed and its cluster's smallest text digest.

    So the order of the texts does not matter, and no text of one side has Jaccard similarity
    >= leak_threshold with a text of another.

    Args:
        texts: Distinct texts as `clean.fold` leaves them, or their `clean.text_digest`s.
        sets: Their shingles.
        seed: Another seed is another split.
        test_fraction: Share of clusters for the test side.
        validation_fraction: Share of clusters for the validation side.
        leak_threshold: Word-trigram Jaccard similarity that joins two texts.
    """
    labels = clusters(sets, leak_threshold)
    digests = np.frombuffer(
        b"".join(text if isinstance(text, bytes) else text_digest(text) for text in texts), ">u8"
    ).reshape(-1, 2)
    order = np.lexsort((digests[:, 1], digests[:, 0], labels))
    smallest = order[first_of_each(labels[order])]
    side = np.zeros(len(labels), np.uint8)
    side[labels[smallest]] = [
        SPLITS.index(_side(seed, digests[i].tobytes(), test_fraction, validation_fraction))
        for i in smallest.tolist()
    ]
    return [SPLITS[i] for i in side[labels].tolist()]


def _side(seed: int, digest: bytes, test_fraction: float, validation_fraction: float) -> Split:
    draw = blake2b(f"{seed}:{digest.hex()}".encode(), digest_size=8).digest()
    share = int.from_bytes(draw) / 2**64
    if share < test_fraction:
        return "test"
    return "validation" if share < test_fraction + validation_fraction else "train"


def clusters(sets: ShingleSets, threshold: float) -> Ints:
    """(texts,) a label for each text; texts that a chain of similar pairs joins share one."""
    labels = np.arange(len(sets.sizes))

    def apart(left: Ints, right: Ints) -> Mask:
        differ: Mask = labels[left] != labels[right]
        return differ

    def joined(texts: Ints, centres: Ints) -> Mask:
        return ~apart(texts, centres)

    for left, right in similar_pairs(sets, threshold, apart, joined):
        _join(labels, left, right)
    return labels


def _join(labels: Ints, left: Ints, right: Ints) -> None:
    """Union-find over the labels of newly found pairs; rewrites `labels`."""
    parent = np.arange(len(labels))

    def root(label: int) -> int:
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = int(parent[label])
        return label

    for one, other in zip(labels[left].tolist(), labels[right].tolist(), strict=True):
        a, b = root(one), root(other)
        parent[max(a, b)] = min(a, b)
    while not np.array_equal(parent, parent[parent]):
        parent = parent[parent]
    labels[:] = parent[labels]


def later_near_duplicates(sets: ShingleSets, threshold: float) -> Mask:
    """(texts,) whether a text has Jaccard similarity >= threshold with one before it."""
    repeated: Mask = np.zeros(len(sets.sizes), dtype=np.bool_)

    def new(left: Ints, right: Ints) -> Mask:
        fresh: Mask = ~repeated[right]
        return fresh

    def known(texts: Ints, centres: Ints) -> Mask:
        return repeated[texts]

    for _, right in similar_pairs(sets, threshold, new, known):
        repeated[right] = True
    return repeated


def similar_to_first(sets: ShingleSets, first: int, threshold: float) -> Mask:
    """(texts - first,) whether a text after the first `first` is similar to one of those.

    For general text: what repeats the domain measures nothing but the domain.
    """
    late = np.arange(len(sets.sizes)) >= first
    return similar_to(sets, late, ~late, threshold)[first:]


def similar_to(sets: ShingleSets, sought: Mask, others: Mask, threshold: float) -> Mask:
    """(texts,) whether a sought text has Jaccard similarity >= threshold with one of the others.

    Args:
        sets: Shingles of the texts.
        sought: (texts,) which texts are asked about.
        others: (texts,) with which they are compared; no text is both.
        threshold: In (0, 1].
    """
    found: Mask = np.zeros(len(sets.sizes), dtype=np.bool_)

    def across(left: Ints, right: Ints) -> Mask:
        wanted: Mask = (sought[left] & others[right] & ~found[left]) | (
            others[left] & sought[right] & ~found[right]
        )
        return wanted

    def one_side(texts: Ints, centres: Ints) -> Mask:
        # Two texts of one side tell nothing, nor does one that was found: of each crowd only the
        # texts of the smaller side are compared with all others.
        left = sought[texts] & ~found[texts]
        more = np.bincount(centres, left) > np.bincount(centres, others[texts])
        settled: Mask = np.where(more[centres], ~others[texts], ~left)
        return settled

    for left, right in similar_pairs(sets, threshold, across, one_side):
        both = np.concatenate([left, right])
        found[both[sought[both]]] = True
    return found
