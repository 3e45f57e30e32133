"""Time from `adapt run` to the end of the first optimizer step, where all before it is done.

    adapt data medical general
    python benchmarks/first_step.py [RECIPE] [SETTING ...] [--times 3] [--folder work]
        [--json out.json]

The first launch makes corpus, vocabulary, rows and encoded text in the folder, and warms caches: it
takes as long as they do (`embeddings.init=mean`, the default here, is quick), and `--folder` keeps
them for the next time. Each further launch is the same command in a fresh process, which finds all
that done, and is killed once the line of the first phase's first step is there; no checkpoint is
left, so the next one begins where it did. Wall seconds are those from the start of the process to
that line. CPU seconds are what the kernel counted for it, over all threads, and mean more where
other programs run.

One more launch is sampled each 5 ms, to tell where the time goes: each moment counts for the
innermost of the parts below that is at work then, so what a part imports counts as imports.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import FrameType

from rich.console import Console
from rich.table import Table

FIRST_STEP = re.compile(r"\S+ 1/\d+: loss per token")
OTHER = "everything else"

# What a function, by its file's end and its name, does; None: any function of the file.
PARTS: dict[tuple[str, str | None], str] = {
    ("importlib._bootstrap>", "_find_and_load"): "imports",
    ("adapt/check.py", "check"): "checks of the recipe",
    ("adapt/stages.py", "run"): "manifests of what is done",
    ("adapt/preparation.py", None): "manifests of what is done",
    ("adapt/training/phases.py", "phase_data"): "encoded text, packed",
    ("adapt/training/run.py", "_load"): "weights from disk",
    ("adapt/training/methods.py", "prepare"): "adapters",
    ("adapt/training/faster.py", "faster"): "proofs of what is faster",
    ("transformers/trainer.py", "__init__"): "Trainer made",
    ("transformers/trainer.py", "_inner_training_loop"): "Trainer set up",
    ("transformers/trainer.py", "training_step"): "first step, forwards and backwards",
    ("torch/optim/optimizer.py", None): "first step, optimizer",
}


@dataclass(frozen=True)
class Launch:
    """One start.

    Attributes:
        seconds: From the start of the process to its first step's line.
        cpu_seconds: Of all its threads, in user and system mode.
    """

    seconds: float
    cpu_seconds: float


def launch(command: list[str], show: bool = False) -> Launch:
    """Starts a command, waits for its first step, and kills it.

    Raises:
        SystemExit: It ended before.
    """
    # What it says goes through a pipe: nothing is to lie in a buffer.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    start, said = time.perf_counter(), []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stderr
        for line in process.stderr:
            said.append(line)
            if show:
                sys.stderr.write(line)
            if FIRST_STEP.search(line):
                break
        seconds = time.perf_counter() - start
        process.kill()
    if not said or not FIRST_STEP.search(said[-1]):
        sys.exit(f"ended before its first step:\n{''.join(said[-20:])}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Launch(round(seconds, 2), round(cpu, 2))


def part_of(frame: FrameType | None) -> str:
    """What the main thread is at, by the innermost function that says so."""
    while frame is not None:
        code = frame.f_code
        for (file, name), part in PARTS.items():
            if code.co_filename.endswith(file) and name in (None, code.co_name):
                return part
        frame = frame.f_back
    return OTHER


class Sampler(logging.Handler):
    """Shares time out over the parts; at the line of the first step, writes that and exits.

    Args:
        target: JSON file: part to [wall seconds, CPU seconds].
    """

    def __init__(self, target: Path) -> None:
        super().__init__()
        self.target, self.main = target, threading.main_thread().ident
        self.taken: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.last = (time.perf_counter(), 0.0)
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        """Samples until the process ends."""
        while True:
            time.sleep(0.005)
            self.sample()

    def sample(self) -> None:
        """Counts the time since the sample before for what is at work now."""
        now = time.perf_counter(), time.process_time()
        part = part_of(sys._current_frames().get(self.main or 0))
        for i, (new, old) in enumerate(zip(now, self.last, strict=True)):
            self.taken[part][i] += new - old
        self.last = now

    def emit(self, record: logging.LogRecord) -> None:
        """Looks for the line of the first step."""
        if FIRST_STEP.search(record.getMessage()):
            self.target.write_text(json.dumps(self.taken), encoding="utf-8")
            os._exit(0)


def inside(target: Path, arguments: list[str]) -> None:
    """`adapt run`, sampled from within."""
    logging.getLogger("adapt").addHandler(Sampler(target))
    sys.argv[1:] = ["run", *arguments]
    from adapt.cli import main as adapt

    adapt()


def shares(arguments: list[str], folder: Path) -> dict[str, list[float]]:
    """Wall and CPU seconds by part, of one launch."""
    target = folder / "parts.json"
    command = [sys.executable, __file__, "--inside", str(target), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found: dict[str, list[float]] = json.loads(target.read_text(encoding="utf-8"))
    return found


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="recipes/medical.yaml")
    parser.add_argument("settings", nargs="*", default=["embeddings.init=mean"])
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="kept; else a temporary one")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """All launches, as tables and as a record."""
    recipe = [arguments.recipe, *arguments.settings]
    recipe += [f"output_dir={folder / 'run'}", "training.phases.0.logging_steps=1"]
    command = [sys.executable, "-m", "adapt", "run", *recipe]
    first = launch(command, show=True)
    launches = [launch(command) for _ in range(arguments.times)]
    parts = shares(recipe, folder)
    table = Table(title="to the end of the first step, seconds", title_justify="left")
    for column in ("", "median", "least", "most", "preparing"):
        table.add_column(column, justify="right" if column else "left")
    for name in ("seconds", "cpu_seconds"):
        values = [float(getattr(one, name)) for one in launches]
        figures = (median(values), min(values), max(values), getattr(first, name))
        label = {"seconds": "wall", "cpu_seconds": "CPU"}[name]
        table.add_row(label, *(f"{figure:.1f}" for figure in figures))
    Console().print(table)
    table = Table(title="where it goes, one launch", title_justify="left")
    for column in ("part", "wall", "CPU"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, taken in sorted(parts.items(), key=lambda item: -item[1][1]):
        table.add_row(part, *(f"{seconds:.2f}" for seconds in taken))
    table.add_row("all", *(f"{sum(taken[i] for taken in parts.values()):.2f}" for i in (0, 1)))
    Console().print(table)
    return {
        "recipe": recipe,
        "preparing": asdict(first),
        "launches": [asdict(one) for one in launches],
        "parts": parts,
    }


def main() -> None:
    """Prints the tables and writes JSON where asked."""
    if sys.argv[1:2] == ["--inside"]:
        inside(Path(sys.argv[2]), sys.argv[3:])
        return
    arguments = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        record = measure(arguments, folder)
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
