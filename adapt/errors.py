"""The errors a user can cause, each one line: where, what, what was got, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class AdaptError(Exception):
    """Root of everything that the command line prints as one line and exits with.

    Args:
        what: What is wrong, in a few words.
        where: A dotted recipe path, or `file:line`, that the user can go to.
        got: The offending value, shown as it was given.
        fix: What to do about it.
    """

    exit_code = 2

    def __init__(
        self, what: str, *, where: str | None = None, got: object = None, fix: str | None = None
    ) -> None:
        self.what, self.where, self.got, self.fix = what, where, got, fix
        line = f"{where}: {what}" if where else what
        if got is not None:
            line += f", got {got!r}" if isinstance(got, str) else f", got {got}"
        if fix:
            line += f"; {fix}"
        super().__init__(" ".join(line.split()))


class RecipeError(AdaptError):
    """A recipe that cannot be read or does not say a valid thing."""


class RecipeErrors(AdaptError):
    """All that is wrong with one recipe, a line each."""

    def __init__(self, problems: Sequence[AdaptError]) -> None:
        self.problems = tuple(problems)
        Exception.__init__(self, "\n".join(str(problem) for problem in self.problems))


class DataError(AdaptError):
    """Text or rows that cannot be read, or hold nothing to learn from."""


class ModelError(AdaptError):
    """A base model that cannot be found, read or handled."""


class VocabularyError(AdaptError):
    """A tokenizer that cannot be changed as asked."""


class WorkspaceError(AdaptError):
    """A run folder that cannot be used."""


class DependencyError(AdaptError):
    """An optional package that the recipe needs and the environment lacks."""

    def __init__(self, package: str, extra: str, *, where: str | None = None) -> None:
        super().__init__(
            f"needs the package {package}", where=where, fix=f"pip install 'adapt-lm[{extra}]'"
        )


class TrainingError(AdaptError):
    """Training that could not go on: memory, disk, a loss that is not a number."""

    exit_code = 1


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a wrong name: the nearest known one, or all of them."""
    from difflib import get_close_matches

    names = sorted(known)
    close = get_close_matches(word, names, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"
