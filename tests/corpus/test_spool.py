"""Rows wait in a file and go where they belong, byte for byte, in their order."""

import datetime
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.corpus.spool import Spool

ROWS = st.lists(
    st.tuples(
        st.dictionaries(st.text(max_size=3), st.text() | st.integers() | st.none(), max_size=3),
        st.sampled_from(["a.jsonl", "b/c.jsonl", None]),
    ),
    max_size=12,
)


@given(ROWS)
def test_every_row_goes_to_its_file_in_order(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("spool")
    files = [folder / "a.jsonl", folder / "b" / "c.jsonl"]
    with Spool(folder) as spool:
        for row, _ in rows:
            spool.add(row)
        assert not list(folder.iterdir())  # it has no name, so nothing of it can be left behind
        spool.deal((name and folder / name for _, name in rows), files)
    for path in files:
        written = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert written == [row for row, name in rows if name and folder / name == path]


def test_what_json_and_utf_8_lack(tmp_path):
    with Spool(tmp_path) as spool:
        spool.add({"seen": datetime.date(2026, 1, 2), "text": "é\u2028"})
        spool.add({"text": "\ud800 half a pair"})
        spool.deal([tmp_path / "out"] * 2, [tmp_path / "out"])
    first, second, end = Path(tmp_path / "out").read_bytes().split(b"\n")
    assert json.loads(first) == {"seen": "2026-01-02", "text": "é\u2028"}
    assert "é".encode() in first
    assert json.loads(second) == {"text": "\ud800 half a pair"}
    assert end == b""


def test_a_line_without_a_place_is_an_error(tmp_path):
    with Spool(tmp_path) as spool:
        spool.add({})
        with pytest.raises(ValueError, match="shorter"):
            spool.deal([], [])
