"""How a stage runs: once, and again only when what it is made from has changed."""

from __future__ import annotations

import ctypes
import gc
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, TypeVar, cast

from adapt.processes import is_main
from adapt.training.failures import explained
from adapt.workspace import Workspace, fingerprint, versions

logger = logging.getLogger("adapt")
Result = TypeVar("Result")
Method = TypeVar("Method", bound=Callable[..., Any])

# What to do where a stage runs short; training says more of its own.
_MEMORY = "run it on a machine with more, or take a smaller model.base"
_DISK = "free some space and run the same command again, or choose another output_dir"


def once(method: Method) -> Method:
    """Keeps in `self.stages` what a stage returned: later ones ask for it again and again."""

    @wraps(method)
    def remembered(self: Any, *args: str) -> Any:  # noqa: ANN401
        results, key = self.stages.results, (method.__name__, *args)
        if key not in results:
            results[key] = method(self, *args)
        return results[key]

    return cast(Method, remembered)


class Stages:
    """The stages of one run, as its folder has them.

    Attributes:
        workspace: The run folder.
        seconds: Time of each stage when it ran.
        marks: Fingerprint of each stage's inputs; the inputs of later stages hold them.
        results: What `once` keeps.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.seconds: dict[str, float] = {}
        self.marks: dict[str, str] = {}
        self.results: dict[tuple[str, ...], Any] = {}

    def run(
        self,
        name: str,
        inputs: object,
        work: Callable[[], Result],
        to_json: Callable[[Result], object],
        from_json: Callable[[Any], Result],
    ) -> Result:
        """Runs a stage unless its manifest says that it ran with the same inputs.

        A process other than the main one works too, where a stage needs all of them, but leaves
        the manifest to the main one.

        Args:
            name: Of the stage and its manifest.
            inputs: All that decides its result; goes into the manifest.
            work: The stage.
            to_json: Of its result.
            from_json: Reads the result of a stage that is done.

        Raises:
            TrainingError: Memory or disk gave out.
        """
        mark = fingerprint(inputs, versions())
        self.marks[name] = mark
        record = self.workspace.finished(name, mark)
        if record is not None:
            logger.info("%s: done already", name)
            self.seconds[name] = record["seconds"]
            return from_json(record["result"])
        logger.info("%s: started", name)
        main = is_main()
        with explained(name, _MEMORY, _DISK):
            if main:
                self.workspace.start(name)
            started = time.perf_counter()
            result = work()
            self.seconds[name] = round(time.perf_counter() - started, 1)
            if main:
                self.workspace.finish(name, mark, inputs, to_json(result), self.seconds[name])
        logger.info("%s: done in %.1f s", name, self.seconds[name])
        _hand_memory_back()
        return result


def _hand_memory_back() -> None:
    """Gives what a stage no longer needs back to the system, for the next one's peak.

    Models and trainers hang together in cycles, and glibc keeps what lay between things still in
    use.
    """
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # other C libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)
