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
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is a word", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # a date with a month 13
            raise yaml.constructor.ConstructorError(
                None, None, str(error), node.start_mark
            ) from None


class _Dumper(yaml.SafeDumper):
    """`yaml.SafeDumper` whose strings `_Loader` reads back as they were.

    Quotes those that `_Loader` would take for numbers, and escapes Unicode's own line breaks,
    which a reader folds into blanks.
    """

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if re.search("[\x85\u2028\u2029]", data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)

for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
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
    except RecursionError:
        raise RecipeError("not a recipe, nested too deeply", where=str(path)) from None
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
        once = {str(problem): problem for problem in problems}
        raise RecipeErrors(list(once.values())) from None


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
    return yaml.dump(recipe.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


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
    location, sections = _follow(detail)
    kind, got = detail["type"], detail["input"]
    if kind == "union_tag_not_found":
        location.append("kind")
    where = _where(location, path, node, overridden)
    if kind == "extra_forbidden":
        known = [name for section in sections for name in section.model_fields]
        return RecipeError("unknown key", where=where, fix=nearest(str(location[-1]), known))
    if kind == "missing":
        return RecipeError("missing", where=where)
    if kind == "union_tag_not_found":
        kinds = [name for section in sections for name in _kinds(section)]
        return RecipeError("missing", where=where, fix=f"known: {', '.join(kinds)}")
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
    if kind == "model_type":
        message = "should be a section with keys of its own"
    if isinstance(got, str | int | float | bool):
        return RecipeError(message, where=where, got=got)
    name = {"NoneType": "nothing", "dict": "a mapping", "list": "a list"}.get(type(got).__name__)
    return RecipeError(f"{message}, got {name or type(got).__name__}", where=where)


def _where(
    location: Sequence[int | str], path: str, node: yaml.Node | None, overridden: Sequence[str]
) -> str:
    """The override that set this place, else file and line, with the dotted path."""
    dotted = ".".join(str(part) for part in location)
    line, found = _line_of(node, location)
    for key in overridden:
        if f"{dotted}.".startswith(f"{key}.") or (not found and key.startswith(f"{dotted}.")):
            return f"override {dotted}"
    where = f"{path}:{line}" if line else path
    return f"{where}: {dotted}" if dotted else where


def _line_of(node: yaml.Node | None, location: Sequence[int | str]) -> tuple[int | None, bool]:
    """Line of the deepest node on the way to `location`, 1-based, and whether it is all the way."""
    line = None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is None:
                return line, False
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                return line, False
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line, False
    return line, True


def _follow(detail: ErrorDetails) -> tuple[list[int | str], list[type[BaseModel]]]:
    """Where an error is, as the user wrote it, and the sections that may stand there.

    pydantic puts the name of a union's member into the location, which no user ever wrote.
    """
    here: Any = Recipe
    written: list[int | str] = []
    parts = detail["loc"]
    unknown = detail["type"] == "extra_forbidden"
    for part in parts[:-1] if unknown else parts:
        sections = _models_in(here)
        holder = next((section for section in sections if part in section.model_fields), None)
        if isinstance(part, int):
            written.append(part)
        elif holder is not None:
            written.append(part)
            here = holder.model_fields[part].annotation
        else:
            here = next((section for section in sections if part in _kinds(section)), here)
    return written + list(parts[-1:] if unknown else ()), _models_in(here)


def _kinds(section: type[BaseModel]) -> tuple[str, ...]:
    """What `kind` of this section of a union may say."""
    field = section.model_fields.get("kind")
    return typing.get_args(field.annotation) if field else ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401 - a type, of any form
    """The section classes inside an annotation such as `list[Annotated[A | B, ...]]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.GenericAlias | types.UnionType) or typing.get_args(annotation):
        return [m for arg in typing.get_args(annotation) for m in _models_in(arg)]
    return []
