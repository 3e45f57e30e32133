"""A head of classes: logits to labels, one or several a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax

from adapt.errors import ModelError
from adapt.progress import watched
from adapt.training.parts import learned_positions

THRESHOLD = 0.5


def has_head(model: Any) -> bool:  # noqa: ANN401
    """Whether a model gives a text logits of classes, and writes none."""
    return type(model).__name__.endswith("ForSequenceClassification")


def class_names(model: Any) -> tuple[str, ...]:  # noqa: ANN401
    """The head's labels in the order of its logits, as its configuration names them."""
    return tuple(str(name) for _, name in sorted(model.config.id2label.items()))


def longest_window(model: Any, tokenizer: Any, max_length: int) -> int:  # noqa: ANN401
    """`max_length`, or fewer tokens where the model has no positions for so many."""
    stated = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    positions = learned_positions(model) or stated or max_length
    return int(min(max_length, positions, tokenizer.model_max_length))


def decoder_window(model: Any, max_length: int, after: int = 0) -> int:  # noqa: ANN401
    """`max_length` of a decoder, or fewer tokens where its positions are a table with too few.

    Args:
        model: A causal language model.
        max_length: Tokens.
        after: Tokens that are written behind them, and need positions too.

    Raises:
        ModelError: The table has no position for one token before what is written.
    """
    positions = learned_positions(model)
    if positions is None:
        return max_length
    if positions <= after:
        raise ModelError(
            f"has {positions:,} positions, too few for a prompt and its answer",
            got=f"answers of up to {after:,} tokens",
            fix="lower max_new_tokens, or shorten the labels",
        )
    return int(min(max_length, positions - after))


def encoded(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    texts: Sequence[str],
    max_length: int,
) -> list[list[int]]:
    """Ids of each text with the tokenizer's own special tokens, cut at the right.

    Nothing is longer than the model has positions for.
    """
    if not texts:
        return []
    max_length = longest_window(model, tokenizer, max_length)
    ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=max_length)[
        "input_ids"
    ]
    return ids


@torch.inference_mode()
def class_logits(
    model: Any,  # noqa: ANN401
    texts: Sequence[Sequence[int]],
    *,
    pad: int | None,
    batch_size: int,
    label: str,
) -> NDArray[np.float64]:
    """Logits of an `AutoModelForSequenceClassification`.

    Args:
        model: In evaluation mode.
        texts: Token ids.
        pad: Fills shorter rows up, on the right; None: one text at a time.
        batch_size: Texts at once, those of like length together.
        label: For the progress bar.

    Returns:
        (texts, classes).

    Raises:
        ModelError: The model's output is not one row of logits a text.
    """
    # A decoder's head reads the last token that is not `pad_token_id`, and refuses to guess it.
    if pad is None or model.config.get_text_config().pad_token_id is None:
        pad, batch_size = 0, 1
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
    result = np.zeros((len(texts), len(class_names(model))))
    for first in watched(range(0, len(order), batch_size), label):
        batch = order[first : first + batch_size]
        longest = max(len(texts[i]) for i in batch)
        ids = [[*texts[i], *[pad] * (longest - len(texts[i]))] for i in batch]
        mask = [[1] * len(texts[i]) + [0] * (longest - len(texts[i])) for i in batch]
        logits = model(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
        ).logits
        if logits.shape != (len(batch), result.shape[1]):
            raise ModelError(
                "has no classification head",
                got=f"logits of shape {tuple(logits.shape)}",
                fix="train one (objective classification), or score the task by likelihood",
            )
        result[batch] = logits.double().cpu().numpy()
    return result


def single(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of classes that exclude each other: softmax, (texts, classes)."""
    found: NDArray[np.float64] = softmax(logits, axis=-1)
    return found


def logits_of(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    texts: Sequence[str],
    *,
    max_length: int,
    batch_size: int,
    label: str,
) -> NDArray[np.float64]:
    """`class_logits` of texts.

    Args:
        model: As there.
        tokenizer: Its tokenizer.
        texts: Bare texts, as in training.
        max_length: Texts lose their end beyond this; tokens.
        batch_size: As there.
        label: As there.
    """
    ids = encoded(model, tokenizer, texts, max_length)
    pad = tokenizer.pad_token_id
    return class_logits(model, ids, pad=pad, batch_size=batch_size, label=label)


def several(
    logits: NDArray[np.float64], labels: Sequence[str], threshold: float = THRESHOLD
) -> tuple[list[list[str]], NDArray[np.float64]]:
    """Labels of texts that may have several, or none.

    Args:
        logits: (texts, classes).
        labels: Names of the classes.
        threshold: A label is given where its sigmoid is at least this.

    Returns:
        Labels of each text, and the probabilities (texts, classes), each class by itself.
    """
    probabilities: NDArray[np.float64] = expit(logits)
    chosen = [
        [label for label, p in zip(labels, row, strict=True) if p >= threshold]
        for row in probabilities
    ]
    return chosen, probabilities
