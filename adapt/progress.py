"""Progress bars for long loops, on standard error like those of `transformers`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def watched(items: Iterable[Item], description: str) -> Iterator[Item]:
    """Passes items on; a bar (a count where the number is not known) shows how far it is."""
    # In a log file a bar that is redrawn ten times a second is noise.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    yield from tqdm(items, desc=description, leave=False, mininterval=interval)
