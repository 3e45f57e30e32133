"""Sections `model` and `corpus`: what is adapted, and to what text."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from adapt.recipe.section import Fraction, Section


class RopeScaling(Section):
    """Longer context than the base was trained for, as `transformers` names its options."""

    type: Literal["linear", "dynamic", "yarn"] = Field(
        description="linear stretches positions; dynamic only beyond the base's context; yarn "
        "each frequency by its own measure (Peng et al. 2023)."
    )
    factor: float = Field(gt=1.0, description="New context length over the base's.")


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
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto", description="Attention kernels; auto: what transformers takes for the model."
    )
    rope_scaling: RopeScaling | None = Field(
        None, description="For sequences longer than the base's context; needs rotary positions."
    )
    device_map: Literal["auto", "balanced", "sequential"] | None = Field(
        None, description="Spreads one copy of the model over the devices of one machine."
    )
    max_memory: dict[str, str] | None = Field(
        None,
        description='With device_map: most that each device may hold, as in {"0": "20GiB", "cpu": '
        '"60GiB"}.',
    )

    @model_validator(mode="after")
    def _memory_of_a_map(self) -> ModelSection:
        if self.max_memory is not None and self.device_map is None:
            raise ValueError("max_memory needs device_map")
        return self


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
