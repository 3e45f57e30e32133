"""The recipe: one section a stage, every field with its meaning and unit."""

from __future__ import annotations

from pydantic import Field, model_validator

from adapt.recipe.evaluation import EvaluationSection
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
    def _units_that_are_only_read(self) -> Recipe:
        if self.embeddings.units == "input":
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
    def _sft_has_tasks(self) -> Recipe:
        bare = [p for p in self.training.phases if p.objective == "sft" and not p.messages]
        if bare and not self.evaluation.tasks:
            raise ValueError("a phase with objective sft needs evaluation.tasks to train on")
        return self
