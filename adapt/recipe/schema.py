"""The recipe: one section a stage, every field with its meaning and unit."""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """A part of the recipe: unknown keys are refused, values are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelSection(Section):
    """The general model that is adapted."""

    base: str = Field(
        description="A Hub id (org/name), a folder, or package:<name> for a model that an "
        "installed Python package carries."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub id.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Type of the frozen weights; auto: bfloat16 where the device has it."
    )
    trust_remote_code: bool = Field(False, description="Run Python code that a Hub model brings.")


class Source(Section):
    """One file, or one data set of the Hub, of documents."""

    path: str | None = Field(
        None, description="A .jsonl, .csv, .parquet or .txt file, .gz and .zst included."
    )
    dataset: str | None = Field(None, description="A Hub data set, streamed.")
    config: str | None = Field(None, description="Configuration name of the Hub data set.")
    split: str = Field("train", description="Split of the Hub data set.")
    text: str = Field("text", description="Column that holds the text; .txt has a document a line.")
    max_documents: int | None = Field(None, gt=0, description="Read at most so many documents.")

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either path or dataset")
        return self


class CorpusSection(Section):
    """Domain text to learn from and general text to watch."""

    sources: list[Source] = Field(min_length=1, description="Domain text.")
    general: list[Source] = Field(
        default_factory=list, description="General text; measured, never trained on."
    )
    test_fraction: Fraction = Field(0.1, gt=0.0, description="Share of clusters held out.")
    validation_fraction: Fraction = Field(
        0.02,
        description="Share of clusters kept apart for choosing settings by; neither trained on "
        "nor in any reported figure.",
    )
    normalize: Literal["none", "nfc", "nfkc"] = Field(
        "none", description="Unicode normalisation of documents."
    )
    min_characters: int = Field(
        1, ge=1, description="Shorter documents are dropped and counted; characters."
    )
    near_duplicate: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        0.8,
        description="Documents whose word-trigram Jaccard similarity to an earlier one is at "
        "least this are dropped; null keeps them. Exact duplicates always go.",
    )
    leak_threshold: float = Field(
        0.5,
        gt=0.0,
        le=1.0,
        description="Documents at least this similar always fall on the same side of the split.",
    )

    @model_validator(mode="after")
    def _something_left(self) -> CorpusSection:
        if self.test_fraction + self.validation_fraction >= 1.0:
            raise ValueError("test_fraction and validation_fraction leave nothing to train on")
        return self


Budget = Annotated[
    Annotated[int, Field(gt=0), Tag("number")] | Annotated[Literal["auto"], Tag("name")],
    Discriminator(lambda value: "name" if value == "auto" else "number"),
]
Terms = Annotated[
    Annotated[list[str], Tag("list")] | Annotated[str, Tag("file")],
    Discriminator(lambda value: "file" if isinstance(value, str) else "list"),
]


class TokenizerSection(Section):
    """What becomes of the vocabulary."""

    mode: Literal["extend", "keep", "replace", "prune", "train"] = Field(
        "extend",
        description="extend adds units; replace gives them the ids of tokens that are hardly "
        "used; prune drops tokens that are not; train makes a new tokenizer; keep: nothing.",
    )
    new_tokens: Budget = Field(
        2000,
        description="Units to add; tokens. auto: as many as pay for themselves on the validation "
        "side, in tokens times parameters.",
    )
    multiword: bool = Field(True, description="Units may cross spaces where that is proven safe.")
    min_frequency: int = Field(3, ge=1, description="A unit occurs at least so often.")
    max_words: int | None = Field(None, gt=0, description="Longest unit; words.")
    max_length: int | None = Field(None, gt=1, description="Longest unit; characters.")
    score: Literal["frequency", "kl", "terms"] = Field(
        "frequency",
        description="What ranks units. frequency: tokens saved; kl: also how much more frequent "
        "than in general text; terms: tokens saved on score_terms.",
    )
    score_terms: str | None = Field(
        None, description="File of domain terms that score: terms ranks by, one a line."
    )
    fragment_score: float | None = Field(
        None,
        ge=1.0,
        description="With score: terms, stop when the terms take so many tokens a word.",
    )
    terms: Terms = Field(
        default_factory=list,
        description="Terms that each become one token, whatever the corpus; a list, or a file "
        "with one a line, where # begins a comment.",
    )
    term_forms: list[Literal["as_is", "leading_space", "capitalised"]] = Field(
        ["as_is", "leading_space"],
        min_length=1,
        description="How terms are written: as given, after a space, after a space with a capital.",
    )
    prune: bool = Field(False, description="Drop what neither domain nor general text uses.")
    vocab_size: int | None = Field(
        None, gt=0, description="Of mode train; tokens, special ones included."
    )
    model: Literal["bpe", "wordpiece", "unigram"] | None = Field(
        None, description="Of mode train; null: what the base has."
    )

    @property
    def needs_general(self) -> bool:
        """Whether general text says what may go, or what is particular to the domain."""
        return self.prune or self.mode in ("prune", "replace") or self.score == "kl"

    @model_validator(mode="after")
    def _fits_together(self) -> TokenizerSection:
        if (self.mode == "train") != (self.vocab_size is not None):
            raise ValueError("mode train needs vocab_size, and no other mode takes it")
        if self.model and self.mode != "train":
            raise ValueError(f"model is for mode train, got mode {self.mode}")
        if self.score == "terms" and not self.score_terms:
            raise ValueError("score terms needs score_terms, a file of terms")
        if self.prune and self.mode not in ("extend", "prune"):
            raise ValueError(f"prune goes with mode extend, got mode {self.mode}")
        if self.mode == "replace" and self.new_tokens == "auto":
            raise ValueError("mode replace adds no parameters, so new_tokens: auto has no answer")
        return self


Initialisation = Literal["mean", "weighted", "first", "last", "global", "random"]


class DistillSection(Section):
    """How `embeddings.init: distill` learns the new rows from the base itself."""

    steps: int = Field(300, gt=0, description="Optimizer steps at most.")
    seconds: float = Field(600.0, gt=0.0, description="Time at most, the teacher's pass included.")
    learning_rate: float = Field(3e-3, gt=0.0, description="Peak learning rate of the rows.")
    snippet_tokens: int = Field(80_000, gt=0, description="Text read; base tokens.")
    tokens_per_step: int = Field(1_024, gt=0, description="Text of a step; tokens.")
    max_length: int = Field(256, gt=1, description="Longest snippet; tokens.")
    depth: float = Field(
        0.34, gt=0.0, le=1.0, description="Share of the layers whose states are copied."
    )
    next_token_weight: float = Field(
        1.0, ge=0.0, description="Weight of predicting units, against copying states."
    )
    held_out: Fraction = Field(0.04, gt=0.0, description="Share of snippets to stop early by.")
    patience: int = Field(3, gt=0, description="Checks without progress before it stops.")
    teacher_share: Fraction = Field(
        0.4, gt=0.0, description="Share of `seconds` that reading by the base may take."
    )
    init_from: Initialisation = Field("mean", description="Rows to start from.")


class EmbeddingsSection(Section):
    """Where the rows of new tokens come from."""

    init: Literal["mean", "weighted", "first", "last", "global", "random", "distill"] = Field(
        "mean",
        description="distill: learned so that the model does with a unit what the base did with "
        "its pieces; mean, weighted (to the ends), first, last: of the rows of the base tokens "
        "that a unit is made of; global: drawn around the mean of all rows; random: a control.",
    )
    init_output: Initialisation | None = Field(
        None, description="The same of output rows, where the base has its own; null: as init."
    )
    untie: bool = Field(
        False, description="Give a tied base an output matrix of its own; costs that matrix."
    )
    distill: DistillSection = Field(
        default_factory=DistillSection, description="Options of init distill."
    )
    pad_to_multiple_of: int | None = Field(
        None, gt=0, description="Rows are padded to a multiple of this, for tensor cores; rows."
    )


ModuleNames = Annotated[
    Annotated[str, Tag("name")] | Annotated[list[str], Tag("names")],
    Discriminator(lambda value: "names" if isinstance(value, list) else "name"),
]


class LoraSection(Section):
    """Low-rank adapters, as `peft.LoraConfig` names its options."""

    r: int = Field(16, gt=0, description="Rank.")
    lora_alpha: int = Field(32, gt=0, description="Scale is lora_alpha / r.")
    lora_dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout before the adapters.")
    target_modules: ModuleNames = Field(
        "all-linear", description="all-linear, or names of modules."
    )


class Phase(Section):
    """One pass of training; phases run in order on the same adapter."""

    name: str = Field(pattern=r"^[\w.-]+$", description="Names its checkpoints and its loss.")
    objective: Literal["clm", "sft"] = Field(
        description="clm: next token on the corpus; sft: the tasks, loss on completions only."
    )
    max_steps: int = Field(
        gt=0,
        description="Optimizer steps. A step takes per_device_train_batch_size x "
        "gradient_accumulation_steps sequences, shared out among the processes.",
    )
    learning_rate: float = Field(2e-4, gt=0.0, description="Peak learning rate.")
    new_token_learning_rate: float | None = Field(
        None, gt=0.0, description="Peak learning rate of the new token rows; null: learning_rate."
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant_with_warmup"] = Field(
        "linear", description="Schedule after the warm-up."
    )
    warmup_ratio: float = Field(0.05, ge=0.0, lt=1.0, description="Share of steps that warm up.")
    weight_decay: float = Field(0.0, ge=0.0, description="Of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0.0, description="Gradients are clipped to this norm.")
    per_device_train_batch_size: int = Field(2, gt=0, description="Sequences.")
    gradient_accumulation_steps: int = Field(1, gt=0, description="Batches to an optimizer step.")
    max_length: int = Field(512, gt=1, description="Longest sequence; tokens.")
    save_steps: int = Field(50, gt=0, description="Steps between checkpoints.")
    logging_steps: int = Field(10, gt=0, description="Steps between log lines.")


class TrainingSection(Section):
    """How the adapted base is fine-tuned."""

    method: Literal["lora"] = Field("lora", description="lora: adapters and the new token rows.")
    lora: LoraSection = Field(default_factory=LoraSection, description="Options of method lora.")
    phases: list[Phase] = Field(min_length=1, description="Run in order.")

    @model_validator(mode="after")
    def _names_differ(self) -> TrainingSection:
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError("two phases have the same name")
        return self


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


class PublishSection(Section):
    """Where the finished adapter goes."""

    push_to_hub: bool = Field(False, description="Upload the adapter when the run is done.")
    hub_model_id: str | None = Field(None, description="org/name on the Hub.")
    private: bool = Field(False, description="Make a new repository private.")

    @model_validator(mode="after")
    def _named(self) -> PublishSection:
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("push_to_hub needs hub_model_id")
        return self


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


def fields_of(prompt: str) -> list[str]:
    """The column names that a prompt template asks for.

    Raises:
        ValueError: The template is not valid, or has a field without a name.
    """
    names = [name for _, name, _, _ in Formatter().parse(prompt) if name is not None]
    if any(not name.isidentifier() for name in names):
        raise ValueError(f"prompt fields must be column names, got {names}")
    return names
