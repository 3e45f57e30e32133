"""Tokenizers for measuring, read without torch wherever they have a tokenizer.json."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from adapt import bases
from adapt.errors import VocabularyError

# What older models hold instead, which stock code can turn into a tokenizer.json.
_UNCONVERTED = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "merges.txt",
    "vocab.txt",
)


def open_backend(name: str) -> Tokenizer:
    """Opens a tokenizer by file, folder, run folder, `package:<name>` or Hub id.

    Raises:
        VocabularyError: There is none, it must be converted first, or it cannot be read.
        ModelError: The package or Hub id is not there.
    """
    path = Path(name).expanduser()
    if not path.exists():
        path = bases.resolve(name).folder if name.startswith("package:") else bases.hub_file(name)
    file = _file_in(path) if path.is_dir() else path
    if file.name in _UNCONVERTED:
        raise VocabularyError(
            f"{file.name} must be converted to tokenizer.json",
            where=str(path),
            fix="AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of transformers "
            "does it",
        )
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises plain Exception
        reason = str(error).splitlines()[0]
        raise VocabularyError(f"not a tokenizer.json, {reason}", where=str(file)) from None


def _file_in(folder: Path) -> Path:
    """The tokenizer's file of a model, of a run of adapt, or one that must be converted."""
    wanted = ("tokenizer.json", "tokenizer/tokenizer.json", *_UNCONVERTED)
    for file in (folder / name for name in wanted):
        if file.is_file():
            return file
    raise VocabularyError("holds no tokenizer.json", where=str(folder))
