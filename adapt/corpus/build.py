"""The corpus stage: reads every source and task, cleans, splits and writes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from adapt.corpus.check import columns_of
from adapt.corpus.clean import NORMALIZERS, clean, filters, fold, not_empty, valid_unicode
from adapt.corpus.read import Document, read_documents, read_hub_documents, read_rows, string_of
from adapt.corpus.result import (
    GENERAL_SAMPLE,
    STATISTICS,
    Corpus,
    CorpusStatistics,
    TextStatistics,
    open_corpus,
)
from adapt.corpus.similarity import shingle_sets
from adapt.corpus.split import SPLITS, Split, later_near_duplicates, sides, similar_to_first
from adapt.errors import DataError
from adapt.progress import watched
from adapt.recipe.evaluation import AnyTask, ClassificationTask
from adapt.recipe.sources import CorpusSection, Source
from adapt.workspace import new_folder, write_json

_FEW = "give more text, raise corpus.test_fraction or try another seed"


@dataclass(frozen=True)
class TaskRow:
    """A row of a task with the text that decides its side.

    Attributes:
        row: The whole row, as it was read.
        key: Classification: the text; generation: the target. Folded.
    """

    row: dict[str, Any]
    key: str


def build_corpus(
    section: CorpusSection, tasks: Sequence[AnyTask], seed: int, folder: Path
) -> Corpus:
    """Reads, cleans and splits the text of a run; `folder` appears only when all went well.

    Similar texts fall on the same side over all sources and tasks together, so that what one file
    holds out is held out in every other. Texts are held in memory while they are compared.

    Args:
        section: The recipe's `corpus`.
        tasks: The recipe's `evaluation.tasks`.
        seed: The recipe's `seed`; decides which clusters are held out.
        folder: Where the result goes.

    Raises:
        DataError: A source cannot be read, or too little is left to train and test on.
        DependencyError: A source needs a package that is not installed.
    """
    normalize = NORMALIZERS[section.normalize]
    dropped: Counter[str] = Counter()
    read: Counter[str] = Counter()
    domain, general = (
        list(clean(_read(some, name, read), normalize, judges, dropped, prefix))
        for some, name, judges, prefix in (
            (section.sources, "domain", filters(section.min_characters), ""),
            (section.general, "general", filters(section.min_characters), "general: "),
        )
    )
    _refuse_without_words(domain, section.sources)
    rows = {
        task.name: [
            TaskRow(row.row, fold(normalize(row.key))) for row in _task_rows(task, read, dropped)
        ]
        for task in tasks
    }
    texts, placed = _place(
        domain,
        general,
        rows,
        dropped,
        seed=seed,
        fractions=(section.test_fraction, section.validation_fraction),
        near_duplicate=section.near_duplicate,
        leak_threshold=section.leak_threshold,
    )
    _refuse_empty(texts, section.sources, placed)
    paths = [source.path for source in (*section.sources, *section.general)]
    statistics = CorpusStatistics(
        splits={name: _measure(some) for name, some in texts.items()},
        dropped={reason: count for reason, count in sorted(dropped.items()) if count},
        tasks={n: {s: len(r) for s, r in splits.items()} for n, splits in placed.items()},
        provenance=_provenance(paths + [task.path for task in tasks]),
        read={name: read[name] for name in ("domain", "general", *rows)},
    )
    with new_folder(folder) as new:
        _write(new, texts, placed, statistics)
    return open_corpus(folder)


def _place(
    domain: Sequence[Document],
    general: Sequence[Document],
    rows: Mapping[str, Sequence[TaskRow]],
    dropped: Counter[str],
    *,
    seed: int,
    fractions: tuple[float, float],
    near_duplicate: float | None,
    leak_threshold: float,
) -> tuple[dict[str, list[Document]], dict[str, dict[Split, list[dict[str, Any]]]]]:
    """Documents by split (and `general`), and rows by task and split.

    Args:
        domain: Distinct documents, in order.
        general: Distinct documents; kept unless similar to any text of the domain.
        rows: Usable rows by task.
        dropped: Where near duplicates are counted.
        seed: Decides which clusters are held out.
        fractions: Shares of clusters for test and validation.
        near_duplicate: Similarity at which a later document is dropped; None drops none.
        leak_threshold: Similarity at which two texts share a side.
    """
    # The domain's documents come first and in order, so a document's number is its place here.
    numbers: dict[str, int] = {fold(document.text): i for i, document in enumerate(domain)}
    for row in chain.from_iterable(rows.values()):
        numbers.setdefault(row.key, len(numbers))
    folded = list(numbers)
    sets = shingle_sets(folded + [fold(document.text) for document in general])
    side = sides(
        folded,
        sets.head(len(folded)),
        seed=seed,
        test_fraction=fractions[0],
        validation_fraction=fractions[1],
        leak_threshold=leak_threshold,
    )
    texts: dict[str, list[Document]] = {name: [] for name in (*SPLITS, "general", GENERAL_SAMPLE)}
    repeated = [False] * len(domain)
    if near_duplicate is not None:
        repeated = later_near_duplicates(sets.head(len(domain)), near_duplicate).tolist()
    for document, where, again in zip(domain, side, repeated, strict=False):
        if again:
            dropped["near duplicate"] += 1
        else:
            texts[where].append(document)
    if general:
        echoes = similar_to_first(sets, len(folded), leak_threshold).tolist()
        for document, echo in zip(general, echoes, strict=True):
            if not echo:
                texts[_general_side(document.text)].append(document)
        dropped["general: similar to domain text"] += sum(echoes)
    placed: dict[str, dict[Split, list[dict[str, Any]]]] = {
        name: {split: [r.row for r in some if side[numbers[r.key]] == split] for split in SPLITS}
        for name, some in rows.items()
    }
    return texts, placed


def _general_side(text: str) -> str:
    """One general text in five is for the vocabulary to learn from; the others are measured."""
    first = hashlib.sha256(text.encode()).digest()[0]
    return GENERAL_SAMPLE if first % 5 == 0 else "general"


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


def _task_rows(task: AnyTask, read: Counter[str], dropped: Counter[str]) -> Iterator[TaskRow]:
    """The usable rows of a task; `key` is not folded yet."""
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
            yield TaskRow(row, values[0])
        else:
            dropped[f"{task.name}: {reason}"] += 1
    if not read[task.name]:
        raise DataError("holds no rows", where=task.path, fix=f"give task {task.name} some")


def _refuse_without_words(domain: Sequence[Document], sources: Sequence[Source]) -> None:
    where = _name(sources)
    if not domain:
        raise DataError(
            "no document is left after cleaning", where=where, fix="see corpus.min_characters"
        )
    if all(len(document.text.strip()) < 2 for document in domain):
        raise DataError(
            "no document is longer than one character",
            where=where,
            fix="check that corpus.sources names the column that holds the text",
        )


def _refuse_empty(
    by_split: Mapping[str, Sequence[Document]],
    sources: Sequence[Source],
    placed: Mapping[str, Mapping[Split, Sequence[object]]],
) -> None:
    needed: tuple[Split, ...] = ("train", "test")
    for split in needed:
        if not by_split[split]:
            raise DataError(f"leaves the {split} split empty", where=_name(sources), fix=_FEW)
        for name, rows in placed.items():
            if not rows[split]:
                raise DataError(f"task {name} has no rows in the {split} split", fix=_FEW)


def _name(sources: Sequence[Source]) -> str:
    return ", ".join(str(source.path or source.dataset) for source in sources)


def _provenance(paths: Iterable[str | None]) -> list[dict[str, str]]:
    """The entries of every SOURCES.json beside the files, each file of entries once."""
    found = {Path(path).parent / "SOURCES.json": None for path in paths if path}
    entries: list[dict[str, str]] = []
    for path in found:
        if not path.is_file():
            continue
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            entries += [{str(k): str(v) for k, v in dict(entry).items()} for entry in record]
        except (ValueError, TypeError):
            raise DataError(
                "is not a list of sources",
                where=str(path),
                fix='write [{"name": ..., "version": ..., "licence": ...}]',
            ) from None
    return entries


def _measure(documents: Sequence[Document]) -> TextStatistics:
    return TextStatistics(
        documents=len(documents),
        bytes_=sum(len(document.text.encode()) for document in documents),
        words=sum(len(document.text.split()) for document in documents),
    )


def _write(
    folder: Path,
    by_split: Mapping[str, Sequence[Document]],
    placed: Mapping[str, Mapping[Split, Sequence[dict[str, Any]]]],
    statistics: CorpusStatistics,
) -> None:
    for name, documents in by_split.items():
        _write_lines(folder / f"{name}.jsonl", (vars(document) for document in documents))
    for task, rows_by_split in placed.items():
        for split, rows in rows_by_split.items():
            _write_lines(folder / "tasks" / task / f"{split}.jsonl", rows)
    write_json(folder / STATISTICS, dataclasses.asdict(statistics))


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for row in rows:
            # Dates and the like come from parquet and become text.
            line = json.dumps(row, ensure_ascii=False, default=str)
            try:
                file.write(line.encode() + b"\n")
            except UnicodeEncodeError:  # half a surrogate pair in a column that is not used
                file.write(json.dumps(row, default=str).encode() + b"\n")
