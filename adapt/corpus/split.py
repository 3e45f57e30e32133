"""A split that does not leak: similar texts share a cluster, a cluster falls on one side."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

import numpy as np

from adapt.corpus.clean import text_digest
from adapt.corpus.similarity import Ints, Mask, ShingleSets, similar_pairs

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def sides(
    folded: Sequence[str],
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
        folded: Distinct texts as `clean.fold` leaves them.
        sets: Their shingles.
        seed: Another seed is another split.
        test_fraction: Share of clusters for the test side.
        validation_fraction: Share of clusters for the validation side.
        leak_threshold: Word-trigram Jaccard similarity that joins two texts.
    """
    digests = [text_digest(text) for text in folded]
    smallest: dict[int, str] = {}
    labels = clusters(sets, leak_threshold).tolist()
    for label, digest in zip(labels, digests, strict=True):
        smallest[label] = min(digest, smallest.get(label, digest))
    side = {
        label: _side(seed, digest, test_fraction, validation_fraction)
        for label, digest in smallest.items()
    }
    return [side[label] for label in labels]


def _side(seed: int, digest: str, test_fraction: float, validation_fraction: float) -> Split:
    draw = blake2b(f"{seed}:{digest}".encode(), digest_size=8).digest()
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

    for left, right in similar_pairs(sets, threshold, apart):
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

    for _, right in similar_pairs(sets, threshold, new):
        repeated[right] = True
    return repeated


def similar_to_first(sets: ShingleSets, first: int, threshold: float) -> Mask:
    """(texts - first,) whether a text after the first `first` is similar to one of those.

    For general text: what repeats the domain measures nothing but the domain.
    """
    found: Mask = np.zeros(len(sets.sizes), dtype=np.bool_)

    def across(left: Ints, right: Ints) -> Mask:
        return (left < first) & (right >= first) & ~found[right]

    for _, right in similar_pairs(sets, threshold, across):
        found[right] = True
    return found[first:]
