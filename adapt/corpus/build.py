"""The corpus stage: reads every source and task, cleans, splits and writes."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapt.corpus.gather import Gathered, Sizes, gather, name_of
from adapt.corpus.result import (
    GENERAL_SAMPLE,
    STATISTICS,
    Corpus,
    CorpusStatistics,
    TextStatistics,
    open_corpus,
)
from adapt.corpus.shingles import Ints, Mask, ShingleSets, shingle_sets
from adapt.corpus.split import SPLITS, Split, later_near_duplicates, sides, similar_to_first
from adapt.corpus.spool import Spool
from adapt.errors import DataError, WorkspaceError
from adapt.recipe.evaluation import AnyTask
from adapt.recipe.sources import CorpusSection, Source
from adapt.workspace import new_folder, write_json

_FEW = "give more text, raise corpus.test_fraction or try another seed"
_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "a file of that size is not allowed there",  # by ulimit -f, or a FAT disk
}


def build_corpus(
    section: CorpusSection, tasks: Sequence[AnyTask], seed: int, folder: Path
) -> Corpus:
    """Reads, cleans and splits the text of a run; `folder` appears only when all went well.

    Similar texts fall on the same side over all sources and tasks together, so that what one file
    holds out is held out in every other. Memory grows by some 400 bytes a document and, while one
    is read, by some 20 bytes a character of it. Text waits, and is compared, in nameless files on
    the disk of `folder`, which needs room for about four times the text; six times where each
    character is a word (Chinese).

    Args:
        section: The recipe's `corpus`.
        tasks: The recipe's `evaluation.tasks`.
        seed: The recipe's `seed`; decides which clusters are held out.
        folder: Where the result goes.

    Raises:
        DataError: A source cannot be read, or too little is left to train and test on.
        DependencyError: A source needs a package that is not installed.
        WorkspaceError: There is no room for a file.
    """
    try:
        with new_folder(folder) as new, Spool(new) as spool:
            found = Gathered(spool)
            placed = _place(found, shingle_sets(gather(section, tasks, found), new), section, seed)
            _refuse_empty(placed, section.sources)
            spool.deal(_files(new, placed), _every_file(new, placed))
            paths = [s.path for s in (*section.sources, *section.general)]
            paths += [task.path for task in tasks]
            statistics = _statistics(found, placed, _provenance(paths))
            write_json(new / STATISTICS, dataclasses.asdict(statistics))
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise WorkspaceError(
            _NO_ROOM[error.errno],
            where=str(folder),
            fix="free about four times the size of the text, or choose another output_dir",
        ) from None
    return open_corpus(folder)


@dataclass(frozen=True)
class _Placed:
    """Where all that was read goes; an entry is a line of the spool.

    Attributes:
        domain: The names of the documents' files; None drops a document.
        general: The same of general documents.
        rows: By task, the split of each row.
    """

    domain: list[str | None]
    general: list[str | None]
    rows: dict[str, list[Split]]


def _place(found: Gathered, sets: ShingleSets, section: CorpusSection, seed: int) -> _Placed:
    """Decides for every document and row; counts what is dropped for being similar.

    Args:
        found: What was read.
        sets: Shingles of the distinct texts of domain and tasks, then of general ones.
        section: The recipe's `corpus`. General texts go where similar to any text before them.
        seed: Decides which clusters are held out.
    """
    count = len(found.seen)
    side = sides(
        list(found.seen),
        sets.head(count),
        seed=seed,
        test_fraction=section.test_fraction,
        validation_fraction=section.validation_fraction,
        leak_threshold=section.leak_threshold,
    )
    documents = len(found.domain.words)
    repeated: Mask = np.zeros(documents, np.bool_)
    if section.near_duplicate is not None:
        repeated = later_near_duplicates(sets.head(documents), section.near_duplicate)
        found.dropped["near duplicate"] += int(repeated.sum())
    echoes: Mask = np.zeros(0, np.bool_)
    if found.sampled:
        echoes = similar_to_first(sets, count, section.leak_threshold)
        found.dropped["general: similar to domain text"] += int(echoes.sum())
    return _Placed(
        [None if again else one for one, again in zip(side, repeated.tolist(), strict=False)],
        [
            None if echo else (GENERAL_SAMPLE if sampled else "general")
            for sampled, echo in zip(found.sampled, echoes.tolist(), strict=True)
        ],
        {task: [side[number] for number in numbers] for task, numbers in found.rows.items()},
    )


def _files(folder: Path, placed: _Placed) -> Iterator[Path | None]:
    """The file of every line of the spool."""
    texts = {name: folder / f"{name}.jsonl" for name in (*SPLITS, "general", GENERAL_SAMPLE)}
    yield from (None if name is None else texts[name] for name in placed.domain)
    for task, splits in placed.rows.items():
        rows = {split: _task_file(folder, task, split) for split in SPLITS}
        yield from (rows[split] for split in splits)
    yield from (None if name is None else texts[name] for name in placed.general)


def _every_file(folder: Path, placed: _Placed) -> Iterator[Path]:
    for name in (*SPLITS, "general", GENERAL_SAMPLE):
        yield folder / f"{name}.jsonl"
    for task in placed.rows:
        yield from (_task_file(folder, task, split) for split in SPLITS)


def _task_file(folder: Path, task: str, split: Split) -> Path:
    return folder / "tasks" / task / f"{split}.jsonl"


def _refuse_empty(placed: _Placed, sources: Sequence[Source]) -> None:
    needed: tuple[Split, ...] = ("train", "test")
    for split in needed:
        if split not in placed.domain:
            raise DataError(f"leaves the {split} split empty", where=name_of(sources), fix=_FEW)
        for name, splits in placed.rows.items():
            if split not in splits:
                raise DataError(f"task {name} has no rows in the {split} split", fix=_FEW)


def _statistics(
    found: Gathered, placed: _Placed, provenance: list[dict[str, str]]
) -> CorpusStatistics:
    return CorpusStatistics(
        splits={
            **_measured(SPLITS, placed.domain, found.domain),
            **_measured(("general", GENERAL_SAMPLE), placed.general, found.general),
        },
        dropped={reason: count for reason, count in sorted(found.dropped.items()) if count},
        tasks={
            name: {split: splits.count(split) for split in SPLITS}
            for name, splits in placed.rows.items()
        },
        provenance=provenance,
        read={name: found.read[name] for name in ("domain", "general", *placed.rows)},
    )


def _measured(
    names: Sequence[str], placed: Sequence[str | None], sizes: Sizes
) -> Mapping[str, TextStatistics]:
    place = np.array([names.index(name) if name else len(names) for name in placed], np.int64)

    def summed(weights: Ints) -> list[int]:
        sums = np.zeros(len(names) + 1, np.int64)
        np.add.at(sums, place, weights)
        totals: list[int] = sums.tolist()
        return totals

    documents = summed(np.ones(len(place), np.int64))
    bytes_, words = summed(np.array(sizes.bytes_)), summed(np.array(sizes.words))
    return {
        name: TextStatistics(*counts)
        for name, *counts in zip(names, documents, bytes_, words, strict=False)
    }


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
