"""Safetensors files without their tensors: headers, and byte ranges copied from file to file.

A file is eight bytes (length of the header, little-endian), the header (JSON: for each tensor its
dtype, shape and place), and the data, without gaps. So one tensor can be replaced by copying the
bytes of all others, and no tensor needs to be in memory.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from adapt.errors import ModelError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

# Floating types that rows are made in, as the format spells them.
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

_LARGE = 1 << 20  # bytes from which the kernel copies, below it Python does
_LONGEST_HEADER = 100_000_000  # what the reference implementation accepts


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies.

    Attributes:
        file: The safetensors file.
        dtype: As the format spells it, such as BF16.
        shape: Its shape.
        start: First byte, from the start of the file.
        bytes_: Number of bytes.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    bytes_: int


@dataclass(frozen=True)
class Rows:
    """Rows `[first, first + count)` of the tensor that is replaced."""

    first: int
    count: int


@dataclass(frozen=True)
class Replacement:
    """What takes a tensor's place; same dtype, same columns.

    Attributes:
        rows: Number of rows; the sum over the pieces.
        pieces: Old rows and new ones, (n, columns), from the first row to the last.
    """

    rows: int
    pieces: tuple[Rows | Tensor, ...]


def has_index(base: Path) -> bool:
    """Whether the weights are those of an index; `transformers` takes a single file before it."""
    return (base / INDEX).is_file() and not (base / SINGLE).is_file()


def shard_files(base: Path) -> dict[str, set[str]]:
    """Safetensors files of a checkpoint, each with the names of its tensors.

    Raises:
        ModelError: There are none, or one cannot be read.
    """
    if has_index(base):
        index = json.loads((base / INDEX).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
    elif (base / SINGLE).is_file():
        files = [SINGLE]
    else:
        raise ModelError(
            "holds no model.safetensors",
            where=str(base),
            fix="save the model with safetensors first: model.save_pretrained(folder)",
        )
    return {name: set(read_header(base / name)[0]) for name in files}


def read_header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Tensors of a file in the order of their bytes, and its metadata.

    Raises:
        ModelError: It is no whole safetensors file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError
            header = json.loads(file.read(length))
        metadata: dict[str, str] = header.pop("__metadata__", {})
        tensors = {
            name: Stored(path, t["dtype"], tuple(t["shape"]), 8 + length + begin, end - begin)
            for name, t in header.items()
            for begin, end in [t["data_offsets"]]
        }
        if path.stat().st_size != 8 + length + sum(t.bytes_ for t in tensors.values()):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError("not a whole safetensors file", where=str(path)) from None
    return dict(sorted(tensors.items(), key=lambda item: item[1].start)), metadata


def read_rows(stored: Stored, ids: Sequence[int]) -> Tensor:
    """Rows of a stored matrix or vector, (ids, columns), read and not mapped.

    A mapped matrix would count as resident nearly whole after a few thousand scattered rows,
    since the kernel maps the neighbours of each page with it.

    Args:
        stored: The tensor, of one of `DTYPES`.
        ids: Rows, each below `stored.shape[0]`.
    """
    wide = stored.bytes_ // stored.shape[0]
    dtype = DTYPES[stored.dtype]
    rows = torch.empty(len(ids), wide // dtype.itemsize, dtype=dtype)
    with stored.file.open("rb") as file:
        for row, id_ in zip(rows.view(torch.uint8).numpy(), ids, strict=True):
            file.seek(stored.start + id_ * wide)
            if file.readinto(row.data) != wide:
                raise ModelError("ends too early", where=str(stored.file))
    return rows


def rewrite(
    source: Path,
    target: Path,
    replacements: Mapping[str, Replacement],
    copies: Mapping[str, str] | None = None,
) -> int:
    """Copies a file with some tensors replaced; memory is that of the replacements' new rows.

    Args:
        source: A safetensors file; only read.
        target: Does not exist.
        replacements: By name of the tensor.
        copies: Tensors that the source does not have, each with the one it is a copy of; they
            come last, and old rows of their replacements are those of that one.

    Returns:
        Bytes written.
    """
    tensors, metadata = read_header(source)
    tensors |= {name: tensors[origin] for name, origin in (copies or {}).items()}
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, stored in tensors.items():
        shape, bytes_ = stored.shape, stored.bytes_
        if name in replacements:
            bytes_ = bytes_ // shape[0] * replacements[name].rows
            shape = (replacements[name].rows, *shape[1:])
        header[name] = {
            "dtype": stored.dtype,
            "shape": shape,
            "data_offsets": [offset, offset + bytes_],
        }
        offset += bytes_
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format aligns the data by blanks
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, stored in tensors.items():
            if name in replacements:
                _write_rows(reader, writer, stored, replacements[name].pieces)
            else:
                _copy(reader, writer, stored.start, stored.bytes_)
    written = target.stat().st_size
    if written != 8 + len(encoded) + offset:  # a disk that is full may cut off without an error
        raise ModelError("could not be written whole", where=str(target))
    return written


def _write_rows(
    reader: BinaryIO, writer: BinaryIO, stored: Stored, pieces: Sequence[Rows | Tensor]
) -> None:
    row = stored.bytes_ // stored.shape[0]
    for piece in pieces:
        if isinstance(piece, Rows):
            _copy(reader, writer, stored.start + piece.first * row, piece.count * row)
        else:
            writer.write(piece.contiguous().view(-1).view(torch.uint8).numpy().data)


def _copy(reader: BinaryIO, writer: BinaryIO, start: int, bytes_: int) -> None:
    """Appends a byte range; large ones inside the kernel where it can."""
    end = start + bytes_
    if bytes_ >= _LARGE and hasattr(os, "copy_file_range"):
        writer.flush()
        try:
            while start < end:
                done = os.copy_file_range(reader.fileno(), writer.fileno(), end - start, start)
                if not done:
                    break
                start += done
        except OSError:  # two file systems on an old kernel
            pass
        writer.seek(0, os.SEEK_END)
    reader.seek(start)
    while start < end:
        chunk = reader.read(min(end - start, 16 * _LARGE))
        if not chunk:
            raise ModelError("ends too early", where=str(reader.name))
        writer.write(chunk)
        start += len(chunk)


def put_rows(stored: Stored, ids: Sequence[int], rows: Tensor) -> None:
    """Writes rows into a stored matrix, in its type and in its place; nothing else changes.

    Args:
        stored: The tensor; its file must not be another folder's by a link.
        ids: Rows, each below `stored.shape[0]`.
        rows: (ids, columns).

    Raises:
        ModelError: The file is a link.
    """
    if stored.file.stat().st_nlink > 1:
        raise ModelError("is another checkpoint's file too", where=str(stored.file))
    wide = stored.bytes_ // stored.shape[0]
    raw = rows.to(DTYPES[stored.dtype]).contiguous().view(torch.uint8).numpy()
    with stored.file.open("r+b") as file:
        for row, id_ in zip(raw, ids, strict=True):
            file.seek(stored.start + id_ * wide)
            file.write(row.data)


def link(source: Path, target: Path) -> bool:
    """Hard-links, or copies where that is impossible; whether it is a link.

    A symlink, as the Hub cache has them, is followed: the link is to the file itself.
    """
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
        return False
    return True
