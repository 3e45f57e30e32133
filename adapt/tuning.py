"""The trainings of a run, each skipped when it is done: the adapter and its controls."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt import bases
from adapt.evaluation.result import SAME_TIME
from adapt.preparation import Preparation
from adapt.processes import is_main, of_main
from adapt.recipe import dump_recipe
from adapt.recipe.evaluation import SCORING_KEYS
from adapt.stages import once
from adapt.training.result import Trained
from adapt.vocab import OUTPUT
from adapt.workspace import fingerprint

if TYPE_CHECKING:
    from adapt.publish.settings import AdapterSettings
    from adapt.training.tracking import Tracking

logger = logging.getLogger("adapt")

# Within this share of each other two trainings count as equally long.
_AS_LONG = 0.01


class Tuning:
    """What is trained in a run, by all of its processes.

    Args:
        prepared: What the main process has made before.
    """

    def __init__(self, prepared: Preparation) -> None:
        self.prepared = prepared
        self.recipe, self.workspace, self.stages = (
            prepared.recipe,
            prepared.workspace,
            prepared.stages,
        )

    @once
    def adapter(self) -> Trained:
        """The adapted base, fine-tuned."""
        adapted, vocabulary = self.prepared.adapted_base(), self.prepared.vocabulary()
        ids = vocabulary.delta.added_ids
        base = self.prepared.base()
        # The original base has other tokens under these ids, or no output rows of its own.
        if vocabulary.delta.moves_ids or adapted.untied:
            base = replace(base, folder=adapted.folder, reference=str(adapted.folder.resolve()))
        return self._train(
            "training", adapted.folder, vocabulary.folder, ids, self.workspace.adapter, base
        )

    def controls(self) -> dict[str, Trained]:
        """The base with its own tokenizer, trained as the adapter was, by name of the model."""
        stages = {"control": self.control, SAME_TIME: self.control_time}
        return {name: stages[name]() for name in self.names()}

    def names(self) -> list[str]:
        """The controls that the recipe asks for."""
        section = self.recipe.evaluation
        return ["control"] * section.control + [SAME_TIME] * section.times_control

    @once
    def control(self) -> Trained:
        """The base with its own tokenizer, fine-tuned on the documents that the adapter saw."""
        seen, base = self.adapter().documents, self.prepared.base()
        return self._train(
            "control", base.folder, base.folder, [], self.workspace.control, base, documents=seen
        )

    @once
    def control_time(self) -> Trained:
        """The same, trained for as long as the adapter was; the control, where that took as long.

        It takes the adapter's documents in their order, as many as the control read in that time;
        where that is more than the adapter read, the order goes on as it would for the adapter.
        Steps and schedule are those of a training on so much text. The times are recorded ones,
        so a run that goes on finds the same text.
        """
        adapter, control, base = self.adapter(), self.control(), self.prepared.base()
        share = of_main(adapter.seconds / control.seconds)
        if abs(share - 1) <= _AS_LONG:
            logger.info("%s: the control trained for as long as the adapted model", SAME_TIME)
            return control
        return self._train(
            SAME_TIME,
            base.folder,
            base.folder,
            [],
            self.workspace.control_time,
            base,
            text_bytes=[round(share * phase.bytes_) for phase in control.phases],
        )

    def _train(
        self,
        stage: str,
        model_folder: Path,
        tokenizer_folder: Path,
        new_ids: list[int],
        folder: Path,
        base: bases.Base,
        *,
        documents: list[int] | None = None,
        text_bytes: list[int] | None = None,
    ) -> Trained:
        recipe, corpus = self.recipe, self.prepared.corpus()
        inputs = {
            "section": recipe.training.model_dump(),
            "tasks": [task.model_dump(exclude=SCORING_KEYS) for task in recipe.evaluation.tasks],
            "model": recipe.model.model_dump(),
            "embeddings": self.stages.marks["embeddings"],
            "seed": recipe.seed,
            "documents": documents,
            **({} if text_bytes is None else {"text_bytes": text_bytes}),
        }
        mark = fingerprint(inputs)[:12]
        checkpoints = self.workspace.checkpoints / f"{stage}-{mark}"

        def work() -> Trained:
            from adapt.training.model import Loading
            from adapt.training.run import train

            for stale in self.workspace.checkpoints.glob(f"{stage}-{'?' * len(mark)}"):
                if stale != checkpoints:
                    shutil.rmtree(stale, ignore_errors=True)
            trained = train(
                recipe.training,
                corpus,
                recipe.evaluation.tasks,
                model_folder=model_folder,
                tokenizer=self.prepared.tokenizer(tokenizer_folder),
                tokenizer_folder=tokenizer_folder,
                new_ids=new_ids,
                base=base,
                dtype=recipe.model.dtype,
                trust_remote_code=recipe.model.trust_remote_code,
                seed=recipe.seed,
                checkpoints=checkpoints,
                folder=folder,
                documents=documents,
                text_bytes=text_bytes,
                completion_tokenizer=self.writer() if new_ids else None,
                tokenized=self.workspace.tokenized,
                loading=Loading.of(recipe.model),
                tracking=self.tracking(stage),
            )
            if is_main():
                self._settings(stage).save(folder)
            return trained

        return self.stages.run(
            stage, inputs, work, Trained.to_json, lambda record: Trained.from_json(folder, record)
        )

    def tracking(self, stage: str) -> Tracking:
        """What trackers are told of a training."""
        from adapt.training.tracking import Tracking

        model = "adapted" if stage == "training" else stage
        public = self.public_recipe() or {}
        return Tracking(self.workspace.root, self.recipe.name, model, public)

    def writer(self) -> Any:  # noqa: ANN401
        """The tokenizer of what is written, where units are only read; else None."""
        read_only = self.prepared.vocabulary().delta.read_only
        return self.prepared.tokenizer(self.workspace.tokenizer / OUTPUT) if read_only else None

    def _settings(self, stage: str) -> AdapterSettings:
        """What lies beside an adapter, so that it loads without the run."""
        from adapt.publish.settings import AdapterSettings

        if stage != "training":
            return AdapterSettings.of_control(self.recipe, self.prepared.base())
        read_only = self.prepared.vocabulary().delta.read_only
        untied = self.prepared.adapted_base().untied
        return AdapterSettings.of_run(
            self.recipe, self.prepared.base(), read_only=read_only, untied=untied
        )

    def public_recipe(self, *files: Path) -> dict[str, Any] | None:
        """The resolved recipe for trackers; None, with a warning, where anything holds a secret."""
        from adapt.publish.scan import secrets

        if not self.recipe.training.report_to:
            return None
        texts = {path.name: path for path in files}
        found = secrets({"recipe.yaml": dump_recipe(self.recipe).encode(), **texts})
        if found:
            logger.warning(
                "%s:%d: holds %s; trackers do not get it: take it out and run again",
                found[0].file,
                found[0].line,
                found[0].what,
            )
            return None
        return self.recipe.model_dump(mode="json")
