"""The benchmark of the first step stops at its line, and knows what it names; nothing is timed."""

import ast
import runpy
import sys
from pathlib import Path

import pytest

from adapt.training import callbacks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark():
    return runpy.run_path(str(ROOT / "benchmarks" / "first_step.py"))


def said(*lines, then=""):
    """A command that writes lines as a run does."""
    body = "".join(f"sys.stderr.write({line + chr(10)!r}); " for line in lines)
    return [sys.executable, "-c", f"import sys, time; {body}{then}"]


def test_a_launch_ends_at_the_line_of_the_first_step(benchmark):
    line = callbacks.line("domain", 1, 48, {"loss": 2.0, "bits_per_byte": 1.25})
    found = benchmark["launch"](said("training: started", line, then="time.sleep(600)"))
    assert 0 < found.cpu_seconds
    assert found.seconds < 300


def test_a_run_that_ends_before_is_no_measurement(benchmark):
    later = callbacks.line("domain", 11, 48, {"loss": 2.0})
    with pytest.raises(SystemExit, match=r"(?s)before its first step:.*out of memory"):
        benchmark["launch"](said(later, "out of memory"))


def test_every_part_is_a_function_that_there_is(benchmark):
    """Else its time would be counted as something else."""
    import torch
    import transformers

    site = {"transformers": transformers, "torch": torch}
    for file, name in benchmark["PARTS"]:
        room, _, rest = file.partition("/")
        if not rest:  # Python's own
            continue
        path = ROOT / file if room == "adapt" else Path(site[room].__file__).parent / rest
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name is None or name in functions, (file, name)


def test_the_innermost_part_counts(benchmark, monkeypatch):
    found = []

    def work():
        inner()

    def inner():
        found.append(benchmark["part_of"](sys._getframe()))

    parts = {(Path(__file__).name, "work"): "outer", (Path(__file__).name, "inner"): "inner"}
    monkeypatch.setitem(benchmark["part_of"].__globals__, "PARTS", parts)
    work()
    del parts[Path(__file__).name, "inner"]
    work()
    parts.clear()
    work()
    assert found == ["inner", "outer", benchmark["OTHER"]]
