"""Candidates: more units than the budget pays for, learned once; any number can be taken."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from tokenizers import Tokenizer

from adapt.errors import VocabularyError
from adapt.progress import watched
from adapt.vocab import bpe, unigram, wordpiece
from adapt.vocab.learn import Limits, count_segments, learn, limits
from adapt.vocab.select import Counts, choose, divergence, last_use, most_used, use
from adapt.vocab.spec import (
    BYTE_LEVEL,
    SENTENCEPIECE,
    WORDPIECE,
    Spec,
    build,
    family,
    text_of,
    vocabulary,
)
from adapt.vocab.terms import add_terms
from adapt.vocab.units import Segment, Units

Texts = Callable[[], Iterable[str]]


@dataclass(frozen=True)
class Learning:
    """What is to be learned; the fields are those of the recipe's section `tokenizer`.

    Attributes:
        new_tokens: Units in all, terms included.
        terms: Terms that each become a unit.
        score_terms: Terms that score `terms` ranks by.
    """

    new_tokens: int
    multiword: bool = True
    min_frequency: int = 3
    max_words: int | None = None
    max_length: int | None = None
    score: str = "frequency"
    fragment_score: float | None = None
    terms: Sequence[str] = ()
    term_forms: Sequence[str] = ("as_is", "leading_space")
    score_terms: Sequence[str] = ()


@dataclass(frozen=True)
class Extension:
    """A tokenizer with units.

    Attributes:
        spec: Its `tokenizer.json`.
        constituents: Base ids of each new spelling.
        notes: What the user should know.
    """

    spec: Spec
    constituents: dict[str, Segment] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Candidates:
    """More units than the budget pays for, learned once; any number of them can be taken.

    Args:
        ground: The base, with the pre-tokenizer that the units need.
        learning: What is to be learned.
        texts: Training text.
        general: General text, for score `kl`.

    Raises:
        VocabularyError: A term cannot be made, the terms alone exceed the budget, or the text
            holds nothing to learn.
    """

    def __init__(self, ground: Spec, learning: Learning, texts: Texts, general: Texts) -> None:
        self._ground, self._learning, self._texts = ground, learning, texts
        self._steps = family(ground) in (BYTE_LEVEL, SENTENCEPIECE)
        limit = limits(ground, multiword=learning.multiword)
        join = wordpiece.join if family(ground) == WORDPIECE else str.__add__
        units = Units(vocabulary(ground), join)
        self._terms = _with_terms(units, build(ground), limit, learning)
        with_terms = self._spec(units, range(units.first_id, units.first_id + len(units)))
        counts = count_segments(
            build(with_terms), _padded(limit, units), watched(texts(), "Reading segments")
        )
        # Units that only one document holds go; other rankings, and families that can do without
        # steps, choose among many more.
        plain = self._steps and learning.score == "frequency"
        plain = plain and learning.max_words is None and learning.max_length is None
        spare = learning.new_tokens // 8 + 100 if plain else learning.new_tokens
        learn(units, counts, learning.new_tokens + spare, learning.min_frequency)
        if not len(units):
            raise VocabularyError(
                f"no unit occurs {learning.min_frequency} times in the training text",
                where="tokenizer.min_frequency",
                fix="give more text, or lower min_frequency",
            )
        self._units = units
        self._order = self._ranked(general)

    def __len__(self) -> int:
        """Units that can be taken."""
        return len(self._order)

    def take(self, size: int, among: Container[str] | None = None) -> Extension:
        """The base with the best units, `size` of them, or fewer where there are no more.

        Args:
            size: Units.
            among: Spellings of units to keep to, where the family takes units without steps.
        """
        fixed = self._terms
        if self._steps:
            units = choose(self._units, self._order, size, fixed)
            made_of = {units.spelling[id_]: ids for id_, ids in units.constituents.items()}
            return Extension(bpe.with_units(self._ground, units), made_of)
        ids = list(dict.fromkeys([*fixed, *self._order]))
        if among is None:
            ids = self._most_used(ids, size)
        else:
            ids = [id_ for id_ in ids if self._units.spelling[id_] in among]
            ids = most_used(self._units, self._savings(ids), size, self._terms)
        made_of = {self._units.spelling[id_]: self._units.constituents[id_] for id_ in ids}
        return Extension(self._spec(self._units, ids), made_of)

    def drop(self, spellings: Container[str]) -> None:
        """Leaves units out from now on.

        Raises:
            VocabularyError: One of them is a term.
        """
        for id_ in self._terms:
            if self._units.spelling[id_] in spellings:
                raise VocabularyError(
                    "a term cannot be one token, it would lengthen other words",
                    where="tokenizer.terms",
                    got=self._units.spelling[id_],
                )
        self._order = [i for i in self._order if self._units.spelling[i] not in spellings]

    def _most_used(self, ids: list[int], size: int) -> list[int]:
        """The units most used as they are; each round's shorter list is counted anew."""
        for share in (1.5, 1.2, 1.0):
            ids = most_used(self._units, self._savings(ids), int(size * share), self._terms)
        return ids

    def _savings(self, ids: Sequence[int]) -> Counts:
        """Tokens of the training text that units save as they are, where only these are there.

        Shape (units,), by id; the family numbers those that it takes in a row.
        """
        units = self._units
        last = last_use(build(self._spec(units, ids)), units.first_id, len(ids), self._texts())
        savings = np.zeros(len(units), dtype=np.int64)
        for id_, count in zip(ids, last.tolist(), strict=True):
            savings[id_ - units.first_id] = count * (len(units.constituents[id_]) - 1)
        return savings

    def _ranked(self, general: Texts) -> list[int]:
        """Ids of the units that may be taken, the best first."""
        units, learning = self._units, self._learning
        everything = build(self._spec(units, units.constituents))
        seen = watched(self._texts(), "Counting units")
        # Which units two documents hold is all that their frequency leaves open.
        domain = use(everything, units, seen, enough=2 if learning.score == "frequency" else None)
        text = text_of(self._ground)
        fits = partial(_fits, learning=learning)
        allowed = [
            id_
            for id_, documents in zip(units.constituents, domain.documents.tolist(), strict=True)
            if documents >= min(2, domain.texts) and fits(text(units.spelling[id_]))
        ]
        if learning.score == "frequency":
            return allowed
        if learning.score == "kl":
            worth = divergence(domain, use(everything, units, watched(general(), "Counting units")))
        else:
            terms = use(everything, units, [f" {term}" for term in learning.score_terms])
            worth = terms.count.astype(np.float64)
        ranked = sorted(allowed, key=lambda id_: -worth[id_ - units.first_id])
        return [id_ for id_ in ranked if worth[id_ - units.first_id] > 0]

    def _spec(self, units: Units, ids: Iterable[int]) -> Spec:
        """The base with units; all of them where the family writes down every step."""
        if self._steps:
            return bpe.with_units(self._ground, units)
        made_of = {units.spelling[id_]: units.constituents[id_] for id_ in ids}
        if family(self._ground) == WORDPIECE:
            return wordpiece.with_units(self._ground, made_of)
        return unigram.with_units(self._ground, made_of)


