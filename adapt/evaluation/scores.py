"""Everything that is measured on one model; the same for base, control and adapted."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from adapt.corpus import Corpus
from adapt.evaluation.bootstrap import ratio_interval
from adapt.evaluation.edges import edge_scores
from adapt.evaluation.likelihood import Reading, halves, read_documents
from adapt.evaluation.result import Likelihood, ModelScores, TaskScores
from adapt.evaluation.slices import fragmented, text_hash
from adapt.evaluation.speed import decoding_speed
from adapt.recipe.evaluation import AnyTask, ClassificationTask, EvaluationSection
from adapt.training.reading import never_written

Item = TypeVar("Item")

# Prompts that end inside a text: enough to see an effect, in a few seconds.
_CUTS = 64
_CUT_BYTES = 48


def score_model(
    section: EvaluationSection,
    corpus: Corpus,
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    *,
    name: str,
    seed: int,
    predictions: Path,
    new_ids: Sequence[int] = (),
    heads: Mapping[str, Any] | None = None,
    writer: Any = None,  # noqa: ANN401
    base_tokenizer: Any = None,  # noqa: ANN401
) -> ModelScores:
    """Measures one model on held-out text and rows.

    Args:
        section: `evaluation` of the recipe.
        corpus: Only its test side and the general text are read.
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        name: For progress bars and file names: base, control or adapted.
        seed: Of the bootstrap.
        predictions: Folder that gets two files a task: rows with prompt, answer and scores, and
            how the answers were made.
        new_ids: Ids of the new tokens of an adapted tokenizer, for the adoption rate and the share
            of probability that they get.
        heads: Models with class logits, on the same tokenizer, by the task they were trained on.
        writer: Where units are only read, the base's tokenizer: labels are written with it, and
            of each document the second half is scored in it, after the first in `tokenizer`'s.
        base_tokenizer: Decides which documents are fragmented (`slices.fragmented`); without one,
            they are found only where `name` is base, whose tokenizer it is.
    """
    read = {
        "max_length": section.max_length,
        "batch_size": section.per_device_eval_batch_size,
        "writer": writer,
        "new_ids": () if writer is not None else new_ids,
    }
    if writer is not None:
        never_written(model, new_ids)
    held_out = sample(corpus.documents("test"), section.max_documents, section.max_bytes, seed)
    reading = read_documents(model, tokenizer, held_out, label=f"{name}: domain text", **read)
    domain = _measure(_scored(held_out, writer), seed, reading)
    if base_tokenizer is not None or name == "base":
        cut_by = tokenizer if base_tokenizer is None else base_tokenizer
        domain = replace(domain, fragmented=fragmented(cut_by.backend_tokenizer, held_out))
    texts = sample(corpus.general(), section.max_documents, section.max_bytes, seed)
    general = None
    if texts:
        reading = read_documents(model, tokenizer, texts, label=f"{name}: general text", **read)
        general = _measure(_scored(texts, writer), seed, reading)
    tasks = {
        task.name: _score_task(
            section, task, corpus, model, tokenizer, name, seed, predictions, new_ids, heads, writer
        )
        for task in section.tasks
    }
    speed = decoding_speed(
        model,
        tokenizer,
        held_out,
        new_tokens=32,
        batch_size=section.per_device_eval_batch_size,
        rounds=3,
        label=f"{name}: decoding",
    )
    edge = None  # what is only read never reaches over a prompt's end
    if writer is None:
        edge = edge_scores(
            model,
            tokenizer,
            held_out,
            cuts=_CUTS,
            max_bytes=_CUT_BYTES,
            batch_size=section.per_device_eval_batch_size,
            seed=seed,
            label=f"{name}: edges of prompts",
        )
    return ModelScores(domain, general, tasks, speed, edge)


def sample(texts: Iterable[str], documents: int, max_bytes: int, seed: int) -> list[str]:
    """Documents drawn without replacement, at most so many and so many bytes; never none of some.

    Files are often sorted, so the first documents would speak for one corner of the domain.
    """
    taken: list[str] = []
    room = max_bytes
    for text in _shuffled(texts, seed)[:documents]:
        room -= len(text.encode())
        if room < 0 and taken:
            break
        taken.append(text)
    return taken


def _shuffled(items: Iterable[Item], seed: int) -> list[Item]:
    everything = list(items)
    return random.Random(seed).sample(everything, len(everything))


def _scored(texts: Sequence[str], writer: Any) -> list[str]:  # noqa: ANN401
    """What of each document is scored."""
    return list(texts) if writer is None else [halves(text)[1] for text in texts]


def _measure(texts: Sequence[str], seed: int, reading: Reading) -> Likelihood:
    bytes_ = np.array([len(text.encode()) for text in texts])
    some = bytes_ > 0  # of a text without a space no second half is scored
    new = None
    if reading.new.any():
        read = reading.positions > 0
        new = ratio_interval(reading.new[read], reading.positions[read], seed)
    return Likelihood(
        tuple(round(float(b), 4) for b in reading.bits),
        tuple(bytes_.tolist()),
        ratio_interval(reading.bits[some], bytes_[some], seed),
        text_hash(texts),
        new_token_share=new,
    )


def _score_task(
    section: EvaluationSection,
    task: AnyTask,
    corpus: Corpus,
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    name: str,
    seed: int,
    predictions: Path,
    new_ids: Sequence[int],
    heads: Mapping[str, Any] | None,
    writer: Any,  # noqa: ANN401
) -> TaskScores:
    # evaluate takes seconds to import, and only a stage that scores tasks should wait for it
    from adapt.evaluation.tasks import Subject, score_labels, score_texts

    held_out = _shuffled(corpus.rows(task.name, "test"), seed)
    rows = held_out[: task.max_documents or section.max_documents]
    head = (heads or {}).get(task.name)
    subject = Subject(
        head or model,
        tokenizer,
        name,
        new_ids=tuple(new_ids),
        has_head=head is not None,
        baselines=name not in ("control", "adapted"),
        writer=writer,
    )
    if isinstance(task, ClassificationTask):
        train = list(corpus.rows(task.name, "train"))
        scored = score_labels(section, task, train, rows, subject, seed, predictions)
        scored = replace(scored, references=tuple(str(row[task.label]) for row in rows))
    else:
        scored = score_texts(section, task, rows, subject, seed, predictions)
    return replace(scored, data=text_hash(rows))
