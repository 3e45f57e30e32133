"""Classification by the likelihood of each label's text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from adapt.progress import watched
from adapt.training.batches import completion_ids, prompt_ids


def classify(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[str],
    labels: Sequence[str],
    *,
    max_length: int,
    label: str,
) -> list[str]:
    """The label that each prompt makes most likely, its end token included.

    With the end token the labels' probabilities are those of whole answers, so that a label is
    not preferred for being the beginning of another one.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        prompts: What the model is asked.
        labels: Label set.
        max_length: Prompts lose tokens from their left beyond this.
        label: For the progress bar.
    """
    answers = [completion_ids(tokenizer, text) for text in labels]
    chosen = []
    for prompt in watched(prompts, label):
        ids = prompt_ids(tokenizer, prompt)[-max_length:]
        chosen.append(labels[int(answer_log_probabilities(model, ids, answers).argmax())])
    return chosen


@torch.inference_mode()
def answer_log_probabilities(
    model: Any,  # noqa: ANN401
    prompt: Sequence[int],
    answers: Sequence[Sequence[int]],
) -> Tensor:
    """Log probability of each answer after a prompt, the prompt read once.

    Args:
        model: A causal language model.
        prompt: Token ids.
        answers: Token ids of each answer; at least one each.

    Returns:
        (answers,) float32, nats.
    """
    ids = torch.tensor([prompt], device=model.device)
    first = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    cache = first.past_key_values
    cache.batch_repeat_interleave(len(answers))
    longest = max(map(len, answers))
    # Right padding: causal attention never looks there, and its predictions are masked below.
    ids = torch.tensor([[*a, *[0] * (longest - len(a))] for a in answers], device=model.device)
    real = torch.tensor([[i < len(a) for i in range(longest)] for a in answers])
    after = model(input_ids=ids, past_key_values=cache, use_cache=True).logits  # (a, longest, v)
    start = first.logits[:, -1:].expand(len(answers), -1, -1)
    predicted = log_softmax(torch.cat([start, after[:, :-1]], dim=1).float(), dim=-1)
    each = predicted.gather(-1, ids[..., None]).squeeze(-1)
    return (each.cpu() * real).sum(-1)
