"""What ends a training early, in a line that names the knob to turn."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from adapt.errors import AdaptError, TrainingError

MEMORY = (
    "lower per_device_train_batch_size and raise gradient_accumulation_steps, lower max_length, "
    "set training.gradient_checkpointing=true, or take method qlora (training.quantization=nf4)"
)
DISK = "free some space, raise save_steps or choose another output_dir"

# What allocators and writers say in errors that have no type of their own.
_NO_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory", "bad allocation")
_NO_SPACE = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing")


class Stopped(TrainingError):
    """Training that was asked to end, and can go on."""

    exit_code = 128 + signal.SIGTERM


@contextmanager
def explained(where: str, memory: str = MEMORY, disk: str = DISK) -> Iterator[None]:
    """Turns failures of memory and disk into an error that says what to do.

    Args:
        where: The phase or stage, for messages.
        memory: What to do where memory is short.
        disk: The same of the disk.

    Raises:
        TrainingError: In place of the failure.
    """
    try:
        yield
    except Exception as error:
        found = _explanation(error, where, memory, disk)
        if found is None:
            raise
        raise found from error


def _explanation(error: Exception, where: str, memory: str, disk: str) -> TrainingError | None:
    if isinstance(error, AdaptError):
        return None
    import torch

    text = str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(part in text for part in _NO_MEMORY)
    ):
        return TrainingError("out of memory", where=where, fix=memory)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or any(part in text for part in _NO_SPACE):  # safetensors and torch have their own
        return TrainingError("the disk is full", where=where, fix=disk)
    return None


class Stop:
    """Whether this process was asked to end.

    Attributes:
        asked: True from the moment that SIGTERM came.
    """

    def __init__(self) -> None:
        self.asked = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


@contextmanager
def stop_on_sigterm() -> Iterator[Stop]:
    """Notes SIGTERM instead of dying of it, so that a step and its checkpoint can be finished.

    Slurm sends it before it takes a machine back, as torchrun does to its processes. Only a
    process's main thread may listen; elsewhere the signal does what it did.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, stop._note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
