"""Streamed reading of files and Hub data sets; every row knows the line it came from."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from adapt.errors import DataError, DependencyError, nearest

Row = dict[str, Any]
NumberedRow = tuple[int, Row]

_BOM = b"\xef\xbb\xbf"
# The csv module's own limit of 128 KiB a field would refuse whole articles.
_LONGEST_CSV_FIELD = 2**31 - 1
_SHOWN = 40  # characters of a bad value that an error message repeats


@dataclass(frozen=True)
class Document:
    """A text and where it was read.

    Attributes:
        text: The text, as it was read.
        origin: `path:line`, or `dataset/split:row` for a data set of the Hub.
    """

    text: str
    origin: str


def read_documents(
    path: Path, column: str = "text", limit: int | None = None
) -> Iterator[Document]:
    """Streams the documents of a file.

    Args:
        path: A file with a suffix that `read_rows` knows.
        column: Column that holds the text; a missing value (null) gives an empty text.
        limit: Documents to read at most; None reads all.

    Raises:
        DataError: As `read_rows`; also no such column, a value that is not a string, no rows.
    """
    return _documents(read_rows(path), str(path), column, limit)


def read_hub_documents(
    dataset: str,
    column: str = "text",
    *,
    config: str | None = None,
    split: str = "train",
    limit: int | None = None,
) -> Iterator[Document]:
    """Streams the documents of a Hub data set without downloading it whole.

    Raises:
        DataError: The data set cannot be reached, or as `read_documents`.
    """
    rows = enumerate(_hub_rows(dataset, config, split), start=1)
    return _documents(rows, f"{dataset}/{split}", column, limit)


def _documents(
    rows: Iterable[NumberedRow], name: str, column: str, limit: int | None
) -> Iterator[Document]:
    count = 0
    for number, row in rows:
        origin = f"{name}:{number}"
        yield Document(string_of(row, column, origin) or "", origin)
        count += 1
        if count == limit:
            return
    if not count:
        raise DataError("holds no documents", where=name, fix="give a source that has text")


def string_of(row: Row, column: str, origin: str) -> str | None:
    """The text in a column of a row; None where the row has null.

    Raises:
        DataError: The row has no such column, or something that is not a string in it.
    """
    if column not in row:
        raise DataError(f"has no column {column}", where=origin, fix=nearest(column, row))
    value = row[column]
    if value is None or isinstance(value, str):
        return value
    raise DataError(  # without the value, which may be private
        f"column {column} holds {type(value).__name__}, not text",
        where=origin,
        fix="name a column of strings, or write the value as a string",
    )


def read_rows(path: Path) -> Iterator[NumberedRow]:
    """Streams the rows of a file with their line numbers (parquet: row numbers), from 1.

    The suffix picks the format: .jsonl, .csv and .txt (a document a line, column `text`), each
    also as .gz or .zst, and .parquet.

    Raises:
        DataError: No such file, unknown suffix, not UTF-8 (named with the byte's offset in the
            decompressed file), or a row that cannot be parsed.
        DependencyError: A .zst file and no `zstandard`.
    """
    read = _reader_of(path)
    if path.is_dir():
        raise DataError("is a folder", where=str(path), fix=f"name a file: {_known()}")
    if not path.is_file():
        fix = "check the path; it is relative to where the command is run"
        raise DataError("no such file", where=str(path), fix=fix)
    try:
        yield from read(path)
    except OSError as error:
        # gzip.BadGzipFile is an OSError too.
        raise DataError(f"cannot be read ({error})", where=str(path)) from None


def _reader_of(path: Path) -> Callable[[Path], Iterator[NumberedRow]]:
    name = path.name.lower()
    stem = name
    for suffix in OPENERS:
        stem = stem.removesuffix(suffix)
    packed = stem != name
    for suffix, read in READERS.items():
        if stem.endswith(suffix) and not (packed and suffix == ".parquet"):
            return read
    suffix = "".join(path.suffixes[-2 if packed else -1 :])
    raise DataError("unknown kind of file", where=str(path), got=suffix, fix=f"known: {_known()}")


def _known() -> str:
    return f"{', '.join(READERS)}; all but .parquet also with {' or '.join(OPENERS)}"


def _read_jsonl(path: Path) -> Iterator[NumberedRow]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(
                f"is not JSON ({reason})",
                where=f"{path}:{number}",
                fix="write one JSON object a line",
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                "is not a JSON object",
                where=f"{path}:{number}",
                fix='write rows such as {"text": "..."}',
            )
        yield number, row


def _read_csv(path: Path) -> Iterator[NumberedRow]:
    csv.field_size_limit(_LONGEST_CSV_FIELD)
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    header: list[str] | None = None
    number = 1  # a quoted field may hold line breaks, so a row starts after the last one's end
    try:
        for fields in reader:
            if header is None and fields:
                header = fields
            elif header is not None and fields:
                if len(fields) != len(header):
                    raise DataError(
                        f"has {len(fields)} fields, the header has {len(header)}",
                        where=f"{path}:{number}",
                        fix="quote fields that hold commas or line breaks",
                    )
                yield number, dict(zip(header, fields, strict=True))
            number = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"is not CSV ({error})", where=f"{path}:{number}") from None


def _read_txt(path: Path) -> Iterator[NumberedRow]:
    for number, line in _lines(path):
        yield number, {"text": line.rstrip("\r\n")}


def _read_parquet(path: Path) -> Iterator[NumberedRow]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        raise DataError(f"is not a parquet file ({_short(str(error))})", where=str(path)) from None
    except UnicodeDecodeError:
        where = f"{path}:{number + 1}"
        raise DataError("holds text that is not UTF-8", where=where) from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines as text, split at line feeds only, each with its number; a leading BOM is dropped."""
    offset = 0
    with _open(path) as file:
        for number, line in enumerate(_raw_lines(file, path), start=1):
            start = len(_BOM) if number == 1 and line.startswith(_BOM) else 0
            try:
                yield number, line[start:].decode("utf-8")
            except UnicodeDecodeError as error:
                position = start + error.start
                raise DataError(
                    f"is not UTF-8 at byte {offset + position}",
                    where=f"{path}:{number}",
                    got=f"0x{line[position]:02x}",
                    fix="convert it, as in iconv -f LATIN1 -t UTF-8",
                ) from None
            offset += len(line)


