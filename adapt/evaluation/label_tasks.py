"""Classification tasks on held-out rows: labels, their metrics with intervals, and baselines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapt.evaluation.baselines import BASELINES
from adapt.evaluation.classification import (
    NEUTRAL,
    Classified,
    Options,
    few_shot_examples,
    predict,
)
from adapt.evaluation.figures import Columns, baseline_of
from adapt.evaluation.heads import has_head
from adapt.evaluation.label_metrics import (
    Ece,
    accuracy_each,
    calibration,
    calibration_error,
    class_scores,
    label_statistics,
)
from adapt.evaluation.metrics import KINDS, combined
from adapt.evaluation.result import Baseline, TaskScores
from adapt.evaluation.tasks import Rows, Subject, columns, extremes, place_of, write_rows
from adapt.recipe.evaluation import ClassificationTask, EvaluationSection

_MAIN = KINDS["classification"][0]


def score_labels(
    section: EvaluationSection,
    task: ClassificationTask,
    train: Rows,
    rows: Rows,
    subject: Subject,
    seed: int,
    predictions: Path,
) -> TaskScores:
    """Scores a classification task.

    Args:
        section: `evaluation` of the recipe.
        task: The task.
        train: Its training rows: the label set, examples and baselines come from them.
        rows: Held-out rows.
        subject: The model.
        seed: Of the bootstrap, the examples shown and the baselines.
        predictions: Folder that gets a JSONL file of rows and a JSON file of settings.
    """
    asked, references = columns(task, rows)
    shown = columns(task, train)
    labels = sorted(set(shown[1]))
    head = has_head(subject.model)
    method = task.method if task.method != "auto" else "head" if head else "likelihood"
    neutral = task.prompt.format_map(defaultdict(lambda: NEUTRAL)) if task.calibrate else None
    options = Options(
        max_length=section.max_length,
        batch_size=section.per_device_eval_batch_size,
        bar=f"{subject.name}: {task.name}",
        normalize=task.normalize,
        neutral=neutral,
        num_beams=task.num_beams,
        examples=few_shot_examples(list(zip(*shown, strict=True)), task.shots, seed),
        writer=subject.writer,
    )
    texts = [str(row[task.text]) for row in rows]
    part = subject.fragmented(texts)
    given = texts if method == "head" else asked
    found = predict(subject.model, subject.tokenizer, given, labels, options, method)
    baselines = {}
    if subject.baselines:
        known = [str(row[task.text]) for row in train]
        for name, baseline in BASELINES.items():
            said = baseline(known, shown[1], texts, seed)
            baselines[name] = _baseline(said, references, seed, part)
        if task.shots and method in ("likelihood", "constrained"):
            said = predict(subject.model, subject.tokenizer, asked, labels, options, "few_shot")
            baselines[f"{subject.name}, {task.shots} examples shown"] = _baseline(
                said, references, seed, part
            )
    settings = {
        **task.model_dump(include={"normalize", "calibrate", "num_beams", "shots"}),
        "method": method,
        "labels": labels,
        "max_length": section.max_length,
        "per_device_eval_batch_size": options.batch_size,
        "seed": seed,
    }
    return _label_scores(
        found,
        given,
        references,
        baselines,
        settings,
        seed,
        place_of(task, subject, predictions),
        part,
    )


def _label_scores(
    found: Classified,
    asked: Sequence[str],
    references: Sequence[str],
    baselines: dict[str, Baseline],
    settings: dict[str, Any],
    seed: int,
    place: Path,
    part: tuple[int, ...],
) -> TaskScores:
    metrics, figures = _label_figures(found, references)
    intervals, each = figures.intervals(seed), figures.means[_MAIN]
    table, confusion = class_scores(found.answers, references)
    expected = _probability_of(found, references)
    columns: dict[str, Sequence[Any]] = {
        "scores": [
            {"accuracy": float(right), "confidence": round(float(sure), 6)}
            for right, sure in zip(each, found.confidence, strict=True)
        ]
    }
    if found.probabilities is not None:
        columns["probabilities"] = [
            {label: round(float(p), 6) for label, p in zip(found.labels, row, strict=True)}
            for row in found.probabilities
        ]
    write_rows(place, settings, asked, references, found.answers, columns)
    # Of wrong answers the surest ones are worst, of right ones best.
    chosen, worst = extremes(np.lexsort((expected, each)))
    return TaskScores(
        kind="classification",
        rows=len(asked),
        metrics=metrics,
        main=intervals[_MAIN],
        examples=tuple((asked[i], references[i], found.answers[i]) for i in chosen),
        example_rows=chosen,
        worst=worst,
        intervals=intervals,
        answers=tuple(found.answers),
        each=tuple(each.tolist()),
        classes=table,
        confusion=confusion,
        baselines=baselines,
        settings=settings,
        references=tuple(references),
        calibration=calibration(_confidences(found), each),
        fragmented=part,
        on_fragmented=figures.intervals(seed, part),
    )


def _label_figures(
    found: Classified, references: Sequence[str]
) -> tuple[dict[str, float], Columns]:
    """Metrics, and what they and right or wrong of each row are made of."""
    pairs = {"predictions": found.answers, "references": list(references)}
    metrics = combined("classification").compute(**pairs)
    sure = _confidences(found)
    metrics |= Ece().compute(**pairs, confidences=sure)
    each = accuracy_each(found.answers, references)
    return metrics, Columns(
        means={_MAIN: each, "micro_f1": each},  # with one label a row the two are the same
        statistics=label_statistics(found.answers, references),
        shares={"ece": calibration_error(sure, each)},
    )


def _confidences(found: Classified) -> list[float]:
    """Of each answer; rounding may have left one a little above 1."""
    return [float(sure) for sure in np.minimum(found.confidence, 1.0)]


def _baseline(
    found: Classified, references: Sequence[str], seed: int, part: tuple[int, ...]
) -> Baseline:
    return baseline_of(*_label_figures(found, references), _MAIN, seed, part)


def _probability_of(found: Classified, references: Sequence[str]) -> NDArray[np.float64]:
    """What each row's right label was given; where only the answer's is known, at most the rest."""
    if found.probabilities is None:
        right = accuracy_each(found.answers, references)
        return np.where(right > 0, found.confidence, 1 - found.confidence)
    place = {label: i for i, label in enumerate(found.labels)}
    return np.array(
        [
            row[place[reference]] if reference in place else 0.0
            for row, reference in zip(found.probabilities, references, strict=True)
        ]
    )
