"""Section `evaluation`, and the tasks that are trained on as well."""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Literal

from pydantic import Field, model_validator

from adapt.recipe.section import Section


class Task(Section):
    """Rows of a labelled file: trained on by sft phases, held-out rows are scored."""

    name: str = Field(pattern=r"^[\w.-]+$", description="Names the task in reports.")
    path: str = Field(description="A .jsonl, .csv or .parquet file.")
    max_documents: int | None = Field(
        None, gt=0, description="Held-out rows scored; null: evaluation.max_documents."
    )


class ClassificationTask(Task):
    """Text to one of a set of labels; scored by the likelihood of each label's text."""

    kind: Literal["classification"] = Field(description="Text to one of a set of labels.")
    text: str = Field("text", description="Column that holds the text.")
    label: str = Field("label", description="Column that holds the label.")
    prompt: str = Field(
        "{text}\n\nCategory:", description="What the model is asked; {text} and any column."
    )

    @model_validator(mode="after")
    def _label_hidden(self) -> ClassificationTask:
        if self.text == self.label:
            raise ValueError(f"text and label are the same column {self.label}")
        # {text} is the text, whatever its column is called, and so never shows the label.
        shown = [name for _, name, _, _ in Formatter().parse(self.prompt)]
        if self.label != "text" and self.label in shown:
            raise ValueError(f"the prompt shows the label column {self.label}")
        return self


class GenerationTask(Task):
    """A prompt to a text; scored against the reference."""

    kind: Literal["generation"] = Field(description="A prompt to a text.")
    prompt: str = Field(description="What the model is asked; {column} is filled from the row.")
    target: str = Field(description="Column that holds the reference.")
    max_new_tokens: int = Field(64, gt=0, description="Longest answer; base tokens.")

    @model_validator(mode="after")
    def _target_hidden(self) -> GenerationTask:
        if self.target in fields_of(self.prompt):
            raise ValueError(f"the prompt shows the target column {self.target}")
        return self


AnyTask = Annotated[ClassificationTask | GenerationTask, Field(discriminator="kind")]


class EvaluationSection(Section):
    """What is measured on held-out text: base, control and adapted side by side."""

    control: bool = Field(
        True, description="Train the base tokenizer on the same bytes and compare with it."
    )
    max_documents: int = Field(200, gt=0, description="Held-out documents a measurement reads.")
    max_bytes: int = Field(
        200_000, gt=0, description="Held-out bytes of text a likelihood measurement reads."
    )
    per_device_eval_batch_size: int = Field(8, gt=0, description="Sequences.")
    max_length: int = Field(512, gt=1, description="Longest window; base tokens.")
    terms: str | None = Field(
        None, description="File of domain terms, one a line, whose single-token share is reported."
    )
    tasks: list[AnyTask] = Field(
        default_factory=list, description="Labelled rows to train and score."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> EvaluationSection:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError("two tasks have the same name")
        return self


def fields_of(prompt: str) -> list[str]:
    """The column names that a prompt template asks for.

    Raises:
        ValueError: The template is not valid, or has a field without a name.
    """
    names = [name for _, name, _, _ in Formatter().parse(prompt) if name is not None]
    if any(not name.isidentifier() for name in names):
        raise ValueError(f"prompt fields must be column names, got {names}")
    return names
