"""The embeddings stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from adapt.embeddings.checkpoint import remove
from adapt.embeddings.convert import with_safetensors
from adapt.embeddings.distill import Distillation, distill
from adapt.embeddings.donor import find_donor, transplant
from adapt.embeddings.frozen import Frozen
from adapt.embeddings.result import AdaptedBase, Distilled
from adapt.embeddings.shards import Stored, put_rows, read_header, read_rows, shard_files
from adapt.embeddings.snippets import Texts, snippets
from adapt.embeddings.student import NewRows
from adapt.embeddings.surgery import row_sources, write_adapted_base
from adapt.recipe.vocabulary import EmbeddingsSection
from adapt.vocab import Vocabulary, load_tokenizer
from adapt.workspace import fingerprint, new_folder, versions

DISTILL, OMP = "distill", "omp"


@dataclass(frozen=True)
class Lesson:
    """What `distill` learns from.

    Attributes:
        texts: Gives the training documents, each time it is called; no held-out text.
        start: Base ids that open a document, as training and evaluation open one.
        dtype: What the base's weights are computed in.
        general: Gives general text, in which units are to stay as rare as their pieces are.
    """

    texts: Texts
    start: Sequence[int] = ()
    dtype: torch.dtype = torch.float32
    general: Texts | None = None


def make_adapted_base(
    section: EmbeddingsSection,
    base: Path,
    vocabulary: Vocabulary,
    folder: Path,
    *,
    lesson: Lesson | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> AdaptedBase:
    """The stage: writes the adapted base into `folder`, whole or not at all.

    Rows that are learned have a checkpoint beside the folder while it is made (a hidden file), so
    that the same call after a crash goes on. A base in `pytorch_model.bin` is converted first,
    into the cache.

    Args:
        section: `embeddings` of the recipe; `untie: auto` is for the caller to decide, and false.
        base: Checkpoint folder of the base; only read.
        vocabulary: Result of the stage before.
        folder: Where it goes.
        lesson: What `distill` learns from; needed where `section.init` is that. With `auto`,
            rows are learned where there is one.
        seed: Of strategies that draw, and of the order of snippets.
        trust_remote_code: As in `transformers`.

    Raises:
        ModelError: The base cannot be edited, or is none that `distill` can learn from.
    """
    base = with_safetensors(base, trust_remote_code=trust_remote_code)
    distilled = section.init == DISTILL or (section.init == "auto" and lesson is not None)
    learn = distilled and bool(vocabulary.delta.added)
    options = Distillation(**section.distill.model_dump())
    if vocabulary.delta.read_only:  # nothing is ever predicted by these rows
        options = replace(options, next_token_weight=0.0)
    checkpoint = folder.parent / f".{folder.name}.distilling"
    with new_folder(folder) as unfinished:
        result = write_adapted_base(
            base,
            vocabulary.folder,
            vocabulary.delta,
            section.begins_with,
            unfinished,
            init_output=section.init_output,
            seed=seed,
            pad_to_multiple_of=section.pad_to_multiple_of,
            untie=section.untie is True,
            trust_remote_code=trust_remote_code,
        )
        if section.donor and vocabulary.delta.added:
            result = _after_donor(
                result, section, section.donor, base, vocabulary, trust_remote_code
            )
        if learn:
            if lesson is None:
                raise ValueError("distill needs a lesson")  # the caller's fault, not the user's
            frozen = Frozen.load(base, lesson.dtype, trust_remote_code=trust_remote_code)
            learned = learn_rows(
                frozen, base, vocabulary, result, lesson, options, seed, checkpoint
            )
            tensors = tuple(
                tensor if tensor.role == "bias" else replace(tensor, init=DISTILL)
                for tensor in result.tensors
            )
            result = replace(result, init=DISTILL, tensors=tensors, distilled=learned)
    remove(checkpoint)
    return replace(result, folder=folder)


def _after_donor(
    adapted: AdaptedBase,
    section: EmbeddingsSection,
    donor: str,
    base: Path,
    vocabulary: Vocabulary,
    trust_remote_code: bool,
) -> AdaptedBase:
    """What was written, with rows of new tokens after the donor's where it has them.

    Biases stay what they are: an adapter holds none, so `adapt.load` must make the same anew.
    """
    roles = _stored(adapted)
    roles.pop("bias", None)
    if section.init_output:
        roles = {"input": roles["input"]}
    made = transplant(
        roles,
        base,
        vocabulary,
        find_donor(donor).folder,
        given=donor,
        atoms=section.atoms,
        trust_remote_code=trust_remote_code,
    )
    tensors = tuple(replace(t, init=OMP) if t.role in roles else t for t in adapted.tensors)
    return replace(adapted, init=OMP, tensors=tensors, transplanted=made)


def learn_rows(
    frozen: Frozen,
    base: Path,
    vocabulary: Vocabulary,
    adapted: AdaptedBase,
    lesson: Lesson,
    options: Distillation,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> Distilled:
    """Learns the rows of new tokens and writes them into the adapted base; nothing else changes.

    Args:
        frozen: The base, loaded.
        base: Its folder, with its tokenizer.
        vocabulary: The adapted tokenizer and what changed.
        adapted: What `write_adapted_base` wrote; its rows are what learning starts from.
        lesson: What to learn from.
        options: Budgets and sizes.
        seed: Of the order of snippets.
        checkpoint: See `distill`.
    """
    delta = vocabulary.delta
    new_ids = delta.added_ids
    moved = dict(zip(*delta.kept_ids, strict=True))
    chosen = snippets(
        lesson.texts,
        load_tokenizer(base),
        load_tokenizer(vocabulary.folder),
        new_ids,
        start=(lesson.start, [moved[id_] for id_ in lesson.start]),
        max_length=options.max_length,
        tokens=options.snippet_tokens,
        seed=seed,
        general=lesson.general,
        general_share=options.general_share,
    )
    if not chosen.share:
        return Distilled.nothing(new_ids)
    roles = _stored(adapted)
    rows = {role: read_rows(stored[0], new_ids) for role, stored in roles.items()}
    start = NewRows(
        rows["input"].float(),
        rows["output"].float() if "output" in rows else None,
        rows["bias"].float()[:, 0] if "bias" in rows else None,
    )
    sources = row_sources(delta, len(frozen.inputs), roles["input"][0].shape[0])
    made, result = distill(
        frozen,
        chosen,
        new_ids,
        torch.from_numpy(sources),
        start,
        options,
        seed,
        checkpoint=checkpoint,
        identity=_identity(base, frozen) if checkpoint else "",
    )
    for role, learned in (("input", made.inputs), ("output", made.outputs)):
        for stored in roles.get(role, ()):
            if learned is not None:
                put_rows(stored, new_ids, learned)
    return result


def _identity(base: Path, frozen: Frozen) -> str:
    """What tells a base from others, and one way of computing with it, without reading weights."""
    files = sorted(path for path in base.iterdir() if path.is_file())
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return fingerprint(stamps, str(frozen.inputs.dtype), frozen.device.type, versions())


def _stored(adapted: AdaptedBase) -> dict[str, list[Stored]]:
    """Where the edited tensors lie, by role."""
    names = shard_files(adapted.folder)
    tensors = {k: t for name in names for k, t in read_header(adapted.folder / name)[0].items()}
    roles: dict[str, list[Stored]] = {}
    for edited in adapted.tensors:
        roles.setdefault(edited.role, []).append(tensors[edited.name])
    return roles
