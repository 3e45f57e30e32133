"""Where learning stands, in one file, so that a run that was ended goes on instead of anew."""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from pathlib import Path
from typing import Any

import torch


class Checkpoint:
    """A file that holds one state at a time, of one piece of work; written whole or not at all.

    Args:
        path: Where it lies; nothing is read as finished work by that name. None: nothing is saved.
        mark: Fingerprint of all that decides the work's result: a state of other work is never
            taken up.
        every: Seconds from one save to the next.
    """

    def __init__(self, path: Path | None, mark: str = "", every: float = 0.0) -> None:
        self.path, self.mark, self.every = path, mark, every
        self.saved = time.perf_counter()

    def load(self) -> dict[str, Any] | None:
        """The state of this very work; None where there is none that can be read."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            record = torch.load(self.path, map_location="cpu", weights_only=True)
            state: dict[str, Any] = record["state"]
            return state if record["mark"] == self.mark else None
        except (OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError):
            return None
        except pickle.UnpicklingError:
            return None

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return self.path is not None and time.perf_counter() - self.saved >= self.every

    def save(self, state: dict[str, Any]) -> None:
        """Puts a state in the place of the one before: tensors, numbers, texts, lists of those."""
        if self.path is None:
            return
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f"{self.path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save({"mark": self.mark, "state": state}, file)
            os.replace(temporary, self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        self.saved = time.perf_counter()


def remove(path: Path) -> None:
    """Takes a checkpoint away, and what a save that was killed half-way left of one."""
    for left in (path, *path.parent.glob(f"{path.name}.*")):
        left.unlink(missing_ok=True)
