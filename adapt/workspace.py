"""The run folder: names of its paths, atomic writes, and a manifest for every finished stage."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.errors import WorkspaceError

LOCK = "run.lock"
_SWEPT_AFTER = 86_400  # seconds: age of an unfinished folder that no process holds
_PIECES, _PIECE = 64, 16_384  # of a large file: how many are looked at, and bytes of each


@dataclass(frozen=True)
class Workspace:
    """Where everything of one run lies.

    Attributes:
        root: The run folder, `output_dir` of the recipe.
    """

    root: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe, as it ran."""
        return self.root / "recipe.yaml"

    @property
    def corpus(self) -> Path:
        """Cleaned and split text and task rows."""
        return self.root / "corpus"

    @property
    def tokenizer(self) -> Path:
        """The adapted tokenizer, with `vocab_delta.json`."""
        return self.root / "tokenizer"

    @property
    def adapted_base(self) -> Path:
        """The base checkpoint with rows for the new tokens."""
        return self.root / "adapted-base"

    @property
    def adapter(self) -> Path:
        """The trained adapter; plain PEFT loads it from the original base."""
        return self.root / "adapter"

    @property
    def control(self) -> Path:
        """The adapter trained on the same bytes with the base tokenizer."""
        return self.root / "control"

    @property
    def control_time(self) -> Path:
        """The adapter trained for the adapted model's time with the base tokenizer."""
        return self.root / "control-time"

    @property
    def checkpoints(self) -> Path:
        """Trainer checkpoints of phases that are under way."""
        return self.root / "checkpoints"

    @property
    def tokenized(self) -> Path:
        """Training text as token ids, a folder for each tokenizer, text and objective."""
        return self.root / "tokenized"

    @property
    def tensorboard(self) -> Path:
        """Event files, a folder for each phase and one for the final scores."""
        return self.root / "tensorboard"

    @property
    def reports(self) -> Path:
        """Machine-readable results: fertility.json, evaluation.json."""
        return self.root / "reports"

    @property
    def report(self) -> Path:
        """The report for people."""
        return self.root / "report.html"

    def manifest(self, stage: str) -> Path:
        """The file whose presence says that `stage` is done."""
        return self.root / "manifests" / f"{stage}.json"

    def claim(self, name: str, base: str) -> None:
        """Refuses a folder that another recipe, or something else, already fills.

        Args:
            name: The recipe's `name`.
            base: The recipe's `model.base`.

        Raises:
            WorkspaceError: The folder holds another run or files that are not a run, or cannot
                be written to.
        """
        root = self.root.absolute()
        place = next(folder for folder in (root, *root.parents) if folder.exists())
        if not place.is_dir():
            raise WorkspaceError("is a file", where=str(place), fix="choose another output_dir")
        if not os.access(place, os.W_OK | os.X_OK):
            raise WorkspaceError(
                "cannot be written to", where=str(place), fix="choose another output_dir"
            )
        # A crash in the very first write leaves nothing but the lock and an unfinished recipe.
        first = (LOCK, f".{self.recipe.name}.")
        if place != root or all(p.name.startswith(first) for p in root.iterdir()):
            return
        try:
            import yaml

            owner = yaml.safe_load(self.recipe.read_text(encoding="utf-8"))
            owner_name, owner_base = owner["name"], owner["model"]["base"]
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
            raise WorkspaceError(
                "holds files that are not a run of adapt",
                where=str(self.root),
                fix="choose another output_dir or empty this one",
            ) from None
        if (owner_name, owner_base) != (name, base):
            raise WorkspaceError(
                f"holds the run of another recipe (name {owner_name}, base {owner_base})",
                where=str(self.root),
                got=f"{name}, {base}",
                fix="choose another output_dir",
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps the folder for this process until the block ends; one that dies lets go of it.

        Raises:
            WorkspaceError: Another process keeps it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / LOCK).open("a") as file:
            try:
                import fcntl  # not on Windows

                # Not `flock`, which a child that outlives its parent would go on holding.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise WorkspaceError(
                    "another process is at work in it",
                    where=str(self.root),
                    fix="wait until it ends, or choose another output_dir",
                ) from None
            except (ImportError, OSError):  # a disk without locks
                pass
            yield

    def finished(self, stage: str, fingerprint: str) -> dict[str, Any] | None:
        """The manifest of a stage that is done with the same inputs, else None."""
        try:
            record: dict[str, Any] = json.loads(self.manifest(stage).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        same = isinstance(record, dict) and record.get("fingerprint") == fingerprint
        return record if same else None

    def start(self, stage: str) -> None:
        """Takes the stage's old manifest away, so that a crash leaves nothing that looks done."""
        self.manifest(stage).unlink(missing_ok=True)

    def finish(
        self, stage: str, fingerprint: str, inputs: object, result: object, seconds: float
    ) -> None:
        """Writes the stage's manifest; the last thing that a stage does."""
        record = {
            "stage": stage,
            "fingerprint": fingerprint,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(seconds, 3),
            "inputs": inputs,
            "versions": versions(),
            "result": result,
        }
        write_json(self.manifest(stage), record)

    def take(self, other: Workspace, stage: str, folder: Path) -> None:
        """Moves a stage that is done in another run folder, on the same disk, into this one.

        Args:
            other: Where it is done.
            stage: Its name.
            folder: What it wrote, below the other's root; takes the same place here.
        """
        self.start(stage)
        target = self.root / folder.relative_to(other.root)
        if target.exists():
            shutil.rmtree(target)
        os.replace(folder, target)
        self.manifest(stage).parent.mkdir(parents=True, exist_ok=True)
        os.replace(other.manifest(stage), self.manifest(stage))


def versions() -> dict[str, str]:
    """Versions of the libraries that decide what a stage writes."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("adapt-lm", "torch", "transformers", "tokenizers", "peft", "accelerate"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def fingerprint(*parts: object) -> str:
    """SHA-256 of anything JSON can say; equal inputs give equal fingerprints."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, or of the names and bytes of all files below a folder."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return fingerprint([(str(p.relative_to(path)), digest(p)) for p in files])
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sampled_digest(path: Path) -> str:
    """SHA-256 of at most a megabyte of a file: all, or pieces that are spread evenly over it.

    Tells a checkpoint from one that was trained further, which changes nearly every byte; a change
    of a few bytes between two pieces goes unseen.
    """
    size, seen = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        if size <= _PIECES * _PIECE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        for i in range(_PIECES):
            file.seek((size - _PIECE) * i // (_PIECES - 1))
            seen.update(file.read(_PIECE))
    return seen.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """Writes indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a folder to fill; it takes `path`'s place only when the block ends well.

    What a process left that was killed while it filled one is taken away after a day.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    temporary.chmod(0o755)
    held = _locked(temporary)
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        if held is not None:
            os.close(held)


def _sweep(path: Path) -> None:
    """Takes away old folders that were to take `path`'s place and that no process holds."""
    named = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}")  # as `mkdtemp` names them
    for left in path.parent.iterdir():
        if not named.fullmatch(left.name) or left.is_symlink() or not left.is_dir():
            continue
        try:
            old = time.time() - left.stat().st_mtime > _SWEPT_AFTER
        except OSError:  # taken away, or put in its place, at this moment
            continue
        if old and (held := _locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(held)


def _locked(folder: Path) -> int | None:
    """A handle that holds a folder until it is closed or its process ends, however that is.

    None where another process holds it, or the disk or the system knows no such locks.
    """
    handle = None
    try:
        import fcntl  # not on Windows

        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        if handle is not None:
            os.close(handle)
        return None
    return handle
