"""Speed of adapted tokenizers, of learning one, and of pruning.

    python benchmarks/speed_vocabulary.py [--only encode|learn|prune]... [--fetch FOLDER]
        [--json FILE]

* encode: bytes/s over 10 MB of clinical text, 8,000 units across spaces against the base; both
  measured in turn, with a fresh tokenizer (and so an empty cache) each time; median of the ratios.
* learn: 8,000 units across spaces from 100 MB of text in a process of its own: seconds of
  `prepare` and `extend`, and the process' peak memory.
* prune: Qwen 3 (151k tokens) where it is fetched, else DeepSeek (128k), with the counts of the
  clinical text.

The text is made from packages: sentences of HPO, ICD-10-CM and, for learning, of general English,
five drawn at random a document; in each sentence one word in ten, and one at least, becomes another
word of the text. So few documents and few runs of words come twice, and no cache is flattered.

Exits 1 where a bar is missed. Times mean little while other programs run: see the load printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.table import Table
from vocabulary import FETCHED, definitions, general_text, open_base, peak_mb

from adapt.errors import AdaptError
from adapt.vocab import prune
from adapt.vocab.candidates import Learning
from adapt.vocab.extend import extend, prepare
from adapt.vocab.spec import Spec, build, spec_of, vocabulary

ENCODED_BYTES = 10_000_000
LEARNED_BYTES = 100_000_000
UNITS = 8000
ROUNDS = 5
BATCH = 1000

MIN_RATIO = 0.9  # of the base's encoding speed
MAX_LEARN_SECONDS, MAX_LEARN_MB = 60, 4000
MAX_PRUNE_SECONDS = 10


@dataclass(frozen=True)
class Result:
    """One figure and what is asked of it.

    Attributes:
        what: That was measured.
        value: The figure that the bar is about.
        unit: Of both.
        bar: What it must reach, or must not exceed.
        met: Whether it does.
        detail: How it came about.
    """

    what: str
    value: float
    unit: str
    bar: float
    met: bool
    detail: str = ""


def varied(texts: Sequence[str], size: int, seed: int) -> Iterator[str]:
    """Documents of `size` bytes in all, out of the sentences and words of texts."""
    rng = random.Random(seed)
    sentences = [
        sentence.split(" ")
        for text in texts
        for sentence in re.split(r"(?<=[.;:]) ", " ".join(text.split()))
        if " " in sentence
    ]
    words = [word for sentence in sentences for word in sentence]
    made = 0
    while made < size:
        document: list[str] = []
        for drawn in rng.choices(sentences, k=5):
            sentence = list(drawn)
            for _ in range(1 + len(sentence) // 10):
                sentence[int(rng.random() * len(sentence))] = words[int(rng.random() * len(words))]
            document += sentence
        text = " ".join(document)
        made += len(text.encode())
        yield text


def clinical_text(folder: Path) -> list[str]:
    """Texts of HPO and ICD-10-CM."""
    builder = Path(__file__).parents[1] / "data" / "medical.py"
    runpy.run_path(str(builder))["build"](folder / "medical")
    lines = (folder / "medical" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def encoding_seconds(spec: Spec, texts: Sequence[str]) -> float:
    """Seconds to encode texts, in batches, by a tokenizer that has seen nothing yet."""
    tokenizer = build(spec)
    start = time.perf_counter()
    for i in range(0, len(texts), BATCH):
        tokenizer.encode_batch_fast(list(texts[i : i + BATCH]), add_special_tokens=False)
    return time.perf_counter() - start


def encode(name: str, spec: Spec, train: Sequence[str], texts: Sequence[str]) -> Result:
    """Encoding speed of the adapted tokenizer over the base's."""
    ground = prepare(spec, lambda: train)
    adapted = extend(ground, Learning(UNITS), lambda: train, tuple).spec
    size = sum(len(text.encode()) for text in texts)
    rates: dict[str, list[float]] = {"base": [], "adapted": []}
    for turn in range(ROUNDS):
        order = [("base", spec), ("adapted", adapted)]
        for which, one in order if turn % 2 == 0 else order[::-1]:
            rates[which].append(size / encoding_seconds(one, texts))
    ratio = statistics.median(a / b for a, b in zip(rates["adapted"], rates["base"], strict=True))
    base, new = (statistics.median(rates[which]) / 1e6 for which in ("base", "adapted"))
    detail = f"{new:.1f} against {base:.1f} MB/s, {ROUNDS} rounds"
    return Result(f"encode, {name}", ratio, "x base", MIN_RATIO, ratio >= MIN_RATIO, detail)


