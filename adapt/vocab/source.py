"""Tokenizers for measuring, read without torch wherever they have a tokenizer.json."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from adapt import bases
from adapt.errors import VocabularyError


def open_backend(name: str) -> Tokenizer:
    """Opens a tokenizer by file, folder, `package:<name>` or Hub id.

    Raises:
        VocabularyError: There is none, or it cannot be read.
        ModelError: The package or Hub id is not there.
    """
    path = Path(name).expanduser()
    if not path.exists():
        path = bases.resolve(name).folder if name.startswith("package:") else bases.hub_file(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise VocabularyError("holds no tokenizer.json", where=str(path))
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises plain Exception
        reason = str(error).splitlines()[0]
        raise VocabularyError(f"not a tokenizer.json, {reason}", where=str(file)) from None
