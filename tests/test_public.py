"""What the package shows to the outside."""

import importlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import adapt

ROOT = Path(__file__).parents[1]


def test_version_is_that_of_the_distribution():
    assert adapt.__version__ == metadata.version("adapt-lm")


def test_package_is_typed():
    assert (ROOT / "adapt" / "py.typed").is_file()


@pytest.mark.parametrize("room", ["recipe", "corpus", "vocab"])
def test_rooms_export_what_they_say(room):
    module = importlib.import_module(f"adapt.{room}")
    assert sorted(module.__all__) == sorted(set(module.__all__))
    for name in module.__all__:
        assert hasattr(module, name)


def test_import_is_cheap():
    heavy = "torch transformers datasets peft sklearn"
    code = f"import sys, adapt.cli; assert not set('{heavy}'.split()) & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_script_is_the_command_line():
    lines = (ROOT / "scripts" / "train.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 10
