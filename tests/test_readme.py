"""The README's file tree is the disk's, its recipe loads, and its commands exist."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from adapt.recipe.schema import Recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    """The fenced blocks of a language; they open and close in turn."""
    parts = re.split(r"^```(.*)$", README, flags=re.MULTILINE)
    fences, texts = parts[1::2], parts[2::2]
    pairs = zip(fences[::2], texts[::2], strict=False)
    return [text.strip("\n") for fence, text in pairs if fence == kind]


def tree() -> list[str]:
    lines = next(block for block in blocks("") if "adapt/__init__.py" in block).splitlines()
    return [line.split()[0] for line in lines]


def test_every_file_is_in_the_tree_and_every_line_is_on_disk():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout: which files belong is not known")
    on_disk = {line for line in listed.stdout.split() if (ROOT / line).exists()}
    expected = {path for path in on_disk if not path.startswith("tests/")} | {"tests/"}
    assert sorted(tree()) == sorted(expected)


def test_every_line_says_what_the_file_is_for():
    block = next(block for block in blocks("") if "adapt/__init__.py" in block)
    assert all(len(line.split(maxsplit=1)) == 2 for line in block.splitlines())


def test_the_recipe_is_valid_and_agrees_with_the_demo():
    shown = yaml.safe_load(blocks("yaml")[0])
    Recipe.model_validate(shown)
    demo = yaml.safe_load((ROOT / "recipes" / "medical.yaml").read_text(encoding="utf-8"))
    assert shown["name"] == demo["name"]
    for section in ("tokenizer", "embeddings"):
        assert shown[section].items() <= demo[section].items()
    for shown_phase, phase in zip(
        shown["training"]["phases"], demo["training"]["phases"], strict=True
    ):
        assert shown_phase.items() <= phase.items()


def test_make_has_the_targets_that_are_named():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make (\w+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
