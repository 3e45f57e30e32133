"""What a finished run tells the trackers: tables, figures, the verdict, the report, the recipe."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from adapt.fertility import METRICS, Fertility
from adapt.reporting.summary import Row, Summary, table
from adapt.training.tracking import open_wandb, trackio_project
from adapt.workspace import Workspace, fingerprint

logger = logging.getLogger("adapt")


@dataclass(frozen=True)
class Shown:
    """What every tracker gets, in its own form.

    Attributes:
        recipe_name: Names the run and its group.
        root: The run folder.
        scalars: Figures by `<measure>/<model>`.
        tables: By name: a heading of columns, then lines, all of them text.
        verdict: The sentence.
        recipe: The resolved recipe.
        files: What goes along as it is, where a tracker keeps files.
    """

    recipe_name: str
    root: Path
    scalars: Mapping[str, float]
    tables: Mapping[str, Sequence[Sequence[str]]]
    verdict: str
    recipe: Mapping[str, Any]
    files: Sequence[Path]

    @property
    def name(self) -> str:
        """Of the run, beside those of the phases."""
        return f"{self.recipe_name}-summary"


def log_summary(
    summary: Summary, report_to: Sequence[str], root: Path, recipe: Mapping[str, Any]
) -> tuple[str, ...]:
    """Logs the final scores and fertility to each tracker; a failing one costs a warning.

    Args:
        summary: Of the run; its reports are written already.
        report_to: `training.report_to`.
        root: The run folder.
        recipe: What to show as configuration: the resolved recipe. The caller has made sure that
            neither it nor the reports hold a secret.

    Returns:
        The trackers that failed.
    """
    if not report_to:
        return ()
    shown = Shown(
        summary.name,
        root,
        scalars(summary),
        {"scores": _score_lines(table(summary)), "fertility": _fertility_lines(summary)},
        summary.verdict.sentence,
        recipe,
        reports(root),
    )
    failed = []
    for name in report_to:
        try:
            TRACKERS[name](shown)
        except Exception as error:  # noqa: BLE001 - trackers raise errors of their own classes
            failed.append(name)
            logger.warning(
                "training.report_to: %s got no final scores (%s: %s); they are in %s; run the same "
                "command again to log them",
                name,
                type(error).__name__,
                " ".join(str(error).split())[:200],
                Workspace(root).report,
            )
    return tuple(failed)


def reports(root: Path) -> tuple[Path, ...]:
    """The reports that go along as they are; the first is for people."""
    run = Workspace(root)
    return run.report, run.reports / "evaluation.json", run.reports / "fertility.json"


def scalars(summary: Summary) -> dict[str, float]:
    """All figures of the two tables.

    Returns:
        `<measure>/<model>` of the scores; `fertility, <text>: <metric>/<tokenizer>`.
    """
    found = {
        # A slash would make a group of its own of what stands before it.
        f"{row.measure.replace('/s', ' per second').replace('/', ' ')}/{model}": float(value)
        for row in table(summary)
        for model, value in row.values.items()
        if value is not None
    }
    for kind, measured in _texts(summary).items():
        for tokenizer in measured:
            for metric in METRICS:
                if (value := getattr(tokenizer, metric)) is not None:
                    name = f"fertility, {kind} text: {metric.strip('_')}/{tokenizer.name}"
                    found[name] = float(value)
    return found


def _texts(summary: Summary) -> dict[str, tuple[Fertility, ...]]:
    return {"domain": summary.fertility.domain, "general": summary.fertility.general}


def _score_lines(rows: Sequence[Row]) -> list[list[str]]:
    models = list(rows[0].values)
    lines = [["measure", "better", *models]]
    for row in rows:
        form = f",.{row.digits}f"
        cells = []
        for model in models:
            value, interval = row.values.get(model), row.intervals.get(model)
            cell = "" if value is None else format(value, form)
            if interval:
                cell += f" [{interval[0]:{form}}, {interval[1]:{form}}]"
            cells.append(cell)
        lines.append([row.measure, row.better, *cells])
    return lines


def _fertility_lines(summary: Summary) -> list[list[str]]:
    lines = [["text", "metric", *(one.name for one in summary.fertility.domain)]]
    for kind, measured in _texts(summary).items():
        for metric in METRICS if measured else ():
            values = [getattr(one, metric) for one in measured]
            if any(value is not None for value in values):
                cells = ("" if v is None else f"{v:,.4g}" if v % 1 else f"{v:,.0f}" for v in values)
                lines.append([kind, metric.strip("_"), *cells])
    return lines


# -- trackers -------------------------------------------------------------------------------


def _tensorboard(shown: Shown) -> None:
    """Under <run>/tensorboard/summary, anew each time."""
    try:
        writer_of = import_module("torch.utils.tensorboard").SummaryWriter
    except ImportError:
        writer_of = import_module("tensorboardX").SummaryWriter
    folder = Workspace(shown.root).tensorboard / "summary"
    shutil.rmtree(folder, ignore_errors=True)
    writer = writer_of(log_dir=str(folder.absolute()))
    try:
        for name, value in shown.scalars.items():
            writer.add_scalar(name, value, 0)
        for name, lines in shown.tables.items():
            writer.add_text(name, _markdown(lines), 0)
        writer.add_text("verdict", shown.verdict, 0)
        writer.add_text("recipe", _indented(shown.recipe), 0)
    finally:
        writer.close()


def _wandb(shown: Shown) -> None:
    """A run whose summary has the figures; tables and reports go with it."""
    wandb = import_module("wandb")
    # The same results are the same run, however often they are logged.
    id_ = fingerprint(shown.recipe_name, str(shown.root.absolute()), shown.scalars)[:12]
    run = open_wandb(shown.root, shown.recipe_name, shown.name, id_, {"recipe": dict(shown.recipe)})
    failed = True
    try:
        run.summary.update({**shown.scalars, "verdict": shown.verdict})
        for name, (head, *lines) in shown.tables.items():
            run.log({name: wandb.Table(columns=list(head), data=[list(line) for line in lines])})
        artifact = wandb.Artifact(f"report-{id_}", type="report", description=shown.verdict)
        for path in shown.files:
            artifact.add_file(str(path))
        run.log_artifact(artifact)
        failed = False
    finally:
        wandb.finish(exit_code=int(failed))


def _trackio(shown: Shown) -> None:
    """A run with the figures; recipe, verdict and tables are its configuration."""
    trackio = import_module("trackio")
    texts = {name: _markdown(lines) for name, lines in shown.tables.items()}
    trackio.init(
        project=trackio_project(),
        name=shown.name,
        resume="allow",
        config={"recipe": dict(shown.recipe), "verdict": shown.verdict, **texts},
    )
    try:
        trackio.log(dict(shown.scalars))
    finally:
        trackio.finish()


# What a name of `training.report_to` stands for.
TRACKERS: dict[str, Callable[[Shown], None]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    rows = [head, ["---"] * len(head), *rest]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _indented(recipe: Mapping[str, Any]) -> str:
    """YAML as Markdown shows it letter by letter."""
    import yaml

    text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
    return "".join(f"    {line}\n" for line in text.splitlines())
