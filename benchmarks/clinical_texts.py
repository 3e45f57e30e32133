"""Clinical text from installed packages, split without leaks, and news, for other benchmarks."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

from adapt.corpus import Corpus, build_corpus, open_corpus
from adapt.recipe.sources import CorpusSection, Source

DATA = Path(__file__).parents[1] / "data"
GENERAL_CHARACTERS = 1_000  # of each article


def corpus_of(text: str, folder: Path) -> Corpus:
    """`definitions` or `codes` from the installed packages, split without leaks."""
    place = folder / f"corpus-{text}"
    if not place.is_dir():
        medical = folder / "medical"
        runpy.run_path(str(DATA / "medical.py"))["build"](medical)
        defined = [row["definition"] for row in _rows(medical / "generation.jsonl")]
        everything = [row["text"] for row in _rows(medical / "corpus.jsonl")]
        others = set(defined)
        chosen = {
            "definitions": defined,
            "codes": [each for each in everything if each not in others],
        }[text]
        path = folder / f"{text}.jsonl"
        path.write_text("\n".join(json.dumps({"text": t}) for t in chosen), encoding="utf-8")
        build_corpus(section_of(path), [], 0, place)
    return open_corpus(place)


def section_of(path: Path) -> CorpusSection:
    """The recipe's `corpus` of one file."""
    return CorpusSection(sources=[Source(path=str(path))], near_duplicate=None)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def news(folder: Path, count: int) -> tuple[list[str], list[str]]:
    """The first sentences of general articles: some to measure, others to learn with."""
    runpy.run_path(str(DATA / "general.py"))["build"](folder / "general")
    texts = [row["text"][:GENERAL_CHARACTERS] for row in _rows(folder / "general" / "news.jsonl")]
    every = len(texts) // count
    return texts[::every], texts[every // 2 :: every]
