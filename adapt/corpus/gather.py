"""Every source and task read once: cleaned, spooled, and handed on text by text to be compared."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapt.corpus.check import columns_of
from adapt.corpus.clean import (
    NORMALIZERS,
    clean,
    filters,
    fold,
    not_empty,
    text_digest,
    valid_unicode,
)
from adapt.corpus.read import Document, read_documents, read_hub_documents, read_rows, string_of
from adapt.corpus.spool import Spool
from adapt.errors import DataError
from adapt.progress import watched
from adapt.recipe.evaluation import AnyTask, ClassificationTask
from adapt.recipe.sources import CorpusSection, Source


@dataclass(frozen=True)
class Sizes:
    """How large each of some texts is; 16 bytes a text.

    Attributes:
        bytes_: In UTF-8.
        words: Runs of characters between white space.
    """

    bytes_: array[int] = field(default_factory=lambda: array("q"))
    words: array[int] = field(default_factory=lambda: array("q"))

    def add(self, text: str) -> None:
        """Measures one more text."""
        self.bytes_.append(len(text.encode()))
        self.words.append(len(text.split()))


@dataclass(frozen=True)
class Gathered:
    """What is kept in memory of what was read; the lines themselves lie in the spool.

    Attributes:
        spool: The domain's documents, the rows of one task after the other, general documents.
        seen: Digest of each distinct text of the domain and of task rows, to its number. The
            domain's documents come first and in order, so a document's number is its place.
        domain: Of the domain's documents.
        general: Of general documents.
        sampled: By general document, whether a vocabulary may learn from it.
        rows: By task, the number of each row's text.
        dropped: Documents or rows by reason.
        read: Documents or rows read, of `domain`, `general` and each task.
    """

    spool: Spool
    seen: dict[bytes, int] = field(default_factory=dict)
    domain: Sizes = field(default_factory=Sizes)
    general: Sizes = field(default_factory=Sizes)
    sampled: bytearray = field(default_factory=bytearray)
    rows: dict[str, array[int]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)


def gather(section: CorpusSection, tasks: Sequence[AnyTask], into: Gathered) -> Iterator[str]:
    """Reads everything into the spool and yields what is to be compared, folded.

    That is each distinct text of the domain and of task rows by its number, then the general ones.

    Raises:
        DataError: A source cannot be read, or nothing is left of the domain.
        DependencyError: A source needs a package that is not installed.
        OSError: The disk is full.
    """
    normalize = NORMALIZERS[section.normalize]
    judges = filters(section.min_characters, into.seen)
    readable = False
    documents = _read(section.sources, "domain", into.read)
    for document in clean(documents, normalize, judges, into.dropped):
        readable = readable or len(document.text.strip()) > 1
        into.domain.add(document.text)
        into.spool.add(vars(document))
        yield fold(document.text)
    _refuse_without_words(len(into.domain.words), readable, section.sources)
    for task in tasks:
        into.rows[task.name] = array("q")
        yield from _gather_rows(task, normalize, into)
    judges = filters(section.min_characters)
    documents = _read(section.general, "general", into.read)
    for document in clean(documents, normalize, judges, into.dropped, "general: "):
        into.general.add(document.text)
        into.sampled.append(_is_sampled(document.text))
        into.spool.add(vars(document))
        yield fold(document.text)


def name_of(sources: Sequence[Source]) -> str:
    """The files and data sets of a list of sources."""
    return ", ".join(str(source.path or source.dataset) for source in sources)


def _is_sampled(text: str) -> bool:
    """One general text in five is for the vocabulary to learn from; the others are measured."""
    return hashlib.sha256(text.encode()).digest()[0] % 5 == 0


def _read(sources: Sequence[Source], name: str, read: Counter[str]) -> Iterator[Document]:
    for source in sources:
        documents = _documents(source)
        what = source.path or source.dataset
        for document in watched(documents, f"Reading {what}"):
            read[name] += 1
            yield document


def _documents(source: Source) -> Iterator[Document]:
    if source.path is not None:
        return read_documents(Path(source.path), source.text, source.max_documents)
    return read_hub_documents(
        source.dataset or "",
        source.text,
        config=source.config,
        split=source.split,
        limit=source.max_documents,
    )


def _gather_rows(task: AnyTask, normalize: Callable[[str], str], into: Gathered) -> Iterator[str]:
    """Spools the usable rows of a task and yields the texts that are new, folded."""
    numbers = into.rows[task.name]
    for row, text in _task_rows(task, into.read, into.dropped):
        into.spool.add(row)
        folded = fold(normalize(text))
        count = len(into.seen)
        numbers.append(into.seen.setdefault(text_digest(folded), count))
        if len(into.seen) > count:
            yield folded


def _task_rows(
    task: AnyTask, read: Counter[str], dropped: Counter[str]
) -> Iterator[tuple[dict[str, Any], str]]:
    """The usable rows of a task, each with the text that decides its side."""
    path = Path(task.path)
    strings = [task.text, task.label] if isinstance(task, ClassificationTask) else [task.target]
    columns = columns_of(task)
    for number, row in read_rows(path):
        read[task.name] += 1
        origin = f"{path}:{number}"
        values = [string_of(row, column, origin) or "" for column in strings]
        reason = next(
            (
                f"{column} {verdict[1]}"
                for column, value in zip(strings, values, strict=True)
                for verdict in (valid_unicode(value), not_empty(value))
                if verdict is not True
            ),
            None,
        )
        for column in columns:
            if column not in row:
                string_of(row, column, origin)  # raises, naming the columns there are
            elif reason is None and row[column] is None:
                reason = f"{column} empty"  # a prompt would say "None"
        if reason is None:
            yield row, values[0]
        else:
            dropped[f"{task.name}: {reason}"] += 1
    if not read[task.name]:
        raise DataError("holds no rows", where=task.path, fix=f"give task {task.name} some")


def _refuse_without_words(documents: int, readable: bool, sources: Sequence[Source]) -> None:
    where = name_of(sources)
    if not documents:
        raise DataError(
            "no document is left after cleaning", where=where, fix="see corpus.min_characters"
        )
    if not readable:
        raise DataError(
            "no document is longer than one character",
            where=where,
            fix="check that corpus.sources names the column that holds the text",
        )