def _with_terms(units: Units, tokenizer: Tokenizer, limit: Limits, learning: Learning) -> list[int]:
    """Adds the terms first, for they must hold whatever the corpus says; their ids."""
    made, refused = add_terms(units, tokenizer, limit, learning.terms, learning.term_forms)
    if refused:
        term, why = next(iter(refused.items()))
        more = f" ({len(refused) - 1} more)" if len(refused) > 1 else ""
        raise VocabularyError(
            f"a term cannot be one token, {why}{more}", where="tokenizer.terms", got=term
        )
    if len(units) > learning.new_tokens:
        raise VocabularyError(
            f"the terms alone need {len(units)} tokens",
            where="tokenizer.new_tokens",
            got=learning.new_tokens,
        )
    return made


def _fits(text: str, learning: Learning) -> bool:
    """Whether a unit is short enough."""
    words, length = learning.max_words, learning.max_length
    return (words is None or len(text.split()) <= words) and (
        length is None or len(text.strip()) <= length
    )


def _padded(limit: Limits, units: Units) -> Limits:
    """Limits that know the ids of units: a unit may be in another, and begins as its first does."""
    begins = [bool(limit.first[ids[0]]) for ids in units.constituents.values()]
    never = np.zeros(len(units), dtype=np.bool_)
    return Limits(
        np.concatenate([limit.never, never]),
        np.concatenate([limit.first, np.array(begins, dtype=np.bool_)]),
    )
