"""The folder that a merge or an export writes: where it is, and what it may not replace."""

from __future__ import annotations

from pathlib import Path

from adapt.errors import WorkspaceError
from adapt.workspace import Workspace


def inside(reference: Path, name: str) -> Path:
    """A folder in a run.

    Raises:
        WorkspaceError: It is not a run folder.
    """
    run = Workspace(reference.expanduser())
    if run.recipe.is_file():
        return run.root / name
    raise WorkspaceError("is not a run folder", where=str(reference), fix="give --output FOLDER")


def refuse_existing(target: Path, force: bool, kind: str, mark: str) -> None:
    """Lets a folder be written where nothing is, or replaced where `force` allows it.

    Args:
        target: The folder.
        force: Whether one of the same kind may be replaced.
        kind: What such a folder holds, with its article, as in `a checkpoint`.
        mark: Name of the file by which one is known.

    Raises:
        WorkspaceError: There is something in `target` that stays.
    """
    if not target.exists():
        return
    if not force:
        fix = "choose another, or --force to replace it"
        raise WorkspaceError("exists already", where=str(target), fix=fix)
    if not target.is_dir() or (any(target.iterdir()) and not (target / mark).is_file()):
        fix = f"--force replaces only {kind}; choose another folder"
        raise WorkspaceError(f"holds something that is not {kind}", where=str(target), fix=fix)
