"""Generation that can only write a label: each token must be one that some label goes on with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import log_softmax

from adapt.errors import ModelError
from adapt.evaluation.generation import decoding, left_padded
from adapt.progress import watched

Ids = Sequence[int]
Path = tuple[int, ...]


def constrained(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[Ids],
    answers: Sequence[Ids],
    *,
    num_beams: int,
    batch_size: int,
    label: str,
) -> tuple[list[int], NDArray[np.float64]]:
    """Writes one of the answers after each prompt.

    Greedily, each token is the likeliest of those allowed, so a label may win by its first token
    alone. With as many beams as labels the likeliest label is found, as by its likelihood.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer, for its end and padding tokens.
        prompts: Token ids, at least one each.
        answers: Token ids, each closed by the end token (`completion_ids`).
        num_beams: 1: greedy.
        batch_size: Prompts at once, those of like length together.
        label: For the progress bar.

    Returns:
        For each prompt which answer it got, and with what probability: greedily, the product over
        its tokens of the probability among the allowed ones; with beams, the answer's share of
        the beams' probability.

    Raises:
        ModelError: The tokenizer has no end token, so that a label that begins another could
            never end.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError("has no end-of-sequence token", fix="score the task by likelihood")
    options = _options(tokenizer, answers, num_beams)
    chosen, sure = [0] * len(prompts), np.zeros(len(prompts))
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    for batch in watched(batches, label):
        found = _batch(model, tokenizer, [prompts[i] for i in batch], answers, options)
        for i, (which, probability) in zip(batch, found, strict=True):
            chosen[i], sure[i] = which, probability
    return chosen, sure


def continuations(answers: Sequence[Ids]) -> dict[Path, list[int]]:
    """The tokens that some answer goes on with, after each beginning of an answer."""
    following: dict[Path, dict[int, None]] = {}
    for ids in answers:
        for i, id_ in enumerate(ids):
            following.setdefault(tuple(ids[:i]), {})[id_] = None
    return {path: list(ids) for path, ids in following.items()}


def _options(tokenizer: Any, answers: Sequence[Ids], num_beams: int) -> dict[str, Any]:  # noqa: ANN401
    beams = min(num_beams, len(answers))
    config = decoding(tokenizer, num_beams=beams, max_new_tokens=max(map(len, answers)))
    config.length_penalty = 0.0  # sums of log probabilities, not their mean over tokens
    config.num_return_sequences = beams
    config.output_scores = config.return_dict_in_generate = True
    return {"generation_config": config}


@torch.inference_mode()
def _batch(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[Ids],
    answers: Sequence[Ids],
    options: dict[str, Any],
) -> list[tuple[int, float]]:
    ids, mask = left_padded(tokenizer, prompts)
    following, length = continuations(answers), ids.shape[1]
    pad = options["generation_config"].pad_token_id

    def allowed(_: int, row: Tensor) -> list[int]:
        return following.get(tuple(row[length:].tolist()), [pad])  # after an answer's end

    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        prefix_allowed_tokens_fn=allowed,
        **options,
    )
    written = output.sequences[:, length:].tolist()
    beams = options["generation_config"].num_beams
    best = [_which(row, answers) for row in written[::beams]]
    if beams > 1:
        shares = output.sequences_scores.float().view(-1, beams).softmax(-1)[:, 0]
        return list(zip(best, shares.tolist(), strict=True))
    steps = torch.stack([log_softmax(step.float(), dim=-1) for step in output.scores], dim=1)
    each = steps.gather(-1, output.sequences[:, length:, None]).squeeze(-1).cpu()  # (rows, steps)
    return [
        (which, float(row[: len(answers[which])].sum().exp()))
        for which, row in zip(best, each, strict=True)
    ]


def _which(written: Ids, answers: Sequence[Ids]) -> int:
    """The answer that agrees longest with what was written.

    That is the written one, unless a label holds the end token in its middle and so was cut there.
    """

    def agreed(ids: Ids) -> int:
        pairs = enumerate(zip(ids, written, strict=False))
        return next((i for i, (a, b) in pairs if a != b), min(len(ids), len(written)))

    return max(range(len(answers)), key=lambda i: agreed(answers[i]))
