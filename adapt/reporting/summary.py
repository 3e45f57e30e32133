"""Everything that a finished run can say of itself: what every report is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from adapt.corpus.audit import DataAudit
from adapt.corpus.result import CorpusStatistics
from adapt.evaluation.bootstrap import Interval
from adapt.evaluation.compare import FRAGMENTED, Comparison, same_documents
from adapt.evaluation.result import SAME_TIME, ModelScores, TaskScores
from adapt.evaluation.slices import on_slice
from adapt.evaluation.verdict import Verdict
from adapt.fertility import Fertility, FertilityReport
from adapt.reporting.tasks import METRICS, defeats, forgotten, ranking
from adapt.training.result import Trained
from adapt.vocab import Vocabulary

MODELS = ("base", "control", SAME_TIME, "adapted")
_NEW = "probability on new tokens"
_TOLD = "told by the number of masks, at most; bits per byte"


@dataclass(frozen=True)
class Summary:
    """Results of all stages.

    Attributes:
        name: The run.
        base: `model.base` of the recipe.
        corpus: What was read, kept and held out.
        vocabulary: What became of the tokenizer.
        fertility: Before (`base`) and after (`adapted`), on held-out domain and general text.
        trained: By `adapted`, `control` and `control-time`.
        scores: By `base` and those.
        comparisons: Adapted against `base` and the controls.
        verdict: The recommendation.
        recipe: The resolved recipe, as YAML.
        seconds: Time of each stage when it ran.
        environment: Versions, processor, device.
        audit: What was found wrong with the data; None in runs of older versions.
    """

    name: str
    base: str
    corpus: CorpusStatistics
    vocabulary: Vocabulary
    fertility: FertilityReport
    trained: dict[str, Trained]
    scores: dict[str, ModelScores]
    comparisons: dict[str, Comparison]
    verdict: Verdict
    recipe: str
    seconds: dict[str, float]
    environment: dict[str, str]
    audit: DataAudit | None = None

    def to_json(self) -> dict[str, Any]:
        """For reports/evaluation.json; the fertility report is a file of its own."""
        return {
            "name": self.name,
            "base": self.base,
            "verdict": asdict(self.verdict),
            "table": [asdict(row) for row in table(self)],
            "edge": [asdict(row) for row in edge_rows(self)],
            "speed": [asdict(row) for row in speed_rows(self)],
            "ranking": {
                task: [asdict(row) for row in ranking(self.scores, task)]
                for task in self.scores["adapted"].tasks
            },
            "defeats": defeats(self.scores),
            "forgotten": forgotten(self.scores),
            "comparisons": {k: asdict(v) for k, v in self.comparisons.items()},
            "scores": {k: v.to_json() for k, v in self.scores.items()},
            "training": {k: v.to_json() for k, v in self.trained.items()},
            "corpus": asdict(self.corpus),
            "vocabulary": self.vocabulary.to_json(),
            "seconds": self.seconds,
            "environment": self.environment,
            "audit": self.audit.to_json() if self.audit else None,
        }


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        measure: What is measured, with its unit.
        better: `higher` or `lower`; empty where neither is.
        values: By model; None where a model has no such figure.
        digits: Decimal places worth showing.
        intervals: 95 % intervals (low, high), by model, where there are any.
    """

    measure: str
    better: str
    values: dict[str, float | None]
    digits: int
    intervals: dict[str, tuple[float, float]]


def table(summary: Summary) -> list[Row]:
    """The one table: base, controls, adapted."""
    rows = tokenizer_rows(summary, summary.fertility.domain)
    rows += [row for kind in ("domain", "general") for row in likelihood_rows(summary, kind)]
    for task in summary.scores["adapted"].tasks:
        rows += task_rows(summary, task, whole=False)
    rows += [*harness_rows(summary), training_row(summary)]
    rows += [replace(row, intervals={}) for row in speed_rows(summary)[:1]]
    return rows


