"""Tasks of the recipe on held-out rows: answers, their metrics with intervals, and baselines."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapt.corpus.read import terms_of
from adapt.evaluation.baselines import BASELINES
from adapt.evaluation.bootstrap import (
    Interval,
    mean_interval,
    ratio_interval,
    statistic_interval,
)
from adapt.evaluation.classification import (
    NEUTRAL,
    Classified,
    Options,
    few_shot_examples,
    predict,
)
from adapt.evaluation.generation import adoption, answers, decoding
from adapt.evaluation.label_metrics import Ece, accuracy_each, class_scores, label_statistics
from adapt.evaluation.metrics import KINDS, combined
from adapt.evaluation.result import Baseline, TaskScores
from adapt.evaluation.similarity import missing, similarity
from adapt.evaluation.text_metrics import (
    ExactMatch,
    Looping,
    Rouge1,
    Rouge2,
    RougeL,
    chrf_each,
    is_json,
    schema_checker,
    term_recall,
    text_statistics,
)
from adapt.generation import Completion
from adapt.recipe.evaluation import ClassificationTask, EvaluationSection, GenerationTask
from adapt.training.phases import prompts
from adapt.workspace import write_json, write_text

SHOWN = 20  # worst rows, and best ones, that go to the report

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Subject:
    """What is scored.

    Attributes:
        model: A causal language model in evaluation mode; for a head's task one with class logits.
        tokenizer: Its tokenizer.
        name: For progress bars and file names: base, control, adapted ...
        new_ids: Ids of its new tokens, for the adoption rate; none for a base tokenizer.
        has_head: Whether the model has class logits.
        baselines: Whether baselines are measured beside it.
        writer: Tokenizer of what it writes, where units are only read; None: the same.
    """

    model: Any
    tokenizer: Any
    name: str
    new_ids: tuple[int, ...] = ()
    has_head: bool = False
    baselines: bool = False
    writer: Any = None


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
    asked, references = _columns(task, rows)
    shown = _columns(task, train)
    labels = sorted(set(shown[1]))
    method: str = task.method
    notes: tuple[str, ...] = ()
    if method == "head" and not subject.has_head:
        method, notes = "likelihood", ("this model has no head; its labels are by likelihood",)
    pairs = list(zip(*shown, strict=True))
    neutral = task.prompt.format_map(defaultdict(lambda: NEUTRAL)) if task.calibrate else None
    options = Options(
        max_length=section.max_length,
        batch_size=section.per_device_eval_batch_size,
        bar=f"{subject.name}: {task.name}",
        normalize=task.normalize,
        neutral=neutral,
        num_beams=task.num_beams,
        examples=few_shot_examples(pairs, task.shots, seed),
        writer=subject.writer,
    )
    texts = [str(row[task.text]) for row in rows]
    given = texts if method == "head" else asked
    found = predict(subject.model, subject.tokenizer, given, labels, options, method)
    baselines = {}
    if subject.baselines:
        known = [str(row[task.text]) for row in train]
        for name, baseline in BASELINES.items():
            said = baseline(known, shown[1], texts, seed)
            baselines[name] = _baseline(said, references, seed)
        if task.shots and method != "few_shot" and not subject.has_head:
            said = predict(subject.model, subject.tokenizer, asked, labels, options, "few_shot")
            baselines[f"{subject.name}, {task.shots} examples shown"] = _baseline(
                said, references, seed
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
        asked,
        references,
        baselines,
        settings,
        notes,
        seed,
        _place(task, subject, predictions),
    )


def _label_scores(
    found: Classified,
    asked: Sequence[str],
    references: Sequence[str],
    baselines: dict[str, Baseline],
    settings: dict[str, Any],
    notes: tuple[str, ...],
    seed: int,
    place: Path,
) -> TaskScores:
    metrics, intervals, each = _label_figures(found, references, seed)
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
    _write(place, settings, asked, references, found.answers, columns)
    # Of wrong answers the surest ones are worst, of right ones best.
    chosen, worst = _extremes(np.lexsort((expected, each)))
    return TaskScores(
        kind="classification",
        rows=len(asked),
        metrics=metrics,
        main=intervals[KINDS["classification"][0]],
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
        notes=notes,
    )


def _label_figures(
    found: Classified, references: Sequence[str], seed: int
) -> tuple[dict[str, float], dict[str, Interval], NDArray[np.float64]]:
    """Metrics, their intervals, and right or wrong of each row."""
    pairs = {"predictions": found.answers, "references": list(references)}
    metrics = combined("classification").compute(**pairs)
    metrics |= Ece().compute(**pairs, confidences=np.minimum(found.confidence, 1.0).tolist())
    each = accuracy_each(found.answers, references)
    accuracy = mean_interval(each, seed)
    intervals = {"accuracy": accuracy, "micro_f1": accuracy} | {
        name: statistic_interval(statistic, len(each), seed)
        for name, statistic in label_statistics(found.answers, references).items()
    }
    return metrics, intervals, each


def _baseline(found: Classified, references: Sequence[str], seed: int) -> Baseline:
    metrics, intervals, each = _label_figures(found, references, seed)
    return Baseline(metrics, intervals["accuracy"], tuple(each.tolist()))


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


# -- generation -------------------------------------------------------------------------------


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
    asked, references = _columns(task, rows)
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
    metrics |= {name: float(values.mean()) for name, values in extra.items()}
    intervals = {n: mean_interval(v, seed) for n, v in (means | extra).items()}
    intervals |= {
        name: statistic_interval(statistic, len(said), seed)
        for name, statistic in text_statistics(said, references).items()
    }
    for name, (above, below) in ratios.items():
        some = below > 0
        intervals[name] = ratio_interval(above[some], below[some], seed)
        metrics[name] = intervals[name].value
    each = means | extra | {"chrf": chrf_each(said, references)}
    scores = [{n: round(float(v[i]), 6) for n, v in each.items()} for i in range(len(said))]
    _write(
        _place(task, subject, predictions), settings, asked, references, said, {"scores": scores}
    )
    main = KINDS["generation"][0]
    chosen, worst = _extremes(np.lexsort((each["chrf"], each[main])))
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
        notes=(absent,) if absent else (),
    )


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


# -- both kinds -------------------------------------------------------------------------------


def _columns(task: ClassificationTask | GenerationTask, rows: Rows) -> tuple[list[str], list[str]]:
    """Prompts and references."""
    pairs = prompts(task, iter(rows))
    return [prompt for prompt, _ in pairs], [reference for _, reference in pairs]


def _place(task: ClassificationTask | GenerationTask, subject: Subject, predictions: Path) -> Path:
    return predictions / f"{task.name}.{subject.name}"


def _extremes(order: NDArray[np.int64]) -> tuple[tuple[int, ...], int]:
    """The rows that scored worst, worst first, and best, best first; and how many are the worst.

    Where there are few rows each is in one half only.
    """
    rows = order.tolist()
    worst = rows[: min(SHOWN, (len(rows) + 1) // 2)]
    best = rows[len(worst) :][::-1][:SHOWN]
    return tuple(worst + best), len(worst)


def _write(
    place: Path,
    settings: dict[str, Any],
    asked: Sequence[str],
    references: Sequence[str],
    said: Sequence[str],
    columns: dict[str, Sequence[Any]],
) -> None:
    """`<task>.<model>.jsonl` with a row a line, and `<task>.<model>.settings.json`."""
    lines = []
    for i, (prompt, reference, answer) in enumerate(zip(asked, references, said, strict=True)):
        row = {"prompt": prompt, "reference": reference, "answer": answer}
        row |= {name: column[i] for name, column in columns.items()}
        lines.append(json.dumps(row, ensure_ascii=False))
    write_json(place.with_name(f"{place.name}.settings.json"), settings)
    write_text(place.with_name(f"{place.name}.jsonl"), "\n".join(lines) + "\n")
