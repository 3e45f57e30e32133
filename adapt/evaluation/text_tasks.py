"""Generation tasks on held-out rows: answers, and their metrics with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapt.corpus.read import terms_of
from adapt.evaluation.figures import Columns
from adapt.evaluation.generation import adoption, answers, decoding
from adapt.evaluation.metrics import KINDS, combined
from adapt.evaluation.result import TaskScores
from adapt.evaluation.similarity import missing, similarity
from adapt.evaluation.tasks import Rows, Subject, columns, extremes, place_of, write_rows
from adapt.evaluation.text_checks import is_json, schema_checker, term_recall
from adapt.evaluation.text_metrics import (
    ExactMatch,
    Looping,
    Rouge1,
    Rouge2,
    RougeL,
    chrf_each,
    distinct_share,
    rouge_reads,
    text_statistics,
)
from adapt.generation import Completion
from adapt.recipe.evaluation import EvaluationSection, GenerationTask

_BLIND = "ROUGE reads Latin letters and digits only, and no reference has any; chrF counts here"


def score_texts(
    section: EvaluationSection,
    task: GenerationTask,
    rows: Rows,
    subject: Subject,
    seed: int,
    predictions: Path,
) -> TaskScores:
    """Scores a generation task.

    Args:
        section: `evaluation` of the recipe.
        task: The task.
        rows: Held-out rows.
        subject: The model.
        seed: Of the bootstrap, and of sampling where `evaluation.generation` has none.
        predictions: Folder that gets a JSONL file of rows and a JSON file of settings.

    Raises:
        DataError: The terms or the JSON schema cannot be read.
        DependencyError: A schema is given, and `jsonschema` is not installed.
    """
    check = schema_checker(Path(task.json_schema)) if task.json_schema else None
    terms = terms_of(section.terms or [], "evaluation.terms")
    asked, references = columns(task, rows)
    how = section.generation
    sampling = how.model_dump(exclude={"seed"})
    settings = {
        **sampling,
        "seed": seed if how.seed is None else how.seed,
        "max_new_tokens": task.max_new_tokens,
        "max_length": section.max_length,
        "per_device_eval_batch_size": section.per_device_eval_batch_size,
    }
    bar = f"{subject.name}: {task.name}"
    done = answers(
        subject.model,
        subject.tokenizer,
        asked,
        config=decoding(subject.tokenizer, max_new_tokens=task.max_new_tokens, **sampling),
        max_length=section.max_length,
        batch_size=section.per_device_eval_batch_size,
        label=bar,
        seed=settings["seed"],
    )
    said = [answer.text.strip() for answer in done]
    means = {
        m.key: m().each(said, references) for m in (RougeL, Rouge1, Rouge2, ExactMatch, Looping)
    }
    extra = {}
    if check:
        extra["json_valid"] = np.array([is_json(text) for text in said], dtype=np.float64)
        extra["json_schema_valid"] = np.array([check(text) for text in said], dtype=np.float64)
    absent = missing()
    if not absent:
        batch = section.per_device_eval_batch_size
        extra["similarity"] = similarity(
            said, references, batch_size=batch, label=f"{bar}, similarity"
        )
    ratios = _ratios(subject, done, said, references, terms)
    metrics = combined("generation").compute(predictions=said, references=references)
    figures = Columns(
        means=means | extra,
        ratios=ratios,
        statistics=text_statistics(said, references),
        shares={f"distinct_{size}": distinct_share(said, size) for size in (1, 2, 3)},
    )
    intervals = figures.intervals(seed)
    metrics |= {name: intervals[name].value for name in (*extra, *ratios)}
    pairs = zip(asked, references, strict=True)
    part = subject.fragmented([f"{prompt} {reference}" for prompt, reference in pairs])
    each = means | extra | {"chrf": chrf_each(said, references)}
    scores = [{n: round(float(v[i]), 6) for n, v in each.items()} for i in range(len(said))]
    write_rows(
        place_of(task, subject, predictions), settings, asked, references, said, {"scores": scores}
    )
    main = KINDS["generation"][0]
    chosen, worst = extremes(np.lexsort((each["chrf"], each[main])))
    return TaskScores(
        kind="generation",
        rows=len(asked),
        metrics=metrics,
        main=intervals[main],
        examples=tuple((asked[i], references[i], said[i]) for i in chosen),
        example_rows=chosen,
        worst=worst,
        intervals=intervals,
        answers=tuple(said),
        each=tuple(each[main].tolist()),
        settings=settings,
        notes=_notes(absent, references),
        fragmented=part,
        on_fragmented=figures.intervals(seed, part),
    )


def _notes(absent: str | None, references: Sequence[str]) -> tuple[str, ...]:
    """What a reader of the figures must know: what was not measured, or could not be."""
    blind = None if rouge_reads(references) else _BLIND
    return tuple(note for note in (absent, blind) if note)


def _ratios(
    subject: Subject,
    done: Sequence[Completion],
    said: Sequence[str],
    references: Sequence[str],
    terms: Sequence[str],
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """What is a ratio of sums over rows; left out where the sum below is 0."""
    lengths = (np.array([float(len(text)) for text in column]) for column in (said, references))
    found = {"length_ratio": tuple(lengths)}
    if terms:
        found["term_recall"] = term_recall(said, references, terms)
    if subject.new_ids:
        found["adoption_rate"] = adoption(subject.tokenizer, done, subject.new_ids)
    return {name: (above, below) for name, (above, below) in found.items() if below.sum() > 0}
