"""Mode `extend`: units are learned from the corpus, and the base's family writes them down."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice

import numpy as np
from tokenizers import Tokenizer

from adapt.bases import ModelSize
from adapt.errors import VocabularyError
from adapt.progress import watched
from adapt.vocab import bpe, budget, unigram, wordpiece
from adapt.vocab.audit import generated_texts, segments_alike
from adapt.vocab.learn import Limits, count_segments, learn, limits
from adapt.vocab.pretokenizer import JOINTS, widen
from adapt.vocab.select import choose, divergence, fragment_score, most_used, smallest, use
from adapt.vocab.spec import (
    BYTE_LEVEL,
    SENTENCEPIECE,
    UNIGRAM,
    WORDPIECE,
    Spec,
    build,
    family,
    text_of,
    vocabulary,
)
from adapt.vocab.terms import add_terms
from adapt.vocab.units import Segment, Units

FAMILIES = (BYTE_LEVEL, SENTENCEPIECE, WORDPIECE, UNIGRAM)

# Texts that proofs and audits read: enough to meet what proofs on paper forget, in seconds.
AUDITED_DOCUMENTS = 5_000
GENERATED = 100_000

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


@dataclass(frozen=True)
class Ground:
    """A base whose units may cross spaces as far as that is proven safe.

    Attributes:
        spec: The base, with the pre-tokenizer that the units need; segments as the base does.
        joints: Text between words that units may cross.
        reason: Why some or all are left out.
        changed: Texts that the wider pre-tokenizer segmented otherwise; it is dropped for one.
    """

    spec: Spec
    joints: tuple[str, ...] = ()
    reason: str | None = None
    changed: int = 0


def prepare(spec: Spec, texts: Texts) -> Ground:
    """Lets units cross spaces, where the family can and the proof holds on text.

    Args:
        spec: The base.
        texts: Training text, on which the proof is checked, beside generated strings.
    """
    kind = family(spec)
    if kind == WORDPIECE:
        return Ground(spec, reason=wordpiece.REASON)
    if kind == SENTENCEPIECE:
        return Ground(spec, JOINTS)
    if kind == UNIGRAM:
        wide, reason = unigram.widen(spec)
        joints: tuple[str, ...] = () if wide is spec else JOINTS
    else:
        widened = widen(spec)
        wide, reason = {**spec, "pre_tokenizer": widened.pre_tokenizer}, widened.reason
        joints = widened.joints
    if not joints:
        return Ground(spec, reason=reason)
    sample = chain(islice(texts(), AUDITED_DOCUMENTS), generated_texts(GENERATED, seed=0))
    shown = watched(sample, "Proving that wider pieces change nothing")
    changed = sum(not alike for alike in segments_alike(build(spec), build(wide), shown))
    if changed:
        return Ground(spec, (), f"wider pieces changed {changed} texts", changed)
    return Ground(wide, joints, reason)


class Candidates:
    """More units than the budget pays for, learned once; any number of them can be taken.

    Args:
        ground: The base, prepared.
        learning: What is to be learned.
        texts: Training text.
        general: General text, for score `kl`.

    Raises:
        VocabularyError: A term cannot be made, the terms alone exceed the budget, or the text
            holds nothing to learn.
    """

    def __init__(self, ground: Ground, learning: Learning, texts: Texts, general: Texts) -> None:
        self._ground, self._learning, self._texts = ground.spec, learning, texts
        self._steps = family(ground.spec) in (BYTE_LEVEL, SENTENCEPIECE)
        limit = limits(ground.spec, multiword=learning.multiword)
        join = wordpiece.join if family(ground.spec) == WORDPIECE else str.__add__
        units = Units(vocabulary(ground.spec), join)
        self._terms = _with_terms(units, build(ground.spec), limit, learning)
        with_terms = self._spec(units, range(units.first_id, units.first_id + len(units)))
        counts = count_segments(
            build(with_terms), _padded(limit, units), watched(texts(), "Reading segments")
        )
        # Units that only one document holds go, and so do steps where the family can spare them.
        spare = learning.new_tokens // 2 + 100 if self._steps else learning.new_tokens
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
        ids = [*fixed, *self._order]
        if among is None:
            ids = self._most_used(ids, size)
        else:
            ids = [id_ for id_ in ids if self._units.spelling[id_] in among]
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
            used = use(build(self._spec(self._units, ids)), self._units, self._texts())
            ids = most_used(self._units, used, int(size * share), self._terms)
        return ids

    def _ranked(self, general: Texts) -> list[int]:
        """Ids of the units that may be taken, the best first."""
        units, learning = self._units, self._learning
        everything = build(self._spec(units, units.constituents))
        domain = use(everything, units, watched(self._texts(), "Counting units"))
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


def extend(ground: Ground, learning: Learning, texts: Texts, general: Texts) -> Extension:
    """The base with `new_tokens` units.

    Args:
        ground: The base, prepared.
        learning: What is to be learned.
        texts: Training text; streamed, several times.
        general: General text, that nothing reported is measured on; streamed.

    Raises:
        VocabularyError: As `Candidates`.
    """
    candidates = Candidates(ground, learning, texts, general)
    size = learning.new_tokens
    notes: list[str] = []
    if learning.score == "terms" and learning.fragment_score:
        size = _until_whole(candidates, learning)
        notes.append(f"stopped at {size} units, for the terms are whole enough there")
    taken = _harmless(ground, candidates, size, texts)
    if len(taken.constituents) < size:
        notes.append(
            f"the text holds {len(taken.constituents)} units that occur "
            f"{learning.min_frequency} times, in two documents or more; {size} were asked for"
        )
    return Extension(taken.spec, taken.constituents, (*notes, *taken.notes))


def extend_as_it_pays(
    ground: Ground,
    learning: Learning,
    texts: Texts,
    general: Texts,
    held_out: Sequence[str],
    model: ModelSize,
) -> tuple[Extension, tuple[budget.Point, ...]]:
    """As many units as pay for themselves, and the curve by which they were chosen.

    Args:
        ground: The base, prepared.
        learning: What is to be learned; `new_tokens` is the most.
        texts: Training text; streamed, several times.
        general: General text, that nothing reported is measured on; streamed.
        held_out: Text of the validation side.
        model: What a token costs.

    Raises:
        VocabularyError: As `Candidates`.
    """
    candidates = Candidates(ground, learning, texts, general)

    def tokens_at(size: int) -> int:
        tokenizer = build(candidates.take(size).spec)
        return _tokens(tokenizer, held_out)

    sizes = budget.sizes_up_to(min(learning.new_tokens, len(candidates)))
    points = budget.curve([*watched(sizes, "Weighing sizes")], tokens_at, model)
    best = budget.cheapest(points)
    note = (
        f"{best.new_tokens} units save {best.saved:.1%} of the tokens of held-out text at "
        f"{best.cost:.3f} times the base's cost, the least on the curve"
    )
    taken = _harmless(ground, candidates, best.new_tokens, texts)
    return Extension(taken.spec, taken.constituents, (note, *taken.notes)), points


def _harmless(ground: Ground, candidates: Candidates, size: int, texts: Texts) -> Extension:
    """The best units, without pieces that lengthen some text; others take their place.

    Only WordPiece and Unigram have such pieces: there new ones compete with the base's own.

    Raises:
        VocabularyError: A term is one of them.
    """
    taken = candidates.take(size)
    check = {WORDPIECE: wordpiece.harmful, UNIGRAM: unigram.harmful}.get(family(ground.spec))
    if check is None:
        return taken
    seen = _words if family(ground.spec) == WORDPIECE else iter
    dropped: set[str] = set()
    for last in (False, False, True):
        sample = chain(islice(texts(), AUDITED_DOCUMENTS), generated_texts(GENERATED, seed=1))
        harmful = check(ground.spec, taken.constituents, seen(sample))
        if not harmful:
            break
        dropped |= harmful
        candidates.drop(harmful)
        # The last time nobody takes their place: what is left is known to be harmless.
        taken = candidates.take(size, among=taken.constituents if last else None)
    if not dropped:
        return taken
    note = f"{len(dropped)} pieces were left out, for they would lengthen other words"
    return Extension(taken.spec, taken.constituents, (*taken.notes, note))


def _words(texts: Iterable[str]) -> Iterator[str]:
    """Distinct words."""
    seen: set[str] = set()
    for text in texts:
        fresh = set(text.split()) - seen
        yield from sorted(fresh)
        seen |= fresh


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


def _until_whole(candidates: Candidates, learning: Learning) -> int:
    """The fewest units with which the terms take as few tokens a word as asked for."""
    wanted = learning.fragment_score or 1.0
    sizes = range(min(learning.new_tokens, len(candidates)) + 1)

    def enough(size: int) -> bool:
        return fragment_score(build(candidates.take(size).spec), learning.score_terms) <= wanted

    return smallest(sizes, enough)


def _padded(limit: Limits, units: Units) -> Limits:
    """Limits that know the ids of units: a unit may be in another, and begins as its first does."""
    begins = [bool(limit.first[ids[0]]) for ids in units.constituents.values()]
    never = np.zeros(len(units), dtype=np.bool_)
    return Limits(
        np.concatenate([limit.never, never]),
        np.concatenate([limit.first, np.array(begins, dtype=np.bool_)]),
    )


def _tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return sum(len(one.ids) for one in encoded)