def _models(summary: Summary) -> list[str]:
    return [name for name in MODELS if name in summary.scores]


def tokenizer_rows(summary: Summary, measured: Sequence[Fertility]) -> list[Row]:
    """How one text is cut: the base's tokenizer is the controls' as well.

    Args:
        summary: Of a run.
        measured: `domain` or `general` of its fertility; nothing where there is no such text.
    """
    if not measured:
        return []
    before, after, models = measured[0], measured[-1], _models(summary)

    def row(measure: str, better: str, field: str) -> Row:
        def value(fertility: Fertility) -> float:
            return float(getattr(fertility, field))

        values: dict[str, float | None] = {
            m: value(after if m == "adapted" else before) for m in models
        }
        return Row(measure, better, values, 2, {})

    return [
        row("tokens per word", "lower", "tokens_per_word"),
        row("bytes per token", "higher", "bytes_per_token"),
    ]


def likelihood_rows(summary: Summary, kind: str) -> list[Row]:
    """Bits per byte on `domain` or `general` text, and what else is known of the domain's."""
    models, rows = _models(summary), []
    found = {m: getattr(summary.scores[m], kind) for m in models}
    if all(found.values()):
        rows.append(
            Row(
                f"{found[models[0]].measure}, {kind} text",
                "lower",
                {m: f.interval.value for m, f in found.items()},
                3,
                {m: (f.interval.low, f.interval.high) for m, f in found.items()},
            )
        )
    return rows + _slice_rows(summary, models) if kind == "domain" else rows


def _slice_rows(summary: Summary, models: list[str]) -> list[Row]:
    """Where the new vocabulary should help most, and how much probability its tokens get."""
    rows: list[Row] = []
    found_in = {m: summary.scores[m].domain for m in models}
    scores = {m: one for m, one in found_in.items() if one is not None}
    if len(scores) < len(models):
        return rows
    cut = next((one.fragmented for one in scores.values() if one.fragmented), ())
    alike = all(same_documents(one, scores[models[0]]) for one in scores.values())
    if cut and alike:
        found = {m: interval for m, one in scores.items() if (interval := on_slice(one, cut))}
        measure = f"{scores[models[0]].measure}{FRAGMENTED}"
        if found:
            rows.append(_interval_row(measure, "lower", models, found))
    shares = {m: one.new_token_share for m, one in scores.items() if one.new_token_share}
    if shares:
        rows.append(_interval_row(_NEW, "", models, shares))
    part = {m: one.share_on_fragmented for m, one in scores.items() if one.share_on_fragmented}
    if part and alike:
        rows.append(_interval_row(_NEW + FRAGMENTED, "", models, part))
    told = {m: one.told for m, one in scores.items()}
    if None not in told.values():
        rows.append(Row(_TOLD, "", told, 3, {}))
    return rows


def _interval_row(
    measure: str, better: str, models: list[str], found: dict[str, Interval], digits: int = 3
) -> Row:
    values = {m: found[m].value if m in found else None for m in models}
    return Row(measure, better, values, digits, {m: (i.low, i.high) for m, i in found.items()})


def task_rows(summary: Summary, task: str, *, whole: bool = True) -> list[Row]:
    """Metrics of a task, and the same on its fragmented rows.

    Without `whole` those of the main table only, and the first of them on the fragmented rows.
    """
    scores = by_task(summary, task)
    measured = {metric for one in scores.values() for metric in one.metrics}
    trained = all(one.trained for one in scores.values())
    rows, part = [], []
    for metric, (name, digits, better, main) in METRICS.items():
        if metric not in measured or not (whole or main):
            continue
        values: dict[str, float | None] = {
            m: scores[m].metrics.get(metric) if m in scores else None for m in _models(summary)
        }
        found = {m: _interval(s, metric) for m, s in scores.items()}
        intervals = {m: (f.low, f.high) for m, f in found.items() if f is not None}
        label = f"{task}: {name}" + ("" if trained else ", not trained on")
        rows.append(Row(label, better, values, digits, intervals))
        cut = {m: s.on_fragmented[metric] for m, s in scores.items() if metric in s.on_fragmented}
        if cut:
            part.append(_interval_row(label + FRAGMENTED, better, _models(summary), cut, digits))
    return rows + (part if whole else part[:1])


