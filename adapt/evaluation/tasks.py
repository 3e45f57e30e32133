"""What tasks of both kinds share: who is scored, on what, and what is written of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapt.evaluation.slices import fragmented
from adapt.recipe.evaluation import AnyTask
from adapt.training.phases import prompts
from adapt.workspace import write_json, write_text

SHOWN = 20  # worst rows, and best ones, that go to the report

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Subject:
    """What is scored.

    Attributes:
        model: In evaluation mode; a causal language model, or one with a head of classes.
        tokenizer: Its tokenizer.
        name: For progress bars and file names: base, control, adapted ...
        new_ids: Ids of its new tokens, for the adoption rate; none for a base tokenizer.
        baselines: Whether baselines are measured beside it.
        writer: Tokenizer of what it writes, where units are only read; None: the same.
        base_tokenizer: Says which rows are fragmented; None: that is not asked.
    """

    model: Any
    tokenizer: Any
    name: str
    new_ids: tuple[int, ...] = ()
    baselines: bool = False
    writer: Any = None
    base_tokenizer: Any = None

    def fragmented(self, texts: Sequence[str]) -> tuple[int, ...]:
        """The rows of these texts where a new vocabulary should help most."""
        if self.base_tokenizer is None:
            return ()
        return fragmented(self.base_tokenizer.backend_tokenizer, texts)


def columns(task: AnyTask, rows: Rows) -> tuple[list[str], list[str]]:
    """Prompts and references."""
    pairs = prompts(task, iter(rows))
    return [prompt for prompt, _ in pairs], [reference for _, reference in pairs]


def place_of(task: AnyTask, subject: Subject, predictions: Path) -> Path:
    """Where a model's answers go, without the ends of names."""
    return predictions / f"{task.name}.{subject.name}"


def extremes(order: NDArray[np.int64]) -> tuple[tuple[int, ...], int]:
    """The rows that scored worst, worst first, and best, best first; and how many are the worst.

    Where there are few rows each is in one half only.
    """
    rows = order.tolist()
    worst = rows[: min(SHOWN, (len(rows) + 1) // 2)]
    best = rows[len(worst) :][::-1][:SHOWN]
    return tuple(worst + best), len(worst)


def write_rows(
    place: Path,
    settings: dict[str, Any],
    asked: Sequence[str],
    references: Sequence[str],
    said: Sequence[str],
    columns: dict[str, Sequence[Any]],
) -> None:
    """`<task>.<model>.jsonl` with a row a line, and `<task>.<model>.settings.json`."""
    lines = []
    for i, (prompt, reference, answer) in enumerate(zip(asked, references, said, strict=True)):
        row = {"prompt": prompt, "reference": reference, "answer": answer}
        row |= {name: column[i] for name, column in columns.items()}
        lines.append(json.dumps(row, ensure_ascii=False))
    write_json(place.with_name(f"{place.name}.settings.json"), settings)
    write_text(place.with_name(f"{place.name}.jsonl"), "\n".join(lines) + "\n")
