"""Units: new tokens that glue base tokens together, in the order in which they were learned.

A unit is made by a merge of two tokens, base or new. What becomes of merges in a `tokenizer.json`
is the business of the family: BPE writes them down as they are (`bpe`), the others take the units
and forget how they came about (`wordpiece`, `unigram`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from itertools import pairwise

Segment = tuple[int, ...]


class Units:
    """New merges in order, over the ids of a base vocabulary.

    Attributes:
        spelling: Vocabulary spelling of every id, base and new.
        first_id: The id that the first new token takes.
        pairs: Merges as (left id, right id), in rank order.
        constituents: Base ids of each new id.

    Args:
        vocabulary: Spelling to id of the base, added tokens included.
        join: Spelling of two tokens glued together, from theirs.
    """

    def __init__(
        self, vocabulary: Mapping[str, int], join: Callable[[str, str], str] = str.__add__
    ) -> None:
        self.spelling = {id_: token for token, id_ in vocabulary.items()}
        self.first_id = max(self.spelling, default=-1) + 1
        self.pairs: list[tuple[int, int]] = []
        self.constituents: dict[int, Segment] = {}
        self._join = join
        self._id_of = dict(vocabulary)
        self._rank: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        """Units; fewer than merges where the base has a result already."""
        return len(self.constituents)

    def copy(self) -> Units:
        """The same units, to go on from."""
        other = Units(self._id_of, self._join)
        other.spelling, other.first_id = dict(self.spelling), self.first_id
        other.pairs, other.constituents = list(self.pairs), dict(self.constituents)
        other._rank = dict(self._rank)
        return other

    def add(self, left: int, right: int) -> int:
        """Adds a merge, and a token where its result is new; returns the result's id."""
        token = self._join(self.spelling[left], self.spelling[right])
        if token not in self._id_of:
            new = self.first_id + len(self)
            self._id_of[token], self.spelling[new] = new, token
            self.constituents[new] = self.expand(left) + self.expand(right)
        if (left, right) not in self._rank:
            self._rank[left, right] = len(self.pairs)
            self.pairs.append((left, right))
        return self._id_of[token]

    def result(self, left: int, right: int) -> int | None:
        """Id of the two glued together, None where the vocabulary has no such token."""
        return self._id_of.get(self._join(self.spelling[left], self.spelling[right]))

    def segment(self, ids: Sequence[int]) -> list[int]:
        """What the merges make of one piece of text that the base segmented into `ids`."""
        ids = list(ids)
        while True:
            ranked = [(self._rank[p], i) for i, p in enumerate(pairwise(ids)) if p in self._rank]
            if not ranked:
                return ids
            _, i = min(ranked)
            ids[i : i + 2] = [self.add(ids[i], ids[i + 1])]

    def expand(self, id_: int) -> Segment:
        """Base ids that an id is made of; itself for a base id."""
        return self.constituents.get(id_, (id_,))

    def needs(self) -> dict[int, frozenset[int]]:
        """For each unit, the units that its merges go through, itself included."""
        needed: dict[int, frozenset[int]] = {}
        for left, right in self.pairs:
            id_ = self.add(left, right)
            if id_ in self.constituents and id_ not in needed:
                parts = (needed.get(side, frozenset[int]()) for side in (left, right))
                needed[id_] = frozenset({id_}).union(*parts)
        return needed

    def only(self, wanted: Container[int]) -> Units:
        """The wanted units alone, in the same order, with ids that close up.

        A merge stays where both sides and its result do. A unit none of whose merges stays is
        left out although it is wanted: pass sets that `needs` closes.
        """
        kept = Units({t: i for i, t in self.spelling.items() if i < self.first_id}, self._join)
        kept.first_id = self.first_id
        new_id: dict[int, int] = {}
        for left, right in self.pairs:
            sides = [new_id.get(s, s) for s in (left, right) if s < self.first_id or s in new_id]
            result = self.add(left, right)
            if len(sides) == 2 and (result < self.first_id or result in wanted):
                new_id[result] = kept.add(*sides)
        return kept
