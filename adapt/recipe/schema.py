"""The recipe: one section a stage, every field with its meaning and unit."""

from __future__ import annotations

from pydantic import Field, model_validator

from adapt.recipe.evaluation import ClassificationTask, EvaluationSection
from adapt.recipe.publish import PublishSection
from adapt.recipe.section import Section
from adapt.recipe.sources import CorpusSection, ModelSection
from adapt.recipe.training import TrainingSection
from adapt.recipe.vocabulary import EmbeddingsSection, TokenizerSection


class Recipe(Section):
    """Everything that one run does."""

    name: str = Field(pattern=r"^[\w.-]+$", description="Name of the run.")
    output_dir: str = Field(description="Run folder; relative to where the command is run.")
    seed: int = Field(0, ge=0, description="Seed of splits, order and initial values.")
    model: ModelSection
    corpus: CorpusSection
    tokenizer: TokenizerSection = Field(default_factory=TokenizerSection)
    embeddings: EmbeddingsSection = Field(default_factory=EmbeddingsSection)
    training: TrainingSection
    evaluation: EvaluationSection = Field(default_factory=EvaluationSection)
    publish: PublishSection = Field(default_factory=PublishSection)

    @model_validator(mode="after")
    def _rows_that_can_be_learned(self) -> Recipe:
        if self.embeddings.init == "distill" and self.tokenizer.mode == "train":
            raise ValueError(
                "embeddings.init distill needs units that glue the base's tokens, and tokenizer "
                "mode train cuts text anew"
            )
        return self

    @model_validator(mode="after")
    def _rows_to_train_alone(self) -> Recipe:
        alone = [phase.name for phase in self.training.phases if phase.trains == "rows"]
        if alone and self.tokenizer.mode in ("keep", "prune"):
            raise ValueError(
                f"training.phases: {alone[0]} trains rows, and with tokenizer.mode "
                f"{self.tokenizer.mode} there are no new ones; leave out trains, or take extend"
            )
        return self

    @model_validator(mode="after")
    def _units_that_are_only_read(self) -> Recipe:
        if self.embeddings.units == "input":
            if self.training.fills_masks:
                raise ValueError(
                    "a last phase with objective mlm predicts what it reads: leave out "
                    "embeddings.units input"
                )
            if self.tokenizer.mode != "extend" or self.tokenizer.prune:
                raise ValueError(
                    "embeddings.units input writes with the base's own tokenizer, so "
                    f"tokenizer.mode must be extend, without prune; got {self.tokenizer.mode}"
                )
            if self.embeddings.untie is True or self.embeddings.init_output:
                raise ValueError(
                    "with embeddings.units input no new output row is ever used: leave out untie "
                    "and init_output"
                )
        return self

    @model_validator(mode="after")
    def _text_for_the_vocabulary(self) -> Recipe:
        if self.tokenizer.needs_general and not self.corpus.general:
            raise ValueError(
                "tokenizer modes prune and replace, tokenizer.prune and score kl need "
                "corpus.general, or general language would be lost unseen"
            )
        if self.tokenizer.new_tokens == "auto" and not self.corpus.validation_fraction:
            raise ValueError(
                "tokenizer.new_tokens auto is chosen on the validation side, and "
                "corpus.validation_fraction is 0"
            )
        return self

    @model_validator(mode="after")
    def _ends_in_what_is_scored(self) -> Recipe:
        """A model has the head of its last phase, and is scored by it."""
        last, tasks = self.training.phases[-1], self.evaluation.tasks
        where = f"training.phases: {last.name} is the last, with objective {last.objective}"
        if last.objective == "mlm" and tasks:
            raise ValueError(
                f"{where}, which fills in hidden words and answers no evaluation.tasks "
                f"{tasks[0].name}; leave tasks out, or add a phase with objective classification"
            )
        for task in tasks:
            if isinstance(task, ClassificationTask) and not self.training.classifies:
                if task.method == "head":
                    raise ValueError(f"{where}: no head for evaluation.tasks {task.name}")
                if task.label_separator:
                    raise ValueError(
                        f"{where}: several labels a row are scored by a head, so label_separator "
                        f"of {task.name} needs a last phase with objective classification"
                    )
            if self.classified and task.name != self.classified.name:
                raise ValueError(
                    f"{where}: it leaves a head for {self.classified.name}, and none for "
                    f"evaluation.tasks {task.name}; make that a recipe of its own"
                )
        return self

    @model_validator(mode="after")
    def _what_the_harness_can_score(self) -> Recipe:
        reads_only = self.training.classifies or self.training.fills_masks
        if self.evaluation.harness and (reads_only or self.embeddings.units == "input"):
            raise ValueError(
                "evaluation.harness scores models that write what they read: leave out "
                "embeddings.units input and a last phase with objective classification or mlm"
            )
        return self

    @property
    def classified(self) -> ClassificationTask | None:
        """The task whose head the last phase trains; None where the model writes text."""
        if not self.training.classifies:
            return None
        named = self.training.phases[-1].tasks
        found = [
            task
            for task in self.evaluation.tasks
            if task.kind == "classification"
            and task.trained
            and (named is None or task.name in named)
        ]
        return found[0] if len(found) == 1 else None  # others are refused before training

    @model_validator(mode="after")
    def _sft_has_tasks(self) -> Recipe:
        bare = [p for p in self.training.phases if p.objective == "sft" and not p.messages]
        if bare and not any(task.trained for task in self.evaluation.tasks):
            raise ValueError("a phase with objective sft needs evaluation.tasks to train on")
        return self
