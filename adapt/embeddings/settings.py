"""The base's settings under the new vocabulary: its size, and ids of tokens that have moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from adapt.vocab import OUTPUT
from adapt.vocab.delta import VocabDelta
from adapt.workspace import write_json

CONFIG = "config.json"
GENERATION = "generation_config.json"

# What `transformers` takes from config.json where a checkpoint has no generation_config.json.
_ENDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")

# How the names of settings end whose numbers are token ids (Gemma 3: `image_token_index`).
_IDS = ("_token_id", "_token_ids", "_token_index")

# Others, in lists of any depth.
_ID_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids")


def write_settings(
    base: Path, tokenizer: Path, folder: Path, delta: VocabDelta, rows: int, *, untie: bool = False
) -> tuple[str, ...]:
    """Writes configurations for the new vocabulary; copies code and the adapted tokenizer.

    An id of a token that is no longer there is unset (taken out of a list), as is one that never
    stood for a token and now lies outside the matrix.

    Args:
        base: Checkpoint folder of the base.
        tokenizer: Folder of the adapted tokenizer.
        folder: Written into.
        delta: What changed.
        rows: Rows of the embedding after the edit, written as `vocab_size`.
        untie: Whether the output embedding is a matrix of its own now.

    Returns:
        What was unset, a line each.
    """
    notes: list[str] = []
    moved = _Moved(delta, rows, notes)
    for name in (CONFIG, GENERATION):
        if (base / name).is_file():
            settings = json.loads((base / name).read_text(encoding="utf-8"))
            if delta.moves_ids or rows < delta.base_size:
                settings = moved.settings(settings, name)
            if name == CONFIG:
                settings = _sized(settings, rows, untie)
            else:
                settings = _reading_only(settings, delta)
            write_json(folder / name, settings)
    if delta.read_only and not (base / GENERATION).is_file():
        config = json.loads((base / CONFIG).read_text(encoding="utf-8"))
        known = {key: config[key] for key in _ENDS if config.get(key) is not None}
        write_json(folder / GENERATION, _reading_only(known, delta))
    for path in (*base.glob("*.py"), *tokenizer.iterdir()):
        if path.is_file() and path.name not in (CONFIG, GENERATION):
            shutil.copyfile(path, folder / path.name)
    if delta.read_only:  # what is written goes by the base's own tokenizer
        shutil.copytree(tokenizer / OUTPUT, folder / OUTPUT)
    return tuple(notes)


def _sized(config: dict[str, Any], rows: int, untie: bool) -> dict[str, Any]:
    """The configuration with the new size."""
    for part in (config, _text_part(config)):
        if untie:
            part["tie_word_embeddings"] = False
    _text_part(config)["vocab_size"] = rows
    return config


def _reading_only(generation: dict[str, Any], delta: VocabDelta) -> dict[str, Any]:
    """Generation that never writes a unit which is only read."""
    if not delta.read_only:
        return generation
    suppressed = {*(generation.get("suppress_tokens") or []), *delta.added_ids}
    return {**generation, "suppress_tokens": sorted(suppressed)}


def _text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The part that has `vocab_size`: the configuration, or that of a larger model's text."""
    nested: dict[str, Any] = config.get("text_config", config)
    return config if "vocab_size" in config else nested


class _Moved:
    """Moves the token ids in settings."""

    def __init__(self, delta: VocabDelta, rows: int, notes: list[str]) -> None:
        self.new_ids = dict(zip(*delta.kept_ids, strict=True))
        self.removed, self.rows, self.notes = frozenset(delta.removed), rows, notes

    def settings(self, settings: dict[str, Any], where: str) -> dict[str, Any]:
        """A copy with all ids moved, in nested parts too."""
        moved: dict[str, Any] = {}
        for key, value in settings.items():
            if isinstance(value, dict):
                moved[key] = self.settings(value, f"{where}: {key}")
            elif key.endswith(_IDS) or key in _ID_LISTS:
                moved[key] = self._ids(value, f"{where}: {key}")
            else:
                moved[key] = value
        return moved

    def _ids(self, value: Any, where: str) -> Any:  # noqa: ANN401
        if isinstance(value, list):
            moved = [self._ids(one, where) for one in value]
            # A sequence of tokens goes as a whole, a list of single ones loses what is not there.
            sequences = where.endswith("bad_words_ids") and not any(
                isinstance(one, list) for one in value
            )
            return None if sequences and None in moved else [m for m in moved if m is not None]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            return value
        if value in self.new_ids:
            return self.new_ids[value]
        if value not in self.removed and value < self.rows:
            return value  # stood for no token before
        self.notes.append(f"{where} was {value}, which no token has any more: unset")
        return None
