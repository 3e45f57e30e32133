"""How many documents a phase takes, and how they become examples."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset, concatenate_datasets
from numpy.typing import NDArray
from torch import Tensor

from adapt.corpus import Corpus, Split
from adapt.recipe.evaluation import AnyTask
from adapt.recipe.training import Phase
from adapt.training.batches import Part, collate, collate_padded
from adapt.training.encoded import column, encode_once, tokenizer_mark
from adapt.training.examples import Examples, Row, grouped
from adapt.training.passages import passage_bytes, passages
from adapt.workspace import digest

Item = TypeVar("Item")


@dataclass(frozen=True)
class Classes:
    """Labels of a classification phase.

    Attributes:
        names: In the order of the head's outputs.
        several: Whether a text may have several, or none.
        weights: Weight of each class in the loss (several: of its positive side); None: equal.
    """

    names: tuple[str, ...]
    several: bool
    weights: tuple[float, ...] | None


@dataclass(frozen=True)
class PhaseData:
    """Examples of one phase.

    Attributes:
        examples: In training order; made when they are read.
        documents: Documents, passages of long ones or task rows they come from, repeats counted.
        bytes_: UTF-8 bytes of those, prompts included.
        tokens: Tokens, padding left out.
        truncated_documents: Of the documents, those that did not fit max_length; clm and mlm cut
            long documents into several examples and lose nothing.
        truncated_bytes: UTF-8 bytes that these lost, chat template included.
        collate: Makes a batch of examples.
        classes: Labels of a classification phase, else None.
    """

    examples: Examples[Any]
    documents: int
    bytes_: int
    tokens: int
    truncated_documents: int
    truncated_bytes: int
    collate: Callable[[Sequence[Any]], dict[str, Tensor]]
    classes: Classes | None = None


@dataclass(frozen=True)
class Request:
    """The arguments of `phase_data`, for an objective."""

    phase: Phase
    tokenizer: Any
    corpus: Corpus
    tasks: Sequence[AnyTask]
    seed: int
    documents: int | None
    completion_tokenizer: Any | None
    cache: Path | None
    split: Split
    bytes_: int | None = None

    @property
    def sequences(self) -> int | None:
        """Examples that fill the phase's steps; None: of the documents that are asked for."""
        if self.split != "train" or self.documents or self.bytes_ is not None:
            return None
        return sequences_a_step(self.phase) * self.phase.max_steps

    @property
    def passage_bytes(self) -> int:
        """UTF-8 bytes above which a document is cut; the same for a control and its pair."""
        steps, each = self.phase.max_steps, sequences_a_step(self.phase)
        return passage_bytes(self.phase.max_length, steps * each)

    def asked(self, numbers: Iterator[int], sizes: NDArray[np.int64]) -> Iterator[int]:
        """The first records of an order: as many as were asked for, or as the bytes have room for.

        Args:
            numbers: Of records; maybe without an end.
            sizes: UTF-8 bytes of each record.
        """
        if self.bytes_ is None:
            yield from islice(numbers, self.documents)
            return
        room = self.bytes_
        for place, number in enumerate(numbers):
            room -= max(1, int(sizes[number]))
            if place and room < 0:  # never none
                return
            yield number

    def order(self, count: int) -> Iterator[int]:
        """Numbers of records: over and over to train, once to validate."""
        return iter(range(count)) if self.split != "train" else _endless(range(count), self.seed)

    @property
    def packs(self) -> bool:
        """Whether several documents share a row."""
        return self.phase.packing and self.phase.objective in ("clm", "sft")

    def marks(self) -> list[str | None]:
        """What the tokenizers add to a cache's key."""
        return [tokenizer_mark(self.tokenizer), tokenizer_mark(self.completion_tokenizer)]


def sequences_a_step(phase: Phase) -> int:
    """Sequences that one optimizer step sees, whatever the number of processes."""
    return phase.per_device_train_batch_size * phase.gradient_accumulation_steps


