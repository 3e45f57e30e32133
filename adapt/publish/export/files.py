"""The files of a checkpoint that an export takes along."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from adapt.embeddings.shards import INDEX, has_index, link, shard_files
from adapt.publish.load import CONFIG
from adapt.vocab import OUTPUT, TOKENIZER_FILES
from adapt.vocab.delta import FILE_NAME

GENERATION = "generation_config.json"

# What of it says nothing about the text that is written.
IDLE = {"_from_model_config", "transformers_version", "do_sample", "use_cache"}
IDLE |= {"output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate"}


def generation_settings(checkpoint: Path) -> dict[str, Any]:
    """`generation_config.json`; empty where there is none."""
    path = checkpoint / GENERATION
    found: dict[str, Any] = {}
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
    return found


def read_only(*folders: Path) -> bool:
    """Whether units are only read (`embeddings.units: input`).

    Then what is written has a tokenizer of its own beside that of what is read.
    """
    return any((folder / OUTPUT).is_dir() for folder in folders)


def copy_beside(checkpoint: Path, folder: Path, *, weights: bool) -> None:
    """Copies configuration and tokenizer, byte for byte.

    Args:
        checkpoint: A stand-alone checkpoint.
        folder: Where they go.
        weights: Whether the weights go as well, as hard links where that can be.
    """
    names = [CONFIG, GENERATION, *(name for name in TOKENIZER_FILES if name != FILE_NAME)]
    for name in names:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)
    for path in checkpoint.glob("*.py"):
        shutil.copyfile(path, folder / path.name)
    if (checkpoint / OUTPUT).is_dir():
        shutil.copytree(checkpoint / OUTPUT, folder / OUTPUT)
    if weights:
        for name in shard_files(checkpoint):
            link(checkpoint / name, folder / name)
        if has_index(checkpoint):
            shutil.copyfile(checkpoint / INDEX, folder / INDEX)
