"""A progress bar for long loops, on standard error and only where someone watches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def watched(items: Iterable[Item], description: str) -> Iterator[Item]:
    """Passes items on; a bar (a spinner where the number is not known) shows how far it is."""
    console = Console(stderr=True)
    if not console.is_terminal:  # rich would leave an empty line in logs
        yield from items
        return
    yield from track(items, description, console=console, transient=True)
