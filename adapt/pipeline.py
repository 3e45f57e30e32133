"""All stages of a run in their order, and its reports."""

from __future__ import annotations

import logging
import os
import platform
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from adapt import fertility
from adapt.preparation import Preparation
from adapt.processes import Processes, is_main, use_all_cores
from adapt.recipe import Recipe, dump_recipe
from adapt.scoring import Scoring
from adapt.tuning import Tuning
from adapt.workspace import versions, write_json

if TYPE_CHECKING:
    from adapt.reporting.summary import Summary

logger = logging.getLogger("adapt")

_NEW_HEADS = (
    "the base brings no head for hidden words, so all heads began at random; one that has learned "
    "little pays for each piece, which favours the tokenizer with fewer of them"
)


class Pipeline:
    """All stages of one recipe in its run folder.

    Args:
        recipe: Checked.

    Attributes:
        prepared: The stages before training.
        tuned: The trainings.
        scored: The scores.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.prepared = Preparation(recipe)
        self.tuned = Tuning(self.prepared)
        self.scored = Scoring(self.tuned)
        self.workspace, self.stages = self.prepared.workspace, self.prepared.stages

    def run(self) -> Summary | None:
        """All stages; the report of the main process, None of any other."""
        from adapt.training.engines import check_launcher

        check_launcher(self.recipe.training)
        processes = Processes()
        use_all_cores()
        with ExitStack() as held:

            def prepare() -> None:
                if is_main():
                    held.enter_context(self.prepared.alone())
                self.prepared.all()

            processes.main_first(prepare)
            self.tuned.adapter()
            self.tuned.controls()
            if not processes.leave():
                return None
            summary = self.summary()
            self.track(summary)
            self.publish(summary)
            return summary

    def summary(self) -> Summary:
        """Scores all models, compares them, and writes the reports."""
        from adapt.evaluation.compare import compare
        from adapt.evaluation.verdict import verdict
        from adapt.reporting.html import write_report
        from adapt.reporting.summary import Summary

        recipe = self.recipe
        trained = {"adapted": self.tuned.adapter(), **self.tuned.controls()}
        names = self.scored.names()
        alone = {name: self.scored.scores(name) for name in names}
        speed = self.scored.speed()
        scores = {name: replace(one, speed=speed.get(name)) for name, one in alone.items()}
        report = self.prepared.fertility()
        comparisons = {
            name: compare(scores["adapted"], scores[name], name, recipe.seed)
            for name in names
            if name != "adapted"
        }
        saved = fertility.saved(report.domain[0], report.domain[-1])
        vocabulary, rows = self.prepared.vocabulary(), self.prepared.adapted_base()
        notes = (*vocabulary.notes, *rows.remarks)
        if recipe.training.fills_masks and "base" not in names:
            notes = (*notes, _NEW_HEADS)
        summary = Summary(
            name=recipe.name,
            base=recipe.model.base,
            corpus=self.prepared.corpus().statistics,
            vocabulary=replace(vocabulary, notes=notes),
            fertility=report,
            trained=trained,
            scores=scores,
            comparisons=comparisons,
            verdict=verdict(comparisons, saved),
            recipe=dump_recipe(recipe),
            seconds=self.stages.seconds,
            environment=_environment(),
            audit=self.prepared.audit(),
        )
        write_json(self.workspace.reports / "evaluation.json", summary.to_json())
        write_report(summary, self.workspace.report)
        return summary

    def track(self, summary: Summary) -> None:
        """Sends the final scores to the trackers of the recipe."""
        from adapt.reporting.trackers import log_summary, reports

        names, root = self.recipe.training.report_to, self.workspace.root
        if names and (recipe := self.tuned.public_recipe(*reports(root))) is not None:
            log_summary(summary, names, root, recipe)

    def publish(self, summary: Summary) -> None:
        """Writes the adapter's card, and uploads what the recipe names when it says so."""
        from adapt.publish.card import write_card

        section, run = self.recipe.publish, self.workspace.root
        write_card(run)
        if section.push_to_hub and section.hub_model_id:
            from adapt.publish.hub import push

            if "merged" in section.what:
                from adapt.publish.merge import merge

                merge(run, force=True, trust_remote_code=self.recipe.model.trust_remote_code)
            for pushed in push(
                run,
                section.hub_model_id,
                section.what,
                private=section.private,
                create_pr=section.create_pr,
            ):
                logger.info("%s: %s", pushed.what, pushed.address)


def _environment() -> dict[str, str]:
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "gpu": gpu,
        "python": platform.python_version(),
        **versions(),
    }