def learned(spec_file: Path, text_file: Path) -> tuple[float, float, float, int]:
    """Seconds of the proof and of learning, peak memory and units; in a process of its own."""
    spec = json.loads(spec_file.read_text(encoding="utf-8"))

    def texts() -> Iterator[str]:
        with text_file.open(encoding="utf-8") as lines:
            for line in lines:
                yield line.rstrip("\n")

    start = time.perf_counter()
    ground = prepare(spec, texts)
    proven = time.perf_counter()
    made = extend(ground, Learning(UNITS), texts, tuple)
    seconds = time.perf_counter() - proven
    return proven - start, seconds, peak_mb(), len(made.constituents)


def learn(name: str, spec: Spec, texts: Sequence[str], folder: Path) -> list[Result]:
    """Seconds and memory of learning from much text."""
    files = (folder / "base.json", folder / "much.txt")
    files[0].write_text(json.dumps(spec), encoding="utf-8")
    with files[1].open("w", encoding="utf-8", newline="\n") as much:
        much.writelines(f"{text}\n" for text in varied(texts, LEARNED_BYTES, seed=0))
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        proof, seconds, peak, units = process.submit(learned, *files).result()
    total = proof + seconds
    detail = f"{units:,} units: proof {proof:.1f} s, learning {seconds:.1f} s"
    what = f"learn from {LEARNED_BYTES / 1e6:.0f} MB, {name}"
    return [
        Result(what, total, "s", MAX_LEARN_SECONDS, total <= MAX_LEARN_SECONDS, detail),
        Result(f"{what}, memory", peak, "MB", MAX_LEARN_MB, peak <= MAX_LEARN_MB),
    ]


def pruned(name: str, spec: Spec, texts: Sequence[str]) -> Result:
    """Seconds of pruning a vocabulary; the counting of its use is not part of it."""
    counts = prune.usage(build(spec), texts)
    start = time.perf_counter()
    made = prune.prune(spec, counts)
    seconds = time.perf_counter() - start
    detail = f"{len(vocabulary(spec)):,} tokens to {len(vocabulary(made)):,}"
    met = seconds <= MAX_PRUNE_SECONDS
    return Result(f"prune, {name}", seconds, "s", MAX_PRUNE_SECONDS, met, detail)


def results(only: Sequence[str], fetched: Path | None, folder: Path) -> Iterator[Result]:
    """Everything asked for, one after the other."""
    domain = clinical_text(folder / "clinical")
    texts = list(varied(domain, ENCODED_BYTES, seed=1))
    specs: dict[str, Spec] = {}
    for name in ("SmolLM2", "DeepSeek", *(FETCHED if fetched else ())):
        try:
            specs[name] = spec_of(open_base(name, fetched or folder))
        except (AdaptError, OSError, subprocess.TimeoutExpired) as error:
            sys.stderr.write(f"{name}: skipped, {str(error).splitlines()[0]}\n")
    if "encode" in only:
        train, _ = definitions(folder)
        for name, spec in specs.items():
            yield encode(name, spec, train, texts)
    if "learn" in only and "SmolLM2" in specs:
        yield from learn("SmolLM2", specs["SmolLM2"], [*domain, *general_text(folder)], folder)
    largest = next((name for name in ("Qwen 3", "DeepSeek") if name in specs), None)
    if "prune" in only and largest:
        yield pruned(largest, specs[largest], texts)


def main() -> None:
    """Prints a table, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("encode", "learn", "prune")
    parser.add_argument("--only", action="append", choices=parts, help="repeatable")
    parser.add_argument("--fetch", type=Path, metavar="FOLDER", help="add the bases from npm")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = list(results(arguments.only or parts, arguments.fetch, Path(folder)))
    load = f"load {before:.1f} to {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    table = Table(title=f"Speed of the vocabulary engine ({load})", title_justify="left")
    for column in ("what", "measured", "bar", "met", "how"):
        table.add_column(column, justify="right" if column in ("measured", "bar") else "left")
    for one in found:
        digits = 0 if one.unit == "MB" else 2
        sign = "≥" if one.unit == "x base" else "≤"
        table.add_row(
            one.what,
            f"{one.value:,.{digits}f} {one.unit}",
            f"{sign} {one.bar:,g}",
            "yes" if one.met else "no",
            one.detail,
            style=None if one.met else "bold red",
        )
    Console().print(table)
    if arguments.json:
        record = [asdict(one) for one in found]
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sys.exit(not all(one.met for one in found))


if __name__ == "__main__":
    main()
