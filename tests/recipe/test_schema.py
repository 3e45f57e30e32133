"""The shipped recipe is valid, every field is documented, and the JSON schema covers all."""

import json
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from adapt.recipe import dump_recipe, json_schema, load_recipe
from adapt.recipe.evaluation import fields_of
from adapt.recipe.load import _models_in as sections_in
from adapt.recipe.schema import Recipe

REPOSITORY = Path(__file__).parents[2]


def sections(model: type[BaseModel] = Recipe):
    """Every section class, from the top."""
    yield model
    for field in model.model_fields.values():
        for inner in sections_in(field.annotation):
            yield from sections(inner)


ALL_SECTIONS = list({section.__name__: section for section in sections()}.values())


def test_walk_finds_the_sections():
    names = {section.__name__ for section in ALL_SECTIONS}
    assert {"Recipe", "Phase", "LoraSection", "ClassificationTask", "GenerationTask"} <= names


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "recipes").glob("*.yaml")), ids=lambda p: p.stem
)
def test_shipped_recipes_load_and_open_with_their_command(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# accelerate launch scripts/train.py recipes/{path.name}"


def test_resolved_medical_recipe_keeps_every_value_of_the_file():
    path = REPOSITORY / "recipes" / "medical.yaml"
    resolved = yaml.safe_load(dump_recipe(load_recipe(path)))

    def covers(full, part):
        if isinstance(part, dict):
            return all(key in full and covers(full[key], value) for key, value in part.items())
        if isinstance(part, list):
            return len(full) == len(part) and all(map(covers, full, part))
        return full == part

    assert covers(resolved, yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("section", ALL_SECTIONS, ids=lambda s: s.__name__)
def test_every_field_is_documented(section):
    assert section.__doc__
    for name, field in section.model_fields.items():
        of_a_section = bool(sections_in(field.annotation))  # whose docstring says it
        assert field.description or of_a_section, f"{section.__name__}.{name}"


@pytest.mark.parametrize("section", ALL_SECTIONS, ids=lambda s: s.__name__)
def test_every_section_is_strict_and_frozen(section):
    config = section.model_config
    assert config["extra"] == "forbid"
    assert config["strict"] is True
    assert config["frozen"] is True


def test_json_schema_covers_every_key():
    schema = json.loads(json_schema())
    by_name = {**schema["$defs"], "Recipe": schema}
    for section in ALL_SECTIONS:
        described = by_name[section.__name__]
        assert set(described["properties"]) == set(section.model_fields)
        assert described["additionalProperties"] is False
        required = {name for name, field in section.model_fields.items() if field.is_required()}
        assert set(described.get("required", ())) == required


def test_json_schema_is_sound():
    schema = json.loads(json_schema())

    def walk(node):
        if isinstance(node, dict):
            yield node
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    for node in walk(schema):
        if "$ref" in node:
            assert node["$ref"].removeprefix("#/$defs/") in schema["$defs"]
        if isinstance(node.get("type"), str):
            types = {"object", "array", "string", "integer", "number", "boolean", "null"}
            assert node["type"] in types


def test_fields_of_a_prompt():
    assert fields_of("Define {term}, not {{this}}: {term}") == ["term", "term"]
    for wrong in ("{}", "{0}", "{a.b}", "{a[0]}", "{a b}", "{", "}"):
        with pytest.raises(ValueError, match=".+"):
            fields_of(wrong)
