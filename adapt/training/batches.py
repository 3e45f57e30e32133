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


def pack(documents: Iterable[Sequence[int]], max_length: int) -> Iterator[Example]:
    """Fills sequences of `max_length` tokens with documents, in order.

    A document that does not fit is cut, and goes on in the next sequence without what came
    before. A part has at least two tokens, for one alone predicts nothing.

    Args:
        documents: Ids of each, at least two; shorter ones are left out.
        max_length: Longest sequence; tokens, at least 4.
    """
    row: list[Example] = []
    room = max_length
    for ids in documents:
        rest = list(ids)
        while len(rest) > 1:
            take = min(room, len(rest))
            take -= len(rest) - take == 1  # never leave one token alone
            if take > 1:
                row.append(document(rest[:take], rest[:take]))
                rest, room = rest[take:], room - take
            if rest or room < 2:
                yield joined(row)
                row, room = [], max_length
    if row:
        yield joined(row)


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


def start_ids(tokenizer: Any) -> list[int]:  # noqa: ANN401
    """What stands before a document, so that its first token is predicted too.

    What the tokenizer itself puts there; else what separated documents in pre-training, which is
    <|endoftext|> in the families that have it (with SmolLM2, whose `bos_token` opens a chat turn,
    it is worth 8 % of the bits of short documents); else the beginning- or end-of-sequence token.
    """
    own: list[int] = tokenizer("", add_special_tokens=True)["input_ids"]
    if own:
        return own[:1]
    separator = tokenizer.get_vocab().get("<|endoftext|>")
    known = (separator, tokenizer.bos_token_id, tokenizer.eos_token_id)
    return next(([id_] for id_ in known if id_ is not None), [])


def encode_documents(tokenizer: Any, texts: Iterable[str]) -> Iterator[list[int]]:  # noqa: ANN401
    """Ids of each document, with `start_ids` before it."""
    start = start_ids(tokenizer)
    backend = tokenizer.backend_tokenizer
    for text in texts:
        yield start + backend.encode(text, add_special_tokens=False).ids


def encode_completion(
    tokenizer: Any,  # noqa: ANN401
    prompt: str,
    completion: str,
    max_length: int,
) -> Example:
    """A prompt in the model's chat template and its completion; loss on the completion only.

    The prompt loses tokens from its left when both are too long; the completion's end then goes.
    """
    before = prompt_ids(tokenizer, prompt)
    after = completion_ids(tokenizer, completion)[: max_length - 1]
    before = before[max(0, len(before) + len(after) - max_length) :]
    return document(before + after, [IGNORED] * len(before) + after)


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:  # noqa: ANN401
    """Ids of a user's turn up to where the model answers."""
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
    else:
        text = f"{prompt}\n"
    ids: list[int] = tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    return ids


def completion_ids(tokenizer: Any, completion: str) -> list[int]:  # noqa: ANN401
    """Ids of an answer, with the token that ends it."""
    ids: list[int] = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return ids if tokenizer.eos_token_id is None else [*ids, tokenizer.eos_token_id]
