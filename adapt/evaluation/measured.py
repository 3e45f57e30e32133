"""Figures of finished runs and of `adapt evaluate`, read from their folders for `adapt compare`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapt.errors import DataError, WorkspaceError, nearest
from adapt.evaluation.compare import Comparison, compare, same_documents
from adapt.evaluation.result import ModelScores
from adapt.evaluation.verdict import Verdict, judge
from adapt.fertility import Fertility, FertilityReport, saved
from adapt.workspace import Workspace

SCORES = "scores.json"  # what `adapt evaluate` leaves behind
_UNTIMED = "speed: not timed in turns, not compared"


@dataclass(frozen=True)
class Measured:
    """One model with its figures.

    Attributes:
        name: As it was asked for.
        scores: Its scores.
        fertility: Its tokenizer on held-out domain text; None where that was not measured.
        base: Scores of its own base on the same documents; None where there are none.
        run: Folder of the run whose models were timed in turns with it; None of `adapt evaluate`.
    """

    name: str
    scores: ModelScores
    fertility: Fertility | None
    base: ModelScores | None
    run: Path | None = None


@dataclass(frozen=True)
class Pair:
    """A model and what it is judged against.

    Attributes:
        comparison: Of the two.
        base: Of the model with its own base; None where there is none on the same documents.
        saved: Share of tokens saved against the reference; None where it is not known.
    """

    comparison: Comparison
    base: Comparison | None
    saved: float | None

    def verdict(self, name: str) -> Verdict:
        """By the rule of a run's own report; `name` is what the sentence calls the model."""
        return judge(self.comparison, name, self.saved, self.base)


def open_measured(reference: str) -> Measured:
    """Reads a run folder, or the output folder of `adapt evaluate`.

    Args:
        reference: A folder; of a run its adapted model, or another one as in `runs/a@control`.

    Raises:
        WorkspaceError: It holds no finished figures.
        DataError: The run has no such model.
    """
    path, model = Path(reference), "adapted"
    if not path.is_dir() and "@" in reference:
        folder, _, model = reference.rpartition("@")
        path = Path(folder)
    evaluation = Workspace(path).reports / "evaluation.json"
    alone = (path / SCORES).is_file()
    if not alone and not evaluation.is_file():
        raise WorkspaceError(
            "holds no finished evaluation",
            where=reference,
            fix="give a run that adapt run has finished, or a folder that adapt evaluate wrote",
        )
    try:
        return _alone(reference, path) if alone else _of_run(reference, Workspace(path), model)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise WorkspaceError(
            f"figures cannot be read ({type(error).__name__}), another version may have written "
            "them",
            where=reference,
            fix="run the same command that made them again",
        ) from None


def _alone(name: str, folder: Path) -> Measured:
    record = _read(folder / SCORES)
    domain = FertilityReport.from_json(record["fertility"]).domain
    return Measured(name, ModelScores.from_json(record["scores"]), domain[0], None)


def _of_run(name: str, run: Workspace, model: str) -> Measured:
    by_name = _read(run.reports / "evaluation.json")["scores"]
    if model not in by_name:
        raise DataError(
            "the run scored no such model", where=name, got=model, fix=nearest(model, by_name)
        )
    domain = FertilityReport.from_json(_read(run.reports / "fertility.json")).domain
    adapted = model == "adapted"
    base = ModelScores.from_json(by_name["base"]) if adapted and "base" in by_name else None
    scores = ModelScores.from_json(by_name[model])
    return Measured(name, scores, domain[-1 if adapted else 0], base, run.root.resolve())


def _read(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def against(measured: Measured, reference: Measured, seed: int = 0) -> tuple[Comparison, Verdict]:
    """One model against another, with the verdict of the same rule as a run's own.

    Args:
        measured: The model to judge.
        reference: What it is judged against.
        seed: Of the bootstrap.

    Raises:
        DataError: As `pair`.
    """
    found = pair(measured, reference, seed)
    return found.comparison, found.verdict(measured.name)


def pair(measured: Measured, reference: Measured, seed: int = 0) -> Pair:
    """Pairs one model with another, and with its own base.

    Speeds are compared within one run alone, whose models were timed in turns: at another time or
    on another machine a speed says nothing of the model.

    Args:
        measured: The model to judge.
        reference: What it is judged against.
        seed: Of the bootstrap.

    Raises:
        DataError: They were not scored on the same held-out domain documents, or by one measure.
    """
    ours, theirs = measured.scores, reference.scores
    _refuse_other_text(measured, reference)
    notes: tuple[str, ...] = ()
    if ours.speed and theirs.speed and (not measured.run or measured.run != reference.run):
        ours, notes = replace(ours, speed=None), (_UNTIMED,)
    comparison = compare(ours, theirs, reference.name, seed)
    comparison = replace(comparison, notes=(*comparison.notes, *notes))
    base = None
    first = measured.base.domain if measured.base else None
    if measured.base and first and ours.domain and same_documents(ours.domain, first):
        base = compare(ours, measured.base, "base", seed)
    return Pair(comparison, base, _saved(measured, reference))


def _refuse_other_text(measured: Measured, reference: Measured) -> None:
    ours, theirs = measured.scores.domain, reference.scores.domain
    if not ours or not theirs:
        return
    if ours.measure != theirs.measure:
        raise DataError(
            f"is measured in {ours.measure}, which compare with their own kind alone",
            where=measured.name,
            got=f"{theirs.measure} of {reference.name}",
            fix="compare models that both write text, or both fill in hidden words",
        )
    if not same_documents(ours, theirs):
        hashes = [one.data[:12] or "unknown" for one in (ours, theirs)]
        raise DataError(
            f"was scored on other held-out documents than {reference.name}",
            where=measured.name,
            got=f"SHA-256 {hashes[0]} and {hashes[1]}",
            fix="score both on one recipe's corpus: adapt evaluate MODEL --recipe R",
        )


def _saved(measured: Measured, reference: Measured) -> float | None:
    before, after = reference.fertility, measured.fertility
    if before is None or after is None:
        return None
    same = (before.bytes_, before.words, before.documents)
    if same != (after.bytes_, after.words, after.documents):
        return None
    return saved(before, after)
