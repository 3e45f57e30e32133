"""What each phase trains on: the same documents for every tokenizer, in the same order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, tee
from typing import Any, TypeVar

from adapt.corpus import Corpus
from adapt.errors import TrainingError
from adapt.recipe.evaluation import AnyTask, ClassificationTask
from adapt.recipe.training import Phase
from adapt.training.batches import Example, encode_completion, encode_documents, pack

Item = TypeVar("Item")


@dataclass(frozen=True)
class PhaseData:
    """Examples of one phase.

    Attributes:
        examples: In training order.
        documents: Documents or task rows they come from, repeats counted.
        bytes_: UTF-8 bytes of those, prompts included.
    """

    examples: list[Example]
    documents: int
    bytes_: int


def phase_data(
    phase: Phase,
    tokenizer: Any,  # noqa: ANN401
    corpus: Corpus,
    tasks: Sequence[AnyTask],
    seed: int,
    documents: int | None,
) -> PhaseData:
    """Encodes what a phase trains on.

    Args:
        phase: The recipe's phase.
        tokenizer: Of the model that trains.
        corpus: Only its training side is read.
        tasks: Labelled rows, for `sft`.
        seed: Order of documents; the same for every tokenizer.
        documents: How many to take, so that a control sees the bytes of its pair; None takes as
            many as fill the phase's steps.
    """
    return _OBJECTIVES[phase.objective](phase, tokenizer, corpus, tasks, seed, documents)


def _clm(
    phase: Phase,
    tokenizer: Any,  # noqa: ANN401
    corpus: Corpus,
    tasks: Sequence[AnyTask],
    seed: int,
    documents: int | None,
) -> PhaseData:
    """Whole documents, packed; the last that would overflow the steps is left out."""
    sequences = sequences_a_step(phase) * phase.max_steps
    room = sequences * phase.max_length
    texts = list(corpus.documents("train"))
    taken: list[tuple[str, list[int]]] = []
    stream, encoded = tee(islice(_endless(texts, seed), documents))
    for text, ids in zip(stream, encode_documents(tokenizer, encoded), strict=False):
        room -= len(ids)
        if documents is None and room < 0 and taken:
            break
        taken.append((text, ids))
    examples = list(pack([ids for _, ids in taken], phase.max_length))
    while documents is None and len(examples) > sequences and len(taken) > 1:
        taken.pop()
        examples = list(pack([ids for _, ids in taken], phase.max_length))
    return PhaseData(examples, len(taken), sum(len(text.encode()) for text, _ in taken))


def _sft(
    phase: Phase,
    tokenizer: Any,  # noqa: ANN401
    corpus: Corpus,
    tasks: Sequence[AnyTask],
    seed: int,
    documents: int | None,
) -> PhaseData:
    """Rows of all tasks in turn, so that a large task does not drown a small one."""
    count = documents or sequences_a_step(phase) * phase.max_steps
    streams = [_endless(prompts(task, corpus.rows(task.name, "train")), seed) for task in tasks]
    pairs = [next(streams[i % len(streams)]) for i in range(count)]
    examples = [encode_completion(tokenizer, p, c, phase.max_length) for p, c in pairs]
    return PhaseData(examples, count, sum(len(p.encode()) + len(c.encode()) for p, c in pairs))


_OBJECTIVES: dict[str, Callable[..., PhaseData]] = {"clm": _clm, "sft": _sft}


def sequences_a_step(phase: Phase) -> int:
    """Sequences that one optimizer step sees, whatever the number of processes."""
    return phase.per_device_train_batch_size * phase.gradient_accumulation_steps


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


def prompts(task: AnyTask, rows: Iterator[dict[str, Any]]) -> list[tuple[str, str]]:
    """Prompt and expected completion of each row."""
    if isinstance(task, ClassificationTask):
        return [
            (task.prompt.format_map({**row, "text": row[task.text]}), str(row[task.label]))
            for row in rows
        ]
    return [(task.prompt.format_map(row), str(row[task.target])) for row in rows]


def _endless(items: Sequence[Item], seed: int) -> Iterator[Item]:
    """The items over and over, shuffled anew each time round."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(items, len(items))
