"""How a stage runs: once, and again only when what it is made from has changed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from adapt.processes import is_main
from adapt.recipe import Recipe
from adapt.workspace import Workspace, fingerprint, versions

logger = logging.getLogger("adapt")
Result = TypeVar("Result")
Method = TypeVar("Method", bound=Callable[..., Any])


def once(method: Method) -> Method:
    """Keeps what a stage returned: later stages ask for it again and again."""

    @wraps(method)
    def remembered(self: Stages, *args: str) -> Any:  # noqa: ANN401
        key = (method.__name__, *args)
        if key not in self.results:
            self.results[key] = method(self, *args)
        return self.results[key]

    return cast(Method, remembered)


class Stages:
    """One recipe in its run folder.

    Every stage is a method that does its work once: called again, or in another process after
    the main one, it reads what was written.

    Args:
        recipe: Checked.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.workspace = Workspace(Path(recipe.output_dir))
        self.seconds: dict[str, float] = {}
        self.results: dict[tuple[str, ...], Any] = {}
        self._marks: dict[str, str] = {}

    def _stage(
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
        """
        mark = fingerprint(inputs, versions())
        self._marks[name] = mark
        record = self.workspace.finished(name, mark)
        if record is not None:
            logger.info("%s: done already", name)
            self.seconds[name] = record["seconds"]
            return from_json(record["result"])
        logger.info("%s: started", name)
        main = is_main()
        if main:
            self.workspace.start(name)
        started = time.perf_counter()
        result = work()
        self.seconds[name] = round(time.perf_counter() - started, 1)
        if main:
            self.workspace.finish(name, mark, inputs, to_json(result), self.seconds[name])
        logger.info("%s: done in %.1f s", name, self.seconds[name])
        return result
