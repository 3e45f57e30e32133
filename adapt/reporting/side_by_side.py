"""Several finished runs on one page; figures on other data stay on it, under another letter."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from adapt.errors import AdaptError, WorkspaceError
from adapt.reporting.by_data import MODELS, Data, Measured, parts
from adapt.reporting.finished import read_summary
from adapt.reporting.formats import CONTROL, number, shown
from adapt.reporting.pages import LOOKS, pages
from adapt.reporting.summary import Row, Summary
from adapt.workspace import Workspace, write_text

# Stands in every page made here; a file without it is somebody else's.
MARK = "adapt report: runs side by side"


@dataclass(frozen=True)
class Opened:
    """A finished run.

    Attributes:
        folder: Where it lies.
        summary: What it says of itself.
    """

    folder: Path
    summary: Summary


@dataclass(frozen=True)
class Cell:
    """One figure of one model.

    Attributes:
        value: None where it was not measured.
        interval: Its 95 % interval, or the range of rounds.
        letter: Of the data that it is of; empty where all have the same, or none is needed.
        best: Whether no figure on the same data is better, of two at least.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    letter: str = ""
    best: bool = False


@dataclass(frozen=True)
class Line:
    """One measure, a cell a column."""

    measure: str
    better: str
    digits: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Section:
    """Measures on one text.

    Attributes:
        title: Of the text, or of what is measured.
        lines: One a measure.
        data: What each run was measured on, with its letter; None where it has no such figure.
        shared: Whether all runs that have such figures were measured on the same.
    """

    title: str
    lines: tuple[Line, ...]
    data: tuple[tuple[str, Data] | None, ...]
    shared: bool


# -- runs ---------------------------------------------------------------------------------------


def open_runs(folders: Sequence[Path]) -> list[Opened]:
    """Opens finished runs.

    Raises:
        AdaptError: The same run twice.
        WorkspaceError: One is not finished, or cannot be read.
    """
    if twice := [one for i, one in enumerate(folders) if _in(one, folders[:i])]:
        raise AdaptError("is given twice", where=str(twice[0]), fix="name each run once")
    return [Opened(folder, read_summary(folder)) for folder in folders]


def _in(folder: Path, others: Sequence[Path]) -> bool:
    return folder.resolve() in [other.resolve() for other in others]


def columns(runs: Sequence[Opened]) -> list[tuple[int, str]]:
    """(number of the run, model): of each run the adapted model and its controls."""
    return [(i, m) for i, run in enumerate(runs) for m in MODELS if m in run.summary.scores]


def names(runs: Sequence[Opened]) -> list[str]:
    """What to call the runs: their folders' names, or folders as given where names are alike."""
    short = [run.folder.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run.folder) for run in runs]


# -- figures --------------------------------------------------------------------------------------


def sections(runs: Sequence[Opened]) -> list[Section]:
    """All figures of all runs, in the order of the page; sections that no run has are left out."""
    summaries = [run.summary for run in runs]
    made = (
        _section(title, [part(s) for s in summaries], runs)
        for title, part in parts(summaries).items()
    )
    return [section for section in made if section.lines]


def _section(title: str, measured: Sequence[Measured], runs: Sequence[Opened]) -> Section:
    known = [data if rows else None for rows, data in measured]
    letters = _letters(known)
    shared = len({letter for letter in letters if letter}) < 2
    tables = [{row.measure: row for row in rows} for rows, _ in measured]
    lines = []
    for measure in dict.fromkeys(name for table in tables for name in table):
        row = next(table[measure] for table in tables if measure in table)
        cells = []
        for run, model in columns(runs):
            own = tables[run].get(measure, Row(measure, "", {}, 0, {}))
            cells.append(Cell(own.values.get(model), own.intervals.get(model), letters[run]))
        if any(cell.value is not None for cell in cells):
            lines.append(Line(measure, row.better, row.digits, _judged(cells, row.better, shared)))
    data = tuple((letter, one) if one else None for letter, one in zip(letters, known, strict=True))
    return Section(title, tuple(lines), data, shared)


