"""Training, scores and reports: the stages after preparation, each skipped when it is done."""

from __future__ import annotations

import logging
import os
import platform
import shutil
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt import bases, fertility
from adapt.evaluation.result import SAME_TIME, ModelScores, SpeedScores
from adapt.preparation import Preparation, identity
from adapt.processes import Processes, is_main, of_main, use_all_cores
from adapt.recipe import Recipe, dump_recipe
from adapt.recipe.evaluation import MODEL_KEYS, SCORING_KEYS
from adapt.stages import once
from adapt.training.result import Trained
from adapt.vocab import OUTPUT
from adapt.workspace import fingerprint, versions, write_json

if TYPE_CHECKING:
    from adapt.publish.settings import AdapterSettings
    from adapt.recipe.evaluation import EvaluationSection
    from adapt.reporting.summary import Summary
    from adapt.training.tracking import Tracking

logger = logging.getLogger("adapt")

_NEW_HEADS = (
    "the base brings no head for hidden words, so all heads began at random; one that has learned "
    "little pays for each piece, which favours the tokenizer with fewer of them"
)
# Within this share of each other two trainings count as equally long.
_AS_LONG = 0.01


class Pipeline:
    """All stages of one recipe in its run folder.

    Args:
        recipe: Checked.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.prepared = Preparation(recipe)
        self.workspace, self.stages = self.prepared.workspace, self.prepared.stages

    def run(self) -> Summary | None:
        """All stages; the report of the main process, None of any other."""
        from adapt.training.engines import check_launcher

        check_launcher(self.recipe.training)
        processes = Processes()
        use_all_cores()
        processes.main_first(self.prepared.all)
        self.adapter()
        self.controls()
        if not processes.leave():
            return None
        summary = self.summary()
        self.track(summary)
        self.publish(summary)
        return summary

    # -- stages ---------------------------------------------------------------------------

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
        return {name: stages[name]() for name in self._controls()}

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
                completion_tokenizer=self._writer() if new_ids else None,
                tokenized=self.workspace.tokenized,
                loading=Loading.of(recipe.model),
                tracking=self._tracking(stage),
            )
            if is_main():
                self._settings(stage).save(folder)
            return trained

        return self.stages.run(
            stage, inputs, work, Trained.to_json, lambda record: Trained.from_json(folder, record)
        )

    def _tracking(self, stage: str) -> Tracking:
        """What trackers are told of a training."""
        from adapt.training.tracking import Tracking

        model = "adapted" if stage == "training" else stage
        public = self._public_recipe() or {}
        return Tracking(self.workspace.root, self.recipe.name, model, public)

    def _writer(self) -> Any:  # noqa: ANN401
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

    @once
    def scores(self, name: str) -> ModelScores:
        """Base, a control or the adapted model on held-out text."""
        from adapt.evaluation.scores import score_model

        recipe, corpus = self.recipe, self.prepared.corpus()
        section = self._section_of(name)
        if name == SAME_TIME and self.control_time().folder == self.workspace.control:
            same = self.scores("control")
            tasks = {task.name: same.tasks[task.name] for task in section.tasks}
            return replace(same, tasks=tasks, harness={})

        def work() -> ModelScores:
            return score_model(
                section,
                corpus,
                self._load(name),
                self._tokenizer_of(name),
                name=name,
                seed=recipe.seed,
                predictions=self.workspace.reports / "predictions",
                baselines=name == self._scored()[0],
                new_ids=self.prepared.vocabulary().delta.added_ids if name == "adapted" else (),
                writer=self._writer(),
                tokenizers=[self._tokenizer_of(one) for one in ("base", "adapted")],
            )

        return self.stages.run(
            f"evaluation-{name}",
            self._what_is_scored([name]),
            work,
            ModelScores.to_json,
            ModelScores.from_json,
        )

    @once
    def speed(self) -> dict[str, SpeedScores]:
        """All models in turns, so that what else the machine does slows all of them alike."""
        # The control of the same time computes what the control does.
        recipe, names = self.recipe, [name for name in self._scored() if name != SAME_TIME]

        def work() -> dict[str, SpeedScores]:
            from adapt.evaluation.reading import measure_reading
            from adapt.evaluation.scores import sample
            from adapt.evaluation.speed import Candidate, measure_speed

            section, corpus = recipe.evaluation, self.prepared.corpus()

            def held_out() -> Iterable[str]:
                if task := recipe.classified:
                    return (str(row[task.text]) for row in corpus.rows(task.name, "test"))
                return corpus.documents("test")

            texts = sample(held_out, section.max_documents, section.max_bytes, recipe.seed)
            models = {
                name: Candidate(partial(self._load, name), self._tokenizer_of(name), self._writer())
                for name in names
            }
            reads = recipe.training.classifies or recipe.training.fills_masks
            measure = measure_reading if reads else measure_speed
            return measure(models, texts, max_length=section.max_length, seed=recipe.seed)

        return self.stages.run(
            "speed",
            self._what_is_scored(names),
            work,
            lambda found: {name: one.to_json() for name, one in found.items()},
            lambda record: {name: SpeedScores.from_json(one) for name, one in record.items()},
        )

    def _what_is_scored(self, names: list[str]) -> dict[str, object]:
        """All that decides the figures of models."""
        stages = {"base": "embeddings", "adapted": "training"}
        return {
            "section": self._section_of(names[0]).model_dump(exclude=MODEL_KEYS),
            "models": [self.stages.marks[stages.get(name, name)] for name in names],
            "base": identity(self.prepared.base()),
            "seed": self.recipe.seed,
        }

    def _section_of(self, name: str) -> EvaluationSection:
        """What is measured on a model: of the control of the same time what is cheap and decides.

        Of models with a head of classes that is their task, of others the likelihood of text.
        """
        section = self.recipe.evaluation
        if name != SAME_TIME or self.recipe.training.classifies:
            return section
        return section.model_copy(update={"tasks": [], "harness": None})

    def _tokenizer_of(self, name: str) -> Any:  # noqa: ANN401
        return self.prepared.tokenizer(
            self.workspace.tokenizer if name == "adapted" else self.prepared.base().folder
        )

    def _load(self, name: str) -> Any:  # noqa: ANN401
        """Base, a control or the adapted model, as it would be served."""
        from adapt.publish.kinds import FILLS, kind_of, load_served, load_whole
        from adapt.training.model import best_dtype
        from adapt.training.reading import never_written

        dtype = best_dtype(self.recipe.model.dtype)
        trust, base = self.recipe.model.trust_remote_code, self.prepared.base().folder
        if name == "base":
            kind = FILLS if self.recipe.training.fills_masks else kind_of(base)
            return load_whole(base, kind, dtype, trust_remote_code=trust)
        run = self.workspace
        if name != "adapted":
            folder = run.control_time if name == SAME_TIME else run.control
            return load_served(base, folder, dtype, trust_remote_code=trust)
        model = load_served(run.adapted_base, run.adapter, dtype, trust_remote_code=trust)
        if self.prepared.vocabulary().delta.read_only:
            never_written(model, self.prepared.vocabulary().delta.added_ids)
        return model

    def _scored(self) -> list[str]:
        """Models that are scored: a base has no head before one is trained, unless it brings it."""
        from adapt.publish.kinds import has_mask_head

        training = self.recipe.training
        drawn = training.fills_masks and not has_mask_head(self.prepared.base().folder)
        names = [] if training.classifies or drawn else ["base"]
        return [*names, *self._controls(), "adapted"]

    def _controls(self) -> list[str]:
        section = self.recipe.evaluation
        return ["control"] * section.control + [SAME_TIME] * section.times_control

    def summary(self) -> Summary:
        """Scores all models, compares them, and writes the reports."""
        from adapt.evaluation.compare import compare
        from adapt.evaluation.verdict import verdict
        from adapt.reporting.html import write_report
        from adapt.reporting.summary import Summary

        recipe = self.recipe
        trained = {"adapted": self.adapter(), **self.controls()}
        names = self._scored()
        alone = {name: self.scores(name) for name in names}
        speed = self.speed()
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
            verdict=verdict(comparisons, scores, saved),
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
        if names and (recipe := self._public_recipe(*reports(root))) is not None:
            log_summary(summary, names, root, recipe)

    def _public_recipe(self, *files: Path) -> dict[str, Any] | None:
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
