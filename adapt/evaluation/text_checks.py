"""What is looked for in generated text besides its likeness to a reference: loops, terms, JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapt.errors import DataError, DependencyError

LOOPS = 4  # repetitions up to the end of an answer that make it a loop
LOOP_CHARACTERS = 16  # of text without spaces, where four of the same character may be a number

Checker = Callable[[str], bool]


def loops(text: str) -> bool:
    """Whether a text ends in some words four times or more in a row.

    The last word is left out where that makes a loop, for generation may have cut it. In a text
    without spaces, characters take the place of words, and the loop has 16 of them at least.
    """
    units = text.split()
    if len(units) > 1:
        return _periodic(units, LOOPS) or _periodic(units[:-1], LOOPS)
    return _periodic("".join(units), LOOP_CHARACTERS)


def _periodic(units: Sequence[str], shortest: int) -> bool:
    """Whether the end repeats a run of 1, 2, 3 ... units four times, over `shortest` at least."""
    for size in range(1, len(units) // LOOPS + 1):
        length = max(LOOPS * size, shortest)
        if length <= len(units) and all(
            units[-i] == units[-i - size] for i in range(1, length - size + 1)
        ):
            return True
    return False


def words(text: str) -> list[str]:
    """Lower-cased runs of letters, digits and underscores."""
    return re.findall(r"\w+", text.lower())


def grams(units: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """Runs of `size` units."""
    return (tuple(units[i : i + size]) for i in range(len(units) - size + 1))


def term_recall(
    predictions: Sequence[str], references: Sequence[str], terms: Iterable[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Domain terms of each reference that its answer has too.

    A term counts once a reference, whole words only, upper and lower case alike.

    Returns:
        Terms found and terms in the reference, (examples,) each; the recall is the ratio of sums.
    """
    known = {tuple(words(term)) for term in terms} - {()}
    sizes = sorted({len(term) for term in known})

    def held(text: str) -> set[tuple[str, ...]]:
        units = words(text)
        return {gram for size in sizes for gram in grams(units, size) if gram in known}

    wanted = [held(text) for text in references]
    hits = [len(w & held(p)) if w else 0 for w, p in zip(wanted, predictions, strict=True)]
    return np.array(hits, dtype=np.float64), np.array([len(w) for w in wanted], dtype=np.float64)


def schema_checker(path: Path) -> Checker:
    """A check of one answer against a JSON schema.

    Args:
        path: The schema, a JSON file.

    Raises:
        DataError: The file cannot be read, or is no schema.
        DependencyError: `jsonschema` is not installed.
    """
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"no readable JSON schema, {error}", where=str(path)) from None
    try:
        jsonschema = import_module("jsonschema")
    except ImportError:
        raise DependencyError("jsonschema", "schema", where=str(path)) from None
    kind = jsonschema.validators.validator_for(schema)
    try:
        kind.check_schema(schema)
    except jsonschema.exceptions.SchemaError as error:
        raise DataError(f"not a JSON schema, {error.message}", where=str(path)) from None
    validator = kind(schema)

    def check(text: str) -> bool:
        try:
            return bool(validator.is_valid(json.loads(text)))
        except ValueError:
            return False

    return check


def is_json(text: str) -> bool:
    """Whether the whole text is one JSON value."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
