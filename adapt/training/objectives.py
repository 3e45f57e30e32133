"""The objectives of phases: what each reads, and what of it is learned."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from adapt.corpus.read import read_rows
from adapt.errors import DataError, ModelError
from adapt.recipe.evaluation import AnyTask, ClassificationTask
from adapt.recipe.training import Phase
from adapt.training.batches import collate_labelled, frame_ids, plan_rows
from adapt.training.encoded import column, tokenizer_mark
from adapt.training.examples import Row, causal, labelled, masked, windows
from adapt.training.filling import (
    Classes,
    PhaseData,
    Request,
    corpus_records,
    filled,
    in_turn,
    pad_id,
    row_records,
)
from adapt.training.records import ClassifiedText, Dialogue, MaskedText, PlainText
from adapt.workspace import digest

logger = logging.getLogger("adapt")

_SHOWN = 5  # labels that a log line names


def _clm(request: Request) -> PhaseData:
    """Whole documents, packed; the last that would overflow the steps is left out."""
    encode = PlainText(request.tokenizer, request.completion_tokenizer, request.seed)
    key = ["clm", *request.marks()]
    if request.completion_tokenizer is not None:
        key.append(str(request.seed))  # decides where what is only read ends
    store = corpus_records(request, encode, key)
    lengths, max_length = column(store, "tokens"), request.phase.max_length

    def plan(drawn: Sequence[int]) -> list[Row]:
        tokens = lengths[drawn].tolist()
        if request.phase.packing:
            return list(plan_rows(tokens, max_length))
        each = ((i, row) for i, n in enumerate(tokens) for row in plan_rows([n], max_length))
        return [tuple(replace(part, drawn=i) for part in row) for i, row in each]

    return filled(request, store, plan, causal)


def _mlm(request: Request) -> PhaseData:
    """Documents in windows, words hidden; a document that comes again has others hidden."""
    phase, tokenizer = request.phase, request.tokenizer
    if tokenizer.mask_token_id is None:
        raise ModelError(
            "the tokenizer has no mask token",
            where=f"training.phases: {phase.name}",
            got=phase.objective,
            fix="take an encoder as model.base, or objective clm",
        )
    store = corpus_records(request, MaskedText(tokenizer), ["mlm", tokenizer_mark(tokenizer)])
    lengths, frame = column(store, "tokens"), frame_ids(tokenizer)
    room = max(1, phase.max_length - sum(map(len, frame)))

    def plan(drawn: Sequence[int]) -> list[Row]:
        cut = (
            windows(i, int(lengths[number]), room, partial(_word_starts, store, number))
            for i, number in enumerate(drawn)
        )
        return [(part,) for parts in cut for part in parts]

    build = masked(tokenizer, frame, phase.mlm_probability, request.seed)
    return filled(request, store, plan, build)


def _word_starts(store: Dataset, number: int) -> list[bool]:
    flags: list[bool] = store[number]["flags"]
    return flags


def _sft(request: Request) -> PhaseData:
    """Rows of all tasks in turn, so that a large task does not drown a small one."""
    phase = request.phase
    encode = Dialogue(request.tokenizer, request.completion_tokenizer, phase.max_length)
    key = ["sft", request.marks(), phase.max_length]
    stores: list[Dataset] = []
    for task in request.tasks:
        if phase.tasks is None or task.name in phase.tasks:
            pairs = prompts(task, request.corpus.rows(task.name, request.split))
            items = [{"prompt": prompt, "completion": answer} for prompt, answer in pairs]
            stores.append(row_records(request, items, encode, [*key, items]))
    if phase.messages is not None and request.split == "train":
        path = Path(phase.messages)
        talks = [
            {"messages": row.get("messages"), "where": f"{path}:{number}"}
            for number, row in read_rows(path)
        ]
        if not talks:
            raise DataError("holds no rows", where=str(path))
        stores.append(row_records(request, talks, encode, [*key, digest(path), str(path)]))
    filled_ones = [store for store in stores if len(store)]
    return in_turn(request, filled_ones or [row_records(request, [], encode, key)], causal)


def _classification(request: Request) -> PhaseData:
    """Texts of one task with their labels; the head's labels are those of the training side."""
    phase, split = request.phase, request.split
    task = classification_tasks(phase, request.tasks)[0]
    several = task.label_separator is not None
    items = [(r[task.text], task.labels_of(r)) for r in request.corpus.rows(task.name, "train")]
    rows = len(items)
    counts = Counter(label for _, labels in items for label in labels)
    names = tuple(sorted(counts))
    if split != "train":
        found = [(r[task.text], task.labels_of(r)) for r in request.corpus.rows(task.name, split)]
        known = [(text, [label for label in given if label in counts]) for text, given in found]
        items = [item for item in known if item[1] or several]
        _say_unknown(phase.name, split, [given for _, given in found], counts, several=several)
    encode = ClassifiedText(request.tokenizer, names, phase.max_length)
    key = ["classification", request.marks(), phase.max_length, names, items]
    data = in_turn(request, [row_records(request, items, encode, key)], labelled)
    weights = None
    if phase.class_weights == "balanced":
        weights = balanced([counts[name] for name in names], rows, several=several)
    pad = pad_id(request.tokenizer)
    return replace(
        data,
        collate=partial(collate_labelled, pad=pad, several=len(names) if several else None),
        classes=Classes(names, several, weights),
    )


def _say_unknown(
    phase: str, split: str, rows: list[list[str]], known: Container[str], *, several: bool
) -> None:
    """Logs labels that the training side lacks: the head has no class for them."""
    unknown = Counter(label for labels in rows for label in labels if label not in known)
    if unknown:
        logger.warning(
            "phase %s (%s): %d of %d rows have a label that no training row has, %s: %s",
            phase,
            split,
            sum(any(label in unknown for label in labels) for labels in rows),
            len(rows),
            "which is left out" if several else "and are left out",
            ", ".join(sorted(unknown)[:_SHOWN]) + (", ..." if len(unknown) > _SHOWN else ""),
        )


OBJECTIVES: dict[str, Callable[[Request], PhaseData]] = {
    "clm": _clm,
    "sft": _sft,
    "mlm": _mlm,
    "classification": _classification,
}


def balanced(counts: Sequence[int], rows: int, *, several: bool) -> tuple[float, ...]:
    """Weights that make every class matter alike.

    One label a row: rows / (classes x count), whose mean over rows is 1. Several: of a class's
    positive side, the rows without it over those with it, which makes both sides weigh the same.

    Args:
        counts: Rows of each class; at least 1.
        rows: All rows.
        several: Whether a row may have several.
    """
    if several:
        return tuple(max(rows - count, 1) / count for count in counts)
    return tuple(rows / (len(counts) * count) for count in counts)


def prompts(task: AnyTask, rows: Iterator[dict[str, Any]]) -> list[tuple[str, str]]:
    """Prompt and expected completion of each row."""
    if isinstance(task, ClassificationTask):
        return [
            (task.prompt.format_map({**row, "text": row[task.text]}), str(row[task.label]))
            for row in rows
        ]
    return [(task.prompt.format_map(row), str(row[task.target])) for row in rows]


def classification_tasks(phase: Phase, tasks: Sequence[AnyTask]) -> list[ClassificationTask]:
    """The tasks that a classification phase could train a head on."""
    found = [t for t in tasks if isinstance(t, ClassificationTask) and t.trained]
    return [task for task in found if phase.tasks is None or task.name in phase.tasks]
