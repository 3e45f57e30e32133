"""Bits per byte: how well a model predicts text, comparable across tokenizers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from adapt.progress import watched
from adapt.training.batches import encode_documents

Window = tuple[int, list[int], int]  # document, ids, first position that is scored


def document_bits(
    model: Any,  # noqa: ANN401 - transformers' models share no typed base
    tokenizer: Any,  # noqa: ANN401
    texts: Sequence[str],
    *,
    max_length: int,
    batch_size: int,
    label: str,
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

    Returns:
        (documents,) bits. Sum them and divide by the bytes for bits per byte.
    """
    windows: list[Window] = []
    for i, ids in enumerate(encode_documents(tokenizer, texts)):
        windows += [(i, part, first) for part, first in _windows(ids, max_length)]
    windows.sort(key=lambda window: len(window[1]), reverse=True)
    bits = np.zeros(len(texts))
    batches = [windows[i : i + batch_size] for i in range(0, len(windows), batch_size)]
    for batch in watched(batches, label):
        for (i, _, _), nats in zip(batch, _nats(model, batch), strict=True):
            bits[i] += nats / math.log(2)
    return bits


def _windows(ids: list[int], max_length: int) -> list[tuple[list[int], int]]:
    """Windows over one document, each with the first position it scores."""
    if len(ids) <= max_length:
        return [(ids, 1)]
    stride = max_length // 2
    windows = [(ids[:max_length], 1)]
    scored = max_length
    while scored < len(ids):
        end = min(scored + stride, len(ids))
        windows.append((ids[end - max_length : end], max_length - (end - scored)))
        scored = end
    return windows


@torch.inference_mode()
def _nats(model: Any, batch: Sequence[Window]) -> list[float]:  # noqa: ANN401
    """Negative log probability of the scored positions of each window."""
    longest = max(len(ids) for _, ids, _ in batch)
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for _, ids, _ in batch])
    logits = model(input_ids=padded.to(model.device), use_cache=False).logits
    result = []
    for row, (_, ids, first) in zip(logits, batch, strict=True):
        target = torch.tensor(ids[first:], dtype=torch.long, device=row.device)
        scored = row[first - 1 : len(ids) - 1].float()  # (scored tokens, vocabulary)
        result.append(float(cross_entropy(scored, target, reduction="sum")))
    return result
