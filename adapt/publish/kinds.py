"""What a trained model is loaded as: one that writes, has a head of classes, or fills in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from adapt.training.heads import Head, load_with_head
from adapt.training.model import (
    ADAPTER_CONFIG,
    CONTEXT,
    ON_ROWS,
    auto_class,
    device,
    load_merged,
    load_model,
)

FILLS = "AutoModelForMaskedLM"

# Checkpoints that bring a head for hidden words; those that tell words from replaced ones do not.
_WITH_HEAD = ("ForMaskedLM", "ForPreTraining")
_DISCRIMINATORS = ("ElectraForPreTraining", "FunnelForPreTraining")


def kind_of(folder: Path) -> str:
    """The class of `transformers` that a trained model is loaded with.

    PEFT has no name for the task of filling in words; its adapters then say the model's class.

    Args:
        folder: An adapter or a checkpoint.
    """
    adapters = [folder / ADAPTER_CONFIG, folder / ON_ROWS / ADAPTER_CONFIG]
    found = [json.loads(p.read_text(encoding="utf-8")) for p in adapters if p.is_file()]
    for record in found:
        name = (record.get("auto_mapping") or {}).get("base_model_class") or ""
        if name.endswith("ForMaskedLM"):
            return FILLS
    if not found and _made_as(folder, ("ForMaskedLM",)):
        return FILLS
    return auto_class(folder)


def has_mask_head(folder: Path) -> bool:
    """Whether a checkpoint says that it brings a head for hidden words; else one is drawn anew."""
    return _made_as(folder, _WITH_HEAD)


def _made_as(folder: Path, endings: tuple[str, ...]) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = set(config.get("architectures") or []) - set(_DISCRIMINATORS)
    return any(name.endswith(endings) for name in names)


def load_whole(
    checkpoint: Path,
    kind: str,
    dtype: torch.dtype,
    *,
    trust_remote_code: bool = False,
    **options: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """A checkpoint as `kind`, in evaluation mode on this process's device.

    Args:
        checkpoint: Its folder.
        kind: From `kind_of`, of the checkpoint or of an adapter that goes onto it.
        dtype: Of the weights.
        trust_remote_code: As in `transformers`.
        **options: Keys of the configuration, for a model that fills in words.
    """
    if kind != FILLS:
        return load_model(checkpoint, dtype, trust_remote_code=trust_remote_code)
    trust = {"trust_remote_code": trust_remote_code}
    return load_with_head(checkpoint, Head(FILLS, options), dtype, **trust).to(device())


def load_served(
    checkpoint: Path, adapter: Path, dtype: torch.dtype, *, trust_remote_code: bool = False
) -> Any:  # noqa: ANN401
    """`adapt.training.model.load_merged`, for every kind of model."""
    trust = {"trust_remote_code": trust_remote_code}
    if kind_of(adapter) != FILLS:
        return load_merged(checkpoint, adapter, dtype, **trust)
    if not (adapter / ADAPTER_CONFIG).is_file():
        return load_whole(adapter, FILLS, dtype, **trust)
    context = adapter / CONTEXT
    options = json.loads(context.read_text(encoding="utf-8")) if context.is_file() else {}
    model = load_whole(checkpoint, FILLS, dtype, **trust, **options)
    for folder in (adapter, adapter / ON_ROWS):
        if folder.is_dir():
            model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    return model.requires_grad_(True).eval()