def _letters(known: Sequence[Data | None]) -> list[str]:
    """A letter for each different data, in the order of runs; empty where there are none."""
    first: list[Data] = []
    letters = []
    for data in known:
        if data is None:
            letters.append("")
            continue
        place = next((i for i, one in enumerate(first) if one.same(data)), len(first))
        first += [data] * (place == len(first))
        letters.append(_letter(place))
    return letters


def _letter(place: int) -> str:
    """a, b ... z, aa, ab ..."""
    before, last = divmod(place, 26)
    return (_letter(before - 1) if before else "") + chr(ord("a") + last)


def _judged(cells: Sequence[Cell], better: str, shared: bool) -> tuple[Cell, ...]:
    """The cells, the best on each data marked; letters only where there are several."""
    judged = []
    for cell in cells:
        rivals = [c.value for c in cells if c.letter == cell.letter and c.value is not None]
        best = len(rivals) > 1 and bool(better)
        best = best and cell.value == (max if better == "higher" else min)(rivals)
        judged.append(Cell(cell.value, cell.interval, "" if shared else cell.letter, best))
    return tuple(judged)


# -- the page -------------------------------------------------------------------------------------


def write_side_by_side(runs: Sequence[Opened], path: Path, *, force: bool = False) -> None:
    """Writes the page, whole or not at all.

    Args:
        runs: Two or more; the first comes first.
        path: The file; a page of this kind that is there is replaced.
        force: Replace whatever file is there.

    Raises:
        WorkspaceError: Something else is there, or it cannot be written.
    """
    refuse_others(path, force=force)
    page = render(runs, path.parent)
    try:
        write_text(path, page)
    except OSError as error:
        raise WorkspaceError(
            "cannot be written", where=str(path), got=error.strerror, fix="choose another --html"
        ) from None


def refuse_others(path: Path, *, force: bool) -> None:
    """Refuses to replace what is not a page of this kind.

    Raises:
        WorkspaceError: It is a folder, or a file of others and not `force`.
    """
    if path.is_dir():
        raise WorkspaceError("is a folder", where=str(path), fix="name a file by --html")
    if force or not path.exists():
        return
    try:
        with path.open("rb") as file:
            own = MARK.encode() in file.read(4096)
    except OSError:
        own = False
    if not own:
        raise WorkspaceError(
            "is a file that adapt report did not make",
            where=str(path),
            fix="choose another --html, or replace it by --force",
        )


def render(runs: Sequence[Opened], place: Path) -> str:
    """The page as HTML.

    Args:
        runs: Two or more.
        place: Folder of the page, which its links start from.
    """
    environment = pages()
    environment.filters |= {"number": number, "shown": shown}
    made, named, wide = sections(runs), names(runs), columns(runs)
    links = [link(run.folder, place) for run in runs]
    page = environment.get_template("side_by_side.html.jinja").render(
        runs=list(zip(named, [run.summary for run in runs], links, strict=True)),
        spans=[[i for i, _ in wide].count(run) for run in range(len(runs))],
        columns=wide,
        names=named,
        mark=MARK,
        looks=LOOKS,
        sections=made,
        measured=_comparable(made),
    )
    return page.translate(CONTROL)


def _comparable(made: Sequence[Section]) -> dict[str, list[str]]:
    """Titles by whether their figures may be compared: `same`, `other`, `one`."""
    found: dict[str, list[str]] = {"same": [], "other": [], "one": []}
    for section in made:
        known = [data for data in section.data if data]
        if known:
            kind = "one" if len(known) == 1 else "same" if section.shared else "other"
            found[kind].append(section.title)
    return found


def link(folder: Path, place: Path) -> str | None:
    """The way from the page to a run's own report.

    None where there is no report, or where only the root of the disk is above both: such a link
    would name folders of this machine, and break with the first move.
    """
    report = Workspace(folder).report.resolve()
    try:
        above = Path(os.path.commonpath([report, place.resolve()]))
    except ValueError:  # other disks
        return None
    if not report.is_file() or above == Path(above.anchor):
        return None
    # Quoted, no name can be taken for the scheme of an address.
    return quote(Path(os.path.relpath(report, place.resolve())).as_posix())