def filled(
    request: Request,
    store: Dataset,
    plan: Callable[[Sequence[int]], list[Row]],
    build: Callable[..., Any],
) -> PhaseData:
    """Documents in order until the steps are full, or as many as were asked for.

    Args:
        request: The phase.
        store: Records of all documents.
        plan: Lays documents, given as numbers of records, out in examples, in order.
        build: Makes an example.
    """
    drawn: list[int] = []
    lengths = column(store, "tokens")
    sequences = request.sequences
    room = (sequences or 0) * request.phase.max_length
    for number in request.asked(request.order(len(store)), column(store, "bytes_")):
        room -= max(1, int(lengths[number]))
        enough = len(drawn) == sequences and not request.packs
        if sequences and drawn and (room < 0 or enough):
            break
        drawn.append(number)
    rows = plan(drawn)
    if sequences and len(rows) > sequences:
        # Rows are filled in order, so those before the first that overflows stay as they are.
        del drawn[max(1, rows[sequences][0].drawn) :]
        rows = plan(drawn)
    return _data(request, store, drawn, rows, build)


def in_turn(request: Request, stores: Sequence[Dataset], build: Callable[..., Any]) -> PhaseData:
    """One example a record: of each store in turn, in an order of its own."""
    store = concatenate_datasets(list(stores))
    first = np.cumsum([0, *map(len, stores)]).tolist()
    if request.split != "train":
        drawn = list(range(len(store)))
    else:
        streams = [request.order(len(part)) for part in stores]
        numbers = request.asked(_by_turns(streams, first), column(store, "bytes_"))
        drawn = list(islice(numbers, request.sequences))
    lengths = column(store, "tokens")
    rows: list[Row] = [(Part(i, 0, int(lengths[n])),) for i, n in enumerate(drawn)]
    return _data(request, store, drawn, rows, build)


def _by_turns(streams: Sequence[Iterator[int]], first: Sequence[int]) -> Iterator[int]:
    """A number of each stream in turn, behind its first, until one has no more."""
    for turn in cycle(range(len(streams))):
        number = next(streams[turn], None)
        if number is None:
            return
        yield first[turn] + number


def _data(
    request: Request,
    store: Dataset,
    numbers: Sequence[int],
    rows: list[Row],
    build: Callable[..., Any],
) -> PhaseData:
    phase, drawn = request.phase, np.array(numbers, dtype=np.int64)
    if not request.packs and request.split == "train":
        rows = grouped(rows, sequences_a_step(phase), request.seed)
    pad = pad_id(request.tokenizer)
    examples = Examples(rows, drawn, store, build)
    lost = column(store, "lost")[drawn]
    _, _, tokens = examples.seen()
    return PhaseData(
        examples,
        len(drawn),
        int(column(store, "bytes_")[drawn].sum()),
        tokens,
        int((lost > 0).sum()),
        int(lost.sum()),
        partial(collate, max_length=phase.max_length, pad=pad)
        if request.packs
        else partial(collate_padded, pad=pad),
    )


def pad_id(tokenizer: Any) -> int:  # noqa: ANN401
    """What fills rows up: any token where there is none for it, for models do not see it."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((int(id_) for id_ in known if id_ is not None), 0)


def corpus_records(request: Request, encode: Any, key: list[Any]) -> Dataset:  # noqa: ANN401
    """Records of the documents on the request's side of the corpus, long ones in passages.

    Documents to validate on stay whole: nothing is filled with them.

    Args:
        request: The phase.
        encode: Makes a record of a text.
        key: What decides the records besides the text.
    """
    corpus, split = request.corpus, request.split
    path = corpus.folder / f"{split}.jsonl"
    longest = request.passage_bytes if split == "train" else None

    def items() -> Iterator[str]:
        for text in corpus.documents(split):
            yield from [text] if longest is None else passages(text, longest)

    return encode_once(
        items,
        encode,
        key=[*key, digest(path), longest],
        cache=request.cache,
        size=path.stat().st_size,
        label=f"Encoding for {request.phase.name}",
    )


def row_records(request: Request, items: Sequence[Any], encode: Any, key: object) -> Dataset:  # noqa: ANN401
    """Records of rows.

    Args:
        request: The phase.
        items: What `encode` takes.
        encode: Makes a record of an item.
        key: All that decides the records, the rows included.
    """
    return encode_once(
        lambda: items,
        encode,
        key=key,
        cache=request.cache,
        size=sum(len(str(item)) for item in items),
        label=f"Encoding for {request.phase.name}",
    )


def _endless(items: Sequence[Item], seed: int) -> Iterator[Item]:
    """The items over and over, shuffled anew each time round."""
    rng = random.Random(seed)
    while items:
        yield from rng.sample(items, len(items))
