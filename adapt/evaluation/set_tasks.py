"""Classification tasks whose texts have several labels, or none: scored by a head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import evaluate
import numpy as np

from adapt.evaluation.baselines import SET_BASELINES
from adapt.evaluation.figures import Columns, baseline_of
from adapt.evaluation.heads import THRESHOLD, class_names, logits_of, several
from adapt.evaluation.label_metrics import set_class_scores, set_statistics
from adapt.evaluation.metrics import SETS
from adapt.evaluation.result import TaskScores
from adapt.evaluation.tasks import Rows, Subject, extremes, place_of, write_rows
from adapt.recipe.evaluation import ClassificationTask, EvaluationSection

Sets = list[list[str]]

_KIND = "classification"
_MAIN = "subset_accuracy"


def score_label_sets(
    section: EvaluationSection,
    task: ClassificationTask,
    train: Rows,
    rows: Rows,
    subject: Subject,
    seed: int,
    predictions: Path,
) -> TaskScores:
    """Scores a task with `label_separator`.

    Args:
        section: `evaluation` of the recipe.
        task: The task.
        train: Its training rows, for the baselines.
        rows: Held-out rows.
        subject: The model, with a head of several labels a text.
        seed: Of the bootstrap and the baselines.
        predictions: Folder that gets a JSONL file of rows and a JSON file of settings.
    """
    texts, references = [str(row[task.text]) for row in rows], [task.labels_of(row) for row in rows]
    labels = class_names(subject.model)
    logits = logits_of(
        subject.model,
        subject.tokenizer,
        texts,
        max_length=section.max_length,
        batch_size=section.per_device_eval_batch_size,
        label=f"{subject.name}: {task.name}",
    )
    found, probabilities = several(logits, labels)
    metrics, figures = _figures(found, references)
    intervals, each, part = figures.intervals(seed), figures.means[_MAIN], subject.fragmented(texts)
    baselines = {}
    if subject.baselines:
        known = [str(row[task.text]) for row in train], [task.labels_of(row) for row in train]
        for name, baseline in SET_BASELINES.items():
            guessed = _figures(baseline(*known, texts, seed), references)
            baselines[name] = baseline_of(*guessed, _MAIN, seed, part)
    join = f"{task.label_separator} ".join
    said, expected = [join(one) for one in found], [join(one) for one in references]
    settings = {
        "method": "head",
        "threshold": THRESHOLD,
        "labels": list(labels),
        "max_length": section.max_length,
        "per_device_eval_batch_size": section.per_device_eval_batch_size,
        "seed": seed,
    }
    columns: dict[str, Sequence[Any]] = {
        "scores": [{_MAIN: float(right)} for right in each],
        "probabilities": [
            {label: round(float(p), 6) for label, p in zip(labels, row, strict=True)}
            for row in probabilities
        ],
    }
    write_rows(place_of(task, subject, predictions), settings, texts, expected, said, columns)
    # Of wrong answers those worst that have most labels wrong.
    wrong = [len(set(a) ^ set(b)) for a, b in zip(found, references, strict=True)]
    chosen, worst = extremes(np.lexsort((-np.array(wrong), each)))
    return TaskScores(
        kind=_KIND,
        rows=len(rows),
        metrics=metrics,
        main=intervals[_MAIN],
        examples=tuple((texts[i], expected[i], said[i]) for i in chosen),
        example_rows=chosen,
        worst=worst,
        intervals=intervals,
        answers=tuple(said),
        each=tuple(each.tolist()),
        classes=set_class_scores(found, references),
        baselines=baselines,
        settings=settings,
        fragmented=part,
        on_fragmented=figures.intervals(seed, part),
    )


def _figures(found: Sets, references: Sets) -> tuple[dict[str, float], Columns]:
    """Metrics, and what they and whether each row's labels are exactly right are made of."""
    names = sorted(SETS, key=lambda name: name != _MAIN)  # the first is the main one
    metrics: dict[str, float] = evaluate.combine([SETS[name]() for name in names]).compute(
        predictions=found, references=references
    )
    pairs = zip(found, references, strict=True)
    each = np.array([set(a) == set(b) for a, b in pairs], dtype=np.float64)
    return metrics, Columns({_MAIN: each}, statistics=set_statistics(found, references))
