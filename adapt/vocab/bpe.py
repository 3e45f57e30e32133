"""Extending byte-level BPE: new merges after the base's last, so new tokens only glue base tokens.

BPE applies the lowest-ranked merge that it can. New merges rank above all of the base's, so they
act on the base's finished segmentation, and what they make is in no base merge. Hence, for every
string, the new boundaries are a subset of the base's, and there are never more tokens.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

from tokenizers import Tokenizer, decoders, models, trainers

from adapt.vocab.delta import NewToken, VocabDelta

Segment = tuple[int, ...]

# Supplementary planes: room for 983,040 ids, one code point each, none of them a surrogate.
_PRIVATE = 0x10000
_BATCH = 1000


@dataclass
class Merges:
    """New merges in order, over the ids of a base vocabulary.

    Attributes:
        spelling: Vocabulary spelling of every id, base and new.
        first_id: The id that the first new token takes.
        pairs: Merges as (left id, right id), in rank order.
        constituents: Base ids of each new id.
    """

    spelling: dict[int, str]
    first_id: int
    pairs: list[tuple[int, int]] = field(default_factory=list)
    constituents: dict[int, Segment] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._id_of = {token: id_ for id_, token in self.spelling.items()}
        self._rank: dict[tuple[int, int], int] = {}

    @classmethod
    def over(cls, spec: dict[str, Any]) -> Merges:
        """No merges yet, over the vocabulary of a `tokenizer.json`."""
        spelling = {id_: token for token, id_ in spec["model"]["vocab"].items()}
        # Added tokens may lie beyond the model's own vocabulary; their ids are taken too.
        spelling.update({t["id"]: t["content"] for t in spec["added_tokens"]})
        return cls(spelling, max(spelling) + 1)

    @property
    def new_tokens(self) -> int:
        """Tokens that the merges add; fewer than merges where the base has a result already."""
        return len(self.constituents)

    def add(self, left: int, right: int) -> int:
        """Adds a merge, and a token where its result is new; returns the result's id."""
        token = self.spelling[left] + self.spelling[right]
        if token not in self._id_of:
            new = self.first_id + self.new_tokens
            self._id_of[token], self.spelling[new] = new, token
            self.constituents[new] = self.expand(left) + self.expand(right)
        if (left, right) not in self._rank:
            self._rank[left, right] = len(self.pairs)
            self.pairs.append((left, right))
        return self._id_of[token]

    def is_new(self, left: int, right: int) -> bool:
        """Whether gluing the two makes a token that the vocabulary does not have."""
        return self.spelling[left] + self.spelling[right] not in self._id_of

    def segment(self, ids: Sequence[int]) -> list[int]:
        """What the new merges make of one piece of text that the base segmented into `ids`."""
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

    def apply(self, spec: dict[str, Any]) -> dict[str, Any]:
        """The `tokenizer.json` with these tokens and merges."""
        spec = copy.deepcopy(spec)
        for new in self.constituents:
            spec["model"]["vocab"][self.spelling[new]] = new
        spec["model"]["merges"] += [[self.spelling[a], self.spelling[b]] for a, b in self.pairs]
        return spec

    def delta(self) -> VocabDelta:
        """What the merges change."""
        decode = decoders.ByteLevel().decode
        added = tuple(
            NewToken(new, self.spelling[new], decode([self.spelling[new]]), made_of)
            for new, made_of in self.constituents.items()
        )
        return VocabDelta(self.first_id, len(self.spelling) - len(added), added)


def count_segments(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[Segment]:
    """Counts the pieces that the pre-tokenizer makes, each as the ids it is segmented into.

    Only segments that a unit could come from are kept: of two ids or more, and no line break.
    Memory grows with distinct segments, not with the text.
    """
    counts: Counter[Segment] = Counter()
    forbidden, cut_before = _limits(tokenizer)
    for batch in batches(texts):
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            for ids in pieces(encoding.ids, encoding.word_ids):
                for segment in _cut(ids, cut_before):
                    if len(segment) > 1 and forbidden.isdisjoint(segment):
                        counts[segment] += 1
    return counts


def learn(merges: Merges, counts: Counter[Segment], new_tokens: int, min_frequency: int) -> None:
    """Adds the merges that plain BPE learns over segments, until `new_tokens` tokens are new.

    The Rust trainer learns over strings, so each id becomes one private code point.

    Args:
        merges: Extended in place.
        counts: Segments over ids that `merges` knows, with their counts.
        new_tokens: Tokens to add; fewer are added where the text has no more.
        min_frequency: A pair is merged only if it occurs so often.
    """
    alphabet = {id_ for segment in counts for id_ in segment}
    trainer = trainers.BpeTrainer(
        # A merge whose result the base has costs no token: twice the budget leaves room for those.
        vocab_size=len(alphabet) + 2 * new_tokens,
        min_frequency=min_frequency,
        show_progress=False,
    )
    scratch = Tokenizer(models.BPE())
    scratch.train_from_iterator(_private_strings(counts), trainer, length=counts.total())
    result_of = {chr(_PRIVATE + id_): id_ for id_ in alphabet}
    for left, right in json.loads(scratch.to_str())["model"]["merges"]:
        pair = result_of[left], result_of[right]
        if merges.new_tokens == new_tokens and merges.is_new(*pair):
            break
        result_of[left + right] = merges.add(*pair)


def _private_strings(counts: Counter[Segment]) -> Iterator[str]:
    """Every segment as a string of private code points, as often as it was counted."""
    for segment, count in sorted(counts.items()):
        text = "".join(chr(_PRIVATE + id_) for id_ in segment)
        for _ in range(count):
            yield text


def _limits(tokenizer: Tokenizer) -> tuple[frozenset[int], frozenset[int]]:
    """Ids that no unit may hold, and ids before which a segment is cut.

    No unit holds a line break, or a special token. No unit ends in a space: where a token does
    (a space before a rare letter), nothing before it may be glued to it.
    """
    decode = decoders.ByteLevel().decode
    special = set(tokenizer.get_added_tokens_decoder())
    texts = {id_: decode([token]) for token, id_ in tokenizer.get_vocab().items()}
    forbidden = {id_ for id_, text in texts.items() if "\n" in text or "\r" in text}
    blank_end = {id_ for id_, text in texts.items() if text[-1:].isspace()}
    return frozenset(forbidden | special), frozenset(blank_end)


def pieces(ids: Sequence[int], word_ids: Sequence[int | None]) -> Iterator[list[int]]:
    """Groups ids by the pre-tokenizer's piece they come from."""
    piece: list[int] = []
    current: int | None = None
    for id_, word in zip(ids, word_ids, strict=True):
        if word != current and piece:
            yield piece
            piece = []
        current = word
        if word is not None:
            piece.append(id_)
    if piece:
        yield piece


def _cut(ids: list[int], cut_before: frozenset[int]) -> Iterator[Segment]:
    """A piece as segments that begin at each id of `cut_before`; blank runs vanish."""
    start = 0
    for i, id_ in enumerate(ids):
        if id_ in cut_before:
            yield tuple(ids[start:i])
            start = i if i + 1 < len(ids) and ids[i + 1] not in cut_before else i + 1
    yield tuple(ids[start:])


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in lists that the Rust tokenizers encode in parallel."""
    stream = iter(texts)
    while batch := list(islice(stream, _BATCH)):
        yield batch
