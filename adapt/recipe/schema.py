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
    def _loads_from_the_hub(self) -> Recipe:
        moved = self.tokenizer.prune or self.tokenizer.mode in ("prune", "train")
        if self.publish.push_to_hub and moved:
            raise ValueError(
                "an adapter whose tokens have other ids than the base's works on the adapted base "
                "alone, which publish does not upload yet"
            )
        return self

    @model_validator(mode="after")
    def _rows_that_can_be_learned(self) -> Recipe:
        if self.embeddings.init == "distill" and self.tokenizer.mode == "train":
            raise ValueError(
                "embeddings.init distill needs units that glue the base's tokens, and tokenizer "
                "mode train cuts text anew"
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
        if not self.evaluation.tasks and any(p.objective == "sft" for p in self.training.phases):
            raise ValueError("a phase with objective sft needs evaluation.tasks to train on")
        return self
