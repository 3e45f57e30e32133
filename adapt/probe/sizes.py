"""What a phase computes: how many places of token ids, and how many at once."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.corpus import Corpus
from adapt.recipe import Recipe
from adapt.recipe.training import Phase, TrainingSection
from adapt.training.methods import PROMPTS
from adapt.training.phases import PhaseData, phase_data, sequences_a_step

_LOOKED_AT = 64  # steps of a phase whose sizes stand for all


@dataclass(frozen=True)
class Subject:
    """A model to train for a moment, and how it is fed.

    Attributes:
        name: base or adapted; for progress bars and tables.
        checkpoint: Folder.
        tokenizer: Of what it reads.
        tokenizer_folder: Where that lies.
        new_ids: Rows that train in every method.
        writer: The base's tokenizer, where units are only read; None: one for all. A base to
            compare with gives its own.
    """

    name: str
    checkpoint: Path
    tokenizer: Any
    tokenizer_folder: Path
    new_ids: tuple[int, ...] = ()
    writer: Any = None


@dataclass(frozen=True)
class Shape:
    """How large the steps of a phase are.

    Attributes:
        steps: Optimizer steps.
        slots: Places of token ids that each of the steps computes, padding included; of at most
            `_LOOKED_AT` steps, evenly spread.
        largest: Slots of the largest batch among them, which decides the memory.
    """

    steps: int
    slots: tuple[int, ...]
    largest: int

    @property
    def total(self) -> float:
        """Slots of all steps."""
        return self.steps * statistics.fmean(self.slots)


def data_of(
    recipe: Recipe,
    section: TrainingSection,
    phase: Phase,
    corpus: Corpus,
    subject: Subject,
    number: int,
    documents: int | None,
    cache: Path | None,
) -> PhaseData:
    """What a phase of that number trains on, as `adapt.training.run.train` has it."""
    if section.method in PROMPTS:
        phase = phase.model_copy(update={"packing": False})
    return phase_data(
        phase,
        subject.tokenizer,
        corpus,
        recipe.evaluation.tasks,
        recipe.seed + number,
        documents,
        completion_tokenizer=subject.writer if subject.new_ids else None,
        cache=cache,
    )


def shape_of(phase: Phase, data: PhaseData, looked_at: Sequence[int] | None = None) -> Shape:
    """How large the steps of a phase are.

    Args:
        phase: Its batch.
        data: Its examples.
        looked_at: Numbers of steps that are measured; None: some, evenly spread.
    """
    steps = all_steps(phase, data)
    if looked_at is None:
        looked_at = steps[:: -(-len(steps) // _LOOKED_AT)]
    batch, sequences = phase.per_device_train_batch_size, sequences_a_step(phase)
    slots, largest = [], 0
    for step in looked_at:
        numbers = range(step * sequences, min((step + 1) * sequences, len(data.examples)))
        each = [
            data.collate([data.examples[i] for i in numbers[at : at + batch]])["input_ids"].numel()
            for at in range(0, len(numbers), batch)
        ]
        slots.append(sum(each))
        largest = max(largest, *each)
    return Shape(len(steps), tuple(slots), largest)


def all_steps(phase: Phase, data: PhaseData) -> range:
    """Numbers of the phase's optimizer steps."""
    return range(-(-len(data.examples) // sequences_a_step(phase)))
