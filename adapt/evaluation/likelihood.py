"""Bits per byte: how well a model predicts text, comparable across tokenizers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from adapt.evaluation.heads import decoder_window
from adapt.progress import watched
from adapt.training.batches import encode_documents

Window = tuple[int, list[int], int]  # document, ids, first position that is scored


@dataclass(frozen=True)
class Reading:
    """What one pass over documents measures.

    Attributes:
        bits: Negative log2 probability of each document; shape (documents,).
        positions: Tokens of each that were predicted; shape (documents,).
        new: Probability put on new tokens, summed over those positions; shape (documents,).
    """

    bits: NDArray[np.float64]
    positions: NDArray[np.int64]
    new: NDArray[np.float64]


def document_bits(
    model: Any,  # noqa: ANN401 - transformers' models share no typed base
    tokenizer: Any,  # noqa: ANN401
    texts: Sequence[str],
    *,
    max_length: int,
    batch_size: int,
    label: str,
    writer: Any = None,  # noqa: ANN401
) -> NDArray[np.float64]:
    """Negative log2 probability of each document, all of its tokens, given its start token.

    A document longer than `max_length` tokens is read in windows that overlap by half: each token
    is predicted once, from at least `max_length // 2` tokens before it. Rows are padded on the
    right, where causal attention never looks.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        texts: Documents.
        max_length: Longest window; tokens.
        batch_size: Windows at once.
        label: For the progress bar.
        writer: Where units are only read, the tokenizer of what is written. Then the second half
            of each document is scored (see `halves`), in its tokens, after the first half in
            `tokenizer`'s. A base to compare with gives its own tokenizer twice.

    Returns:
        (documents,) bits. Sum them and divide by the bytes of what was scored for bits per byte.
    """
    return read_documents(
        model,
        tokenizer,
        texts,
        max_length=max_length,
        batch_size=batch_size,
        label=label,
        writer=writer,
    ).bits


def read_documents(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    texts: Sequence[str],
    *,
    max_length: int,
    batch_size: int,
    label: str,
    writer: Any = None,  # noqa: ANN401
    new_ids: Sequence[int] = (),
) -> Reading:
    """`document_bits`, and how much probability the model puts on new tokens in the same pass.

    Args:
        model: As for `document_bits`.
        tokenizer: As there.
        texts: As there.
        max_length: As there.
        batch_size: As there.
        label: As there.
        writer: As there.
        new_ids: Ids of the new tokens; without any, `new` is all 0.
    """
    max_length = decoder_window(model, max_length)
    windows: list[Window] = []
    for i, (ids, scored) in enumerate(_encoded(tokenizer, writer, texts)):
        windows += [(i, part, first) for part, first in _windows(ids, scored, max_length)]
    windows.sort(key=lambda window: len(window[1]), reverse=True)
    nats, new = np.zeros(len(texts)), np.zeros(len(texts))
    positions = np.zeros(len(texts), dtype=np.int64)
    batches = [windows[i : i + batch_size] for i in range(0, len(windows), batch_size)]
    for batch in watched(batches, label):
        for (i, ids, first), (lost, mass) in zip(batch, _nats(model, batch, new_ids), strict=True):
            nats[i] += lost
            new[i] += mass
            positions[i] += len(ids) - first
    return Reading(nats / math.log(2), positions, new)


def halves(text: str) -> tuple[str, str]:
    """A document's first half, and the rest from the space on that follows its middle.

    Where none follows, the last one before it; a text without spaces is cut in its middle. Of a
    single character the rest is empty, and nothing of it is scored.
    """
    middle = len(text) // 2
    after, before = text.find(" ", middle), text.rfind(" ", 1, middle)
    cut = next((place for place in (after, before, middle) if place > 0), len(text))
    return text[:cut], text[cut:]


def _encoded(
    tokenizer: Any,  # noqa: ANN401
    writer: Any,  # noqa: ANN401
    texts: Sequence[str],
) -> Iterator[tuple[list[int], int]]:
    """Ids of each document, and the first that is scored."""
    if writer is None:
        yield from ((ids, 1) for ids in encode_documents(tokenizer, texts))
        return
    firsts, seconds = zip(*map(halves, texts), strict=True)
    for read, rest in zip(encode_documents(tokenizer, firsts), seconds, strict=True):
        written = writer.backend_tokenizer.encode(rest, add_special_tokens=False).ids
        yield read + written, max(len(read), 1)


def _windows(ids: list[int], first: int, max_length: int) -> list[tuple[list[int], int]]:
    """Windows over one document, each with the first position it scores."""
    if len(ids) <= max_length:
        return [(ids, first)] if first < len(ids) else []
    stride = max_length // 2
    windows = [(ids[:max_length], first)] if first < max_length else []
    scored = max(first, max_length)
    while scored < len(ids):
        end = min(scored + stride, len(ids))
        windows.append((ids[end - max_length : end], max_length - (end - scored)))
        scored = end
    return windows


@torch.inference_mode()
def _nats(
    model: Any,  # noqa: ANN401
    batch: Sequence[Window],
    new_ids: Sequence[int],
) -> list[tuple[float, float]]:
    """Negative log probability of the scored positions of each window; probability of new ids."""
    longest = max(len(ids) for _, ids, _ in batch)
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for _, ids, _ in batch])
    logits = model(input_ids=padded.to(model.device), use_cache=False).logits
    result = []
    for row, (_, ids, first) in zip(logits, batch, strict=True):
        target = torch.tensor(ids[first:], dtype=torch.long, device=row.device)
        scored = row[first - 1 : len(ids) - 1].float()  # (scored tokens, vocabulary)
        lost = float(cross_entropy(scored, target, reduction="sum"))
        mass = 0.0
        if new_ids:
            share = scored[:, list(new_ids)].logsumexp(-1) - scored.logsumexp(-1)
            mass = float(share.exp().sum())
        result.append((lost, mass))
    return result
