"""Figures of a run by what they were measured on, which decides whether two may be compared.

Two figures may be where both are of the same held-out documents or rows, which hashes tell; or,
of times and speeds, of the same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from adapt.evaluation.compare import FRAGMENTED
from adapt.evaluation.result import SAME_TIME
from adapt.fertility import Fertility, saved
from adapt.reporting.summary import (
    Row,
    Summary,
    edge_rows,
    harness_rows,
    likelihood_rows,
    speed_rows,
    task_rows,
    tokenizer_rows,
    training_row,
)

MODELS = ("adapted", "control", SAME_TIME)


@dataclass(frozen=True)
class Data:
    """What figures were measured on.

    Attributes:
        hash: SHA-256 of documents or rows, or whatever else tells one measuring from another;
            empty where it is not known.
        sizes: Tells them apart where one of two has no hash: bytes of every document, say.
        shown: The same for people.
    """

    hash: str
    sizes: tuple[object, ...]
    shown: str

    def same(self, other: Data) -> bool:
        """Whether both are the same."""
        if self.hash and other.hash:
            return self.hash == other.hash
        return bool(self.sizes) and self.sizes == other.sizes


Measured = tuple[list[Row], Data | None]  # no data: what needs none to be compared


def parts(summaries: Sequence[Summary]) -> dict[str, Callable[[Summary], Measured]]:
    """How to get every part of the runs' figures, by title, in the order of a page."""
    tasks = dict.fromkeys(task for s in summaries for task in s.scores["adapted"].tasks)
    return {
        "Tokens of held-out domain text": lambda s: _tokens(s, "domain"),
        "Tokens of general text": lambda s: _tokens(s, "general"),
        "Held-out domain text": lambda s: _text(s, "domain"),
        "Domain text, its most fragmented fifth": _fragmented,
        "Domain text cut before a space": _edges,
        "General text": lambda s: _text(s, "general"),
        **{
            title: measured
            for task in tasks
            for title, measured in (
                (f"Task {task}", _task(task)),
                (f"Task {task}, its most fragmented fifth", _task(task, on_part=True)),
            )
        },
        "lm-evaluation-harness": lambda s: (harness_rows(s), None),
        "Speed": _speed,
        "Time and energy": _time,
        "Size": _size,
    }


def _tokens(summary: Summary, kind: str) -> Measured:
    measured: tuple[Fertility, ...] = getattr(summary.fertility, kind)
    if not measured:
        return [], None
    before, after = measured[0], measured[-1]
    share = Row("tokens saved, %", "higher", {"adapted": 100 * saved(before, after)}, 1, {})
    sizes = (before.documents, before.bytes_, before.characters, before.words)
    shown = f"{before.documents:,} documents of {before.bytes_:,} bytes"
    return [share, *tokenizer_rows(summary, measured)], Data("", sizes, shown)


def _likelihood_data(summary: Summary, kind: str, part: tuple[int, ...] = ()) -> Data | None:
    one = getattr(summary.scores["adapted"], kind)
    if one is None:
        return None
    documents = len(part) or len(one.bytes_)
    hash_ = f"{one.data}{part or ''}" if one.data else ""
    shown = f"{documents:,} documents, {_shown(one.data)}"
    return Data(hash_, (one.bytes_, part), shown)


def _shown(hash_: str) -> str:
    return f"SHA-256 {hash_[:12]}" if hash_ else "no hash kept"


def _text(summary: Summary, kind: str) -> Measured:
    rows = [row for row in likelihood_rows(summary, kind) if not _on_part(row)]
    return rows, _likelihood_data(summary, kind)


def _on_part(row: Row) -> bool:
    return row.measure.endswith(FRAGMENTED)


def _fragmented(summary: Summary) -> Measured:
    """On the documents that the run's own base cuts most: other bases may name others."""
    known = [*likelihood_rows(summary, "domain"), *edge_rows(summary)]
    rows = [row for row in known if _on_part(row)]
    found = [one.domain.fragmented for one in summary.scores.values() if one.domain]
    part = next((one for one in found if one), ())
    return rows, _likelihood_data(summary, "domain", part)


def _edges(summary: Summary) -> Measured:
    rows = [row for row in edge_rows(summary) if not _on_part(row)]
    return rows, _likelihood_data(summary, "domain")


def _task(task: str, *, on_part: bool = False) -> Callable[[Summary], Measured]:
    """On all rows of a task, or on those that the run's own base cuts most."""

    def measured(summary: Summary) -> Measured:
        one = summary.scores["adapted"].tasks.get(task)
        if one is None:
            return [], None
        part = one.fragmented if on_part else ()
        hash_ = f"{one.data}{part or ''}" if one.data else ""
        shown = f"{len(part) or one.rows:,} rows, {_shown(one.data)}"
        rows = [
            replace(row, measure=row.measure[len(task) + 2 :])
            for row in task_rows(summary, task)
            if _on_part(row) == on_part
        ]
        return rows, Data(hash_, (one.rows, one.references, part), shown)

    return measured


def _machine(summary: Summary) -> str:
    known = summary.environment
    gpu = known.get("gpu", "none")
    parts = [known.get("processor", "unknown processor"), f"{known.get('cores', '?')} cores"]
    return ", ".join([*parts, *([gpu] if gpu != "none" else [])])


def _speed(summary: Summary) -> Measured:
    """Of one machine and one text; runs are not timed in turns with each other."""
    text = _likelihood_data(summary, "domain")
    machine = _machine(summary)
    hash_ = f"{machine}, {text.hash}" if text and text.hash else ""
    sizes = (machine, text.sizes) if text else ()
    shown = f"{machine}, each run by itself"
    return speed_rows(summary), Data(hash_, sizes, shown)


def _time(summary: Summary) -> Measured:
    machine, trained = _machine(summary), summary.trained
    seconds: dict[str, float | None] = {m: one.seconds for m, one in trained.items()}
    energy = {m: one.energy_kwh for m, one in trained.items()}
    whole: dict[str, float | None] = {"adapted": sum(summary.seconds.values()) / 60}
    rows = [
        training_row(summary),
        Row("training, s", "lower", seconds, 0, {}),
        Row("training, kWh (estimated)", "lower", energy, 4, {}),
        Row("all stages, controls and scores included; min", "", whole, 1, {}),
    ]
    return rows, Data(machine, (), machine)


def _size(summary: Summary) -> Measured:
    """What needs no data to be compared; more of it is neither better nor worse."""
    before, after = summary.fertility.domain[0], summary.fertility.domain[-1]
    trained = summary.trained

    def row(measure: str, of: Callable[[str], float | None], digits: int) -> Row:
        return Row(measure, "", {m: of(m) for m in MODELS if m in trained}, digits, {})

    added = len(summary.vocabulary.delta.added)
    return [
        row("vocabulary", lambda m: (after if m == "adapted" else before).vocabulary, 0),
        row("new tokens", lambda m: added if m == "adapted" else 0, 0),
        row("parameters trained, millions", lambda m: trained[m].trainable / 1e6, 2),
        row("adapter, MB", lambda m: trained[m].adapter_bytes / 1e6, 2),
        row("text trained on, MB", lambda m: trained[m].bytes_ / 1e6, 3),
        row("tokens trained on", lambda m: sum(p.tokens for p in trained[m].phases), 0),
    ], None
