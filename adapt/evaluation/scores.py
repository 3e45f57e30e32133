"""Everything that is measured on one model; the same for base, control and adapted."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from adapt.corpus import Corpus
from adapt.evaluation.bootstrap import mean_interval, ratio_interval
from adapt.evaluation.edges import edge_scores
from adapt.evaluation.likelihood import document_bits
from adapt.evaluation.result import Likelihood, ModelScores, TaskScores
from adapt.evaluation.speed import decoding_speed
from adapt.recipe.evaluation import AnyTask, ClassificationTask, EvaluationSection, GenerationTask
from adapt.training.phases import prompts
from adapt.workspace import write_text

Item = TypeVar("Item")


# Examples of a task that go to the report.
_SHOWN = 20

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
) -> ModelScores:
    """Measures one model on held-out text and rows.

    Args:
        section: `evaluation` of the recipe.
        corpus: Only its test side and the general text are read.
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        name: For progress bars and file names: base, control or adapted.
        seed: Of the bootstrap.
        predictions: Folder that gets a JSONL file a task, with prompts and answers.
    """
    read = {"max_length": section.max_length, "batch_size": section.per_device_eval_batch_size}
    held_out = sample(corpus.documents("test"), section.max_documents, section.max_bytes, seed)
    domain = _measure(
        held_out,
        seed,
        document_bits(model, tokenizer, held_out, label=f"{name}: domain text", **read),
    )
    texts = sample(corpus.general(), section.max_documents, section.max_bytes, seed)
    general = None
    if texts:
        bits = document_bits(model, tokenizer, texts, label=f"{name}: general text", **read)
        general = _measure(texts, seed, bits)
    tasks = {
        task.name: _score_task(section, task, corpus, model, tokenizer, name, seed, predictions)
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


def _measure(texts: Sequence[str], seed: int, bits: Any) -> Likelihood:  # noqa: ANN401
    bytes_ = [len(text.encode()) for text in texts]
    return Likelihood(
        tuple(round(float(b), 4) for b in bits), tuple(bytes_), ratio_interval(bits, bytes_, seed)
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
) -> TaskScores:
    held_out = _shuffled(corpus.rows(task.name, "test"), seed)
    rows = held_out[: task.max_documents or section.max_documents]
    asked, references = (list(column) for column in zip(*prompts(task, iter(rows)), strict=True))
    bar = f"{name}: {task.name}"
    if isinstance(task, ClassificationTask):
        from adapt.evaluation.classification import classify

        labels = sorted({str(row[task.label]) for row in corpus.rows(task.name, "train")})
        answers = classify(
            model, tokenizer, asked, labels, max_length=section.max_length, label=bar
        )
    else:
        answers = _generate(section, task, asked, model, tokenizer, bar)
    _write_predictions(predictions / f"{task.name}.{name}.jsonl", asked, references, answers)
    return _task_scores(task.kind, asked, references, answers, seed)


def _generate(
    section: EvaluationSection,
    task: GenerationTask,
    asked: Sequence[str],
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    bar: str,
) -> list[str]:
    from adapt.evaluation.generation import generate

    return generate(
        model,
        tokenizer,
        asked,
        max_new_tokens=task.max_new_tokens,
        max_length=section.max_length,
        batch_size=section.per_device_eval_batch_size,
        label=bar,
    )


def _task_scores(
    kind: Literal["classification", "generation"],
    asked: Sequence[str],
    references: Sequence[str],
    answers: Sequence[str],
    seed: int,
) -> TaskScores:
    # evaluate takes seconds to import, and only a stage that scores tasks should wait for it
    from adapt.evaluation.metrics import accuracy_each, combined, rouge_l_each

    metrics = combined(kind).compute(predictions=list(answers), references=list(references))
    each = (accuracy_each if kind == "classification" else rouge_l_each)(answers, references)
    examples = tuple(zip(asked, references, answers, strict=True))[:_SHOWN]
    return TaskScores(kind, len(asked), metrics, mean_interval(each, seed), examples)


def _write_predictions(
    path: Path, asked: Sequence[str], references: Sequence[str], answers: Sequence[str]
) -> None:
    rows = zip(asked, references, answers, strict=True)
    lines = [
        json.dumps({"prompt": p, "reference": r, "answer": a}, ensure_ascii=False)
        for p, r, a in rows
    ]
    write_text(path, "\n".join(lines) + "\n")
