"""The model that trains: the adapted base, frozen, with adapters and the new token rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from adapt.bases import Base
from adapt.errors import ModelError
from adapt.recipe.training import LoraSection
from adapt.vocab import TOKENIZER_FILES
from adapt.workspace import write_json

# Part of the name that PEFT gives the trainable rows of an embedding.
ROWS = "trainable_tokens_delta"


def best_dtype(asked: str) -> torch.dtype:
    """The type of frozen weights: bfloat16 where the device computes in it, else float32.

    Args:
        asked: `auto`, or the name of a type.
    """
    if asked != "auto":
        return getattr(torch, asked)  # type: ignore[no-any-return]
    if torch.accelerator.is_available():
        cuda = torch.cuda.is_available()
        return torch.bfloat16 if not cuda or torch.cuda.is_bf16_supported() else torch.float32
    flags = torch.cpu.get_capabilities()
    fast = flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("bf16")
    return torch.bfloat16 if fast else torch.float32


def device() -> torch.device:
    """Where a model of this process lives."""
    from accelerate import PartialState

    found: torch.device = PartialState().device
    return found


def load_model(folder: Path | str, dtype: torch.dtype, *, trust_remote_code: bool = False) -> Any:  # noqa: ANN401
    """A causal language model in evaluation mode, on this process's device.

    Raises:
        ModelError: The folder does not hold one.
    """
    from transformers import AutoModelForCausalLM

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot be loaded as a causal language model, {str(error).splitlines()[0]}",
            where=str(folder),
        ) from None
    return model.to(device()).eval()


def with_lora(model: Any, lora: LoraSection, new_ids: Sequence[int]) -> PeftModel:  # noqa: ANN401
    """Puts adapters on a model and lets the rows of new tokens train; all else is frozen.

    Args:
        model: The adapted base; it is never resized here.
        lora: Options of the adapters.
        new_ids: Ids whose embedding rows train, on both sides; adapters and rows are float32.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        trainable_token_indices=_rows_to_train(model, list(new_ids)) if new_ids else None,
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(str(error).splitlines()[0], where="training.lora.target_modules") from None


def _rows_to_train(model: Any, new_ids: list[int]) -> dict[str, list[int]]:  # noqa: ANN401
    """Which module trains which rows.

    Given as a list, PEFT trains the input side only; a tied output follows the input by itself,
    an untied one must be named.
    """
    names = {id(module): name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    rows = {names[id(inputs)]: new_ids}
    if outputs is not None and outputs.weight is not inputs.weight:
        rows[names[id(outputs)]] = new_ids
    return rows


def new_row_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The trainable rows of new tokens."""
    return [p for n, p in model.named_parameters() if ROWS in n]


def save_adapter(model: PeftModel, tokenizer: Path, base: Base, folder: Path) -> None:
    """Writes an adapter that plain PEFT loads from the original base.

    Training ran on the adapted base; with the new rows in the adapter and the tokenizer beside
    it, PEFT grows the original base by itself. PEFT's default would add both whole embedding
    matrices, since the vocabulary differs from the base's.

    Args:
        model: The trained model.
        tokenizer: Folder of its tokenizer, whose files are copied in.
        base: The original base, which the adapter names.
        folder: Written into.
    """
    model.save_pretrained(str(folder), save_embedding_layers=False)
    _narrow_rows(folder / "adapter_model.safetensors", model.get_input_embeddings().weight.dtype)
    config_path = folder / "adapter_config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"], config["revision"] = base.reference, base.revision
    write_json(config_path, config)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's card says nothing true of this run
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)


def _narrow_rows(weights: Path, dtype: torch.dtype) -> None:
    """Stores new rows in the type of the matrix that they go into.

    They train in float32, and every forward pass rounds them to the matrix: to store more would
    make the adapter larger and no logit different.
    """
    tensors = load_file(str(weights))
    for name, tensor in tensors.items():
        if ROWS in name:
            tensors[name] = tensor.to(dtype)
    save_file(tensors, str(weights), metadata={"format": "pt"})
    weights.chmod(0o644)


def load_merged(
    checkpoint: Path, adapter: Path, dtype: torch.dtype, *, trust_remote_code: bool = False
) -> Any:  # noqa: ANN401
    """A trained model as it would be served: the adapter merged into freshly loaded weights.

    Args:
        checkpoint: What the adapter was trained on.
        adapter: Folder written by `save_adapter`.
        dtype: Of the weights that are merged into.
        trust_remote_code: As in `transformers`.
    """
    model = load_model(checkpoint, dtype, trust_remote_code=trust_remote_code)
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().eval()
