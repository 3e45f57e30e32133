"""Greedy generation with the cache, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from adapt.progress import watched
from adapt.training.batches import prompt_ids


@torch.inference_mode()
def generate(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    max_length: int,
    batch_size: int,
    label: str,
) -> list[str]:
    """Answers each prompt greedily.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        prompts: What the model is asked.
        max_new_tokens: Longest answer; tokens.
        max_length: Prompts lose tokens from their left beyond this.
        batch_size: Prompts at once, those of like length together.
        label: For the progress bar.
    """
    encoded = [prompt_ids(tokenizer, prompt)[-max_length:] for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
    )
    texts = [""] * len(prompts)
    for batch in watched(
        [order[i : i + batch_size] for i in range(0, len(order), batch_size)], label
    ):
        longest = max(len(encoded[i]) for i in batch)
        fill = [longest - len(encoded[i]) for i in batch]
        ids = torch.tensor([[pad] * n + encoded[i] for i, n in zip(batch, fill, strict=True)])
        mask = torch.tensor([[0] * n + [1] * (longest - n) for n in fill])
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
        )
        for i, row in zip(batch, output[:, longest:].tolist(), strict=True):
            texts[i] = tokenizer.decode(row, skip_special_tokens=True).strip()
    return texts
