"""`pytorch_model.bin` to safetensors, once, into the cache of converted models."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from adapt.bases import cache_folder
from adapt.embeddings.locate import tied_names
from adapt.embeddings.shards import INDEX, SINGLE
from adapt.errors import ModelError
from adapt.progress import watched
from adapt.workspace import fingerprint, new_folder, write_json

BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def with_safetensors(base: Path, *, trust_remote_code: bool = False) -> Path:
    """The base itself where it has safetensors or no weights at all, else its conversion.

    Args:
        base: A checkpoint folder; only read.
        trust_remote_code: As in `transformers`.

    Raises:
        ModelError: A file cannot be read as plain weights.
    """
    has_bin = (base / BIN).is_file() or (base / BIN_INDEX).is_file()
    if (base / INDEX).is_file() or (base / SINGLE).is_file() or not has_bin:
        return base
    stamps = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(base.iterdir())]
    name = f"{base.name}-{fingerprint(str(base.resolve()), stamps)[:12]}"
    target = cache_folder() / "bases" / name
    if not target.is_dir():
        with new_folder(target) as unfinished:
            to_safetensors(base, unfinished, trust_remote_code=trust_remote_code)
    return target


def to_safetensors(base: Path, folder: Path, *, trust_remote_code: bool = False) -> None:
    """Writes a checkpoint's weights as safetensors, shard by shard, and copies the rest.

    Pickles are read with `weights_only=True`, so no code in them runs. A tensor that the model
    ties to another and that shares its memory is left out, as `save_pretrained` does; other
    shared memory is written out for each.

    Args:
        base: Folder with `pytorch_model.bin`, or its shards and their index.
        folder: An empty folder.
        trust_remote_code: As in `transformers`.

    Raises:
        ModelError: A file cannot be read as plain weights.
    """
    ties = tied_names(base, trust_remote_code=trust_remote_code)
    index: dict[str, Any] = {}
    files = {BIN: SINGLE}
    if (base / BIN_INDEX).is_file():
        index = json.loads((base / BIN_INDEX).read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
        files = {n: f"model-{i:05}-of-{len(names):05}.safetensors" for i, n in enumerate(names, 1)}
    weight_map: dict[str, str] = {}
    total = 0
    for source, target in watched(files.items(), "to safetensors"):
        tensors = _without_ties(_load(base / source), ties)
        save_file(tensors, str(folder / target), metadata={"format": "pt"})
        (folder / target).chmod(0o644)  # safetensors writes 0600; a cache may be shared
        weight_map |= dict.fromkeys(tensors, target)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if index:
        write_json(
            folder / INDEX,
            {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
        )
    for path in base.iterdir():
        if path.is_file() and path.suffix != ".bin" and path.name != BIN_INDEX:
            shutil.copyfile(path, folder / path.name)


def _load(path: Path) -> dict[str, Tensor]:
    """A pickled state dict; mapped, unless it has the format of before torch 1.6."""
    try:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"cannot be read as plain weights, {type(error).__name__}",
            where=str(path),
            fix="save the model with safetensors: model.save_pretrained(folder)",
        ) from None
    if not isinstance(state, dict):
        raise ModelError("holds no weights by name", where=str(path), got=type(state).__name__)
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def _without_ties(tensors: dict[str, Tensor], ties: frozenset[str]) -> dict[str, Tensor]:
    """What safetensors can write: contiguous, and no two in the same memory."""
    kept: dict[str, Tensor] = {}
    owners: dict[int, str] = {}
    # Tied names last, so that what they are tied to owns the memory.
    for name in sorted(tensors, key=lambda name: name in ties):
        tensor = tensors[name]
        memory = tensor.untyped_storage().data_ptr()
        owner = kept.get(owners.get(memory, ""))
        if owner is not None and name in ties and owner.shape == tensor.shape:
            continue
        owners.setdefault(memory, name)
        kept[name] = tensor.contiguous() if owner is None else tensor.clone().contiguous()
    return {name: kept[name] for name in tensors if name in kept}
