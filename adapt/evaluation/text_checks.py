"""What is looked for in generated text besides its likeness to a reference: loops, terms, JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapt.errors import DataError, DependencyError

LOOPS = 4  # repetitions up to the end of an answer that make it a loop
LOOP_CHARACTERS = 16  # of text without spaces, where four of the same character may be a number

Checker = Callable[[str], bool]

# Of an answer: no JSON; nested too deep; a whole number that is too large for a float of a schema.
_UNREADABLE = (ValueError, RecursionError, OverflowError)
_REFERENCES = {"$ref", "$dynamicRef"}
_SHALLOW: tuple[object, ...] = (None, False, 0, "", [], {})  # nothing in them to go down into


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

    Nothing is fetched: what the schema refers to must be in it. An answer that is nested too deep
    to be read, some hundred levels, is not valid.

    Args:
        path: The schema, a JSON file.

    Raises:
        DataError: The file cannot be read, is no schema, or refers to what is not there or to
            itself without end.
        DependencyError: `jsonschema` is not installed.
    """
    where = str(path)
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"no readable JSON schema, {error}", where=where) from None
    try:
        jsonschema = import_module("jsonschema")
        known = import_module("jsonschema_specifications").REGISTRY  # it retrieves nothing
    except ImportError:
        raise DependencyError("jsonschema", "schema", where=where) from None
    if not isinstance(schema, dict | bool):
        raise DataError("not a JSON schema", where=where, got=schema, fix="write an object")
    kind = jsonschema.validators.validator_for(schema)
    try:
        kind.check_schema(schema)
        lost = _leads_nowhere(schema, kind, known)
    except jsonschema.exceptions.SchemaError as error:
        raise DataError(f"not a JSON schema, {error.message}", where=where) from None
    if lost is not None:
        fix = "put the schema that is meant into this file, under $defs; nothing is fetched"
        raise DataError("$ref to no schema of this file", where=where, got=lost, fix=fix)
    validator = kind(schema, registry=known)
    try:
        for value in _SHALLOW:
            validator.is_valid(value)
    except RecursionError:
        fix = "let every circle of $ref go through properties or items"
        raise DataError("refers to itself without end", where=where, fix=fix) from None

    def check(text: str) -> bool:
        try:
            return bool(validator.is_valid(json.loads(text)))
        except _UNREADABLE:
            return False

    return check


def _leads_nowhere(schema: Any, kind: Any, known: Any) -> str | None:  # noqa: ANN401
    """The first reference of a schema to no schema, wherever it stands; None where there is none.

    Args:
        schema: Valid by its dialect.
        kind: The validator of its dialect.
        known: Registry of schemas that it may refer to besides its own.

    Raises:
        jsonschema.exceptions.SchemaError: A reference leads to what is no schema of the dialect.
    """
    referencing = import_module("referencing")
    dialect = import_module("referencing.jsonschema").specification_with(
        kind.ID_OF(kind.META_SCHEMA)
    )
    root = dialect.create_resource(schema)
    left, seen = [(root, known.resolver_with_root(root))], set()
    while left:
        resource, resolver = left.pop()
        contents = resource.contents
        if not isinstance(contents, dict) or id(contents) in seen:
            continue
        seen.add(id(contents))
        for word in _REFERENCES & contents.keys() & kind.VALIDATORS.keys():
            try:
                found = resolver.lookup(contents[word])
            # The last three: not a string, or a pointer into what is neither object nor list.
            except (referencing.exceptions.Unresolvable, AttributeError, TypeError, ValueError):
                return str(contents[word])
            if not isinstance(found.contents, dict | bool):
                return str(contents[word])
            kind.check_schema(found.contents)  # it may stand where no schema is looked for
            left.append((dialect.create_resource(found.contents), found.resolver))
        # Old drafts have schemas beside lists of names here, which `subresources` leaves out.
        beside = contents.get("dependencies", {}).values()
        below = [*resource.subresources(), *map(dialect.create_resource, beside)]
        left += [
            (one, resolver.in_subresource(one)) for one in below if isinstance(one.contents, dict)
        ]
    return None


def is_json(text: str) -> bool:
    """Whether the whole text is one JSON value, and not nested too deep to be read."""
    try:
        json.loads(text)
    except _UNREADABLE:
        return False
    return True
