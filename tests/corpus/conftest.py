"""Small glossaries: enough texts for every side of a split, with templates that leak."""

import json
from pathlib import Path

import pytest

ORGANS = ["eye", "ear", "liver", "kidney", "heart", "lung", "skin", "bone", "brain", "nose"]


def definitions(count: int = 60) -> list[str]:
    """Definitions in pairs: each unlike the others, but for a twin that shares its template."""
    return [
        f"Finding {i // 2} shows {chr(97 + i // 2 % 26) * 3}{i // 2} tissue with a change of "
        f"degree {i // 2 * 31} in the {'left' if i % 2 else 'right'} part"
        for i in range(count)
    ]


@pytest.fixture
def write_rows(tmp_path, monkeypatch):
    """Writes rows as jsonl; paths are relative, as in a recipe."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, rows: list[dict]) -> str:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return name

    return write
