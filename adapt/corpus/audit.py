"""What is wrong with a recipe's data, before any work: counts and places, never the text itself.

Everything is bounded: of each file only the first bytes are read, and similar texts are sought
among fewer still. What is found is probable, by patterns: an address that no pattern knows is not
seen, and a number that looks like a telephone's may be none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from adapt.corpus.clean import NORMALIZERS
from adapt.corpus.findings import (
    CountTokens,
    Finding,
    Item,
    balance,
    duplicates,
    matches,
    scripts,
    similar,
    sizes,
    too_long,
)
from adapt.corpus.read import read_rows
from adapt.errors import DataError
from adapt.progress import watched
from adapt.recipe.evaluation import AnyTask, ClassificationTask
from adapt.recipe.sources import CorpusSection, Source
from adapt.recipe.training import Phase

MAX_BYTES = 20_000_000  # of text read, shared evenly among the files


@dataclass(frozen=True)
class Extent:
    """How much of a file was read.

    Attributes:
        path: The file.
        items: Documents or rows.
        bytes_: Of text.
        whole: Whether that is all of it.
    """

    path: str
    items: int
    bytes_: int
    whole: bool


@dataclass(frozen=True)
class DataAudit:
    """All findings.

    Attributes:
        findings: In the order of a table.
        extents: What was read.
        scripts: Share of the letters of domain text by script, the largest first.
        notes: What was not looked at, and why.
    """

    findings: tuple[Finding, ...]
    extents: tuple[Extent, ...]
    scripts: tuple[tuple[str, float], ...]
    notes: tuple[str, ...]

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What deserves a look."""
        return tuple(finding for finding in self.findings if finding.warn)

    def to_json(self) -> dict[str, Any]:
        """For the stage's manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> DataAudit:
        """The result of a finished stage."""
        return cls(
            tuple(Finding(**{**one, "where": tuple(one["where"])}) for one in record["findings"]),
            tuple(Extent(**one) for one in record["extents"]),
            tuple((script, share) for script, share in record["scripts"]),
            tuple(record["notes"]),
        )


def audit(
    section: CorpusSection,
    tasks: Sequence[AnyTask],
    phases: Sequence[Phase],
    *,
    seed: int,
    count_tokens: CountTokens | None = None,
    max_bytes: int = MAX_BYTES,
) -> DataAudit:
    """Looks the data of a recipe through; nothing of a Hub data set is fetched.

    Args:
        section: The recipe's `corpus`.
        tasks: The recipe's `evaluation.tasks`.
        phases: The recipe's `training.phases`.
        seed: The recipe's, which decides the split.
        count_tokens: Tokens of each text, by the base's tokenizer; None where it is not here.
        max_bytes: Of text, read in all.
    """
    files = [s for s in (*section.sources, *section.general) if s.path]
    share = max(1, max_bytes // max(1, len(files) + len(tasks)))
    extents: list[Extent] = []
    notes = [f"{s.dataset}: of the Hub, not audited" for s in _hub(section)]
    normalize = NORMALIZERS[section.normalize]

    def read(path: str, make: Callable[[dict[str, Any], str], Item]) -> list[Item]:
        items, extent, broken = _read(path, make, share)
        extents.append(extent)
        if broken:
            notes.append(f"{broken}: cannot be read from here on")
        return items

    def documents(source: Source) -> list[Item]:
        def make(row: dict[str, Any], origin: str) -> Item:
            text = normalize(_string(row.get(source.text)))
            return Item(text, text, origin)

        return read(source.path or "", make)

    domain = [item for s in section.sources if s.path for item in documents(s)]
    general = [item for s in section.general if s.path for item in documents(s)]
    rows = {task.name: read(task.path, partial(_row, task)) for task in tasks}
    labelled = [item for some in rows.values() for item in some]
    found = [*sizes(domain, general), *duplicates(domain)]
    found += similar(section, domain, labelled, seed, notes)
    for task in tasks:
        found += balance(task, rows[task.name])
    found += matches([*domain, *general, *labelled])
    letters = scripts(domain, found)
    if count_tokens is None:
        notes.append("the base's tokenizer is not on this machine: what max_length cuts off")
    else:
        for phase in phases:
            found += too_long(phase, domain, tasks, rows, count_tokens)
    return DataAudit(tuple(found), tuple(extents), letters, tuple(notes))


# -- reading ----------------------------------------------------------------------------------


def _hub(section: CorpusSection) -> list[Source]:
    return [s for s in (*section.sources, *section.general) if s.dataset]


def _read(
    path: str, make: Callable[[dict[str, Any], str], Item], most: int
) -> tuple[list[Item], Extent, str]:
    """Items up to some bytes of text, and the place of a row that cannot be read.

    The error itself is left out: it repeats what the row holds.
    """
    items: list[Item] = []
    size, whole, broken = 0, True, ""
    try:
        for number, row in watched(read_rows(Path(path)), f"Auditing {path}"):
            if size >= most:
                whole = False
                break
            item = make(row, f"{path}:{number}")
            size += len(item.text.encode("utf-8", "surrogatepass"))
            items.append(item)
    except DataError as error:
        whole, broken = False, error.where or path
    return items, Extent(path, len(items), size, whole), broken


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _row(task: AnyTask, row: dict[str, Any], origin: str) -> Item:
    """All strings of a row: any column may be in a prompt, or read by who opens the file."""
    text = "\n".join(value for value in row.values() if isinstance(value, str))
    if isinstance(task, ClassificationTask):
        label = row.get(task.label)
        return Item(
            _string(row.get(task.text)), text, origin, None if label is None else str(label), row
        )
    return Item(_string(row.get(task.target)), text, origin, None, row)
