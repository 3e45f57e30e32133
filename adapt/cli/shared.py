"""Arguments that several verbs take, and where they print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console()

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings such as tokenizer.new_tokens=500; values are YAML."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and stop, as `check`.")]
TextFiles = Annotated[list[Path], typer.Option(help="A .txt, .jsonl, .csv or .parquet file.")]
TextColumn = Annotated[str, typer.Option(help="Column that holds the text.")]


def say(line: str) -> None:
    """Prints one line as it is: no markup, no wrapping, so that it can be copied and searched."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
