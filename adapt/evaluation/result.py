"""What the evaluation of one model leaves behind; needs no torch to be read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from adapt.evaluation.bootstrap import Interval


@dataclass(frozen=True)
class Likelihood:
    """Bits per byte, document by document, so that models can be compared in pairs.

    Attributes:
        bits: Negative log2 probability of each document.
        bytes_: UTF-8 bytes of each document.
        interval: Their ratio of sums, with its 95 % bootstrap interval.
    """

    bits: tuple[float, ...]
    bytes_: tuple[int, ...]
    interval: Interval


@dataclass(frozen=True)
class TaskScores:
    """Scores on one task's held-out rows.

    Attributes:
        kind: `classification` or `generation`.
        rows: Rows scored.
        metrics: By the names of `adapt.evaluation.metrics`.
        main: The first metric with its interval: accuracy, or ROUGE-L.
        examples: (prompt, reference, answer) of the first rows.
    """

    kind: str
    rows: int
    metrics: dict[str, float]
    main: Interval
    examples: tuple[tuple[str, str, str], ...]


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
    """

    cuts: int
    bytes_: int
    dropped_share: float
    crossed_share: float
    plain: Interval
    healed: Interval
    difference: Interval


@dataclass(frozen=True)
class ModelScores:
    """All scores of one model.

    Attributes:
        domain: On held-out domain text.
        general: On general text; None where the recipe names none.
        tasks: By name.
        characters_per_second: Of decoding, at a fixed number of tokens; None where no held-out
            document is long enough to be continued.
        edge: On held-out domain text; None where it was not measured, or no text can be cut.
    """

    domain: Likelihood
    general: Likelihood | None
    tasks: dict[str, TaskScores]
    characters_per_second: float | None
    edge: EdgeScores | None = None

    def to_json(self) -> dict[str, Any]:
        """For the stage's manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> ModelScores:
        """The result of a finished stage."""
        tasks = {
            name: TaskScores(
                **{
                    **task,
                    "main": Interval(**task["main"]),
                    "examples": tuple((p, r, a) for p, r, a in task["examples"]),
                }
            )
            for name, task in record["tasks"].items()
        }
        general = record["general"]
        return cls(
            _likelihood(record["domain"]),
            general and _likelihood(general),
            tasks,
            record["characters_per_second"],
            _edge(record.get("edge")),
        )


def _likelihood(record: dict[str, Any]) -> Likelihood:
    return Likelihood(
        tuple(record["bits"]), tuple(record["bytes_"]), Interval(**record["interval"])
    )


def _edge(record: dict[str, Any] | None) -> EdgeScores | None:
    if record is None:
        return None
    intervals = {name: Interval(**record[name]) for name in ("plain", "healed", "difference")}
    return EdgeScores(**{**record, **intervals})
