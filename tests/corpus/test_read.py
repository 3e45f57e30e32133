"""Reading: every format gives the same rows, every bad input one line that says where."""

import csv
import gzip
import io
import json
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.corpus import read as reading
from adapt.corpus.read import Document, read_documents, read_hub_documents, read_rows
from adapt.errors import DataError, DependencyError

TEXTS = ["Fièvre, aiguë", 'He said "cough"', "two\nlines", "x" * 200_000]


def rows_of(path: Path) -> list[dict]:
    return [row for _, row in read_rows(path)]


def csv_bytes(texts: list[str]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["text", "n"])
    writer.writerows([text, str(i)] for i, text in enumerate(texts))
    return file.getvalue().encode()


def jsonl_bytes(texts: list[str]) -> bytes:
    return b"".join(
        json.dumps({"text": t, "n": str(i)}, ensure_ascii=False).encode() + b"\n"
        for i, t in enumerate(texts)
    )


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("suffix", "write"), [(".jsonl", jsonl_bytes), (".csv", csv_bytes)])
def test_formats_agree(tmp_path, suffix, write, packed, bom):
    content = bom + write(TEXTS)
    path = tmp_path / f"rows{suffix}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert rows_of(path) == [{"text": t, "n": str(i)} for i, t in enumerate(TEXTS)]


def test_parquet(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "n": [0, 1, 2, 3]}), path)
    assert rows_of(path) == [{"text": t, "n": i} for i, t in enumerate(TEXTS)]


def test_txt_is_a_document_a_line(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"\xef\xbb\xbffirst\r\n\nthird \xe2\x80\xa8 still third")
    assert list(read_documents(path)) == [
        Document("first", f"{path}:1"),
        Document("", f"{path}:2"),
        Document("third \u2028 still third", f"{path}:3"),
    ]


def test_csv_rows_carry_the_line_they_start_on(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(csv_bytes(["one\ntwo\nthree", "four"]))
    assert [number for number, _ in read_rows(path)] == [2, 5]


def test_suffix_is_read_whatever_its_case(tmp_path):
    path = tmp_path / "ROWS.JSONL"
    path.write_bytes(jsonl_bytes(["a"]))
    assert rows_of(path) == [{"text": "a", "n": "0"}]


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"])), min_size=1))
def test_any_text_survives_jsonl(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("any") / "rows.jsonl"
    path.write_bytes(jsonl_bytes(texts))
    assert [document.text for document in read_documents(path)] == texts


def test_limit(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl_bytes(["a", "b", "c"]) + b"not reached")
    assert [document.text for document in read_documents(path, limit=2)] == ["a", "b"]


def test_null_is_an_empty_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": null}\n')
    assert [document.text for document in read_documents(path)] == [""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.docx", b"x", r"unknown kind of file, got '\.docx'; known: \.jsonl, .*\.gz or \.zst"),
        ("rows.parquet.gz", b"x", "unknown kind of file"),
        ("rows.jsonl", b'{"text": "a"}\n{"text": \n', r"rows\.jsonl:2: is not JSON"),
        ("rows.jsonl", b'["a"]\n', r"rows\.jsonl:1: is not a JSON object"),
        ("rows.jsonl", b"[" * 100_000, r"rows\.jsonl:1: is not JSON"),
        ("rows.jsonl", b'{"txet": "a"}\n', r":1: has no column text; did you mean txet\?"),
        ("rows.jsonl", b'{"body": "a", "id": "b"}\n', r"no column text; known: body, id"),
        ("rows.jsonl", b'{"text": 3}\n', r":1: column text holds int, not text; name a"),
        ("rows.jsonl", b"", r"rows\.jsonl: holds no documents"),
        ("rows.csv", b"text,n\n", r"rows\.csv: holds no documents"),
        ("rows.csv", b"text,n\na,1\nb\n", r":3: has 1 fields, the header has 2"),
        ("rows.csv", b'text\n"open', r":2: is not CSV"),
        ("rows.txt", b"", r"rows\.txt: holds no documents"),
        ("rows.jsonl.gz", b"plain", "cannot be read .*gzip"),
        ("rows.jsonl.gz", gzip.compress(jsonl_bytes(TEXTS))[:-12], "cut off or damaged"),
        ("rows.parquet", b"PAR1 no", "is not a parquet file"),
    ],
)
def test_bad_file(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(read_documents(path))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_no_value_of_a_record_is_shown(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": ["Patient John Smith MRN 12345678"]}\n')
    with pytest.raises(DataError, match=r":1: column text holds list, not text") as caught:
        list(read_documents(path))
    assert "Smith" not in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["rows.txt", "rows.csv", "rows.jsonl"])
def test_not_utf8_is_named_with_its_byte_offset(tmp_path, name, packed):
    good = b"\xef\xbb\xbf" + jsonl_bytes(["caf\u00e9", "b"])
    content = good + b"caf\xe9\n"
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=f"not UTF-8 at byte {len(good) + 3}, got '0xe9'"):
        list(read_rows(path))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere.jsonl: no such file"):
        list(read_documents(tmp_path / "nowhere.jsonl"))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        list(read_documents(tmp_path / "folder.jsonl"))


def test_zst_without_zstandard_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(b"x")
    with pytest.raises(DependencyError, match=r"zstandard; pip install 'adapt-lm\[zst\]'"):
        list(read_rows(path))


def test_zst(tmp_path):
    zstandard = pytest.importorskip("zstandard", reason="the extra zst is not installed")
    path = tmp_path / "rows.jsonl.zst"
    packed = zstandard.ZstdCompressor().compress(jsonl_bytes(TEXTS))
    path.write_bytes(packed)
    assert [row["text"] for row in rows_of(path)] == TEXTS
    path.write_bytes(packed[:5] + b"nonsense")
    with pytest.raises(DataError, match="cut off or damaged"):
        list(read_rows(path))


def test_hub_data_set_is_streamed(monkeypatch):
    asked = []

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        return iter([{"body": "a"}, {"body": "b"}, {"body": "c"}])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    documents = read_hub_documents("org/set", "body", config="en", split="test", limit=2)
    assert list(documents) == [
        Document("a", "org/set/test:1"),
        Document("b", "org/set/test:2"),
    ]
    assert asked == [(("org/set", "en"), {"split": "test", "streaming": True})]


def test_unreachable_hub_names_alternatives(monkeypatch):
    def load_dataset(*arguments, **options):
        raise ConnectionError("Couldn't reach the Hub\n\nreally")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"org/set/train: cannot be read .* give a file with path"):
        list(read_hub_documents("org/set"))


def test_every_reader_can_be_packed_but_parquet():
    assert set(reading.OPENERS) == {".gz", ".zst"}
    assert set(reading.READERS) == {".jsonl", ".csv", ".parquet", ".txt"}
