"""Selecting units: what the budget buys, out of more candidates than it pays for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from tokenizers import Tokenizer

from adapt.vocab.learn import batches
from adapt.vocab.units import Units

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Use:
    """How often units are made in a text; arrays of shape (units,), in the order of their ids.

    Attributes:
        texts: Documents read.
        tokens: Tokens of the text.
        count: Times a unit is made, as itself or on the way to a longer one.
        documents: Documents in which it is made.
    """

    texts: int
    tokens: int
    count: Counts
    documents: Counts


def use(tokenizer: Tokenizer, units: Units, texts: Iterable[str], enough: int | None = None) -> Use:
    """Counts the use of units.

    Args:
        tokenizer: The base with these units.
        units: By whose merges a longer one goes through a shorter one.
        texts: Streamed.
        enough: Stop once every unit was found in so many documents.
    """
    needs = _needs(units)
    read = tokens = 0
    count, documents = (np.zeros(len(units), dtype=np.int64) for _ in range(2))
    for batch in batches(texts):
        encoded = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        lengths = [len(one.ids) for one in encoded]
        read += len(batch)
        tokens += sum(lengths)
        ids = np.fromiter((i for one in encoded for i in one.ids), dtype=np.int64)
        new = ids >= units.first_id
        rows = np.repeat(np.arange(len(batch)), lengths)[new]
        shape = (len(batch), len(units))
        ones = np.ones(len(rows), dtype=np.int64)
        made = csr_array((ones, (rows, ids[new] - units.first_id)), shape=shape)
        through = made @ needs
        count += np.asarray(through.sum(axis=0)).ravel()
        documents += np.diff(through.tocsc().indptr)
        if enough is not None and documents.min(initial=enough) >= enough:
            break
    return Use(read, tokens, count, documents)


def _needs(units: Units) -> csr_array:
    """Shape (units, units): 1 where the row's merges go through the column, itself included."""
    pairs = [
        (id_ - units.first_id, need - units.first_id)
        for id_, needed in units.needs().items()
        for need in needed
    ]
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    ones = np.ones(len(pairs), dtype=np.int64)
    return csr_array((ones, (rows, columns)), shape=(len(units), len(units)))


def choose(units: Units, order: Sequence[int], budget: int, fixed: Iterable[int] = ()) -> Units:
    """Takes units in order, each with those that its merges go through, while the budget lasts.

    Args:
        units: Candidates.
        order: Ids of candidates, the best first.
        budget: Units in all.
        fixed: Ids that are taken first: the user's terms.
    """
    needs = units.needs()
    taken: set[int] = set()
    for id_ in (*fixed, *order):
        missing = needs[id_] - taken
        if len(taken) + len(missing) <= budget:
            taken |= missing
        if len(taken) == budget:
            break
    return units.only(taken)


def last_use(tokenizer: Tokenizer, first_id: int, size: int, texts: Iterable[str]) -> Counts:
    """Times that each of the ids from `first_id` on is a token of a text; shape (size,)."""
    counts = np.zeros(size, dtype=np.int64)
    for batch in batches(texts):
        encoded = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        ids = np.fromiter((i for one in encoded for i in one.ids), dtype=np.int64)
        counts += np.bincount(ids[ids >= first_id] - first_id, minlength=size)
    return counts


def most_used(units: Units, savings: Counts, budget: int, fixed: Iterable[int] = ()) -> list[int]:
    """Ids of the units that save most as tokens of their own, where none needs another.

    For families that take a unit without the steps that led to it: a unit that only served as
    a step is hardly used itself, and goes.
    """
    kept = set(fixed)
    best = np.argsort(-savings, kind="stable")
    for place in best.tolist():
        if len(kept) >= budget or not savings[place]:
            break
        kept.add(units.first_id + place)
    return sorted(kept)


def divergence(domain: Use, general: Use) -> NDArray[np.float64]:
    """Pointwise Kullback-Leibler divergence of domain against general text; shape (units,).

    p log(p / q) with p and q a unit's occurrences over the tokens of either text (after
    Sachidananda et al. 2021, Efficient Domain Adaptation of Language Models via Adaptive
    Tokenization, https://aclanthology.org/2021.sustainlp-1.16, who take the probability of a
    sequence given its beginning). Half an occurrence is added to what general text may lack.
    """
    p = domain.count / max(domain.tokens, 1)
    q = (general.count + 0.5) / (general.tokens + 1)
    return np.where(p > 0, p * np.log(np.maximum(p, 1e-300) / q), 0.0)


def fragment_score(tokenizer: Tokenizer, terms: Sequence[str]) -> float:
    """Tokens to a word of a term list (Hong et al. 2021, AVocaDo, https://arxiv.org/abs/2110.13434)."""
    encoded = tokenizer.encode_batch_fast([f" {t}" for t in terms], add_special_tokens=False)
    return sum(len(one.ids) for one in encoded) / max(sum(len(t.split()) for t in terms), 1)


def smallest(sizes: Sequence[int], enough: Callable[[int], bool]) -> int:
    """The smallest of ascending sizes that is enough, by bisection; the last where none is."""
    low, high = 0, len(sizes) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(sizes[middle]) else (middle + 1, high)
    return sizes[low]
