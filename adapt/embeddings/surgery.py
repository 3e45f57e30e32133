"""Writes the adapted base: the base's checkpoint with rows for the new tokens.

Nothing is resized inside a loaded model. The shard that holds an embedding matrix is rewritten,
every other shard is hard-linked, so memory is that of one shard and not of the model.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from adapt.embeddings.initialize import STRATEGIES
from adapt.errors import ModelError
from adapt.vocab.delta import VocabDelta
from adapt.workspace import write_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def embedding_names(folder: Path, *, trust_remote_code: bool = False) -> tuple[str, str | None]:
    """Parameter names of the input and, where it is a matrix of its own, the output embedding.

    Asks the model itself, on the meta device: no weight is read.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    model.tie_weights()
    output = model.get_output_embeddings()
    tied = output is None or output.weight is model.get_input_embeddings().weight
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return names[id(model.get_input_embeddings().weight)], None if tied else names[
        id(output.weight)
    ]


def write_adapted_base(
    base: Path,
    tokenizer: Path,
    delta: VocabDelta,
    init: str,
    folder: Path,
    *,
    trust_remote_code: bool = False,
) -> dict[str, int]:
    """Fills `folder` with an ordinary checkpoint that `from_pretrained` loads.

    Args:
        base: Checkpoint folder of the base, in safetensors; only read.
        tokenizer: Folder of the adapted tokenizer, copied in.
        delta: What changed in the vocabulary.
        init: Name of a strategy in `adapt.embeddings.initialize.STRATEGIES`.
        folder: An empty folder.
        trust_remote_code: As in `transformers`.

    Returns:
        Rows of each embedding matrix after the edit, by parameter name.

    Raises:
        ModelError: The base has no safetensors, or the delta is of another vocabulary.
    """
    shards = shard_files(base)
    wanted = embedding_names(base, trust_remote_code=trust_remote_code)
    names = _in_checkpoint([name for name in wanted if name], base, shards)
    edited: dict[str, int] = {}
    for shard, keys in shards.items():
        here = [name for name in names if name in keys] if delta.added else []
        if here:
            tensors = _load(base / shard)
            for name in here:
                tensors[name] = with_new_rows(tensors[name], delta, init)
                edited[name] = tensors[name].shape[0]
            save_file(tensors, str(folder / shard), metadata={"format": "pt"})
        else:
            _link(base / shard, folder / shard)
    _copy_settings(base, tokenizer, folder)
    _set_vocab_size(folder, max(edited.values(), default=0))
    return edited


def with_new_rows(rows: Tensor, delta: VocabDelta, init: str) -> Tensor:
    """The matrix with rows for new tokens; rows of the base are bit-identical.

    Args:
        rows: (rows, hidden); may hold more rows than the base has tokens (padding), which new
            tokens use before the matrix grows.
        delta: What changed in the vocabulary.
        init: Name of a strategy.

    Returns:
        (max(rows, delta.size), hidden), same type.

    Raises:
        ModelError: The matrix is smaller than the base vocabulary.
    """
    if rows.shape[0] < delta.base_size:
        raise ModelError(
            f"the tokenizer has ids up to {delta.base_size - 1}, the model only "
            f"{rows.shape[0]} rows",
            where="model.base",
            fix="take the tokenizer that belongs to the model",
        )
    new = STRATEGIES[init](rows, [token.constituents for token in delta.added])
    grown = torch.zeros(max(rows.shape[0], delta.size), rows.shape[1], dtype=rows.dtype)
    grown[: rows.shape[0]] = rows
    grown[torch.tensor(delta.added_ids)] = new
    return grown


def shard_files(base: Path) -> dict[str, set[str]]:
    """Safetensors files of a checkpoint, each with the names of its tensors.

    Raises:
        ModelError: There are none.
    """
    index = base / INDEX
    if index.is_file():
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {f: {k for k, v in weight_map.items() if v == f} for f in set(weight_map.values())}
    if (base / SINGLE).is_file():
        with safe_open(str(base / SINGLE), framework="pt") as file:
            return {SINGLE: set(file.keys())}
    raise ModelError(
        "holds no model.safetensors",
        where=str(base),
        fix="save the model with safetensors first: model.save_pretrained(folder)",
    )


def _in_checkpoint(names: Sequence[str], base: Path, shards: dict[str, set[str]]) -> list[str]:
    """What the checkpoint calls the model's parameters.

    A checkpoint may use older names than the model that loads it (GPT-NeoX: `embed_out` for
    `lm_head`), or leave out the prefix of the body (GPT-2). The name itself is looked for, then
    its ending, then the one matrix left that has the shape of the input embedding.

    Raises:
        ModelError: None is found, or several.
    """
    keys = {key for held in shards.values() for key in held}
    found: list[str] = []
    for name in names:
        left = keys - set(found)
        candidates = [k for k in left if k == name] or [k for k in left if name.endswith(f".{k}")]
        if not candidates and found:
            shapes = _shapes(base, shards)
            candidates = [k for k in left if shapes[k] == shapes[found[0]]]
        if len(candidates) != 1:
            raise ModelError(
                f"cannot tell which tensor is {name}",
                where=str(base),
                got=", ".join(sorted(candidates)) or "none that fits",
            )
        found += candidates
    return found


def _shapes(base: Path, shards: dict[str, set[str]]) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for shard in shards:
        with safe_open(str(base / shard), framework="pt") as file:
            shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return shapes


def _load(path: Path) -> dict[str, Tensor]:
    with safe_open(str(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _link(source: Path, target: Path) -> None:
    """Hard-links, or copies where the file systems differ."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _copy_settings(base: Path, tokenizer: Path, folder: Path) -> None:
    """Configuration and shard index of the base, and everything of the adapted tokenizer."""
    for name in ("config.json", "generation_config.json", INDEX):
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    for path in base.glob("*.py"):
        shutil.copyfile(path, folder / path.name)
    for path in tokenizer.iterdir():
        shutil.copyfile(path, folder / path.name)


def _set_vocab_size(folder: Path, rows: int) -> None:
    """Writes the new number of rows where the base's configuration has its own."""
    if not rows:
        return
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    place = config if "vocab_size" in config else config.get("text_config", config)
    place["vocab_size"] = rows
    write_json(path, config)
