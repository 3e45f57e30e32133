"""The vocabulary stage: one function for each mode, and the audit that follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from adapt.bases import ModelSize
from adapt.errors import VocabularyError
from adapt.progress import watched
from adapt.recipe.vocabulary import TokenizerSection
from adapt.vocab import audit as promises
from adapt.vocab import prune, retrain
from adapt.vocab.audit import Audit, Check, audit, generated_texts
from adapt.vocab.budget import MOST, Point
from adapt.vocab.candidates import Learning, Texts
from adapt.vocab.delta import VocabDelta
from adapt.vocab.extend import (
    AUDITED_DOCUMENTS,
    FAMILIES,
    Ground,
    extend,
    extend_as_it_pays,
    prepare,
)
from adapt.vocab.files import OUTPUT, agree_with_stock, copy_tokenizer, write_tokenizer
from adapt.vocab.result import Vocabulary
from adapt.vocab.spec import Spec, added_ids, build, family, spec_of, text_of, vocabulary
from adapt.workspace import new_folder

# Strings of every kind that the audit of the result reads, beside the training text.
GENERATED = 20_000


@dataclass(frozen=True)
class Material:
    """The text that a vocabulary is made from; nothing reported is measured on any of it.

    Attributes:
        texts: Gives the training documents, each time it is called.
        every: Units are learned from one training document in so many.
        general: The same of general text.
        validation: Documents to choose a size by.
        terms: Terms that each become one token.
        score_terms: Terms that score `terms` ranks by.
        model: What a token costs, where `new_tokens` is no number.
    """

    texts: Texts
    general: Texts = tuple
    validation: Texts = tuple
    terms: Sequence[str] = ()
    score_terms: Sequence[str] = ()
    model: ModelSize | None = None
    every: int = 1


@dataclass(frozen=True)
class _Made:
    """What a mode made of the base, before it is audited and written."""

    spec: Spec
    delta: VocabDelta
    checks: Callable[[Any, Any], dict[str, Check]]
    ground: Ground
    notes: tuple[str, ...] = ()
    curve: tuple[Point, ...] = ()
    replaced: tuple[prune.Replaced, ...] = ()


def adapt_vocabulary(
    section: TokenizerSection,
    base: Any,  # noqa: ANN401 - transformers' tokenizers share no typed base
    material: Material,
    folder: Path,
    *,
    read_only: bool = False,
) -> Vocabulary:
    """The stage: makes the adapted tokenizer, audits it and writes it.

    Args:
        section: `tokenizer` of the recipe.
        base: The base's tokenizer, from `load_tokenizer`.
        material: Text to learn from.
        folder: Written whole or not at all.
        read_only: Units are read and never written: `tokenizer-output` in the folder holds the
            base's own tokenizer, which encodes what the model is to write. Ids are the same, so
            mode `extend` alone has it.

    Raises:
        VocabularyError: The tokenizer's family is not handled, a term cannot be made, or the
            text holds nothing to learn.
    """
    spec = spec_of(base.backend_tokenizer)
    if section.mode == "keep":
        return _keep(base, spec, folder)
    refuse_other_families(base)
    made = _MODES[section.mode](section, base, spec, material)
    delta = replace(made.delta, read_only=read_only)
    if read_only and (delta.moves_ids or delta.removed):
        raise VocabularyError(
            "units that are only read need the base's own ids for what is written",
            where="tokenizer.mode",
            got=section.mode,
            fix="take extend, without prune",
        )
    plain, new = build(spec), build(made.spec)
    sample = chain(islice(material.texts(), AUDITED_DOCUMENTS), generated_texts(GENERATED, seed=1))
    checks = made.checks(plain, new)
    checked = audit(plain, new, watched(sample, "Checking the guarantees"), checks)
    checked.raise_if_broken()
    with new_folder(folder) as unfinished:
        write_tokenizer(base, new, unfinished)
        delta.save(unfinished)
        if read_only:
            (unfinished / OUTPUT).mkdir()
            copy_tokenizer(base, unfinished / OUTPUT)
        agree_with_stock(new, unfinished, list(islice(material.texts(), 200)))
    return Vocabulary(
        folder,
        delta,
        made.ground.joints,
        made.notes,
        replace(checked, widening_changed=made.ground.changed),
        made.curve,
        made.replaced,
    )


def refuse_other_families(base: Any) -> None:  # noqa: ANN401
    """Refuses, by its name, a tokenizer that cannot be adapted.

    Args:
        base: From `load_tokenizer`.

    Raises:
        VocabularyError: It is of none of the families for which the promises hold.
    """
    kind = family(spec_of(base.backend_tokenizer))
    if kind not in FAMILIES:
        raise VocabularyError(
            f"{type(base).__name__} is {kind}, which cannot be adapted",
            where="tokenizer.mode",
            fix=f"set tokenizer.mode=keep, or take a base with {', '.join(FAMILIES)}",
        )


def _keep(base: Any, spec: Spec, folder: Path) -> Vocabulary:  # noqa: ANN401
    """The base tokenizer, byte for byte."""
    ids = vocabulary(spec)
    delta = VocabDelta.between(ids, ids, lambda _: (), text_of(spec))
    with new_folder(folder) as unfinished:
        copy_tokenizer(base, unfinished)
        delta.save(unfinished)
    return Vocabulary(folder, delta, (), (), Audit(0, {}))


def _extend(section: TokenizerSection, base: Any, spec: Spec, material: Material) -> _Made:  # noqa: ANN401
    def texts() -> Iterator[str]:
        return islice(material.texts(), None, None, material.every)

    ground = prepare(spec, material.texts) if section.multiword else Ground(spec)
    learning, model = _learning(section, material), material.model
    curve: tuple[Point, ...] = ()
    if isinstance(section.new_tokens, str):
        if model is None:
            raise VocabularyError(
                "the base's size is not known",
                where="tokenizer.new_tokens",
                got=section.new_tokens,
            )
        extension, curve = extend_as_it_pays(
            ground, learning, texts, material.general, material.validation, model
        )
    else:
        extension = extend(ground, learning, texts, material.general)
    made = extension.spec
    if section.prune:
        counts = prune.usage(build(made), _everything(material))
        made = prune.prune(made, counts, _protected(base, made))
    delta = _delta(spec, made, extension.constituents.__getitem__)
    removed = frozenset(delta.removed)

    def checks(plain: Any, new: Any) -> dict[str, Check]:  # noqa: ANN401
        found = promises.never_longer(plain, new)
        for promise in (promises.ADDED_BOUNDARY, promises.LONGER) if removed else ():
            found[promise] = promises.unless_removed(removed, found[promise])
        return found

    some = f"units are learned from one training document in {material.every}, for memory"
    notes = (*_joint_notes(ground), *([some] if material.every > 1 else []), *extension.notes)
    return _Made(made, delta, checks, ground, notes, curve)


def _replace(section: TokenizerSection, base: Any, spec: Spec, material: Material) -> _Made:  # noqa: ANN401
    extended = _extend(section, base, spec, material)
    counts = prune.usage(build(extended.spec), _everything(material))
    protected = _protected(base, spec)
    made, replaced = prune.replace(spec, extended.spec, counts, protected)
    of = {token.token: token.constituents for token in extended.delta.added}
    delta = _delta(spec, made, of.__getitem__)
    removed = frozenset(delta.removed)

    def checks(plain: Any, new: Any) -> dict[str, Check]:  # noqa: ANN401
        found = promises.never_longer(plain, new)
        for promise in (promises.ADDED_BOUNDARY, promises.LONGER):
            found[promise] = promises.unless_removed(removed, found[promise])
        return found

    return replace(extended, spec=made, delta=delta, checks=checks, replaced=replaced)


def _prune(section: TokenizerSection, base: Any, spec: Spec, material: Material) -> _Made:  # noqa: ANN401
    counts = prune.usage(build(spec), _everything(material))
    made = prune.prune(spec, counts, _protected(base, spec))
    delta = _delta(spec, made, lambda _: ())
    removed = frozenset(delta.removed)

    def checks(plain: Any, new: Any) -> dict[str, Check]:  # noqa: ANN401
        same = promises.unless_removed(removed, promises.same_tokens)
        return {promises.SEGMENTED_OTHERWISE: same, **promises.faithful(plain, new)}

    return _Made(made, delta, checks, Ground(spec))


def _train(section: TokenizerSection, base: Any, spec: Spec, material: Material) -> _Made:  # noqa: ANN401
    size = section.vocab_size or 0
    made = retrain.retrain(
        spec,
        watched(material.texts(), "Training a tokenizer"),
        size,
        section.model,
        section.min_frequency,
    )
    found = len(vocabulary(made))
    notes = [f"the text holds {found} tokens; {size} were asked for"] if found < size else []
    delta = retrain.delta(spec, made)
    return _Made(made, delta, lambda plain, new: {}, Ground(spec), tuple(notes))


_MODES: dict[str, Callable[[TokenizerSection, Any, Spec, Material], _Made]] = {
    "extend": _extend,
    "replace": _replace,
    "prune": _prune,
    "train": _train,
}


def _learning(section: TokenizerSection, material: Material) -> Learning:
    return Learning(
        new_tokens=MOST if isinstance(section.new_tokens, str) else section.new_tokens,
        multiword=section.multiword,
        min_frequency=section.min_frequency,
        max_words=section.max_words,
        max_length=section.max_length,
        score=section.score,
        fragment_score=section.fragment_score,
        terms=material.terms,
        term_forms=section.term_forms,
        score_terms=material.score_terms,
    )


def _delta(base: Spec, new: Spec, constituents: Callable[[str], Sequence[int]]) -> VocabDelta:
    return VocabDelta.between(vocabulary(base), vocabulary(new), constituents, text_of(new))


def _everything(material: Material) -> Iterable[str]:
    """Domain and general text, by which tokens that nobody uses are found."""
    return watched(chain(material.texts(), material.general()), "Counting tokens")


def _protected(base: Any, spec: Spec) -> frozenset[int]:  # noqa: ANN401
    """Special tokens, and what the chat template writes."""
    template = getattr(base, "chat_template", None) or ""
    templates = template.values() if isinstance(template, dict) else [template]
    encoded = build(spec).encode_batch(list(templates), add_special_tokens=False)
    return added_ids(spec) | {id_ for one in encoded for id_ in one.ids}


def _joint_notes(ground: Ground) -> list[str]:
    return [f"units stay inside words where needed: {ground.reason}"] if ground.reason else []
