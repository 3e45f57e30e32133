"""What the corpus stage leaves behind, and how later stages read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapt.corpus.read import read_rows
from adapt.corpus.split import Split
from adapt.errors import DataError

STATISTICS = "statistics.json"
GENERAL_SAMPLE = "general_sample"


@dataclass(frozen=True)
class TextStatistics:
    """How much text there is.

    Attributes:
        documents: Documents.
        bytes_: Bytes of the texts in UTF-8.
        words: Runs of characters between white space.
    """

    documents: int
    bytes_: int
    words: int


@dataclass(frozen=True)
class CorpusStatistics:
    """What was read, kept and dropped.

    Attributes:
        splits: Text kept, by split (`train`, `validation`, `test`), and for `general` and
            `general_sample`.
        dropped: Documents or rows dropped, by reason; those of general text and of tasks open
            with `general: ` or the task's name.
        tasks: Rows kept, by task and split.
        provenance: Entries of the `SOURCES.json` beside the sources: name, version, licence ...
        read: Documents or rows read, for `domain`, `general` and each task. Read = kept + dropped.
    """

    splits: dict[str, TextStatistics]
    dropped: dict[str, int]
    tasks: dict[str, dict[str, int]]
    provenance: list[dict[str, str]]
    read: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Corpus:
    """Cleaned and split text and task rows, on disk.

    Attributes:
        folder: Holds train.jsonl, validation.jsonl, test.jsonl, general.jsonl and
            general_sample.jsonl (text, origin), tasks/<name>/<split>.jsonl (whole rows) and
            statistics.json.
        statistics: What was read, kept and dropped.
    """

    folder: Path
    statistics: CorpusStatistics

    def documents(self, split: Split) -> Iterator[str]:
        """Streams the domain texts of a split, in the order they were read."""
        return self._texts(split)

    def general(self) -> Iterator[str]:
        """Streams the general texts that are measured; nothing where the recipe names none."""
        return self._texts("general")

    def general_sample(self) -> Iterator[str]:
        """Streams the general texts that a vocabulary may learn from; they are measured nowhere."""
        return self._texts(GENERAL_SAMPLE)

    def rows(self, task: str, split: Split) -> Iterator[dict[str, Any]]:
        """Streams the rows of a task that fell on a side of the split."""
        return (row for _, row in read_rows(self.folder / "tasks" / task / f"{split}.jsonl"))

    def _texts(self, name: str) -> Iterator[str]:
        return (row["text"] for _, row in read_rows(self.folder / f"{name}.jsonl"))


def open_corpus(folder: Path) -> Corpus:
    """Opens what `build_corpus` wrote.

    Raises:
        DataError: The folder holds no finished corpus.
    """
    path = folder / STATISTICS
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["splits"] = {k: TextStatistics(**v) for k, v in record["splits"].items()}
        return Corpus(folder, CorpusStatistics(**record))
    except (OSError, ValueError, TypeError, KeyError):
        raise DataError(
            "holds no finished corpus", where=str(folder), fix="run the corpus stage again"
        ) from None
