"""Text to token ids to batches.

An example is one sequence that is not attended to from outside: ids, labels and positions, all
lists of the same length. Several examples share a row of a batch; positions that start again at 0
are what tells `transformers` where one ends, so no attention crosses documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Encoding
from torch import Tensor

IGNORED = -100


@dataclass(frozen=True)
class Example:
    """One or more documents in a row.

    Attributes:
        input_ids: Token ids.
        labels: What each position is to predict for its own token; `IGNORED` where nothing.
        position_ids: 0, 1, ... from each document's start.
    """

    input_ids: list[int]
    labels: list[int]
    position_ids: list[int]

    def __len__(self) -> int:
        """Tokens."""
        return len(self.input_ids)


def document(ids: Sequence[int], labels: Sequence[int]) -> Example:
    """An example of one document; its first token has nothing to be predicted from."""
    return Example(list(ids), [IGNORED, *labels[1:]], list(range(len(ids))))


def joined(examples: Sequence[Example]) -> Example:
    """Several examples as one."""
    return Example(
        [id_ for e in examples for id_ in e.input_ids],
        [label for e in examples for label in e.labels],
        [position for e in examples for position in e.position_ids],
    )


@dataclass(frozen=True)
class Labelled:
    """A text with its classes.

    Attributes:
        input_ids: Token ids.
        classes: Numbers of the labels that it has; exactly one unless it may have several.
    """

    input_ids: list[int]
    classes: list[int]

    def __len__(self) -> int:
        """Tokens."""
        return len(self.input_ids)


@dataclass(frozen=True)
class Part:
    """Tokens `start` to `end` of the document that was drawn as number `drawn`."""

    drawn: int
    start: int
    end: int


def plan_rows(lengths: Iterable[int], max_length: int) -> Iterator[tuple[Part, ...]]:
    """Fills sequences of `max_length` tokens with documents, in order.

    A document that does not fit is cut. It goes on in the next sequence with its last token once
    more, from which the next is predicted, and without what came before: so every token but a
    document's first is predicted exactly once.

    Args:
        lengths: Tokens of each document; those under two are left out.
        max_length: Longest sequence; tokens, at least 2.
    """
    row: list[Part] = []
    room = max_length
    for drawn, length in enumerate(lengths):
        start = 0
        while length - start > 1:
            end = min(start + room, length)
            row.append(Part(drawn, start, end))
            room -= end - start
            start = end - 1
            if length - start > 1 or room < 2:
                yield tuple(row)
                row, room = [], max_length
    if row:
        yield tuple(row)


def pack(documents: Iterable[Sequence[int]], max_length: int) -> Iterator[Example]:
    """Documents in sequences as `plan_rows` lays them."""
    texts = list(documents)
    for row in plan_rows(map(len, texts), max_length):
        parts = [texts[part.drawn][part.start : part.end] for part in row]
        yield joined([document(ids, ids) for ids in parts])


def collate(examples: Sequence[Example], max_length: int, pad: int) -> dict[str, Tensor]:
    """Packs examples into as few rows of `max_length` tokens as first fit finds, and pads.

    Args:
        examples: Each at most `max_length` tokens.
        max_length: Longest row; tokens.
        pad: Id that fills rows up; its positions start again at 0, so nothing attends to them.

    Returns:
        `input_ids`, `labels`, `position_ids`: (rows, tokens of the longest row), int64.
    """
    rows: list[list[Example]] = []
    for example in sorted(examples, key=len, reverse=True):
        for row in rows:
            if sum(map(len, row)) + len(example) <= max_length:
                row.append(example)
                break
        else:
            rows.append([example])
    filled = [joined(row) for row in rows]
    longest = max(map(len, filled))
    padded = [
        joined([e, Example([pad] * n, [IGNORED] * n, list(range(n)))])
        for e in filled
        for n in [longest - len(e)]
    ]
    return {
        key: torch.tensor([getattr(e, key) for e in padded])
        for key in ("input_ids", "labels", "position_ids")
    }


def collate_padded(examples: Sequence[Example], pad: int) -> dict[str, Tensor]:
    """A row for each example, filled up on the right.

    Args:
        examples: One document each.
        pad: Id that fills rows up; the attention mask hides it.

    Returns:
        `input_ids`, `labels`, `attention_mask`: (examples, tokens of the longest), int64.
    """
    batch = _padded([e.input_ids for e in examples], pad)
    longest = batch["input_ids"].shape[1]
    labels = [e.labels + [IGNORED] * (longest - len(e)) for e in examples]
    return {**batch, "labels": torch.tensor(labels)}


def collate_labelled(
    examples: Sequence[Labelled], pad: int, several: int | None
) -> dict[str, Tensor]:
    """A row for each text, filled up on the right.

    Args:
        examples: Texts with their classes.
        pad: Id that fills rows up; the attention mask hides it.
        several: Number of classes where a text may have several, else None.

    Returns:
        `input_ids`, `attention_mask`: (examples, tokens of the longest), int64; `labels`:
        (examples,) int64, or (examples, classes) float32 of zeros and ones.
    """
    batch = _padded([e.input_ids for e in examples], pad)
    if several is None:
        return {**batch, "labels": torch.tensor([e.classes[0] for e in examples])}
    labels = torch.zeros(len(examples), several)
    for row, example in zip(labels, examples, strict=True):
        row[example.classes] = 1.0
    return {**batch, "labels": labels}


def _padded(rows: Sequence[list[int]], pad: int) -> dict[str, Tensor]:
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([ids + [pad] * (longest - len(ids)) for ids in rows]),
        "attention_mask": torch.tensor([[int(i < len(r)) for i in range(longest)] for r in rows]),
    }


def start_ids(tokenizer: Any) -> list[int]:  # noqa: ANN401
    """What stands before a document, so that its first token is predicted too.

    What the tokenizer itself puts there; else what separated documents in pre-training, which is
    <|endoftext|> in the families that have it (with SmolLM2, whose `bos_token` opens a chat turn,
    it is worth 8 % of the bits of short documents); else the beginning- or end-of-sequence token.
    """
    own: list[int] = tokenizer("", add_special_tokens=True)["input_ids"]
    if own:
        return own[:1]
    separator = tokenizer.backend_tokenizer.token_to_id("<|endoftext|>")
    known = (separator, tokenizer.bos_token_id, tokenizer.eos_token_id)
    return next(([id_] for id_ in known if id_ is not None), [])


def frame_ids(tokenizer: Any) -> tuple[list[int], list[int]]:  # noqa: ANN401
    """What the tokenizer puts before and after a text, such as [CLS] and [SEP]."""
    bare = plain_encoding(tokenizer, "a").ids
    framed: list[int] = tokenizer.backend_tokenizer.encode("a").ids
    count = len(framed) - len(bare)
    before = next((n for n in range(count + 1) if framed[n : n + len(bare)] == bare), 0)
    return framed[:before], framed[before + len(bare) :]


def encode_documents(tokenizer: Any, texts: Iterable[str]) -> Iterator[list[int]]:  # noqa: ANN401
    """Ids of each document, with `start_ids` before it."""
    start = start_ids(tokenizer)
    for text in texts:
        yield start + plain_encoding(tokenizer, text).ids


def plain_encoding(tokenizer: Any, text: str) -> Encoding:  # noqa: ANN401
    """A text alone: nothing put around it, cut off or filled up."""
    backend = tokenizer.backend_tokenizer
    if backend.truncation or backend.padding:  # stored settings; transformers clears them too
        backend.no_truncation()
        backend.no_padding()
    found: Encoding = backend.encode(text, add_special_tokens=False)
    return found


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:  # noqa: ANN401
    """Ids of a user's turn up to where the model answers."""
    text = prompt_text(tokenizer, prompt)
    ids: list[int] = tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    return ids


def prompt_text(tokenizer: Any, prompt: str) -> str:  # noqa: ANN401
    """A user's turn up to where the model answers, in the model's chat template if it has one."""
    if not tokenizer.chat_template:
        return f"{prompt}\n"
    turn = [{"role": "user", "content": prompt}]
    text: str = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return text


def completion_ids(tokenizer: Any, completion: str) -> list[int]:  # noqa: ANN401
    """Ids of an answer, with the token that ends it."""
    ids: list[int] = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return ids if tokenizer.eos_token_id is None else [*ids, tokenizer.eos_token_id]
