"""Speed and memory of the corpus stage, on made-up text of several sizes or on a file of yours.

    python benchmarks/corpus.py [--megabytes N]... [--text FILE] [--folder FOLDER] [--json FILE]

    python benchmarks/corpus.py --megabytes 20 --megabytes 80
    python benchmarks/corpus.py --text docs.jsonl --folder /scratch

Made-up documents have 600 words on average, of a vocabulary in which the n-th word is as frequent
as Zipf's law says, and phrases that come again; one in ten is an earlier one with a few words
changed, one in twenty is mostly the same page of boilerplate. Each size is read, compared and split
in a process of its own, at a recipe's defaults.

What the columns say:

* s: wall seconds; CPU s: those of the processor, of which the stage uses one core;
* MB/s: text over CPU seconds, in 10^6 bytes;
* own MB: most memory that the process held for itself while it ran (RssAnon, sampled each 20 ms),
  less what it held once everything was imported;
* with files: the same with pages of files that are mapped, which the system takes back when it
  needs them (VmHWM);
* similar: documents dropped as near duplicates.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

SIZES = (20, 80)  # 10^6 bytes
WORDS = 600  # of a document
VOCABULARY = 200_000
PHRASES = 100_000


@dataclass(frozen=True)
class Row:
    """One corpus.

    Attributes:
        text: Where it is from.
        megabytes: Of text, 10^6 bytes.
        documents: Read.
        seconds: Of the stage.
        cpu_seconds: Of the processor.
        own_mb: Most memory held, without mapped files, 10^6 bytes.
        resident_mb: Most memory held with them.
        similar: Near duplicates dropped.
    """

    text: str
    megabytes: float
    documents: int
    seconds: float
    cpu_seconds: float
    own_mb: float
    resident_mb: float
    similar: int


def documents(megabytes: float, seed: int = 0) -> Iterator[str]:
    """Made-up documents of so much text in all."""
    draw = np.random.default_rng(seed)
    words = np.array([f"w{i:x}" if i > 2_000 else f"{i:b}"[1:] or "the" for i in range(VOCABULARY)])
    shares = np.cumsum(1 / np.arange(3, VOCABULARY + 3))

    def drawn(*shape: int) -> npt.NDArray[np.int64]:
        return np.searchsorted(shares, draw.random(shape) * shares[-1])

    phrases, page = drawn(PHRASES, 4), drawn(WORDS)
    kept: list[npt.NDArray[np.int64]] = []
    left = megabytes * 1e6
    while left > 0:
        size = int(draw.gamma(2.0, WORDS / 2)) + 20
        kind = draw.random()
        ids = drawn(size)
        for place in range(0, size - 4, 12):  # a third of a text is phrases
            ids[place : place + 4] = phrases[int(PHRASES * draw.random() ** 2)]
        if kind < 0.1 and kept:
            ids = kept[int(draw.integers(len(kept)))].copy()
            ids[draw.integers(len(ids), size=1 + len(ids) // 60)] = 0
        elif kind < 0.15:
            ids = np.concatenate([page, ids[: WORDS // 10]])
        if len(kept) < 2_000:
            kept.append(ids)
        text = " ".join(words[ids].tolist())
        left -= len(text)
        yield text


def measured(name: str, source: Path, folder: Path) -> Row:
    """One row; runs in a process of its own."""
    from adapt.corpus import build_corpus
    from adapt.recipe.sources import CorpusSection, Source

    section = CorpusSection(sources=[Source(path=str(source))])
    before, most, done = _status("RssAnon"), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], _status("RssAnon"))

    watching = threading.Thread(target=watch)
    watching.start()
    start, cpu = time.perf_counter(), time.process_time()
    statistics = build_corpus(section, [], 0, folder / "corpus").statistics
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    done.set()
    watching.join()
    return Row(
        name,
        sum(len(json.loads(line)["text"].encode()) for line in source.open("rb")) / 1e6,
        statistics.read["domain"],
        seconds,
        cpu_seconds,
        most[0] - before,
        _status("VmHWM") - before,
        statistics.dropped.get("near duplicate", 0),
    )


def _status(name: str) -> float:
    """A figure of this process, in 10^6 bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    return int(found[1]) * 1024 / 1e6 if found else float("nan")


def table_of(rows: list[Row]) -> Table:
    """All rows."""
    table = Table(title="The corpus stage", title_justify="left")
    table.add_column("text")
    for column in ("MB", "docs", "s", "CPU s", "MB/s", "own MB", "with files", "similar"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.text,
            f"{row.megabytes:.1f}",
            f"{row.documents:,}",
            f"{row.seconds:.1f}",
            f"{row.cpu_seconds:.1f}",
            f"{row.megabytes / row.cpu_seconds:.1f}",
            f"{row.own_mb:,.0f}",
            f"{row.resident_mb:,.0f}",
            f"{row.similar:,}",
        )
    return table


def main() -> None:
    """Prints a table, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--megabytes", action="append", type=float, help="10^6 bytes; repeatable; 20 and 80"
    )
    parser.add_argument("--text", type=Path, metavar="FILE", help="a .jsonl with column text")
    parser.add_argument("--folder", type=Path, help="for text and scratch files; the system's own")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    sizes = arguments.megabytes or ([] if arguments.text else SIZES)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        sources = [(arguments.text.stem, arguments.text)] if arguments.text else []
        for size in sizes:
            path = folder / f"made-up-{size:g}.jsonl"
            sources.append(("made up", path))
            with path.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps({"text": text}) + "\n" for text in documents(size))
        for name, source in sources:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                run = folder / f"{source.stem}-run"
                rows.append(process.submit(measured, name, source, run).result())
    Console().print(table_of(rows))
    if arguments.json:
        record = [asdict(row) for row in rows]
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
