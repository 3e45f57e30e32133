"""What the evaluation of one model leaves behind; needs no torch to be read."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from adapt.evaluation.bootstrap import Interval

# The control that trained for as long as the adapted model; the other one read the same bytes.
SAME_TIME = "control-time"

BITS = "bits per byte"


@dataclass(frozen=True)
class Likelihood:
    """Bits per byte, document by document, so that models can be compared in pairs.

    Attributes:
        bits: Negative log2 probability of each document.
        bytes_: UTF-8 bytes of each document.
        interval: Their ratio of sums, with its 95 % bootstrap interval.
        data: SHA-256 of the documents (`adapt.evaluation.slices.text_hash`); empty in results of
            older versions.
        fragmented: Which documents, from 0, are the fifth with the highest share of words that the
            base's tokenizer splits; measured once a run, with the base.
        new_token_share: Probability that the model puts on new tokens, mean over positions; None
            where it has none.
        share_on_fragmented: The same of the fragmented documents.
        measure: What the figure is called: `evaluation.masked.MEASURE` of a model that fills in
            hidden words, whose `bits` are of the words that are scored, and `bytes_` theirs.
        told: Bits per byte that the number of masks may tell such a model, at most; else None.
    """

    bits: tuple[float, ...]
    bytes_: tuple[int, ...]
    interval: Interval
    data: str = ""
    fragmented: tuple[int, ...] = ()
    new_token_share: Interval | None = None
    share_on_fragmented: Interval | None = None
    measure: str = BITS
    told: float | None = None


@dataclass(frozen=True)
class ClassScores:
    """One label of a classification task.

    Attributes:
        label: Its name.
        precision: Share of its predictions that are right; 0 where it was never predicted.
        recall: Share of its rows that were found; 0 where it has none.
        f1: Their harmonic mean.
        rows: Rows that have it.
    """

    label: str
    precision: float
    recall: float
    f1: float
    rows: int


@dataclass(frozen=True)
class Bin:
    """Rows of about the same confidence, as the expected calibration error groups them.

    Attributes:
        confidence: Mean probability of their predictions, 0 to 1.
        accuracy: Share of their predictions that are right.
        rows: How many there are, at least one.
    """

    confidence: float
    accuracy: float
    rows: int


@dataclass(frozen=True)
class Baseline:
    """What a model has to beat, on the same rows.

    Attributes:
        metrics: By the names of `adapt.evaluation.metrics`.
        main: The task's main metric with its interval.
        each: The main metric of each row.
        on_fragmented: 95 % intervals of its metrics on the fragmented rows (`TaskScores`).
    """

    metrics: dict[str, float]
    main: Interval
    each: tuple[float, ...] = ()
    on_fragmented: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskScores:
    """Scores on one task's held-out rows.

    Attributes:
        kind: `classification` or `generation`.
        rows: Rows scored.
        metrics: By the names of `adapt.evaluation.metrics`.
        main: The first metric with its interval: accuracy, or ROUGE-L.
        examples: (prompt, reference, answer) of the rows that scored worst, then of the best.
        example_rows: Which rows those are, from 0.
        worst: How many of the examples are the worst ones.
        intervals: 95 % intervals, of the metrics that have one (`evaluation.figures`).
        answers: What the model said to every row.
        each: The main metric of every row, so that models can be compared in pairs.
        classes: Each label by itself; empty for generation.
        confusion: (reference, prediction, rows), the fullest first; empty for generation.
        baselines: By name, such as `tf-idf`; measured once a run, with the base.
        settings: How the answers were made.
        notes: What was not measured, or says nothing, and why.
        data: SHA-256 of the rows; empty in results of older versions.
        references: Label of every row; empty for generation.
        calibration: Bins of the expected calibration error that hold rows, the least sure first;
            empty where it was not measured.
        trained: Whether phases train on its other rows; if not, it says what was forgotten.
        fragmented: Which rows, from 0, are the fifth with the highest share of words that the
            base's tokenizer splits; empty where that was not asked.
        on_fragmented: What `intervals` has, of those rows only.
    """

    kind: str
    rows: int
    metrics: dict[str, float]
    main: Interval
    examples: tuple[tuple[str, str, str], ...]
    example_rows: tuple[int, ...] = ()
    worst: int = 0
    intervals: dict[str, Interval] = field(default_factory=dict)
    answers: tuple[str, ...] = ()
    each: tuple[float, ...] = ()
    classes: tuple[ClassScores, ...] = ()
    confusion: tuple[tuple[str, str, int], ...] = ()
    baselines: dict[str, Baseline] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    data: str = ""
    references: tuple[str, ...] = ()
    calibration: tuple[Bin, ...] = ()
    trained: bool = True
    fragmented: tuple[int, ...] = ()
    on_fragmented: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class EdgeScores:
    """What follows a prompt's end, where a text was cut before a space (`evaluation.edges`).

    Attributes:
        cuts: Texts cut.
        bytes_: UTF-8 bytes that follow the cuts and were scored, in all.
        dropped_share: Of cuts where healing had tokens to drop.
        crossed_share: Of cuts that the text's own tokens reach across.
        plain: Bits per byte after the prompt's own tokens, with its 95 % bootstrap interval.
        healed: The same with token healing.
        difference: Healed minus plain, paired by cut; below zero, healing helps.
        on_fragmented: The three on the cuts in fragmented documents, by name; empty where none is.
    """

    cuts: int
    bytes_: int
    dropped_share: float
    crossed_share: float
    plain: Interval
    healed: Interval
    difference: Interval
    on_fragmented: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Rounds:
    """A figure of each round, in the order of rounds, so that models can be compared in pairs.

    Attributes:
        values: One a round.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of all rounds."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The lowest."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The highest."""
        return max(self.values)


@dataclass(frozen=True)
class SpeedScores:
    """How fast one model is, timed in turns with others (`evaluation.speed`).

    Attributes:
        prompt_characters_per_second: Of a batch of prompts, up to the first token written; of a
            model that writes no text, of all that it reads, cut into tokens and read in batches.
        decode_characters_per_second: Of what is written after it, the batch taken together; None
            of a model that writes no text.
        decode_tokens_per_second: The same in tokens.
        latency_p50_ms: Half of the requests, each a prompt alone and a fixed number of tokens,
            or a text alone of a model that writes none, took no longer; milliseconds.
        latency_p90_ms: 90 % of them did.
        latency_p99_ms: 99 % of them did; below a hundred requests close to the longest.
        requests: How many there were, over all rounds.
        documents: Prompts of the batch; texts read in a turn.
        peak_memory_bytes: What the model needed for the batch; see `memory`.
        memory: `allocated`: weights and the most that tensors took beside them on the device;
            `weights and cache`: computed on a CPU, without activations; `weights`: the same of a
            model that has no cache.
        rows_per_second: Texts, of a model that writes none; else None.
    """

    prompt_characters_per_second: Rounds
    decode_characters_per_second: Rounds | None
    decode_tokens_per_second: Rounds | None
    latency_p50_ms: float
    latency_p90_ms: float
    latency_p99_ms: float
    requests: int
    documents: int
    peak_memory_bytes: int
    memory: str
    rows_per_second: Rounds | None = None

    @property
    def rounds(self) -> dict[str, Rounds]:
        """What there is of each round, by its name in reports, what matters most first."""
        named = {
            "generated characters/s": self.decode_characters_per_second,
            "generated tokens/s": self.decode_tokens_per_second,
            "prompt characters/s": self.prompt_characters_per_second,
        }
        if self.decode_characters_per_second is None:
            named = {
                "read characters/s": self.prompt_characters_per_second,
                "read texts/s": self.rows_per_second,
            }
        return {name: rounds for name, rounds in named.items() if rounds is not None}

    def to_json(self) -> dict[str, Any]:
        """For the stage's manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> SpeedScores:
        """The result of a finished stage."""
        values: Any = {
            name: Rounds(tuple(value["values"])) if isinstance(value, dict) else value
            for name, value in record.items()
        }
        return cls(**values)


