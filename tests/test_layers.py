"""No room of `adapt` looks uphill, and what needs no torch loads none.

Imports count wherever they stand: at the top, inside functions, and under TYPE_CHECKING, for a
room whose types are known is a room that is known.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "adapt"

# DESIGN's table, from the bottom. A room knows rooms of lower rows only, and itself.
ROWS = [
    ["errors"],
    ["workspace", "recipe"],
    ["bases", "processes", "progress"],
    ["corpus"],
    ["vocab"],
    ["fertility"],
    ["embeddings"],
    ["training"],
    ["generation"],
    ["evaluation"],
    ["reporting"],
    ["publish"],
    ["probe"],
    ["stages"],
    ["trials"],
    ["preparation"],
    ["tuning"],
    ["scoring"],
    ["estimate"],
    ["check", "pipeline", "starter"],
    ["forecast"],
    ["cli"],
    ["__main__"],
]
RANK = {room: rank for rank, rooms in enumerate(ROWS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_imported(source: str) -> set[tuple[int, str]]:
    """Line and room of every import from `adapt`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: import by full name"
            whole = node.module == "adapt"
            names = [f"adapt.{a.name}" for a in node.names] if whole else [node.module or ""]
        found |= {(node.lineno, n.split(".")[1]) for n in names if n.startswith("adapt.")}
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))


def test_reading_of_imports():
    source = """
import torch, adapt.bases
from adapt import fertility, errors
from adapt.vocab.bpe import learn
if TYPE_CHECKING:
    from adapt.recipe import Recipe
def f():
    from adapt.training.run import train
"""
    rooms = {room for _, room in rooms_imported(source)}
    assert rooms == {"bases", "fertility", "errors", "vocab", "recipe", "training"}


def test_every_room_has_its_row():
    rooms = {room_of(path) for path in MODULES if path != PACKAGE / "__init__.py"}
    assert rooms == set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_room_looks_uphill(path):
    here = room_of(path)
    imported = rooms_imported(path.read_text(encoding="utf-8"))
    if here == "__init__":
        assert not imported
        return
    uphill = [
        f"line {line}: {here} imports {room}"
        for line, room in sorted(imported)
        if room != here and RANK[room] >= RANK[here]
    ]
    assert not uphill


# -- without torch -----------------------------------------------------------------------------

BLOCK_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "peft"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, NoTorch())
from adapt.cli import main
main(sys.argv[1:])
"""


def without_torch(*arguments: str) -> str:
    command = [sys.executable, "-c", BLOCK_TORCH, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_block_works():
    blocked = BLOCK_TORCH.replace("from adapt.cli import main", "import torch")
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, check=False)
    assert b"torch is blocked" in done.stderr


def test_schema_and_help_need_no_torch():
    assert '"properties"' in without_torch("schema")
    assert "Examples" in without_torch("report", "--help")


def test_report_needs_no_torch(tiny_base, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The mayor repaired the harbour in 1987.\n")
    output = tmp_path / "fertility.json"
    arguments = ["--tokenizer", str(tiny_base), "--text", str(text), "--output", str(output)]
    assert "mayor" not in without_torch("report", *arguments, "--words", "0")
    assert output.is_file()
