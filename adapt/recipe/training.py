"""Section `training`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from adapt.recipe.section import Section

ModuleNames = Annotated[
    Annotated[str, Tag("name")] | Annotated[list[str], Tag("names")],
    Discriminator(lambda value: "names" if isinstance(value, list) else "name"),
]


# Optimizers of `transformers.TrainingArguments` that take groups of parameters; the second set
# needs bitsandbytes.
Optimizer = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adafactor",
    "adagrad",
    "rmsprop",
    "sgd",
    "adamw_8bit",
    "ademamix",
    "ademamix_8bit",
    "lion_32bit",
    "lion_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
]


class LoraSection(Section):
    """Low-rank adapters, as `peft.LoraConfig` names its options."""

    r: int = Field(16, gt=0, description="Rank.")
    lora_alpha: int = Field(32, gt=0, description="Scale is lora_alpha / r.")
    lora_dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout before the adapters.")
    target_modules: ModuleNames = Field(
        "all-linear", description="all-linear, or names of modules."
    )
    use_rslora: bool = Field(False, description="Scale is lora_alpha / sqrt(r).")
    use_dora: bool = Field(
        False, description="Learn each output's magnitude apart from its direction; slower."
    )
    init_lora_weights: bool | Literal["gaussian", "orthogonal", "pissa", "olora", "loftq"] = Field(
        True,
        description="First values. true: no change at first; pissa and olora: from the weights' "
        "own decomposition; loftq (method qlora, nf4): makes good what quantisation lost.",
    )
    layers_to_transform: list[int] | None = Field(
        None, description="Only these layers have adapters, counted from 0; null: all."
    )

    @model_validator(mode="after")
    def _one_beginning(self) -> LoraSection:
        if self.use_dora and self.init_lora_weights in ("pissa", "olora", "loftq"):
            raise ValueError(
                f"use_dora does not go with init_lora_weights {self.init_lora_weights}"
            )
        if self.init_lora_weights == "orthogonal" and self.r % 2:
            raise ValueError("init_lora_weights orthogonal needs an even r")
        return self


class Ia3Section(Section):
    """Learned scales of activations, as `peft.IA3Config` names its options."""

    target_modules: list[str] | None = Field(
        None, description="Names of modules; null: what PEFT knows of the architecture."
    )
    feedforward_modules: list[str] | None = Field(
        None, description="Those of target_modules whose input is scaled, not their output."
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> Ia3Section:
        if (self.target_modules is None) != (self.feedforward_modules is None):
            raise ValueError("give both target_modules and feedforward_modules, or neither")
        if not set(self.feedforward_modules or ()) <= set(self.target_modules or ()):
            raise ValueError("feedforward_modules must be among target_modules")
        return self


class PromptSection(Section):
    """Virtual tokens of the methods prefix, p_tuning and prompt, as PEFT names their options."""

    num_virtual_tokens: int = Field(20, gt=0, description="Tokens before every sequence.")
    encoder_hidden_size: int | None = Field(
        None, gt=0, description="Width of the network that makes them; null: the model's own."
    )
    prefix_projection: bool = Field(False, description="prefix: make them by a network too.")


class Phase(Section):
    """One pass of training; phases run in order on the same adapter."""

    name: str = Field(pattern=r"^[\w.-]+$", description="Names its checkpoints and its loss.")
    objective: Literal["clm", "sft", "mlm", "classification"] = Field(
        description="clm: next token on the corpus; sft: the tasks, loss on completions only; mlm: "
        "hidden words on the corpus (encoders); classification: a head, on one task."
    )
    tasks: list[str] | None = Field(
        None,
        min_length=1,
        description="Names of evaluation.tasks to train on. sft: null takes all; classification: "
        "one, which may be left out where there is only one of kind classification.",
    )
    messages: str | None = Field(
        None,
        description="sft: a .jsonl or .parquet file whose column messages holds conversations of "
        "several turns (role and content each); the assistant's turns are learned. Used whole, "
        "beside the tasks: no part of it is held out.",
    )
    mlm_probability: float = Field(
        0.15, gt=0.0, lt=1.0, description="mlm: probability with which a word is hidden."
    )
    class_weights: Literal["balanced"] | None = Field(
        None, description="classification. balanced: rare labels weigh more in the loss."
    )
    packing: bool = Field(
        True,
        description="clm and sft: several documents share a row and do not see each other; false: "
        "a row each, batches of like length. Others never pack.",
    )
    trains: Literal["all", "rows"] = Field(
        "all",
        description="all: what the method trains; rows: in this phase the new token rows alone, as "
        "a warm-up before phases that train all. A control, which has none, trains all in either.",
    )
    max_steps: int = Field(
        gt=0,
        description="Optimizer steps. A step takes per_device_train_batch_size x "
        "gradient_accumulation_steps sequences, shared out among the processes.",
    )
    learning_rate: float = Field(2e-4, gt=0.0, description="Peak learning rate.")
    new_token_learning_rate: float | None = Field(
        None,
        gt=0.0,
        description="Peak learning rate of the new token rows; null: a tenth of learning_rate, or "
        "all of it where nothing else trains.",
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
    eval_steps: int | None = Field(
        None, gt=0, description="Steps between losses on the validation side; null: never."
    )
    early_stopping_patience: int | None = Field(
        None, gt=0, description="End after so many such losses without a new lowest; null: never."
    )
    load_best_model_at_end: bool = Field(
        False, description="Go back to the checkpoint with the lowest loss on the validation side."
    )

    @model_validator(mode="after")
    def _keys_belong(self) -> Phase:
        owners = {
            "messages": ["sft"],
            "tasks": ["sft", "classification"],
            "class_weights": ["classification"],
        }
        for key, objectives in owners.items():
            if getattr(self, key) is not None and self.objective not in objectives:
                raise ValueError(f"{key} goes with objective {' or '.join(objectives)}")
        if self.objective == "classification" and self.tasks and len(self.tasks) > 1:
            raise ValueError("objective classification trains on one task")
        return self

    @model_validator(mode="after")
    def _evaluates_to_choose(self) -> Phase:
        chooses = self.early_stopping_patience is not None or self.load_best_model_at_end
        if chooses and self.eval_steps is None:
            raise ValueError("early_stopping_patience and load_best_model_at_end need eval_steps")
        return self


class TrainingSection(Section):
    """How the adapted base is fine-tuned."""

    method: Literal[
        "full", "lora", "qlora", "ia3", "prefix", "p_tuning", "prompt", "rows", "edges"
    ] = Field(
        "lora",
        description="What trains besides the new token rows, which always do. full: everything; "
        "lora: adapters; qlora: adapters on a quantised base; ia3: scales; prefix, p_tuning, "
        "prompt: virtual tokens; rows: nothing; edges: all embeddings, first and last layer.",
    )
    lora: LoraSection = Field(
        default_factory=LoraSection, description="Options of methods lora and qlora."
    )
    ia3: Ia3Section = Field(default_factory=Ia3Section, description="Options of method ia3.")
    prompt: PromptSection = Field(
        default_factory=PromptSection, description="Options of methods prefix, p_tuning, prompt."
    )
    quantization: Literal["nf4", "int8"] | None = Field(
        None,
        description="With method qlora. nf4: 4 bits, scales quantised too; int8: 8 bits, several "
        "times slower on a processor; null: nf4.",
    )
    optim: Optimizer = Field("adamw_torch", description="Optimizer, as transformers names it.")
    gradient_checkpointing: bool = Field(
        False, description="Compute activations twice instead of keeping them: less memory."
    )
    neftune_noise_alpha: float | None = Field(
        None, gt=0.0, description="Noise on embeddings while training (Jain et al. 2023)."
    )
    deepspeed: str | None = Field(
        None,
        description="DeepSpeed's ZeRO, under a launcher: zero1, zero2, zero3, zero2-offload, "
        "zero3-offload, or a .json file of its own; null: none.",
    )
    fsdp: bool | Literal["full_shard", "shard_grad_op"] = Field(
        False,
        description="FSDP2, under a launcher. true, full_shard: parameters are gathered for a "
        "layer at a time; shard_grad_op: they stay whole from forward to backward.",
    )
    torch_compile: bool = Field(False, description="Compile the model; pays in long runs on GPUs.")
    loss_chunk: int | None = Field(
        256,
        gt=0,
        description="Objectives clm and sft: positions that go through the output layer at once; "
        "less memory for the loss. null: all, as the model does it by itself, which is also done "
        "where the output layer is not a plain one, is cut into shards, or with torch_compile. "
        "On a GPU, cut-cross-entropy takes their place where it is installed and fits (extra cce).",
    )
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default_factory=list, description="Where the log lines go besides the console."
    )
    phases: list[Phase] = Field(min_length=1, description="Run in order.")

    @model_validator(mode="after")
    def _of_its_method(self) -> TrainingSection:
        if self.quantization and self.method != "qlora":
            raise ValueError(f"quantization goes with method qlora, not {self.method}")
        if self.lora.init_lora_weights == "loftq" and self.quantised != "nf4":
            raise ValueError("lora.init_lora_weights loftq goes with method qlora and nf4")
        if self.deepspeed and self.fsdp:
            raise ValueError("take deepspeed or fsdp, not both")
        if self.method == "prefix" and self.gradient_checkpointing:
            raise ValueError("method prefix does not go with gradient_checkpointing")
        if self.method in ("prefix", "p_tuning", "prompt") and self.neftune_noise_alpha:
            raise ValueError(f"method {self.method} does not go with neftune_noise_alpha")
        network = self.method == "p_tuning" or (
            self.method == "prefix" and self.prompt.prefix_projection
        )
        if network and any(phase.load_best_model_at_end for phase in self.phases):
            raise ValueError(f"method {self.method} does not go with load_best_model_at_end")
        return self

    @model_validator(mode="after")
    def _has_rows_apart(self) -> TrainingSection:
        alone = [phase.name for phase in self.phases if phase.trains == "rows"]
        if alone and self.method in ("full", "edges"):
            raise ValueError(
                f"phase {alone[0]} trains rows, which method {self.method} does not hold apart "
                "from the matrices; take lora, or trains all"
            )
        if alone and (self.fsdp or "zero3" in (self.deepspeed or "")):
            raise ValueError(
                f"phase {alone[0]} trains rows, which does not go with FSDP and ZeRO-3; take ZeRO "
                "stage 2 or less, or trains all"
            )
        return self

    @model_validator(mode="after")
    def _begins_from_what_is_held(self) -> TrainingSection:
        lora = self.lora
        if self.quantised and lora.init_lora_weights in ("pissa", "orthogonal"):
            raise ValueError(
                f"lora.init_lora_weights {lora.init_lora_weights} needs the weights themselves, "
                "which method qlora has quantised"
            )
        if self.quantised == "int8" and (lora.use_dora or lora.init_lora_weights == "olora"):
            raise ValueError("lora.use_dora and olora go with quantization nf4, not int8")
        return self

    @property
    def classifies(self) -> bool:
        """Whether the last phase leaves a model with a head of classes, which writes no text."""
        return self.phases[-1].objective == "classification"

    @property
    def fills_masks(self) -> bool:
        """Whether the last phase leaves a model that fills in hidden words, and writes no text."""
        return self.phases[-1].objective == "mlm"

    @property
    def quantised(self) -> Literal["nf4", "int8"] | None:
        """How the frozen base is held."""
        return self.quantization or ("nf4" if self.method == "qlora" else None)

    @model_validator(mode="after")
    def _names_differ(self) -> TrainingSection:
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ValueError("two phases have the same name")
        return self
