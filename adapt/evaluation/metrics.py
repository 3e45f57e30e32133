"""Task metrics as `evaluate.Metric`, without the scripts that `evaluate.load` fetches.

`evaluate.load("accuracy")` downloads a Python file from the Hub and so fails offline. These
subclasses hand the same work to installed libraries, and go into `evaluate.combine` like any other.
Predictions and references are strings, one of each an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.chrf import CHRF
from sklearn.metrics import accuracy_score, f1_score

from adapt.errors import nearest


class LocalMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """A metric over strings that touches neither the network nor the disk.

    `evaluate` by default writes every example to a file in the Hub's cache folder, under a name
    that processes share; in memory, two runs side by side cannot read each other's rows.

    Args:
        keep_in_memory: False only for `evaluate`'s own gathering over processes, which needs files.
        options: As `evaluate.Metric` takes them.
    """

    summary: ClassVar[str]
    source: ClassVar[str]

    def __init__(self, keep_in_memory: bool = True, **options: Any) -> None:  # noqa: ANN401
        super().__init__(keep_in_memory=keep_in_memory, **options)

    def _build_data_dir(self) -> str:
        if not self.keep_in_memory:
            return str(super()._build_data_dir())
        return str(Path(self._data_dir_root, self.name, self.config_name))  # named, never made

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.summary,
            citation=self.source,
            inputs_description="predictions, references: strings, one of each an example.",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(
        self, *, predictions: Sequence[str], references: Sequence[str]
    ) -> dict[str, float]:
        # A datasets column is read lazily, cell by cell; the libraries below want plain lists.
        predictions, references = list(predictions), list(references)
        _check(predictions, references)
        return self._score(predictions, references)

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        raise NotImplementedError


class Accuracy(LocalMetric):
    """`accuracy`: share of predictions equal to their reference, 0 to 1."""

    summary = "Share of predictions equal to their reference, 0 to 1."
    source = "Pedregosa et al. 2011, Scikit-learn: Machine Learning in Python, JMLR 12."

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class MacroF1(LocalMetric):
    """`macro_f1`: F1 of each label, averaged with equal weight, 0 to 1.

    Counts the labels that occur among references or predictions. A label that was predicted and
    never right, or never predicted, counts as 0.
    """

    summary = "Unweighted mean of the F1 of every label seen in references or predictions, 0 to 1."
    source = "Opitz and Burst 2019, Macro F1 and Macro F1, arXiv:1911.03347 (mean of F1s)."

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {
            "macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0))
        }


class RougeL(LocalMetric):
    """`rouge_l`: longest common subsequence of words, F1, mean over examples, 0 to 1.

    `rouge_score` lower-cases and keeps the letters a-z and digits only, so text in other scripts
    scores 0; read chrF there.
    """

    summary = "Mean F1 of the longest common subsequence of words (a-z, 0-9; no stemming), 0 to 1."
    source = "Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, W04-1013."

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"rouge_l": float(rouge_l_each(predictions, references).mean())}


class ChrF(LocalMetric):
    """`chrf`: chrF2 of the whole set, 0 to 100 (not 0 to 1).

    Character 1- to 6-grams, beta 2, no word n-grams: sacrebleu's defaults. N-gram counts are summed
    over the set before precision and recall are taken, so this is not the mean of `chrf_each`.
    """

    summary = "chrF2 over character 1- to 6-grams, counted over the whole set, 0 to 100."
    source = "Popovic 2015, chrF: character n-gram F-score for automatic MT evaluation, W15-3049."

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"chrf": float(CHRF().corpus_score(predictions, [references]).score)}


METRICS: dict[str, type[LocalMetric]] = {
    "accuracy": Accuracy,
    "macro_f1": MacroF1,
    "rouge_l": RougeL,
    "chrf": ChrF,
}

KINDS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1"),
    "generation": ("rouge_l", "chrf"),
}


def combined(kind: Literal["classification", "generation"]) -> evaluate.CombinedEvaluations:
    """All metrics of one kind of task; `.compute(predictions=..., references=...)` gives a dict.

    Args:
        kind: A key of `KINDS`, as a recipe's task says it.

    Raises:
        ValueError: `kind` is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"kind of task: unknown, got {kind!r}; {nearest(kind, KINDS)}")
    return evaluate.combine([METRICS[name]() for name in KINDS[kind]])


def accuracy_each(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """1 where a prediction equals its reference, else 0; shape (examples,).

    Raises:
        ValueError: No examples, not one prediction a reference, or one that is not a string.
    """
    _check(predictions, references)
    pairs = zip(predictions, references, strict=True)
    return np.array([prediction == reference for prediction, reference in pairs], dtype=np.float64)


def rouge_l_each(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """ROUGE-L F1 of each example, 0 to 1; shape (examples,). Their mean is `RougeL`.

    Raises:
        ValueError: No examples, not one prediction a reference, or one that is not a string.
    """
    _check(predictions, references)
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = zip(predictions, references, strict=True)
    return np.array(
        [scorer.score(reference, prediction)["rougeL"].fmeasure for prediction, reference in pairs],
        dtype=np.float64,
    )


def chrf_each(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """ChrF2 of each example by itself, 0 to 100; shape (examples,).

    Raises:
        ValueError: No examples, not one prediction a reference, or one that is not a string.
    """
    _check(predictions, references)
    scorer = CHRF()
    pairs = zip(predictions, references, strict=True)
    return np.array(
        [scorer.sentence_score(prediction, [reference]).score for prediction, reference in pairs],
        dtype=np.float64,
    )


def _check(predictions: Sequence[str], references: Sequence[str]) -> None:
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    if not predictions:
        raise ValueError("no examples to score")
    for number, pair in enumerate(zip(predictions, references, strict=True)):
        if not all(isinstance(one, str) for one in pair):
            raise ValueError(f"example {number}: prediction and reference must be text, got {pair}")
