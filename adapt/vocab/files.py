"""A tokenizer's folder: reading it as `transformers` does, and writing an adapted one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from adapt.errors import VocabularyError
from adapt.vocab.delta import FILE_NAME
from adapt.workspace import write_json, write_text

# What a tokenizer's folder may hold that belongs to the tokenizer.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    FILE_NAME,
)

# Folder beside those, where units are only read: the base's tokenizer, for what is written.
OUTPUT = "tokenizer-output"

# The same in files of older kinds, which some classes read instead.
_LEGACY = ("vocab.json", "merges.txt", "vocab.txt", "added_tokens.json")


def load_tokenizer(folder: Path | str, *, trust_remote_code: bool = False) -> Any:  # noqa: ANN401
    """A `transformers` tokenizer with a fast backend, as users of the model get it.

    Raises:
        VocabularyError: There is none, or it is not a fast one.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise VocabularyError(
            f"no tokenizer could be loaded, {str(error).splitlines()[0]}", where=str(folder)
        ) from None
    if not getattr(tokenizer, "is_fast", False):
        raise VocabularyError(
            f"{type(tokenizer).__name__} is not a fast tokenizer",
            where=str(folder),
            fix="adapt needs one with a tokenizer.json",
        )
    return tokenizer


def write_tokenizer(base: Any, backend: Tokenizer, folder: Path) -> None:  # noqa: ANN401
    """Writes `backend` with everything else of `base`: special tokens, chat template, sides.

    transformers 5 rebuilds the pipeline of some classes from vocabulary and merges, and so drops
    a changed pre-tokenizer without a word; `PreTrainedTokenizerFast` takes the file as it is.
    """
    base.save_pretrained(str(folder))
    write_text(folder / "tokenizer.json", backend.to_str(pretty=False))
    config_path = folder / "tokenizer_config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    # Where the base was read from is nobody's business, least of all a Hub repository's.
    for key in ("is_local", "local_files_only", "name_or_path", "backend"):
        config.pop(key, None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(config_path, config)
    for legacy in _LEGACY:
        (folder / legacy).unlink(missing_ok=True)


def agree_with_stock(new: Tokenizer, folder: Path, texts: Sequence[str]) -> None:
    """What was written must be what `AutoTokenizer` gives back, id for id.

    Raises:
        VocabularyError: It is not.
    """
    stock = load_tokenizer(folder)
    ids = stock(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    if ids != [e.ids for e in new.encode_batch(list(texts), add_special_tokens=False)]:
        raise VocabularyError(
            "transformers reads the written tokenizer otherwise than tokenizers does; this is a "
            "bug of adapt, please report it"
        )


def copy_tokenizer(base: Any, folder: Path) -> None:  # noqa: ANN401
    """Copies the base's tokenizer as it lies on disk; writes it where it only is in memory."""
    source = Path(base.name_or_path or "")
    if not (source / "tokenizer.json").is_file():
        base.save_pretrained(str(folder))
        return
    for name in (*TOKENIZER_FILES, *_LEGACY):
        if name != FILE_NAME and (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
