"""What reports say of tasks: metrics by model, baselines, and where a model loses to one."""

from __future__ import annotations

from dataclasses import dataclass

from adapt.evaluation.bootstrap import Interval, paired_ratio_difference
from adapt.evaluation.result import Baseline, ModelScores, TaskScores

# Name, decimal places, what is better (empty: neither), and whether the main table has it.
METRICS = {
    "accuracy": ("accuracy", 3, "higher", True),
    "macro_f1": ("macro-F1", 3, "higher", True),
    "micro_f1": ("micro-F1", 3, "higher", False),
    "mcc": ("Matthews correlation", 3, "higher", False),
    "ece": ("calibration error, 15 bins", 3, "lower", False),
    "set_micro_f1": ("micro-F1", 3, "higher", True),
    "set_macro_f1": ("macro-F1", 3, "higher", True),
    "subset_accuracy": ("subset accuracy", 3, "higher", True),
    "rouge_l": ("ROUGE-L", 3, "higher", True),
    "chrf": ("chrF", 1, "higher", True),
    "rouge_1": ("ROUGE-1", 3, "higher", False),
    "rouge_2": ("ROUGE-2", 3, "higher", False),
    "bleu": ("BLEU", 1, "higher", False),
    "exact_match": ("exact match", 3, "higher", False),
    "similarity": ("embedding similarity", 3, "higher", False),
    "term_recall": ("domain terms found", 3, "higher", False),
    "json_valid": ("valid JSON", 3, "higher", True),
    "json_schema_valid": ("JSON as the schema asks", 3, "higher", True),
    "length_ratio": ("length, the reference's being 1", 2, "", False),
    "distinct_1": ("different words", 3, "", False),
    "distinct_2": ("different pairs of words", 3, "", False),
    "distinct_3": ("different triples of words", 3, "", False),
    "looping": ("answers that end in a loop", 3, "lower", False),
    "adoption_rate": ("new tokens used where possible", 3, "higher", False),
}


_OF_SETS = {"accuracy": "subset_accuracy", "macro_f1": "set_macro_f1"}


@dataclass(frozen=True)
class Ranked:
    """A model or a baseline on a classification task.

    Attributes:
        name: base, control, control-time, adapted, tf-idf ...
        baseline: Whether it is a baseline.
        accuracy: With its 95 % interval; where a text may have several labels, the share of texts
            whose labels are all right.
        macro_f1: Its macro-F1.
        fragmented: The first on the fragmented rows; None where none are known.
        fragmented_macro_f1: The second on them.
    """

    name: str
    baseline: bool
    accuracy: Interval
    macro_f1: float
    fragmented: float | None = None
    fragmented_macro_f1: float | None = None


def baselines(scores: dict[str, ModelScores], task: str) -> dict[str, Baseline]:
    """All baselines of a task; they are measured beside one of the models."""
    return {
        name: baseline
        for one in scores.values()
        if task in one.tasks
        for name, baseline in one.tasks[task].baselines.items()
    }


def ranking(scores: dict[str, ModelScores], task: str) -> list[Ranked]:
    """Models and baselines by accuracy, the best first; nothing where there are no baselines."""
    beside = baselines(scores, task)
    if not beside:
        return []
    models = {model: one.tasks[task] for model, one in scores.items() if task in one.tasks}
    entries: list[tuple[str, bool, TaskScores | Baseline]] = [
        *((name, False, one) for name, one in models.items()),
        *((name, True, one) for name, one in beside.items()),
    ]
    rows = [
        Ranked(
            name,
            baseline,
            one.main,
            one.metrics[_named(one.metrics, "macro_f1")],
            *(_on_fragmented(one, metric) for metric in ("accuracy", "macro_f1")),
        )
        for name, baseline, one in entries
    ]
    return sorted(rows, key=lambda row: row.accuracy.value, reverse=True)


def _on_fragmented(one: TaskScores | Baseline, metric: str) -> float | None:
    """Baselines of older versions lack it."""
    found = one.on_fragmented.get(_named(one.metrics, metric))
    return found.value if found else None


def _named(metrics: dict[str, float], metric: str) -> str:
    """What a metric of labels is called where a text may have several."""
    return metric if metric in metrics else _OF_SETS[metric]


def defeats(scores: dict[str, ModelScores]) -> list[str]:
    """A sentence for every baseline that the adapted model does not beat."""
    sentences = []
    for task, adapted in scores["adapted"].tasks.items():
        for name, baseline in baselines(scores, task).items():
            lost = [
                f"{METRICS[metric][0]} {adapted.metrics[metric]:.3f} against "
                f"{baseline.metrics[metric]:.3f}"
                for metric in ("accuracy", "macro_f1", "subset_accuracy", "set_macro_f1")
                if metric in adapted.metrics and adapted.metrics[metric] < baseline.metrics[metric]
            ]
            if lost:
                known = " and logistic regression" if name == "tf-idf" else ""
                sentences.append(
                    f"{task}: the adapted model loses to {name}{known}: {', '.join(lost)}"
                    f"{_difference(adapted.each, baseline.each, ' in accuracy')}."
                )
    return sentences


def forgotten(scores: dict[str, ModelScores]) -> list[str]:
    """A sentence for every task that nothing was trained on: what it was before, and is now."""
    base = scores["base"].tasks if "base" in scores else {}
    sentences = []
    for task, now in scores["adapted"].tasks.items():
        if now.trained or task not in base:
            continue
        metric, before = next(iter(now.metrics)), base[task]
        sentences.append(
            f"{task}, which nothing was trained on: {METRICS[metric][0]} "
            f"{before.metrics[metric]:.3f} before, {now.metrics[metric]:.3f} after"
            f"{_difference(now.each, before.each)}."
        )
    return sentences


def _difference(adapted: tuple[float, ...], baseline: tuple[float, ...], measure: str = "") -> str:
    """The paired interval of the difference in the main metric, where both have every row."""
    if not adapted or len(adapted) != len(baseline):
        return ""
    found = paired_ratio_difference(adapted, baseline, [1.0] * len(adapted), seed=0)
    return (
        f" (difference{measure} {found.value:+.3f}, 95 % interval {found.low:+.3f} to "
        f"{found.high:+.3f})"
    )
