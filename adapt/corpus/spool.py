"""Rows that are written once while sources are read, and dealt out when each has its place."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any


class Spool:
    """A file of JSON lines without a name: nothing is left of it, however the process ends.

    Args:
        folder: On the disk that it lies on.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)

    def __enter__(self) -> Spool:
        """Closed at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the file."""
        self._file.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Writes a row as a line; values that JSON lacks, such as dates of parquet, become text.

        Raises:
            OSError: The disk is full.
        """
        line = json.dumps(row, ensure_ascii=False, default=str)
        try:
            self._file.write(line.encode() + b"\n")
        except UnicodeEncodeError:  # half a surrogate pair in a column that is not used
            self._file.write(json.dumps(row, default=str).encode() + b"\n")

    def deal(self, places: Iterable[Path | None], files: Iterable[Path]) -> None:
        """Copies each line to its file, in the order in which they were added.

        Args:
            places: For each line one of `files`, or None, which drops it.
            files: All that there will be, also those without a line.

        Raises:
            OSError: The disk is full.
        """
        with ExitStack() as opened:
            to = {}
            for path in files:
                path.parent.mkdir(parents=True, exist_ok=True)
                to[path] = opened.enter_context(path.open("wb"))
            self._file.seek(0)
            for line, place in zip(self._file, places, strict=True):
                if place is not None:
                    to[place].write(line)
