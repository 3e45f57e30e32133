"""A recipe as text, to be spoilt by each test; no file that it names has to be there."""

import copy

import pytest
import yaml

from adapt.errors import AdaptError, RecipeErrors
from adapt.recipe import load_recipe

MINIMAL = {
    "name": "r",
    "output_dir": "run",
    "model": {"base": "org/model"},
    "corpus": {"sources": [{"path": "corpus.jsonl"}]},
    "training": {"phases": [{"name": "domain", "objective": "clm", "max_steps": 10}]},
    "evaluation": {
        "tasks": [
            {"name": "c", "kind": "classification", "path": "c.jsonl"},
            {"name": "g", "kind": "generation", "path": "g.jsonl", "prompt": "{q}", "target": "a"},
        ]
    },
}


@pytest.fixture
def minimal():
    """The smallest recipe with a task of each kind, as a mapping that a test may change."""
    return copy.deepcopy(MINIMAL)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes `recipe.yaml` in an empty working folder, from text, bytes or a mapping."""
    monkeypatch.chdir(tmp_path)

    def write(content):
        if not isinstance(content, str | bytes):
            content = yaml.safe_dump(content, sort_keys=False)
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / "recipe.yaml").write_bytes(data)
        return "recipe.yaml"

    return write


@pytest.fixture
def problems(write):
    """What is wrong with a recipe, a line each; empty when nothing is."""

    def problems(content, *overrides):
        try:
            load_recipe(write(content), overrides)
        except RecipeErrors as error:
            return [str(problem) for problem in error.problems]
        except AdaptError as error:
            return [str(error)]
        return []

    return problems
