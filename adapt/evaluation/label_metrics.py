"""Metrics of classification: one label a row, or a set of labels a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)
from sklearn.preprocessing import MultiLabelBinarizer

from adapt.evaluation.local_metric import LocalMetric, check_lengths, check_pairs
from adapt.evaluation.result import Bin, ClassScores

ECE_BINS = 15

_SKLEARN = "Pedregosa et al. 2011, Scikit-learn: Machine Learning in Python, JMLR 12."
_OPITZ = "Opitz and Burst 2019, Macro F1 and Macro F1, arXiv:1911.03347 (mean of F1s)."


class Accuracy(LocalMetric):
    """`accuracy`: share of predictions equal to their reference, 0 to 1."""

    summary = "Share of predictions equal to their reference, 0 to 1."
    source = _SKLEARN

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class MacroF1(LocalMetric):
    """`macro_f1`: F1 of each label, averaged with equal weight, 0 to 1.

    Counts the labels that occur among references or predictions. A label that was predicted and
    never right, or never predicted, counts as 0.
    """

    summary = "Unweighted mean of the F1 of every label seen in references or predictions, 0 to 1."
    source = _OPITZ

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {
            "macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0))
        }


class MicroF1(LocalMetric):
    """`micro_f1`: F1 of all decisions together, 0 to 1; with one label a row it is the accuracy."""

    summary = "F1 over all rows and labels together, 0 to 1; the accuracy where each row has one."
    source = _SKLEARN

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"micro_f1": float(f1_score(references, predictions, average="micro"))}


class Mcc(LocalMetric):
    """`mcc`: Matthews correlation of several classes, -1 to 1; 0 is as good as chance."""

    summary = "Matthews correlation coefficient (R_K for several classes): -1, 0 by chance, to 1."
    source = "Gorodkin 2004, Comparing two K-category assignments by a K-category correlation."

    def _score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"mcc": float(matthews_corrcoef(references, predictions))}


class Ece(LocalMetric):
    """`ece`: expected calibration error of the predicted labels' probabilities, 0 to 1.

    Rows fall into 15 bins of equal width by `confidences`; the gap between a bin's accuracy and
    its mean confidence is averaged, weighted by the rows of the bin.
    """

    summary = f"Gap between confidence and accuracy over {ECE_BINS} bins of equal width, 0 to 1."
    source = "Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599."

    def _features(self) -> dict[str, Any]:
        return {**super()._features(), "confidences": datasets.Value("float64")}

    def _score(
        self, predictions: list[str], references: list[str], confidences: list[float]
    ) -> dict[str, float]:
        right = accuracy_each(predictions, references)
        return {"ece": calibration_error(confidences, right)(np.arange(len(right)))}


# -- sets of labels ---------------------------------------------------------------------------


class _SetMetric(LocalMetric):
    """Over sets of labels: predictions and references are lists of strings."""

    def _features(self) -> dict[str, Any]:
        texts = datasets.Sequence(datasets.Value("string"))
        return {"predictions": texts, "references": texts}

    def _check(self, predictions: list[Any], references: list[Any], **others: list[Any]) -> None:
        check_lengths(predictions, references)


class SubsetAccuracy(_SetMetric):
    """`subset_accuracy`: share of rows whose predicted labels are exactly the right ones."""

    summary = "Share of rows whose set of labels is exactly the reference's, 0 to 1."
    source = _SKLEARN

    def _score(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, float]:
        pairs = zip(predictions, references, strict=True)
        return {"subset_accuracy": float(np.mean([set(p) == set(r) for p, r in pairs]))}


class SetMacroF1(_SetMetric):
    """`set_macro_f1`: F1 of each label over all rows, averaged with equal weight, 0 to 1."""

    summary = "Unweighted mean of the F1 of every label seen in references or predictions, 0 to 1."
    source = _OPITZ

    def _score(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, float]:
        return {"set_macro_f1": _set_f1(predictions, references, "macro")}


class SetMicroF1(_SetMetric):
    """`set_micro_f1`: F1 over all rows and labels together, 0 to 1."""

    summary = "F1 over all pairs of a row and a label together, 0 to 1."
    source = _SKLEARN

    def _score(self, predictions: list[list[str]], references: list[list[str]]) -> dict[str, float]:
        return {"set_micro_f1": _set_f1(predictions, references, "micro")}


def _set_f1(predictions: list[list[str]], references: list[list[str]], average: str) -> float:
    statistic = set_statistics(predictions, references)[f"set_{average}_f1"]
    return statistic(np.arange(len(predictions)))


# -- each row, each class, and statistics to resample -------------------------------------------


def calibration(confidences: Sequence[float], right: NDArray[np.float64]) -> tuple[Bin, ...]:
    """The bins of the expected calibration error (`Ece`) that hold rows, the least sure first.

    Args:
        confidences: Probability of each prediction, 0 to 1.
        right: 1 where it equals its reference, else 0; shape (examples,).

    Raises:
        ValueError: Not one confidence a prediction, or one that is no probability.
    """
    sure = np.asarray(confidences, dtype=np.float64)
    if len(sure) != len(right) or not ((sure >= 0) & (sure <= 1 + 1e-9)).all():
        raise ValueError("one confidence a prediction is needed, from 0 to 1")
    # (0, 1/15], (1/15, 2/15] ...; a confidence of 0 goes into the first.
    bins = np.clip(np.ceil(sure * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    rows, sums, hits = (
        np.bincount(bins, weights=weights, minlength=ECE_BINS) for weights in (None, sure, right)
    )
    return tuple(
        Bin(float(sums[i] / rows[i]), float(hits[i] / rows[i]), int(rows[i]))
        for i in np.flatnonzero(rows)
    )


def calibration_error(
    confidences: Sequence[float], right: NDArray[np.float64]
) -> Callable[[NDArray[np.int64]], float]:
    """The expected calibration error of chosen rows; of all rows it is what `Ece` says.

    Args:
        confidences: As for `calibration`.
        right: The same.
    """
    sure = np.asarray(confidences, dtype=np.float64)

    def error(rows: NDArray[np.int64]) -> float:
        bins = calibration(sure[rows].tolist(), right[rows])
        return sum(one.rows * abs(one.accuracy - one.confidence) for one in bins) / len(rows)

    return error


def accuracy_each(predictions: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """1 where a prediction equals its reference, else 0; shape (examples,).

    Raises:
        ValueError: No examples, not one prediction a reference, or one that is not a string.
    """
    check_pairs(predictions, references)
    pairs = zip(predictions, references, strict=True)
    return np.array([prediction == reference for prediction, reference in pairs], dtype=np.float64)


def class_scores(
    predictions: Sequence[str], references: Sequence[str]
) -> tuple[tuple[ClassScores, ...], tuple[tuple[str, str, int], ...]]:
    """Every label's own figures, and the confusion matrix.

    Returns:
        Labels by name; and (reference, prediction, rows) of every cell that is not empty, the
        fullest first.
    """
    labels = sorted({*predictions, *references})
    columns = precision_recall_fscore_support(
        references, predictions, labels=labels, zero_division=0
    )
    table = tuple(
        ClassScores(label, float(p), float(r), float(f), int(n))
        for label, p, r, f, n in zip(labels, *columns, strict=True)
    )
    cells = Counter(zip(references, predictions, strict=True))
    order = sorted(cells.items(), key=lambda cell: (-cell[1], cell[0]))
    return table, tuple((reference, found, n) for (reference, found), n in order)


def label_statistics(
    predictions: Sequence[str], references: Sequence[str]
) -> dict[str, Callable[[NDArray[np.int64]], float]]:
    """Macro-F1 and MCC of chosen rows, as fast as two thousand resamples need.

    Of all rows they are what `MacroF1` and `Mcc` say.
    """
    labels = {label: i for i, label in enumerate(sorted({*predictions, *references}))}
    found = np.array([labels[label] for label in predictions])
    right = np.array([labels[label] for label in references])

    def counts(rows: NDArray[np.int64]) -> list[NDArray[np.float64]]:
        drawn_found, drawn_right = found[rows], right[rows]
        each = (drawn_found[drawn_found == drawn_right], drawn_found, drawn_right)
        return [np.bincount(one, minlength=len(labels)).astype(np.float64) for one in each]

    def macro_f1(rows: NDArray[np.int64]) -> float:
        hits, predicted, present = counts(rows)
        seen = predicted + present > 0
        return float((2 * hits[seen] / (predicted + present)[seen]).mean())

    def mcc(rows: NDArray[np.int64]) -> float:
        hits, predicted, present = counts(rows)
        size = float(len(rows))
        both = hits.sum() * size - predicted @ present
        norm = (size**2 - predicted @ predicted) * (size**2 - present @ present)
        return float(both / np.sqrt(norm)) if norm > 0 else 0.0

    return {"macro_f1": macro_f1, "mcc": mcc}


def set_class_scores(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> tuple[ClassScores, ...]:
    """Every label's own figures where a row may have several, by name; a ratio of nothing is 0."""
    labels, found, right = _coded(predictions, references)
    hits, said, present = (found & right).sum(0), found.sum(0), right.sum(0)
    return tuple(
        ClassScores(
            label,
            float(hit / n_said) if n_said else 0.0,
            float(hit / n_present) if n_present else 0.0,
            float(2 * hit / (n_said + n_present)),  # a label that is seen is in one of the two
            int(n_present),
        )
        for label, hit, n_said, n_present in zip(labels, hits, said, present, strict=True)
    )


