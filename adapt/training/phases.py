"""The phases of training: their data, and how they are shared out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapt.corpus import Corpus, Split
from adapt.errors import DataError, RecipeError, TrainingError, nearest
from adapt.recipe.evaluation import AnyTask
from adapt.recipe.training import Phase
from adapt.training.filling import PhaseData, Request, sequences_a_step
from adapt.training.objectives import OBJECTIVES, classification_tasks, prompts

__all__ = ["PhaseData", "check_tasks", "phase_data", "prompts", "sequences_a_step", "shared_out"]

logger = logging.getLogger("adapt")

# Share of its steps that a phase fills if nothing is to be said.
_FULL = 0.9


def phase_data(
    phase: Phase,
    tokenizer: Any,  # noqa: ANN401
    corpus: Corpus,
    tasks: Sequence[AnyTask],
    seed: int,
    documents: int | None,
    *,
    bytes_: int | None = None,
    completion_tokenizer: Any | None = None,  # noqa: ANN401
    cache: Path | None = None,
    split: Split = "train",
) -> PhaseData:
    """Encodes what a phase trains on, or is validated on.

    Args:
        phase: The recipe's phase.
        tokenizer: Of the model that trains.
        corpus: Only its training side is read (its validation side for that split).
        tasks: Labelled rows, for `sft` and `classification`; those that are only scored are left
            out.
        seed: Order of documents; the same for every tokenizer.
        documents: How many to take, so that a control sees the bytes of its pair; None takes as
            many as fill the phase's steps.
        bytes_: Instead of that, as many as this many UTF-8 bytes have room for; one at least.
        completion_tokenizer: The base's, where units are only read: what the model writes is
            encoded with it, and ids mean the same in both. None: one tokenizer for all.
        cache: Folder of encoded texts, kept between runs; None encodes in memory.
        split: `train`, or `validation`: every document of that side once.

    Raises:
        RecipeError: The phase names tasks that are not there or that it cannot train on.
        DataError: Rows that cannot be read, a conversation that its template cannot show, or
            nothing to validate on.
        ModelError: `mlm` with a tokenizer that has no mask token.
    """
    check_tasks(phase, tasks)
    tasks = [task for task in tasks if task.trained]
    request = Request(
        phase,
        tokenizer,
        corpus,
        tasks,
        seed,
        documents,
        completion_tokenizer,
        cache,
        split,
        bytes_,
    )
    data = OBJECTIVES[phase.objective](request)
    if not len(data.examples):
        raise DataError(
            f"nothing on the {split} side",
            where=f"training.phases: {phase.name}",
            fix="give more text, raise corpus.validation_fraction or leave out eval_steps",
        )
    _say(request, data)
    return data


def _say(request: Request, data: PhaseData) -> None:
    """Logs how text is laid out, steps that it does not fill, and what did not fit."""
    phase, split, found = request.phase, request.split, len(data.examples)
    if split == "train":
        logger.info(
            "phase %s: %d sequences of at most %d tokens, %s",
            phase.name,
            found,
            phase.max_length,
            "several documents to each, packed"
            if request.packs
            else "a document or a part of one to each, those of a step of like length",
        )
    asked = request.sequences
    if asked and not _FULL * asked <= found <= asked:
        logger.warning(
            "phase %s: text fills %d sequences where max_steps %d takes %d: a document, or a "
            "passage of a long one, is up to %d bytes and goes in whole or not at all; raise "
            "max_steps",
            phase.name,
            found,
            phase.max_steps,
            asked,
            request.passage_bytes,
        )
    if data.truncated_documents:
        logger.info(
            "phase %s (%s): %d of %d documents (%.1f %%) are longer than max_length %d and lost "
            "%d bytes (%.1f %%)",
            phase.name,
            split,
            data.truncated_documents,
            data.documents,
            100 * data.truncated_documents / data.documents,
            phase.max_length,
            data.truncated_bytes,
            100 * data.truncated_bytes / max(1, data.bytes_),
        )


def check_tasks(phase: Phase, tasks: Sequence[AnyTask]) -> None:
    """Refuses a phase whose tasks are not there; needs no data.

    Raises:
        RecipeError: A name that no task has, nothing to train on, or not one classification task.
    """
    where = f"training.phases: {phase.name}"
    kept_out = [task.name for task in tasks if not task.trained]
    tasks = [task for task in tasks if task.trained]
    known = [task.name for task in tasks]
    for name in phase.tasks or ():
        if name in kept_out:
            fix = "leave it out of the phase, or of the task leave out trained: false"
            raise RecipeError("is a task that nothing trains on", where=where, got=name, fix=fix)
        if name not in known:
            raise RecipeError("no such task", where=where, got=name, fix=nearest(name, known))
    if phase.objective == "sft" and not tasks and phase.messages is None:
        fix = "give evaluation.tasks or the phase's messages"
        raise RecipeError("sft has no rows to train on", where=where, fix=fix)
    if phase.objective == "classification" and len(classification_tasks(phase, tasks)) != 1:
        raise RecipeError(
            "needs one task of kind classification",
            where=where,
            got=", ".join(task.name for task in classification_tasks(phase, tasks)) or "none",
            fix="name it in the phase's tasks",
        )


def shared_out(phase: Phase, processes: int) -> tuple[int, int]:
    """Batch size and accumulation of each process, so that a step sees the recipe's sequences.

    Raises:
        TrainingError: The sequences cannot be shared out evenly.
    """
    sequences = sequences_a_step(phase)
    if sequences % processes:
        raise TrainingError(
            f"a step of {sequences} sequences cannot be shared out among {processes} processes",
            where=f"training.phases: {phase.name}",
            fix="make per_device_train_batch_size x gradient_accumulation_steps a multiple of it",
        )
    each = sequences // processes
    batch = min(phase.per_device_train_batch_size, each)
    while each % batch:
        batch -= 1
    return batch, each // batch
