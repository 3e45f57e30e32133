"""What a phase iterates over: examples made when they are asked for, from records on disk."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from adapt.training.batches import (
    IGNORED,
    Example,
    Labelled,
    Part,
    document,
    joined,
)
from adapt.training.encoded import column
from adapt.training.masking import mask_words
from adapt.training.records import special_ids

Kind = TypeVar("Kind")
Row = tuple[Part, ...]

# Steps whose examples are sorted by length together. More would make like lengths more alike and
# the order less random.
_STEPS_SORTED = 16


class Examples(Generic[Kind]):
    """A list whose items are made when they are read.

    Args:
        rows: The parts of documents that each example is made of.
        drawn: Record of each document that was drawn.
        store: The records.
        build: Makes an example of its number and its parts, each with its record.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        drawn: NDArray[np.int64],
        store: Dataset,
        build: Callable[[int, list[tuple[dict[str, Any], Part]]], Kind],
    ) -> None:
        self.rows, self.drawn, self.store, self.build = rows, drawn, store, build

    def __len__(self) -> int:
        """Examples."""
        return len(self.rows)

    def __getitem__(self, number: int) -> Kind:
        """The example of that number."""
        parts = self.rows[number]
        return self.build(number, [(self.store[int(self.drawn[p.drawn])], p) for p in parts])

    def seen(self, examples: int | None = None) -> tuple[int, int, int]:
        """What the first so many examples (None: all) hold.

        Returns:
            Documents, of which a cut one counts once; their UTF-8 bytes; tokens.
        """
        parts = [part for row in self.rows[:examples] for part in row]
        documents = np.unique(np.array([part.drawn for part in parts], dtype=np.int64))
        sizes = column(self.store, "bytes_")[self.drawn[documents]]
        tokens = sum(part.end - part.start for part in parts)
        return len(documents), int(sizes.sum()), tokens


def causal(number: int, parts: list[tuple[dict[str, Any], Part]]) -> Example:
    """Documents in a row, each learning its flagged tokens, or what stands in their place."""
    found = []
    for record, part in parts:
        cut = slice(part.start, part.end)
        ids, labels = record["input_ids"][cut], (record["labels"] or record["input_ids"])[cut]
        learned = zip(labels, record["flags"][cut], strict=True)
        found.append(document(ids, [label if flag else IGNORED for label, flag in learned]))
    return joined(found)


def labelled(number: int, parts: list[tuple[dict[str, Any], Part]]) -> Labelled:
    """A text with its classes."""
    record = parts[0][0]
    return Labelled(record["input_ids"], record["classes"])


def masked(
    tokenizer: Any,  # noqa: ANN401
    frame: tuple[list[int], list[int]],
    probability: float,
    seed: int,
) -> Callable[[int, list[tuple[dict[str, Any], Part]]], Example]:
    """Makes texts with words hidden, by a draw of its own for each example of a seed."""
    special = special_ids(tokenizer)
    every = np.array(sorted(set(tokenizer.get_vocab().values()) - special), dtype=np.int64)
    before, after = frame

    def build(number: int, parts: list[tuple[dict[str, Any], Part]]) -> Example:
        record, part = parts[0]
        ids, labels = mask_words(
            record["input_ids"][part.start : part.end],
            record["flags"][part.start : part.end],
            probability=probability,
            mask=tokenizer.mask_token_id,
            special=special,
            replacements=every,
            seed=(seed, number),
        )
        ids = [*before, *ids, *after]
        labels = [*[IGNORED] * len(before), *labels, *[IGNORED] * len(after)]
        return Example(ids, labels, list(range(len(ids))))

    return build


def windows(drawn: int, length: int, room: int, starts: Callable[[], list[bool]]) -> Iterator[Part]:
    """Cuts a long document into parts of at most `room` tokens, before a word where possible."""
    begin, flags = 0, starts() if length > room else []
    while begin < length:
        end = min(begin + room, length)
        if end < length:
            end = next((i for i in range(end, begin, -1) if flags[i]), end)
        yield Part(drawn, begin, end)
        begin = end


def grouped(rows: Iterable[Row], sequences: int, seed: int) -> list[Row]:
    """Reorders examples so that those of a step are of like length.

    Args:
        rows: In the order they were drawn; each stays within `_STEPS_SORTED` steps of its place.
        sequences: Examples of a step.
        seed: Of the order of steps.
    """
    rng = random.Random(seed)
    given, size = list(rows), sequences * _STEPS_SORTED
    result: list[Row] = []
    for start in range(0, len(given), size):
        some = sorted(given[start : start + size], key=_tokens, reverse=True)
        steps = [some[i : i + sequences] for i in range(0, len(some), sequences)]
        last = steps.pop() if len(steps[-1]) < sequences else []  # a part of a step comes last
        rng.shuffle(steps)
        result += [row for step in [*steps, last] for row in step]
    return result


def _tokens(row: Row) -> int:
    return sum(part.end - part.start for part in row)
