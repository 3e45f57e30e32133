"""How each objective reads a document or a row: an encoder takes an item and gives a record."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Encoding

from adapt.training.batches import (
    completion_ids,
    frame_ids,
    plain_encoding,
    prompt_ids,
    prompt_text,
    start_ids,
)
from adapt.training.chat import segments
from adapt.training.encoded import Record
from adapt.training.masking import word_starts
from adapt.vocab.offsets import cells


@dataclass(frozen=True)
class PlainText:
    """Reads documents for next-token prediction.

    Where units are only read, a document's beginning is encoded with units and the rest in base
    pieces. All of it is learned, as the base would write it: in the place of a unit its first
    piece, which is what comes next whether or not the reader takes more at once. So a text teaches
    as much as it does without units, but for the inner pieces of those in its beginning.

    Attributes:
        tokenizer: Of the model.
        completion_tokenizer: The base's, where units are only read; None: units are written too.
        seed: Decides where the beginning ends, at the same share of a text for every tokenizer.
    """

    tokenizer: Any
    completion_tokenizer: Any | None
    seed: int

    def __call__(self, text: str) -> Record:
        """Of one document."""
        start, size = start_ids(self.tokenizer), len(text.encode())
        read = plain_encoding(self.tokenizer, text)
        if self.completion_tokenizer is None:
            ids = start + read.ids
            return Record(ids, [True] * len(ids), size)
        written = plain_encoding(self.completion_tokenizer, text)
        share = random.Random(f"{self.seed} {text}").random()
        first, second = common_cut(text, read, written, share)
        pieces, rest = first_pieces(text, read, written)[:first], written.ids[second:]
        return Record(
            [*start, *read.ids[:first], *rest],
            [*[False] * len(start), *[piece is not None for piece in pieces], *[True] * len(rest)],
            size,
            labels=[*start, *[piece or 0 for piece in pieces], *rest],
        )


def _places(text: str, encoding: Encoding) -> dict[int, int]:
    """The number of tokens before each place that no token lies across, by character."""
    found = dict(zip(*(part.tolist() for part in cells(len(text), encoding.offsets)), strict=True))
    return {0: 0, **found}


def common_cut(text: str, first: Encoding, second: Encoding, share: float) -> tuple[int, int]:
    """Where two segmentations both have a boundary, at most `share` into a text.

    Returns:
        The number of tokens before the cut in the first, and in the second.
    """
    one, other = _places(text, first), _places(text, second)
    both = one.keys() & other.keys()
    cut = max((end for end in both if end <= share * len(text) and end < len(text)), default=0)
    return one[cut], other[cut]


def first_pieces(text: str, read: Encoding, written: Encoding) -> list[int | None]:
    """For each token of one segmentation the token of the other that begins where it begins.

    None inside a character that both cut into bytes, and cut otherwise.
    """
    begins = {number: place for place, number in _places(text, read).items()}
    others, pieces = _places(text, written), [*written.ids, None]
    found: list[int | None] = []
    other: int | None = 0
    for number, id_ in enumerate(read.ids):
        if number in begins:
            other = others.get(begins[number])
        found.append(None if other is None else pieces[other])
        other = other + 1 if other is not None and pieces[other] == id_ else None
    return found


@dataclass(frozen=True)
class Dialogue:
    """Reads prompts with completions, and conversations; only what the model writes is learned.

    Attributes:
        tokenizer: Of what is read.
        completion_tokenizer: Of what is written, where units are only read; None: the same.
        max_length: Longer ones are cut and counted; tokens.
    """

    tokenizer: Any
    completion_tokenizer: Any | None
    max_length: int

    def __call__(self, item: dict[str, Any]) -> Record:
        """Of `{"prompt", "completion"}` or `{"messages", "where"}`."""
        if "messages" in item:
            return self._conversation(item["messages"], item["where"])
        return self._pair(item["prompt"], item["completion"])

    def _pair(self, prompt: str, completion: str) -> Record:
        """The prompt loses tokens from its left when both are too long, then the completion."""
        writer = self.completion_tokenizer or self.tokenizer
        before, after = prompt_ids(self.tokenizer, prompt), completion_ids(writer, completion)
        size = len(prompt.encode()) + len(completion.encode())
        kept = after[: self.max_length - 1]
        excess = max(0, len(before) + len(kept) - self.max_length)
        lost = 0
        if excess:
            text = prompt_text(self.tokenizer, prompt)
            lost += sum(_sizes(self.tokenizer, text, len(before))[:excess])
        if len(kept) < len(after):
            lost += sum(_sizes(writer, completion)[len(kept) :])
        ids = before[excess:] + kept
        flags = [False] * (len(before) - excess) + [True] * len(kept)
        return Record(ids, flags, size, lost)

    def _conversation(self, messages: Sequence[dict[str, str]], where: str) -> Record:
        """The end goes when it is too long, or the beginning where only the end is learned.

        An answer is learned up to the special token that ends it; what comes after the last
        answer teaches nothing and is left out.
        """
        ids: list[int] = []
        flags: list[bool] = []
        sizes: list[int] = []
        for segment in segments(self.tokenizer, messages, where):
            learned = segment.learned
            tokenizer = (self.completion_tokenizer if learned else None) or self.tokenizer
            part = plain_encoding(tokenizer, segment.text).ids
            end = len(part) if learned else 0
            if learned:
                special = special_ids(tokenizer)
                end = max((i + 1 for i, id_ in enumerate(part) if id_ in special), default=end)
            ids += part
            flags += [i < end for i in range(len(part))]
            sizes += _sizes(tokenizer, segment.text)
        size = sum(len(message["content"].encode()) for message in messages)
        last = max(i for i, flag in enumerate(flags) if flag) + 1
        cut = slice(0, min(last, self.max_length))
        if not any(flags[1 : cut.stop]):
            cut = slice(last - self.max_length, last)
        lost = sum(sizes[:last]) - sum(sizes[cut])
        return Record(ids[cut], flags[cut], size, lost)


@dataclass(frozen=True)
class MaskedText:
    """Reads documents for masked language modelling, without what frames a text."""

    tokenizer: Any

    def __call__(self, text: str) -> Record:
        """Of one document."""
        encoding = plain_encoding(self.tokenizer, text)
        return Record(encoding.ids, word_starts(text, encoding.offsets), len(text.encode()))


@dataclass(frozen=True)
class ClassifiedText:
    """Reads texts with their labels; what a tokenizer puts around a text is part of it.

    Attributes:
        tokenizer: Of the model.
        classes: All labels, in order.
        max_length: Longer texts lose their end; tokens.
    """

    tokenizer: Any
    classes: tuple[str, ...]
    max_length: int

    def __call__(self, item: tuple[str, list[str]]) -> Record:
        """Of a text and its labels."""
        text, labels = item
        before, after = frame_ids(self.tokenizer)
        if not before and not after:
            before = start_ids(self.tokenizer)
        ids = plain_encoding(self.tokenizer, text).ids
        room = max(1, self.max_length - len(before) - len(after))
        lost = sum(_sizes(self.tokenizer, text)[room:]) if len(ids) > room else 0
        numbers = sorted(self.classes.index(label) for label in labels)
        return Record([*before, *ids[:room], *after], [], len(text.encode()), lost, numbers)


def special_ids(tokenizer: Any) -> set[int]:  # noqa: ANN401
    """Ids of tokens that stand for no text."""
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(id_ for id_, token in added if token.special)}


def _sizes(tokenizer: Any, text: str, length: int = 0) -> list[int]:  # noqa: ANN401
    """UTF-8 bytes that each token adds to those before it; their sum is that of the text.

    A character of several tokens counts for the first of them.

    Args:
        tokenizer: Encodes the text.
        text: Any.
        length: Tokens, where others, of no bytes, stand before those of the text.
    """
    offsets = plain_encoding(tokenizer, text).offsets
    if not offsets:
        return [0] * length
    upto = np.cumsum([0, *(len(character.encode()) for character in text)])
    ends = np.maximum.accumulate([upto[end] for _, end in offsets])
    ends[-1] = upto[-1]
    sizes: list[int] = np.diff(ends, prepend=0).tolist()
    return [0] * (length - len(sizes)) + sizes
