"""Several processes: who prepares, who waits, who goes on alone."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from adapt.errors import AdaptError

logger = logging.getLogger("adapt")
Value = TypeVar("Value")


def is_main() -> bool:
    """Whether this process writes; read from the launcher, before anything is set up."""
    return int(os.environ.get("RANK", "0")) == 0


def of_main(value: Value) -> Value:
    """The main process's value, where each has measured its own; every process calls it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return value
    from accelerate.utils import broadcast_object_list

    found = [value]
    broadcast_object_list(found)
    return found[0]


def use_all_cores() -> None:
    """Gives a process on CPU its share of the cores.

    `accelerate launch` and `torchrun` set OMP_NUM_THREADS=1 where the user did not, which leaves
    all cores but one idle; the cores that a process may use (taskset, cgroups) are kept to. Without
    a launcher it was the user who set it.
    """
    launched = "LOCAL_WORLD_SIZE" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    if os.environ.get("OMP_NUM_THREADS") != "1" or not launched:
        return
    import torch

    if not torch.accelerator.is_available():
        affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


class Processes:
    """The processes that a launcher started; one when there is none."""

    def __init__(self) -> None:
        self.many = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if self.many:
            import torch
            from accelerate import PartialState

            # Without a GPU each process would take itself for the only one unless told of the CPU.
            # Others wait while the main process prepares, which may take hours.
            processor = not torch.accelerator.is_available()
            PartialState(cpu=processor, timeout=timedelta(days=1))

    def main_first(self, work: Callable[[], None]) -> None:
        """Runs `work` in the main process, then in the others, where all of it is done already.

        A failure of the main process ends all of them with its error: it tells the others, which
        end with its exit code and leave it to the main process to say why.
        """
        if not self.many:
            work()
            return
        from accelerate.utils import broadcast_object_list

        failure: list[int | None] = [None]
        if is_main():
            try:
                work()
            except BaseException as error:
                broadcast_object_list([_exit_code(error)])
                raise
        elif int(os.environ["RANK"]) == 1:  # one line, however many wait
            # A warning, for other processes say nothing less.
            logger.warning(
                "%d of %s processes wait until the main process has prepared corpus, vocabulary "
                "and embeddings",
                int(os.environ["WORLD_SIZE"]) - 1,
                os.environ["WORLD_SIZE"],
            )
        broadcast_object_list(failure)
        if failure[0] is not None:
            raise SystemExit(failure[0])
        if not is_main():
            work()

    def leave(self) -> bool:
        """Ends the process group; True in the process that goes on alone."""
        if self.many:
            from accelerate import PartialState

            PartialState().wait_for_everyone()
            PartialState().destroy_process_group()
        return is_main()


def _exit_code(error: BaseException) -> int:
    """What the process that fails with this error will end with."""
    if isinstance(error, AdaptError):
        return error.exit_code
    return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
