"""Sections `tokenizer` and `embeddings`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from adapt.recipe.section import Fraction, Section

Budget = Annotated[
    Annotated[int, Field(gt=0), Tag("number")] | Annotated[Literal["auto", "curve"], Tag("name")],
    Discriminator(lambda value: "name" if value in ("auto", "curve") else "number"),
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
        description="Units to add; tokens. auto: sizes are tried from 125 on, each by a training "
        "of 50 steps, and the one of most net benefit on the validation side is taken, or none; "
        "bits per byte may rise by 2 %. Units inside words are tried where none across spaces pay. "
        "curve: as many as pay for themselves in tokens times "
        "parameters, without training.",
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
        if self.mode == "replace" and isinstance(self.new_tokens, str):
            raise ValueError(
                f"mode replace adds no parameters, so new_tokens: {self.new_tokens} has no answer"
            )
        return self


Initialisation = Literal["mean", "weighted", "first", "last", "global", "random"]


LearnedOr = Literal[
    "auto", "distill", "omp", "mean", "weighted", "first", "last", "global", "random"
]


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
    general_share: Fraction = Field(
        0.2, description="Share of the text that is general, where corpus.general gives some."
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
    save_seconds: float = Field(
        60.0,
        ge=0.0,
        description="Time between checkpoints, from which a run that was ended goes on; seconds.",
    )


class EmbeddingsSection(Section):
    """Where the rows of new tokens come from."""

    units: Literal["both", "input"] = Field(
        "both",
        description="input: new units are read and never written. Prompts and documents are "
        "encoded with them, completions and labels without, and generation is kept to the base's "
        "tokens.",
    )
    init: LearnedOr = Field(
        "auto",
        description="auto: distill where the base writes text and units glue its tokens, else "
        "mean. distill: learned so that the model does with a unit what the base did with its "
        "pieces; omp: after the rows of a donor whose tokenizer knows the new tokens; "
        "mean, weighted (to the ends), first, last: of the rows of the base tokens that a "
        "unit is made of; global: drawn around the mean of all rows; random: a control.",
    )
    init_output: Initialisation | None = Field(
        None, description="The same of output rows, where the base has its own; null: as init."
    )
    donor: str | None = Field(
        None,
        description="Of init omp: the model whose rows new tokens take after; a Hub id, folder or "
        "package:NAME. New tokens that it does not have get mean rows.",
    )
    atoms: int = Field(
        4, gt=0, description="Of init omp: tokens that make up a new one, at most; tokens."
    )
    untie: bool | Literal["auto"] = Field(
        False,
        description="Give a tied base an output matrix of its own; costs that matrix. auto: makes "
        "both, trains each for 50 steps, and unties where bits per byte of the validation side "
        "fall by 3 % more than the share of parameters that the matrix adds.",
    )
    distill: DistillSection = Field(
        default_factory=DistillSection, description="Options of init distill."
    )
    pad_to_multiple_of: int | None = Field(
        None, gt=0, description="Rows are padded to a multiple of this, for tensor cores; rows."
    )

    @property
    def begins_with(self) -> str:
        """The strategy that rows are made by before a donor or learning changes them."""
        if self.init == "omp":
            return "mean"
        return self.distill.init_from if self.init in ("auto", "distill") else self.init

    @model_validator(mode="after")
    def _donor_goes_with_omp(self) -> EmbeddingsSection:
        if self.init == "omp" and not self.donor:
            raise ValueError("init omp needs donor, a model whose tokenizer knows the new tokens")
        if self.donor and self.init != "omp":
            raise ValueError(f"donor is for init omp, got init {self.init}")
        return self