def set_statistics(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> dict[str, Callable[[NDArray[np.int64]], float]]:
    """Micro- and macro-F1 of chosen rows, where a row may have several labels.

    Of all rows they are what `SetMicroF1` and `SetMacroF1` say.
    """
    _, found, right = _coded(predictions, references)

    def counts(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        a, b = found[rows], right[rows]
        return (a & b).sum(0), a.sum(0) + b.sum(0)

    def micro(rows: NDArray[np.int64]) -> float:
        hits, said = counts(rows)
        return float(2 * hits.sum() / said.sum()) if said.sum() else 1.0

    def macro(rows: NDArray[np.int64]) -> float:
        hits, said = counts(rows)
        seen = said > 0
        return float((2 * hits[seen] / said[seen]).mean()) if seen.any() else 1.0

    return {"set_micro_f1": micro, "set_macro_f1": macro}


def _coded(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> tuple[list[str], NDArray[np.bool_], NDArray[np.bool_]]:
    """Every label seen, by name, and which ones each row got and has: (rows, labels) each.

    Counted by hand from here on: scikit-learn takes a single column for one of two classes.
    """
    coder = MultiLabelBinarizer().fit([*predictions, *references])
    found, right = (coder.transform(sets).astype(bool) for sets in (predictions, references))
    return [str(label) for label in coder.classes_], found, right
