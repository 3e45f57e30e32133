"""Mode `extend`: units are learned from the corpus, and the base's family writes them down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

from tokenizers import Tokenizer

from adapt.bases import ModelSize
from adapt.progress import watched
from adapt.vocab import budget, unigram, wordpiece
from adapt.vocab.audit import generated_texts, segments_alike
from adapt.vocab.candidates import Candidates, Extension, Learning, Texts
from adapt.vocab.learn import batches
from adapt.vocab.pretokenizer import JOINTS, widen
from adapt.vocab.select import fragment_score, smallest
from adapt.vocab.spec import (
    BYTE_LEVEL,
    SENTENCEPIECE,
    UNIGRAM,
    WORDPIECE,
    Spec,
    build,
    family,
)

FAMILIES = (BYTE_LEVEL, SENTENCEPIECE, WORDPIECE, UNIGRAM)

# Texts that proofs and audits read: enough to meet what proofs on paper forget, in seconds.
AUDITED_DOCUMENTS = 5_000
GENERATED = 100_000


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
    candidates = Candidates(ground.spec, learning, texts, general)
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
    held_out: Texts,
    model: ModelSize,
) -> tuple[Extension, tuple[budget.Point, ...]]:
    """As many units as pay for themselves, and the curve by which they were chosen.

    Args:
        ground: The base, prepared.
        learning: What is to be learned; `new_tokens` is the most.
        texts: Training text; streamed, several times.
        general: General text, that nothing reported is measured on; streamed.
        held_out: Text of the validation side; streamed, once a size.
        model: What a token costs.

    Raises:
        VocabularyError: As `Candidates`.
    """
    candidates = Candidates(ground.spec, learning, texts, general)

    def tokens_at(size: int) -> int:
        tokenizer = build(candidates.take(size).spec)
        return _tokens(tokenizer, held_out())

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


def _until_whole(candidates: Candidates, learning: Learning) -> int:
    """The fewest units with which the terms take as few tokens a word as asked for."""
    wanted = learning.fragment_score or 1.0
    sizes = range(min(learning.new_tokens, len(candidates)) + 1)

    def enough(size: int) -> bool:
        return fragment_score(build(candidates.take(size).spec), learning.score_terms) <= wanted

    return smallest(sizes, enough)


def _tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> int:
    encoded = (tokenizer.encode_batch_fast(b, add_special_tokens=False) for b in batches(texts))
    return sum(len(one.ids) for one in chain.from_iterable(encoded))