def by_task(summary: Summary, task: str) -> dict[str, TaskScores]:
    """Scores of a task, by the models that it was scored on."""
    return {m: tasks[task] for m in _models(summary) if task in (tasks := summary.scores[m].tasks)}


def _interval(scores: TaskScores, metric: str) -> Interval | None:
    main = next(iter(scores.metrics), None)
    return scores.intervals.get(metric, scores.main if metric == main else None)


def training_row(summary: Summary) -> Row:
    """Text read a second, by what was trained."""
    values: dict[str, float | None] = {
        m: summary.trained[m].bytes_per_second if m in summary.trained else None
        for m in _models(summary)
    }
    return Row("training, bytes/s", "higher", values, 0, {})


def harness_rows(summary: Summary) -> list[Row]:
    """What lm-evaluation-harness measured; whether more is better is for its tasks to say."""
    models = _models(summary)
    scores = {m: summary.scores[m].harness for m in models}
    first = next(iter(scores.values()))
    return [
        _interval_row(
            f"harness, {task}: {metric}",
            "",
            models,
            {m: one[task][metric] for m, one in scores.items() if metric in one.get(task, {})},
        )
        for task, metrics in first.items()
        for metric in metrics
    ]


def speed_rows(summary: Summary) -> list[Row]:
    """Speed of all models, timed in turns: medians, with the range of rounds for an interval.

    Characters a second come first, generated or read; no rows where it was not measured.
    """
    models = _models(summary)
    # The control of the same time is not timed: it computes what the control does.
    speeds = {m: summary.scores[m].speed for m in models if m != SAME_TIME}
    known = {m: speed for m, speed in speeds.items() if speed is not None}
    if not known or len(known) < len(speeds):
        return []

    def row(measure: str, better: str, values: Mapping[str, float]) -> Row:
        digits = 1 if min(values.values()) < 10 else 0  # what a small model takes differs by less
        return Row(measure, better, {m: values.get(m) for m in models}, digits, {})

    rows = []
    for measure in next(iter(known.values())).rounds:
        rounds = {m: speed.rounds[measure] for m, speed in known.items()}
        medians = row(measure, "higher", {m: r.median for m, r in rounds.items()})
        rows.append(replace(medians, intervals={m: (r.low, r.high) for m, r in rounds.items()}))
    for share in ("50", "90", "99"):
        values = {m: getattr(speed, f"latency_p{share}_ms") for m, speed in known.items()}
        rows.append(row(f"one request, {share} % took at most; ms", "lower", values))
    memory = {m: s.peak_memory_bytes / 1e6 for m, s in known.items()}
    kind = next(iter(known.values())).memory
    return [*rows, row(f"memory, MB ({kind})", "lower", memory)]


def edge_rows(summary: Summary) -> list[Row]:
    """What follows a prompt's end, plain and healed; no rows where it was not measured."""
    edges = {m: summary.scores[m].edge for m in MODELS if m in summary.scores}
    known = {m: edge for m, edge in edges.items() if edge is not None}
    rows, part = [], []
    for way in ("plain", "healed", "difference") if known else ():
        name = "healed minus plain" if way == "difference" else way
        measure = f"bits per byte after a cut, {name}"
        found: dict[str, Interval] = {m: getattr(edge, way) for m, edge in known.items()}
        rows.append(_interval_row(measure, "lower", list(edges), found))
        cut = {m: i for m, edge in known.items() if (i := edge.on_fragmented.get(way))}
        if cut:
            part.append(_interval_row(measure + FRAGMENTED, "lower", list(edges), cut))
    return rows + part
