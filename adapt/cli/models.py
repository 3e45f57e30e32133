"""What verbs that take a model share: their arguments, its loading, rows in and lines out."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from adapt.cli.shared import say
from adapt.errors import DataError

Model = Annotated[
    str, typer.Argument(help="A run folder, an adapter, a checkpoint, or a Hub id of one.")
]
BaseOption = Annotated[
    str | None, typer.Option("--base", help="The original base, where the adapter cannot say it.")
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code of the model's own.")]
InputFile = Annotated[
    Path | None, typer.Option("--input", help="A .jsonl, .csv, .parquet or .txt file.")
]
OutputFile = Annotated[
    Path | None, typer.Option("--output", help="JSONL file, written whole or not at all.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Prompts at once, from a file.")]


def load(model: str, dtype: str, base: str | None, trust_remote_code: bool) -> tuple[Any, Any]:
    """A model ready to serve, and its tokenizer."""
    from adapt.publish.load import load as load_

    # Merged: the rows of new tokens would be put into their matrix anew at every token.
    return load_(model, dtype=dtype, merged=True, base=base, trust_remote_code=trust_remote_code)


def rows_of(path: Path | None, column: str, added: str) -> list[dict[str, Any]]:
    """Rows of a file that have text in a column, and none that would be written over.

    Raises:
        DataError: They have not.
    """
    from adapt.corpus.read import read_rows, string_of

    found = []
    for number, row in read_rows(Path(path or "")):
        if string_of(row, column, f"{path}:{number}") is None:
            raise DataError(f"column {column} is null", where=f"{path}:{number}")
        if added in row:
            raise DataError(
                f"has a column {added} already", where=f"{path}:{number}", fix="rename it"
            )
        found.append(row)
    if not found:
        raise DataError("holds no rows", where=str(path))
    return found


def put(text: str) -> None:
    """Writes to standard output at once, exactly, in UTF-8 whatever the terminal's encoding."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    sys.stdout.write(text)
    sys.stdout.flush()


def write_lines(output: Path | None, lines: Sequence[str]) -> None:
    """Writes lines to a file, whole or not at all, or to standard output."""
    from adapt.workspace import write_text

    if output is None:
        put("".join(f"{line}\n" for line in lines))
        return
    write_text(output, "\n".join(lines) + "\n")
    say(f"wrote {output}: {len(lines):,} rows")
