"""The scores of a run, each skipped when it is done: every model on the same held-out text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.evaluation.result import SAME_TIME, ModelScores, SpeedScores
from adapt.preparation import identity
from adapt.recipe.evaluation import MODEL_KEYS, GenerationTask
from adapt.stages import once
from adapt.tuning import Tuning
from adapt.workspace import digest, fingerprint

if TYPE_CHECKING:
    from adapt.recipe.evaluation import EvaluationSection


def read_beside(section: EvaluationSection) -> dict[str, object]:
    """What decides scores beside the section itself: the files it names, and what is installed.

    Of a section that names no file and asks for no answers it is empty, as where similarity cannot
    be measured: fingerprints of older versions then stay what they were.

    Args:
        section: `evaluation` of the recipe, as far as it is scored.

    Returns:
        Inputs of a stage: digests by path, None of what is not there, and the encoder.
    """
    from adapt.evaluation.similarity import ENCODER, missing

    asked = [task for task in section.tasks if isinstance(task, GenerationTask)]
    named = {task.json_schema for task in asked} | ({section.terms} if asked else set())
    files = {path: _digest(Path(path)) for path in sorted(filter(None, named))}
    if section.harness and section.harness.include_path:
        files[section.harness.include_path] = _digest(Path(section.harness.include_path))
    found: dict[str, object] = {"files": files} if files else {}
    if asked and missing() is None:
        found["similarity"] = ENCODER
    return found


def _digest(path: Path) -> str | None:
    """As `workspace.digest`, without what Python leaves beside a harness task's code."""
    if not path.exists():
        return None
    if not path.is_dir():
        return digest(path)
    below = sorted((p.relative_to(path), p) for p in path.rglob("*") if p.is_file())
    own = [(str(name), digest(p)) for name, p in below if "__pycache__" not in name.parts]
    return fingerprint(own)


class Scoring:
    """What is measured in a run, by its main process.

    Args:
        tuned: What was trained.
    """

    def __init__(self, tuned: Tuning) -> None:
        self.tuned, self.prepared = tuned, tuned.prepared
        self.recipe, self.workspace, self.stages = tuned.recipe, tuned.workspace, tuned.stages

    def names(self) -> list[str]:
        """Models that are scored: a base has no head before one is trained, unless it brings it."""
        from adapt.publish.kinds import has_mask_head

        training = self.recipe.training
        drawn = training.fills_masks and not has_mask_head(self.prepared.base().folder)
        names = [] if training.classifies or drawn else ["base"]
        return [*names, *self.tuned.names(), "adapted"]

    @once
    def scores(self, name: str) -> ModelScores:
        """Base, a control or the adapted model on held-out text."""
        from adapt.evaluation.scores import score_model

        recipe, corpus = self.recipe, self.prepared.corpus()
        section = self._section_of(name)
        if name == SAME_TIME and self.tuned.control_time().folder == self.workspace.control:
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
                baselines=name == self.names()[0],
                new_ids=self.prepared.vocabulary().delta.added_ids if name == "adapted" else (),
                writer=self.tuned.writer(),
                tokenizers=[self._tokenizer_of(one) for one in ("base", "adapted")],
            )

        return self.stages.run(
            f"evaluation-{name}",
            {**self._what_is_scored([name]), **read_beside(section)},
            work,
            ModelScores.to_json,
            ModelScores.from_json,
        )

    @once
    def speed(self) -> dict[str, SpeedScores]:
        """All models in turns, so that what else the machine does slows all of them alike."""
        # The control of the same time computes what the control does.
        recipe, names = self.recipe, [name for name in self.names() if name != SAME_TIME]

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
                name: Candidate(
                    partial(self._load, name), self._tokenizer_of(name), self.tuned.writer()
                )
                for name in names
            }
            reads = recipe.training.classifies or recipe.training.fills_masks
            measure = measure_reading if reads else measure_speed
            return measure(models, texts, max_length=self._window(), seed=recipe.seed)

        return self.stages.run(
            "speed",
            self._what_is_scored(names),
            work,
            lambda found: {name: one.to_json() for name, one in found.items()},
            lambda record: {name: SpeedScores.from_json(one) for name, one in record.items()},
        )

    def _window(self) -> int:
        """Tokens that all models have positions for."""
        from adapt.training.heads import model_class, outline
        from adapt.training.parts import learned_positions

        kind = model_class(self.recipe.training.phases[-1].objective)
        folder, trust = self.prepared.base().folder, self.recipe.model.trust_remote_code
        longest = self.recipe.evaluation.max_length
        positions = learned_positions(outline(folder, kind, trust_remote_code=trust))
        return min(longest, positions or longest)

    def _what_is_scored(self, names: list[str]) -> dict[str, object]:
        """All that decides how fast models are; with `read_beside`, their scores too."""
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
