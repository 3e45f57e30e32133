"""Exports: a stand-alone model for programs other than `transformers`.

Each format is checked against the checkpoint that it was made of, leaves nothing behind where it
differs, and says in `export.json` what it could not keep.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from adapt.errors import AdaptError, ModelError, nearest
from adapt.publish.export import to_gguf, to_onnx, to_vllm
from adapt.publish.export.result import ExportError, Options, Written
from adapt.publish.kinds import FILLS, kind_of
from adapt.publish.load import Source, locate, refuse_dtype
from adapt.publish.target import inside, refuse_existing
from adapt.training.model import CLASSIFIES
from adapt.workspace import Workspace, new_folder, write_json

__all__ = ["FORMATS", "RECORD", "Export", "ExportError", "Format", "export"]

RECORD = "export.json"


@dataclass(frozen=True)
class Format:
    """A format of exports.

    Attributes:
        refuse: Raises for a source that the format cannot hold, or a missing package; called
            before any work with the source and a recipe that could be run anew, or None.
        write: Fills a folder from a checkpoint, and checks it.
        options: Options of `Options` that mean something to it.
    """

    refuse: Callable[[Source, Path | None], None]
    write: Callable[[Path, Path, Options], Written]
    options: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    "onnx": Format(to_onnx.refuse, to_onnx.write, ("int8",)),
    "gguf": Format(to_gguf.refuse, to_gguf.write, ("dtype",)),
    "vllm": Format(to_vllm.refuse, to_vllm.write),
}


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        folder: Where it lies.
        format: Name in `FORMATS`.
        use: How it is used, one line.
        checked: What was compared, with figures and tolerances.
        unchecked: What was not.
        lost: What could not be kept.
        bytes_: Of each file.
    """

    folder: Path
    format: str
    use: str
    checked: tuple[str, ...]
    unchecked: tuple[str, ...]
    lost: tuple[str, ...]
    bytes_: dict[str, int]


def export(
    reference: str | Path,
    format_: str,
    output: Path | None = None,
    *,
    dtype: str = "auto",
    int8: bool = False,
    force: bool = False,
    base: str | None = None,
    trust_remote_code: bool = False,
) -> Export:
    """Writes a model in another format, or nothing. An adapter is merged first, and compared.

    Args:
        reference: As for `adapt.load`; a run, an adapter, or a merged checkpoint.
        format_: Name in `FORMATS`.
        output: Folder to write; None for `exports/<format>` in the run.
        dtype: Of the weights of a GGUF; auto: what the checkpoint is stored in.
        int8: Writes a second ONNX graph with weights of 8 bits.
        force: Replaces an export that is in `output`; it stays until the new one is right.
        base: As for `adapt.load`.
        trust_remote_code: As in `transformers`.

    Raises:
        WorkspaceError: `output` exists, or none is given for what is no run.
        DependencyError: The format needs a package that is not there.
        ModelError: The format cannot hold this model.
        VocabularyError: The format cannot hold this tokenizer.
        ExportError: What was written is not what was exported; it is gone then.
        MergeError: As `adapt.publish.merge.merge`.
    """
    if format_ not in FORMATS:
        fix = nearest(format_, FORMATS)
        raise AdaptError("no format of exports", where="--format", got=format_, fix=fix)
    chosen = FORMATS[format_]
    refuse_dtype(dtype)
    for option, given in (("dtype", dtype != "auto"), ("int8", int8)):
        if given and option not in chosen.options:
            fix = f"leave it out; {_FIXES[option]}"
            raise AdaptError(f"is not for {format_}", where=f"--{option}", fix=fix)
    place = Path(reference).expanduser()
    target = output or inside(place, f"exports/{format_}")
    refuse_existing(target, force, "an export", RECORD)
    source = locate(reference, base=base, trust_remote_code=trust_remote_code)
    kind = kind_of(source.adapter or source.checkpoint)
    if kind in (CLASSIFIES, FILLS):
        has = "has a head of classes" if kind == CLASSIFIES else "fills in hidden words"
        raise ModelError(
            f"{has}, and exports are of models that write text",
            where=str(reference),
            fix="adapt merge writes a checkpoint that transformers loads",
        )
    recipe = Workspace(place).recipe
    chosen.refuse(source, recipe if recipe.is_file() else None)
    options = Options(place.resolve().name, dtype, int8, trust_remote_code)
    with (
        new_folder(target) as unfinished,
        _stand_alone(reference, source, target, base, options) as checkpoint,
    ):
        written = chosen.write(checkpoint, unfinished, options)
        files = sorted(path for path in unfinished.rglob("*") if path.is_file())
        sizes = {str(path.relative_to(unfinished)): path.stat().st_size for path in files}
        record = {"format": format_, **asdict(written), "bytes_": sizes}
        write_json(unfinished / RECORD, record)
    return Export(target, format_, **asdict(written), bytes_=sizes)


_FIXES = {
    "dtype": "only a GGUF has weights of a type of choice, others keep the checkpoint's",
    "int8": "only ONNX has it",
}


@contextmanager
def _stand_alone(
    reference: str | Path, source: Source, target: Path, base: str | None, options: Options
) -> Iterator[Path]:
    """The checkpoint itself where it is whole, else the adapter merged, for as long as it takes."""
    if source.adapter is None:
        yield source.checkpoint
        return
    from adapt.publish.merge import merge

    trust = options.trust_remote_code
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".merged.") as place:
        merged = merge(reference, Path(place) / "merged", base=base, trust_remote_code=trust)
        yield merged.folder
