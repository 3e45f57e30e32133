"""What a training takes while it runs: when its steps end, and the most memory held."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


@dataclass
class Memory:
    """Memory of this process while it is watched; bytes.

    Attributes:
        peak: The most.
        between: At the end of each optimizer step.
    """

    peak: int = 0
    between: list[int] = field(default_factory=list)


@contextmanager
def watched_memory(seconds: float = 0.02) -> Iterator[Memory]:
    """Finds the peak: what torch holds on the GPU, else what the kernel calls resident.

    Args:
        seconds: Between looks at resident memory, from a thread of its own.
    """
    memory = Memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        try:
            yield memory
        finally:
            memory.peak = torch.cuda.max_memory_allocated()
        return
    done = threading.Event()

    def look() -> None:
        while True:
            memory.peak = max(memory.peak, held())
            if done.wait(seconds):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()


def held() -> int:
    """Memory that is held now: by torch on the GPU where there is one, else resident; bytes."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return int(psutil.Process().memory_info().rss)


@contextmanager
def step_clock(memory: Memory) -> Iterator[list[float]]:
    """When each optimizer step ended, in seconds of a clock; notes what is held then."""
    times: list[float] = []

    def note(optimizer: Any, args: Any, kwargs: Any) -> None:  # noqa: ANN401
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        memory.between.append(held())

    handle = register_optimizer_step_post_hook(note)
    try:
        yield times
    finally:
        handle.remove()


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """An empty folder for the time being; what a killed process left in it goes first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
