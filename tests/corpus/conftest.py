"""Source files of the tests, written in an empty folder."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def write_rows(tmp_path, monkeypatch):
    """Writes rows as jsonl; paths are relative, as in a recipe."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, rows: list[dict]) -> str:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return name

    return write
