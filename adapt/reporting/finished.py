"""The summary of a finished run, read back from the files that it left: no model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adapt.corpus.audit import DataAudit
from adapt.corpus.result import CorpusStatistics, TextStatistics
from adapt.errors import VocabularyError, WorkspaceError
from adapt.evaluation.bootstrap import Interval
from adapt.evaluation.compare import Comparison, Figure
from adapt.evaluation.result import SAME_TIME, ModelScores
from adapt.evaluation.verdict import Verdict
from adapt.fertility import FertilityReport
from adapt.reporting.summary import Summary
from adapt.training.result import Trained
from adapt.vocab import Vocabulary
from adapt.workspace import Workspace


def read_summary(run: Path) -> Summary:
    """Opens a finished run.

    Args:
        run: Its folder.

    Raises:
        WorkspaceError: It is not finished, or its files cannot be read.
    """
    workspace = Workspace(run)
    evaluation = workspace.reports / "evaluation.json"
    fertility = workspace.reports / "fertility.json"
    for path in (evaluation, fertility, workspace.recipe):
        if not path.is_file():
            raise _unfinished(run, f"no {path.relative_to(run)}")
    try:
        record = json.loads(evaluation.read_text(encoding="utf-8"))
        # Begun anew, as with a changed recipe, a run still has the results of the time before.
        for stage in record["seconds"]:
            if not workspace.manifest(stage).is_file():
                raise _unfinished(run, f"stage {stage} under way or broken off")
        measured = FertilityReport.from_json(json.loads(fertility.read_text(encoding="utf-8")))
        recipe = workspace.recipe.read_text(encoding="utf-8")
        return _summary(workspace, record, measured, recipe)
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError),
        VocabularyError,
    ) as error:
        raise WorkspaceError(
            f"holds result files that cannot be read ({type(error).__name__}), another version "
            "may have written them",
            where=str(run),
            fix="run its recipe again",
        ) from None


def _unfinished(run: Path, got: str) -> WorkspaceError:
    fix = "finish it with `adapt run` and its recipe"
    return WorkspaceError(f"is not a finished run ({got})", where=str(run), fix=fix)


def _summary(
    workspace: Workspace, record: dict[str, Any], fertility: FertilityReport, recipe: str
) -> Summary:
    corpus = record["corpus"]
    splits = {name: TextStatistics(**one) for name, one in corpus["splits"].items()}
    folders = {"adapted": workspace.adapter, "control": workspace.control}
    folders[SAME_TIME] = workspace.control_time
    scores = {name: ModelScores.from_json(one) for name, one in record["scores"].items()}
    return Summary(
        name=record["name"],
        base=record["base"],
        corpus=CorpusStatistics(**{**corpus, "splits": splits}),
        vocabulary=Vocabulary.from_json(workspace.tokenizer, record["vocabulary"]),
        fertility=fertility,
        trained={k: Trained.from_json(folders[k], one) for k, one in record["training"].items()},
        scores=scores,
        comparisons={k: _comparison(one) for k, one in record["comparisons"].items()},
        verdict=Verdict(**record["verdict"]),
        recipe=recipe,
        seconds=record["seconds"],
        environment=record["environment"],
        audit=DataAudit.from_json(record["audit"]) if record.get("audit") else None,
    )


def _comparison(record: dict[str, Any]) -> Comparison:
    return Comparison(
        record["against"],
        _interval(record["domain"]),
        _interval(record["general"]),
        tuple(_figure(one) for one in record.get("figures", ())),
        tuple(record.get("notes", ())),
    )


def _figure(record: dict[str, Any]) -> Figure:
    names = ("interval", "other_interval", "difference")
    intervals: dict[str, Any] = {name: _interval(record[name]) for name in names}
    return Figure(**{**record, **intervals})


def _interval(record: dict[str, float] | None) -> Interval | None:
    return Interval(**record) if record is not None else None