def _raw_lines(file: IO[bytes], path: Path) -> Iterator[bytes]:
    try:
        yield from file
    except (EOFError, zlib.error) as error:
        raise DataError(f"is cut off or damaged ({error})", where=str(path)) from None


def _open(path: Path) -> IO[bytes]:
    return OPENERS.get(path.suffix.lower(), _open_plain)(path)


def _open_plain(path: Path) -> IO[bytes]:
    return path.open("rb")


def _open_gz(path: Path) -> IO[bytes]:
    # gzip's own line iteration is several times slower than through a buffer.
    return io.BufferedReader(gzip.open(path, "rb"), 1 << 18)  # type: ignore[arg-type, unused-ignore]


def _open_zst(path: Path) -> IO[bytes]:
    try:
        import zstandard
    except ImportError:
        raise DependencyError("zstandard", "zst", where=str(path)) from None

    class Checked(io.RawIOBase):
        """Turns zstandard's errors into the EOFError that a cut-off gzip file gives."""

        def __init__(self) -> None:
            self.stream = zstandard.ZstdDecompressor().stream_reader(
                path.open("rb"), read_across_frames=True, closefd=True
            )

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:  # noqa: ANN401  (a writable buffer)
            try:
                return int(self.stream.readinto(buffer))
            except zstandard.ZstdError as error:
                raise EOFError(str(error)) from None

        def close(self) -> None:
            self.stream.close()
            super().close()

    return io.BufferedReader(Checked(), 1 << 18)


def _hub_rows(dataset: str, config: str | None, split: str) -> Iterator[Row]:
    import datasets

    try:
        yield from datasets.load_dataset(dataset, config, split=split, streaming=True)
    except Exception as error:  # the Hub client raises its own, fsspec's and httpx's errors
        reason = f"{type(error).__name__}: {_short(str(error), 120)}"
        raise DataError(
            f"cannot be read from the Hub ({reason})",
            where=f"{dataset}/{split}",
            fix="check dataset, config, split and the network, or give a file with path: "
            f"({', '.join(READERS)})",
        ) from None


def _short(text: str, length: int = _SHOWN) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[:length] + "..."


READERS: dict[str, Callable[[Path], Iterator[NumberedRow]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_txt,
}

OPENERS: dict[str, Callable[[Path], IO[bytes]]] = {".gz": _open_gz, ".zst": _open_zst}


def read_terms(path: Path, where: str) -> list[str]:
    """The terms of a file, one a line; a line that begins with # is a comment, blank ones go.

    Commas and spaces are part of a term, those at its ends are not.

    Args:
        path: A text file of any name.
        where: The setting that named it.

    Raises:
        DataError: It cannot be read, or is not UTF-8.
    """
    try:
        lines = map(str.strip, path.read_text(encoding="utf-8").splitlines())
        return [line for line in lines if line and not line.startswith("#")]
    except FileNotFoundError:
        raise DataError("no such file", where=where, got=str(path)) from None
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 at byte {error.start}", where=where, got=str(path)) from None
    except OSError as error:
        raise DataError(f"cannot be read, {error.strerror}", where=where, got=str(path)) from None


def terms_of(given: Sequence[str] | str, where: str) -> list[str]:
    """Terms that a recipe lists, or names a file of.

    Args:
        given: The terms, or the file's path.
        where: The setting.

    Raises:
        DataError: As `read_terms`.
    """
    return read_terms(Path(given), where) if isinstance(given, str) else list(given)
