"""Section `training`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from adapt.recipe.section import Section

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