@dataclass(frozen=True)
class ModelScores:
    """All scores of one model.

    Attributes:
        domain: On held-out domain text; None of a model with a head of classes, which says nothing
            of how likely a text is.
        general: On general text; None where the recipe names none.
        tasks: By name.
        edge: On held-out domain text; None where it was not measured, or no text can be cut.
        speed: In turns with the other models of a run; None where it was not measured, or no
            held-out document can be continued.
        harness: Of lm-evaluation-harness, by task and metric; empty where none was asked for.
    """

    domain: Likelihood | None
    general: Likelihood | None
    tasks: dict[str, TaskScores]
    edge: EdgeScores | None = None
    speed: SpeedScores | None = None
    harness: dict[str, dict[str, Interval]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For the stage's manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> ModelScores:
        """The result of a finished stage."""
        tasks = {name: _task(task) for name, task in record["tasks"].items()}
        domain, general = record["domain"], record["general"]
        return cls(
            domain and _likelihood(domain),
            general and _likelihood(general),
            tasks,
            _edge(record.get("edge")),
            SpeedScores.from_json(record["speed"]) if record.get("speed") else None,
            {
                task: {metric: Interval(**one) for metric, one in metrics.items()}
                for task, metrics in record.get("harness", {}).items()
            },
        )


def _likelihood(record: dict[str, Any]) -> Likelihood:
    changed: Any = {
        **{name: tuple(record.get(name, ())) for name in ("bits", "bytes_", "fragmented")},
        "interval": Interval(**record["interval"]),
    }
    for name in ("new_token_share", "share_on_fragmented"):
        changed[name] = Interval(**share) if (share := record.get(name)) else None
    return Likelihood(**{**record, **changed})


def _task(record: dict[str, Any]) -> TaskScores:
    baselines = {
        name: Baseline(
            one["metrics"],
            Interval(**one["main"]),
            tuple(one["each"]),
            _intervals(one.get("on_fragmented", {})),
        )
        for name, one in record.get("baselines", {}).items()
    }
    changed = {
        "main": Interval(**record["main"]),
        "examples": tuple((p, r, a) for p, r, a in record["examples"]),
        "intervals": _intervals(record.get("intervals", {})),
        "on_fragmented": _intervals(record.get("on_fragmented", {})),
        "classes": tuple(ClassScores(**one) for one in record.get("classes", ())),
        "confusion": tuple((r, p, n) for r, p, n in record.get("confusion", ())),
        "baselines": baselines,
        "calibration": tuple(Bin(**one) for one in record.get("calibration", ())),
    }
    lists = ("example_rows", "answers", "each", "notes", "references", "fragmented")
    return TaskScores(
        **{**record, **changed, **{name: tuple(record.get(name, ())) for name in lists}}
    )


def _intervals(record: dict[str, Any]) -> dict[str, Interval]:
    return {name: Interval(**one) for name, one in record.items()}


def _edge(record: dict[str, Any] | None) -> EdgeScores | None:
    if record is None:
        return None
    intervals = {name: Interval(**record[name]) for name in ("plain", "healed", "difference")}
    part = _intervals(record.get("on_fragmented", {}))
    return EdgeScores(**{**record, **intervals, "on_fragmented": part})
