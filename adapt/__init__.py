"""Domain adaptation of language models, from the vocabulary up."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(
    reference: str | Path,
    *,
    dtype: str = "auto",
    merged: bool = False,
    base: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    cache_dir: str | Path | None = None,
) -> tuple[Any, Any]:
    """Loads what a run made, ready to generate: `model, tokenizer = adapt.load("runs/medical")`.

    Args:
        reference: A run folder, an adapter's folder, a merged checkpoint, or a Hub id of one of
            the latter two. The environment of `huggingface_hub` holds (`HF_ENDPOINT`,
            `HF_HUB_OFFLINE`).
        dtype: Of the frozen weights: auto, float32, bfloat16 or float16. auto is what the
            adapter was trained with.
        merged: Merges the adapter into the weights: faster to generate with, and the same up to
            rounding.
        base: The original base (Hub id, `package:<name>` or folder), where the adapter does not
            say it or says another place.
        revision: Commit, branch or tag of a Hub `reference`.
        trust_remote_code: As in `transformers`.
        cache_dir: Where files of the Hub and rebuilt bases are kept; None for the usual places.

    Returns:
        A causal language model in evaluation mode, on this process's device, and its tokenizer.
        The model is a `PeftModel` unless merged; whole models, and adapters that PEFT cannot
        hold as one (those of `training.method: ia3` with new rows), always come merged.

    Raises:
        AdaptError: Nothing there can be loaded, or the original base cannot be found.
    """
    # By name: importing adapt must not import torch.
    loaded: tuple[Any, Any] = import_module("adapt.publish.load").load(
        reference,
        dtype=dtype,
        merged=merged,
        base=base,
        revision=revision,
        trust_remote_code=trust_remote_code,
        cache_dir=cache_dir,
    )
    return loaded
