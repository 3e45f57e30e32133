"""Section `evaluation`, and the tasks that are trained on as well."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from adapt.recipe.section import Section

# Keys of a task that change how it is scored, and neither its rows nor what trains on them.
SCORING_KEYS = {
    "max_documents",
    "method",
    "normalize",
    "calibrate",
    "num_beams",
    "shots",
    "json_schema",
}
# Keys of the section that say which models there are, and not how they are scored.
MODEL_KEYS = {"control", "control_time"}


class Task(Section):
    """Rows of a labelled file: phases train on them, and held-out rows are scored."""

    name: str = Field(pattern=r"^[\w.-]+$", description="Names the task in reports.")
    path: str = Field(description="A .jsonl, .csv or .parquet file.")
    max_documents: int | None = Field(
        None, gt=0, description="Held-out rows scored; null: evaluation.max_documents."
    )
    trained: bool = Field(
        True,
        description="false: no phase trains on it, and reports say what was forgotten of it; rows "
        "of its training side give labels and examples to show, no more.",
    )


class ClassificationTask(Task):
    """Text to one of a set of labels."""

    kind: Literal["classification"] = Field(description="Text to one of a set of labels.")
    text: str = Field("text", description="Column that holds the text.")
    label: str = Field("label", description="Column that holds the label.")
    prompt: str = Field(
        "{text}\n\nCategory:", description="What the model is asked; {text} and any column."
    )
    label_separator: str | None = Field(
        None,
        min_length=1,
        description="Splits the label column into several labels, or none; null: one label a row.",
    )
    method: Literal["auto", "likelihood", "constrained", "few_shot", "head"] = Field(
        "auto",
        description="How a label is chosen. head: by the class logits of the head that the last "
        "phase trained; likelihood: the likeliest label's text; constrained: generation that can "
        "only write a label; few_shot: likelihood after `shots` training examples; auto: head "
        "where there is one, else likelihood.",
    )
    normalize: Literal["none", "tokens", "bytes"] = Field(
        "none", description="A label's log probability is divided by its tokens, bytes or nothing."
    )
    calibrate: bool = Field(
        False,
        description="Divide each label's probability by the one it has after a prompt without "
        "content (N/A in place of every column).",
    )
    num_beams: int = Field(1, gt=0, description="Beams of method constrained; 1: greedy.")
    shots: int = Field(
        0,
        ge=0,
        description="Training examples in the prompt of the base, as a baseline; 0: none. With "
        "method few_shot, in the prompt of every model.",
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

    @model_validator(mode="after")
    def _options_of_the_method(self) -> ClassificationTask:
        if self.method == "few_shot" and not self.shots:
            raise ValueError("method few_shot needs shots, the number of examples in the prompt")
        if self.num_beams > 1 and self.method != "constrained":
            raise ValueError(
                f"num_beams is for method constrained, and the method is {self.method}"
            )
        by_likelihood = self.method in ("auto", "likelihood", "few_shot") or self.shots
        if not by_likelihood and (self.calibrate or self.normalize != "none"):
            raise ValueError(
                f"normalize and calibrate are for likelihoods, and the method is {self.method}"
            )
        return self

    def labels_of(self, row: Mapping[str, Any]) -> list[str]:
        """Labels of a row; one, unless `label_separator` is set."""
        value = str(row[self.label])
        if self.label_separator is None:
            return [value]
        parts = (part.strip() for part in value.split(self.label_separator))
        return list(dict.fromkeys(part for part in parts if part))


class GenerationTask(Task):
    """A prompt to a text; scored against the reference."""

    kind: Literal["generation"] = Field(description="A prompt to a text.")
    prompt: str = Field(description="What the model is asked; {column} is filled from the row.")
    target: str = Field(description="Column that holds the reference.")
    max_new_tokens: int = Field(64, gt=0, description="Longest answer; base tokens.")
    json_schema: str | None = Field(
        None, description="JSON schema file that every answer is checked against; null: none."
    )

    @model_validator(mode="after")
    def _target_hidden(self) -> GenerationTask:
        if self.target in fields_of(self.prompt):
            raise ValueError(f"the prompt shows the target column {self.target}")
        return self


AnyTask = Annotated[ClassificationTask | GenerationTask, Field(discriminator="kind")]


class GenerationSection(Section):
    """How answers to generation tasks are decoded; greedily unless it says otherwise."""

    do_sample: bool = Field(False, description="Sample instead of taking the likeliest token.")
    temperature: float = Field(1.0, gt=0.0, description="Of sampling.")
    top_p: float = Field(
        1.0, gt=0.0, le=1.0, description="Sample among the likeliest tokens up to this probability."
    )
    top_k: int = Field(0, ge=0, description="Sample among so many likeliest tokens; 0: all.")
    num_beams: int = Field(1, gt=0, description="Beams; 1: none.")
    repetition_penalty: float = Field(
        1.0, gt=0.0, description="Divides logits of tokens that are there already; 1: none."
    )
    seed: int | None = Field(None, ge=0, description="Of sampling; null: the recipe's.")

    @model_validator(mode="after")
    def _sampling_options(self) -> GenerationSection:
        set_ = [n for n in ("temperature", "top_p") if getattr(self, n) != 1.0]
        set_ += ["top_k"] * bool(self.top_k)
        if set_ and not self.do_sample:
            raise ValueError(f"{' and '.join(set_)} matter only with do_sample: true")
        return self


class HarnessSection(Section):
    """Tasks of lm-evaluation-harness (extra `harness`), scored on every model of the run."""

    tasks: list[str] = Field(min_length=1, description="Names of its tasks or groups.")
    include_path: str | None = Field(
        None, description="Folder with further task files of its format; null: none."
    )
    num_fewshot: int | None = Field(
        None, ge=0, description="Examples in the prompt; null: what the task says."
    )
    limit: int | None = Field(None, gt=0, description="Rows of each task; null: all.")


class EvaluationSection(Section):
    """What is measured on held-out text: base, controls and adapted side by side."""

    control: bool = Field(
        True, description="Train the base tokenizer on the same bytes and compare with it."
    )
    control_time: bool = Field(
        True,
        description="With control: train the base tokenizer once more, for the time of the clock "
        "that the adapted model's training took, on as much of the same text as fits.",
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
    generation: GenerationSection = Field(
        default_factory=GenerationSection, description="How generation tasks are decoded."
    )
    tasks: list[AnyTask] = Field(
        default_factory=list, description="Labelled rows to train and score."
    )
    harness: HarnessSection | None = Field(
        None, description="Tasks of lm-evaluation-harness; null: none."
    )

    @property
    def times_control(self) -> bool:
        """Whether a second control is trained, for as long as the adapted model was."""
        return self.control and self.control_time

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
