"""YAML and `a.b=1` overrides in, a checked `Recipe` out; all errors at once."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from adapt.errors import AdaptError, RecipeError, RecipeErrors, nearest
from adapt.recipe.schema import Recipe


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` made less surprising.

    Reads 5e-4 as a number (YAML 1.1 wants 5.0e-4) and refuses a key given twice, of which YAML
    silently takes the last.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads, overrides and checks a recipe.

    Args:
        path: A YAML file.
        overrides: Settings such as `training.phases.0.max_steps=20`; values are YAML.

    Raises:
        RecipeError: The file cannot be read as YAML, or an override names no place.
        RecipeErrors: Keys or values are wrong; holds all of them.
    """
    text = read_text(Path(path))
    try:
        data = yaml.load(text, Loader=_Loader)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError(
            f"not valid YAML, {getattr(error, 'problem', error)}", where=where
        ) from None
    if not isinstance(data, dict):
        raise RecipeError(
            "a recipe is a mapping of sections", where=str(path), got=type(data).__name__
        )
    for override in overrides:
        _apply(data, override)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        given = [override.partition("=")[0] for override in overrides]
        problems = [_explain(detail, str(path), node, given) for detail in error.errors()]
        raise RecipeErrors(problems) from None


def read_text(path: Path) -> str:
    """Reads a small UTF-8 file.

    Raises:
        RecipeError: Missing, a folder, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError("no such recipe", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"not UTF-8 at byte {error.start}", where=str(path)) from None
    except OSError as error:
        raise RecipeError(f"cannot be read, {error.strerror}", where=str(path)) from None


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default spelled out."""
    return yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True)


def json_schema() -> str:
    """The recipe's JSON schema, for editors."""
    return json.dumps(Recipe.model_json_schema(), indent=2)


def _apply(data: dict[str, Any], override: str) -> None:
    """Sets one dotted path of the raw recipe."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError("an override reads path=value", where=override)
    parts = key.split(".")
    place: Any = data
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        index: Any = part
        if isinstance(place, list):
            if not part.isdecimal() or int(part) >= len(place):
                raise RecipeError(
                    "no such item", where=key, got=part, fix=f"the list has {len(place)} items"
                )
            index = int(part)
        elif not isinstance(place, dict):
            raise RecipeError(f"{'.'.join(parts[:depth])} has no parts", where=key)
        if last:
            try:
                place[index] = yaml.load(value, Loader=_Loader)
            except yaml.YAMLError:
                raise RecipeError("the value is not valid YAML", where=key, got=value) from None
        else:
            place = place[index] if isinstance(place, list) else place.setdefault(index, {})


def _explain(
    detail: ErrorDetails, path: str, node: yaml.Node | None, overridden: Sequence[str]
) -> AdaptError:
    """One pydantic error as one line: file:line, dotted path, what, got, what to do."""
    # pydantic puts the discriminator's value of a union into the location; users never wrote it.
    location = [part for part in detail["loc"] if part not in ("classification", "generation")]
    dotted = ".".join(str(part) for part in location)
    line = _line_of(node, location)
    where = f"{path}:{line}" if line else path
    where = f"{where}: {dotted}" if dotted else where
    if dotted in overridden:
        where = f"override {dotted}"
    kind, got = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return RecipeError(
            "unknown key", where=where, fix=nearest(str(location[-1]), _keys_at(detail["loc"][:-1]))
        )
    if kind == "missing":
        return RecipeError("missing", where=where)
    if kind == "value_error":
        return RecipeError(detail["msg"].removeprefix("Value error, "), where=where)
    if kind in ("literal_error", "union_tag_invalid"):
        context = detail["ctx"]
        got = context.get("tag", got)
        expected = (context.get("expected") or context["expected_tags"]).replace("'", "")
        expected = expected.replace(" or ", ", ").split(", ")
        fix = nearest(got, expected) if isinstance(got, str) else f"known: {', '.join(expected)}"
        return RecipeError("not a known choice", where=where, got=got, fix=fix)
    message = detail["msg"][0].lower() + detail["msg"][1:]
    shown = got if isinstance(got, str | int | float | bool) else type(got).__name__
    return RecipeError(message, where=where, got=shown)


def _line_of(node: yaml.Node | None, location: Sequence[int | str]) -> int | None:
    """Line of the deepest node on the way to `location`, 1-based; None for an override."""
    line = None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == part), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _keys_at(location: Sequence[int | str]) -> list[str]:
    """Names of the keys that the section at `location` may have."""
    here: Any = Recipe
    for part in location:
        if isinstance(part, int):
            continue
        choices = _models_in(here)
        match = next((m for m in choices if part in m.model_fields), None)
        if match is not None:
            here = match.model_fields[part].annotation
        else:  # the discriminator's value
            here = next(
                m
                for m in choices
                if "kind" in m.model_fields
                and part in typing.get_args(m.model_fields["kind"].annotation)
            )
    return [name for model in _models_in(here) for name in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401 - a type, of any form
    """The section classes inside an annotation such as `list[Annotated[A | B, ...]]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.GenericAlias | types.UnionType) or typing.get_args(annotation):
        return [m for arg in typing.get_args(annotation) for m in _models_in(arg)]
    return []
