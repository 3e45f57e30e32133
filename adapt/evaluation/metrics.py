"""Task metrics as `evaluate.Metric`, without the scripts that `evaluate.load` fetches.

`evaluate.load("accuracy")` downloads a Python file from the Hub and so fails offline. These
subclasses hand the same work to installed libraries, and go into `evaluate.combine` like any other.
Predictions and references are strings, one of each an example; those of `SETS` are lists of them.
"""

from __future__ import annotations

from typing import Literal

import evaluate

from adapt.errors import nearest
from adapt.evaluation.label_metrics import (
    Accuracy,
    Ece,
    MacroF1,
    Mcc,
    MicroF1,
    SetMacroF1,
    SetMicroF1,
    SubsetAccuracy,
)
from adapt.evaluation.local_metric import LocalMetric
from adapt.evaluation.text_metrics import (
    Bleu,
    ChrF,
    Distinct1,
    Distinct2,
    Distinct3,
    ExactMatch,
    LengthRatio,
    Looping,
    Rouge1,
    Rouge2,
    RougeL,
)

METRICS: dict[str, type[LocalMetric]] = {
    "accuracy": Accuracy,
    "macro_f1": MacroF1,
    "micro_f1": MicroF1,
    "mcc": Mcc,
    "rouge_l": RougeL,
    "rouge_1": Rouge1,
    "rouge_2": Rouge2,
    "chrf": ChrF,
    "bleu": Bleu,
    "exact_match": ExactMatch,
    "length_ratio": LengthRatio,
    "distinct_1": Distinct1,
    "distinct_2": Distinct2,
    "distinct_3": Distinct3,
    "looping": Looping,
}

# Over sets of labels.
SETS: dict[str, type[LocalMetric]] = {
    "set_micro_f1": SetMicroF1,
    "set_macro_f1": SetMacroF1,
    "subset_accuracy": SubsetAccuracy,
}

# Over labels and the probabilities of the predicted ones.
CONFIDENCE: dict[str, type[LocalMetric]] = {"ece": Ece}

# The first of a kind is its main metric.
KINDS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", "micro_f1", "mcc"),
    "generation": (
        "rouge_l",
        "chrf",
        "rouge_1",
        "rouge_2",
        "bleu",
        "exact_match",
        "length_ratio",
        "distinct_1",
        "distinct_2",
        "distinct_3",
        "looping",
    ),
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
