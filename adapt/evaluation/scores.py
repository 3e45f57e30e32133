"""Everything that is measured on one model; the same for base, control and adapted."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from adapt.corpus import Corpus
from adapt.errors import DataError, ModelError
from adapt.evaluation.bootstrap import Interval, ratio_interval
from adapt.evaluation.edges import edge_scores
from adapt.evaluation.heads import has_head, longest_window
from adapt.evaluation.likelihood import Reading, halves, read_documents
from adapt.evaluation.masked import (
    MEASURE,
    Words,
    fills_masks,
    read_masked,
    shared_words,
    told_bits,
)
from adapt.evaluation.result import Likelihood, ModelScores, TaskScores
from adapt.evaluation.slices import text_hash
from adapt.evaluation.tasks import Subject
from adapt.recipe.evaluation import AnyTask, EvaluationSection, GenerationTask
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
    baselines: bool = False,
    new_ids: Sequence[int] = (),
    writer: Any = None,  # noqa: ANN401
    tokenizers: Sequence[Any] = (),
) -> ModelScores:
    """Measures one model on held-out text and rows.

    Args:
        section: `evaluation` of the recipe.
        corpus: Only its test side and the general text are read.
        model: In evaluation mode: a causal language model; or one with a head of classes, of which
            the recipe's tasks are scored and nothing else; or one that fills in hidden words, of
            which the pseudo likelihood of text is (`evaluation.masked`).
        tokenizer: Its tokenizer.
        name: For progress bars and file names: base, control or adapted.
        seed: Of the bootstrap.
        predictions: Folder that gets two files a task: rows with prompt, answer and scores, and
            how the answers were made.
        baselines: Whether baselines of classification tasks are measured beside it.
        new_ids: Ids of the new tokens of an adapted tokenizer, for the adoption rate and the share
            of probability that they get.
        writer: Where units are only read, the base's tokenizer: labels are written with it, and
            of each document the second half is scored in it, after the first in `tokenizer`'s.
        tokenizers: Of all models that are compared, the base's first, which says what documents
            and rows are fragmented (`slices.fragmented`); without any, none are. Of models that
            fill in hidden words they decide what is hidden together; without any, its own does.
    """
    subject = Subject(
        model,
        tokenizer,
        name,
        new_ids=tuple(new_ids),
        baselines=baselines,
        writer=writer,
        base_tokenizer=next(iter(tokenizers), None),
    )
    if has_head(model):
        tasks = _score_tasks(section, corpus, subject, seed, predictions)
        return ModelScores(None, None, tasks)
    most = section.max_documents, section.max_bytes
    held_out = sample(lambda: corpus.documents("test"), *most, seed)
    texts = sample(corpus.general, *most, seed)
    if fills_masks(model):
        return _masked_scores(section, subject, tokenizers or [tokenizer], held_out, texts, seed)
    read = {
        "max_length": section.max_length,
        "batch_size": section.per_device_eval_batch_size,
        "writer": writer,
        "new_ids": () if writer is not None else new_ids,
    }
    if writer is not None:
        never_written(model, new_ids)
    reading = read_documents(model, tokenizer, held_out, label=f"{name}: domain text", **read)
    part = subject.fragmented(held_out)
    domain = _measure(_scored(held_out, writer), seed, reading, part)
    general = None
    if texts:
        reading = read_documents(model, tokenizer, texts, label=f"{name}: general text", **read)
        general = _measure(_scored(texts, writer), seed, reading)
    tasks = _score_tasks(section, corpus, subject, seed, predictions)
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
            part=part,
        )
    harness = {}
    if section.harness:
        from adapt.evaluation.harness import harness_scores

        batch_size = section.per_device_eval_batch_size
        harness = harness_scores(
            section.harness, model, tokenizer, batch_size=batch_size, seed=seed
        )
    return ModelScores(domain, general, tasks, edge, harness=harness)


def sample(
    texts: Callable[[], Iterable[str]], documents: int, max_bytes: int, seed: int
) -> list[str]:
    """Documents drawn without replacement, at most so many and so many bytes; never none of some.

    Files are often sorted, so the first documents would speak for one corner of the domain. They
    are read twice: to be counted, and for those that were drawn; no others are held.

    Args:
        texts: Gives the documents, the same ones each time it is called.
        documents: The most that are drawn.
        max_bytes: In UTF-8; a first document may be longer.
        seed: Another seed draws others.
    """
    sizes = array("q", (len(text.encode()) for text in texts()))
    taken: list[int] = []
    room = max_bytes
    for place in _order(len(sizes), seed)[:documents]:
        room -= sizes[place]
        if room < 0 and taken:
            break
        taken.append(place)
    return _at(taken, texts())


def _order(count: int, seed: int) -> list[int]:
    """The places of so many items, shuffled."""
    return random.Random(seed).sample(range(count), count)


def _at(places: Sequence[int], items: Iterable[Item]) -> list[Item]:
    """The items at some places, in the order of the places."""
    wanted = set(places)
    until = islice(items, max(wanted, default=-1) + 1)
    found = {place: item for place, item in enumerate(until) if place in wanted}
    return [found[place] for place in places]


def _scored(texts: Sequence[str], writer: Any) -> list[str]:  # noqa: ANN401
    """What of each document is scored."""
    return list(texts) if writer is None else [halves(text)[1] for text in texts]


def _measure(
    texts: Sequence[str], seed: int, reading: Reading, part: tuple[int, ...] = ()
) -> Likelihood:
    sizes = [len(text.encode()) for text in texts]
    return _likelihood(sizes, text_hash(texts), seed, reading, part)


def _likelihood(
    sizes: Sequence[int], data: str, seed: int, reading: Reading, part: tuple[int, ...]
) -> Likelihood:
    """Of what was read of documents, of which so many bytes each are scored, and part is split."""
    if not np.isfinite(reading.bits).all():
        raise ModelError(
            "gives text no probability that is a number",
            got=f"{np.count_nonzero(~np.isfinite(reading.bits)):,} of {len(sizes):,} documents",
            fix="look for NaN in its weights, or load it in float32 (model.dtype)",
        )
    bytes_ = np.array(sizes)
    some = bytes_ > 0  # a text of one character has no second half
    if not some.any():
        raise DataError(
            "no text to score: of its first half nothing follows",
            where=f"{len(sizes):,} held-out documents",
            fix="hold longer texts out, or write them: embeddings.units=both",
        )
    return Likelihood(
        tuple(round(float(b), 4) for b in reading.bits),
        tuple(bytes_.tolist()),
        ratio_interval(reading.bits[some], bytes_[some], seed),
        data,
        fragmented=part,
        new_token_share=_new_token_share(reading, range(len(sizes)), seed),
        share_on_fragmented=_new_token_share(reading, part, seed),
    )


def _new_token_share(reading: Reading, rows: Sequence[int], seed: int) -> Interval | None:
    """Mean over the positions of some documents; None where there are no new tokens."""
    read = [i for i in rows if reading.positions[i]]
    if not reading.new.any() or not read:
        return None
    return ratio_interval(reading.new[read], reading.positions[read], seed)


def _masked_scores(
    section: EvaluationSection,
    subject: Subject,
    tokenizers: Sequence[Any],
    held_out: Sequence[str],
    texts: Sequence[str],
    seed: int,
) -> ModelScores:
    """Of a model that fills in hidden words, which answers no prompts."""
    domain, general = (
        _pseudo(section, subject, tokenizers, read, part, seed, f"{subject.name}: {kind} text")
        for kind, read, part in (
            ("domain", held_out, subject.fragmented(held_out)),
            ("general", texts, ()),
        )
    )
    return ModelScores(domain, general, {})


def _pseudo(
    section: EvaluationSection,
    subject: Subject,
    tokenizers: Sequence[Any],
    texts: Sequence[str],
    part: tuple[int, ...],
    seed: int,
    label: str,
) -> Likelihood | None:
    """Of documents, by a model that fills in hidden words; None where it knows none of theirs.

    The hash is of the documents with what is hidden together and what is left out: where other
    tokenizers decided that otherwise, the figures are not of the same thing.
    """
    model, tokenizer = subject.model, subject.tokenizer
    max_length = longest_window(model, tokenizer, section.max_length)
    words = shared_words(texts, tokenizers, max_length=max_length)
    sizes = [cut.scored_bytes(text) for cut, text in zip(words, texts, strict=True)]
    if not any(sizes):
        return None
    reading = read_masked(
        model,
        tokenizer,
        texts,
        words,
        max_length=max_length,
        batch_size=section.per_device_eval_batch_size,
        label=label,
        new_ids=subject.new_ids,
    )
    data = text_hash([text, *_cuts(cut)] for text, cut in zip(texts, words, strict=True))
    found = _likelihood(sizes, data, seed, reading, part)
    told = told_bits(tokenizer, texts, words) / sum(sizes)
    return replace(found, measure=MEASURE, told=told)


def _cuts(words: Words) -> list[object]:
    return [words.ends, [i for i, scored in enumerate(words.scored) if not scored]]


def _score_tasks(
    section: EvaluationSection, corpus: Corpus, subject: Subject, seed: int, predictions: Path
) -> dict[str, TaskScores]:
    return {
        task.name: _score_task(section, task, corpus, subject, seed, predictions)
        for task in section.tasks
    }


def _score_task(
    section: EvaluationSection,
    task: AnyTask,
    corpus: Corpus,
    subject: Subject,
    seed: int,
    predictions: Path,
) -> TaskScores:
    if not task.trained:  # a baseline that learned it would be beside models that did not
        subject = replace(subject, baselines=False)
    order = _order(sum(1 for _ in corpus.rows(task.name, "test")), seed)
    drawn = order[: task.max_documents or section.max_documents]
    rows = _at(drawn, corpus.rows(task.name, "test"))
    if isinstance(task, GenerationTask):
        from adapt.evaluation.text_tasks import score_texts

        scored = score_texts(section, task, rows, subject, seed, predictions)
    else:
        # scikit-learn and evaluate take seconds to import: only what scores tasks waits for them
        from adapt.evaluation.label_tasks import score_labels
        from adapt.evaluation.set_tasks import score_label_sets

        score = score_label_sets if task.label_separator else score_labels
        train = list(corpus.rows(task.name, "train"))
        scored = score(section, task, train, rows, subject, seed, predictions)
    return replace(scored, data=text_hash(rows), trained=task.trained)
