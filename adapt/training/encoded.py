"""Text encoded once, to Arrow files that later runs map into memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset, Features, List, Value, concatenate_datasets
from numpy.typing import NDArray

from adapt.vocab.offsets import counting
from adapt.workspace import fingerprint, new_folder, versions, write_json

# From here on several processes encode; they take seconds to start, in which one reads some MB.
_LARGE = 32 * 10**6  # bytes of source text

# Records that are held before they are written; memory is that of so many documents.
_HELD = 100

_FILES = "files.json"  # names the Arrow files, in order

_FORMAT = 3  # of what is stored; a change makes every cache anew


@dataclass(frozen=True)
class Record:
    """A document or row as the model will read it.

    Attributes:
        input_ids: Token ids.
        flags: One a token. Causal objectives: whether it is learned; masked: whether it begins a
            word; classification: empty.
        bytes_: UTF-8 bytes of the source text.
        lost: Bytes of text that did not fit, chat template included.
        classes: Numbers of its labels.
        labels: Causal objectives: what is learned in the place of each token; empty: the token.
    """

    input_ids: list[int]
    flags: list[bool]
    bytes_: int
    lost: int = 0
    classes: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


_FEATURES = Features(
    {
        "input_ids": List(Value("int32")),
        "flags": List(Value("bool")),
        "bytes_": Value("int64"),
        "lost": Value("int64"),
        "classes": List(Value("int32")),
        "labels": List(Value("int32")),
        "tokens": Value("int64"),
    }
)


def encode_once(
    items: Callable[[], Iterable[Any]],
    encode: Callable[[Any], Record],
    *,
    key: object,
    cache: Path | None,
    size: int,
    label: str,
) -> Dataset:
    """Records of all items, encoded only where `cache` does not hold them.

    Every process calls it; the main one works while the others wait.

    Args:
        items: Gives anything that JSON can say, each time anew.
        encode: Makes a record; can be pickled.
        key: All that decides the records.
        cache: Folder of encoded texts; None keeps them in memory.
        size: Bytes of source text; much of it is shared out among the cores.
        label: For the progress bar.

    Returns:
        Rows with the fields of `Record` and their number of `tokens`, in the order of the items.
    """
    if cache is None or not size:
        rows = [_row(encode(item)) for item in items()]
        columns = {name: [row[name] for row in rows] for name in _FEATURES}
        return Dataset.from_dict(columns, features=_FEATURES)
    mark = fingerprint(_FORMAT, versions(), key)[:24]  # datasets adds to it, and allows 64
    folder = cache / mark
    with PartialState().main_process_first():
        if not (folder / _FILES).is_file():
            with new_folder(folder) as unfinished:
                _write(items, encode, unfinished, mark, size, label)
    names = json.loads((folder / _FILES).read_text(encoding="utf-8"))
    return concatenate_datasets([Dataset.from_file(str(folder / name)) for name in names])


def _write(
    items: Callable[[], Iterable[Any]],
    encode: Callable[[Any], Record],
    folder: Path,
    mark: str,
    size: int,
    label: str,
) -> None:
    def lines() -> Iterator[dict[str, str]]:
        return ({"item": json.dumps(item)} for item in items())

    scratch = folder / "scratch"
    source = Dataset.from_generator(
        lines,
        features=Features({"item": Value("string")}),
        cache_dir=str(scratch),
        fingerprint=mark,
        writer_batch_size=_HELD,
    )
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    encoded = source.map(
        lambda row: _row(encode(json.loads(row["item"]))),
        remove_columns=["item"],
        features=_FEATURES,
        num_proc=cores if size > _LARGE and cores > 1 else None,
        cache_file_name=str(scratch / "encoded.arrow"),
        writer_batch_size=_HELD,
        new_fingerprint=mark,
        desc=label,
    )
    # Moved, not saved: that would copy them, through batches of a thousand.
    files = sorted(Path(file["filename"]) for file in encoded.cache_files)
    for path in files:
        path.replace(folder / path.name)
    write_json(folder / _FILES, [path.name for path in files])
    shutil.rmtree(scratch)


def _row(record: Record) -> dict[str, Any]:
    """A record as columns, its lists as arrays: an eighth of the memory while they wait."""
    return {
        **vars(record),
        "input_ids": np.array(record.input_ids, dtype=np.int32),
        "flags": np.array(record.flags, dtype=np.bool_),
        "labels": np.array(record.labels, dtype=np.int32),
        "tokens": len(record.input_ids),
    }


def column(store: Dataset, name: str) -> NDArray[np.int64]:
    """A column of numbers, without reading the others."""
    found: NDArray[np.int64] = store.data.column(name).to_numpy()
    return found


def tokenizer_mark(tokenizer: Any | None) -> str | None:  # noqa: ANN401
    """A hash of all that decides what a tokenizer makes of a text or a conversation."""
    if tokenizer is None:
        return None
    backend = counting(tokenizer.backend_tokenizer).to_str()
    return fingerprint(backend, tokenizer.chat_template, tokenizer.special_tokens_map)
