"""Text larger than memory: what the stage holds grows with documents, not with their length.

Memory here is what Python and numpy allocate; pages of mapped files are the system's to take back.
What is held at a time is made small, so that what grows can be told from it.
"""

import gc
import json
import random
import tracemalloc
from pathlib import Path

import pytest

from adapt.corpus import build_corpus
from adapt.recipe.sources import CorpusSection

A_DOCUMENT = 300  # bytes that one may take
A_CHARACTER = 28  # bytes that one of a long document may take
WORDS = [f"w{number:x}" for number in range(2_000)]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch, tmp_path):
    """Pieces of a few thousand numbers; and what is made at first use is there already."""
    monkeypatch.chdir(tmp_path)
    for name in ("similarity._PART", "similarity._EVENTS", "similarity._VERIFIED_SHINGLES"):
        monkeypatch.setattr(f"adapt.corpus.{name}", 2**13)
    for name in ("_PIECE", "_MOST_CELLS"):
        monkeypatch.setattr(f"adapt.corpus.shingles.{name}", 2**13)
    build(written("warm", 60, 30))


def written(name, documents, words):
    draw = random.Random(name)
    path = Path(f"{name}.jsonl")
    with path.open("w") as file:
        for number in range(documents):
            text = f"text {number} " + " ".join(draw.choices(WORDS, k=words))
            file.write(json.dumps({"text": text}) + "\n")
    return path


def build(path):
    section = CorpusSection.model_validate({"sources": [{"path": str(path)}]})
    build_corpus(section, [], 0, path.with_suffix(""))


def peak(path):
    """The most bytes that are held while the stage runs."""
    gc.collect()
    tracemalloc.start()
    try:
        build(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_text():
    short, long = written("short", 500, 250), written("long", 500, 1_000)
    assert long.stat().st_size > 3.5 * short.stat().st_size
    few, many = peak(short), peak(long)
    assert many < 1.3 * few
    assert many < long.stat().st_size / 2


def test_a_long_document_takes_some_bytes_a_character():
    path = written("long", 1, 50_000)
    with path.open("a") as file:
        file.writelines(json.dumps({"text": f"other text {number}"}) + "\n" for number in range(40))
    assert peak(path) < A_CHARACTER * path.stat().st_size


def test_a_document_takes_a_few_hundred_bytes_however_many_there_are():
    few, many = peak(written("few", 1_000, 30)), peak(written("many", 4_000, 30))
    assert many - few < A_DOCUMENT * 3_000
