"""Decoding speed in characters a second, comparable across tokenizers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from transformers import GenerationConfig

from adapt.progress import watched
from adapt.training.batches import encode_documents

PROMPT_TOKENS = 16


@torch.inference_mode()
def decoding_speed(
    model: Any,  # noqa: ANN401 - transformers' models share no typed base
    tokenizer: Any,  # noqa: ANN401
    texts: Sequence[str],
    *,
    new_tokens: int,
    batch_size: int,
    rounds: int,
    label: str,
) -> float | None:
    """Characters that greedy decoding with the cache gives a second.

    Every answer gets the same number of tokens, so that a model is neither fast for rambling nor
    slow for answering briefly. A first round, which warms up, is not counted.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        texts: Documents whose first tokens are continued.
        new_tokens: Tokens of each continuation.
        batch_size: Continuations at once.
        rounds: Timed rounds, of which the median counts.
        label: For the progress bar.

    Returns:
        Characters a second, or None where no document is long enough.
    """
    encoded = (ids[:PROMPT_TOKENS] for ids in encode_documents(tokenizer, texts))
    prompts = list(islice((ids for ids in encoded if len(ids) == PROMPT_TOKENS), batch_size))
    if not prompts:
        return None
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        pad_token_id=tokenizer.pad_token_id or 0,
        eos_token_id=tokenizer.eos_token_id,
    )
    ids = torch.tensor(prompts, device=model.device)
    speeds = []
    for _ in watched(range(rounds + 1), label):
        start = time.perf_counter()
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
        )
        seconds = time.perf_counter() - start
        answers = output[:, PROMPT_TOKENS:].tolist()
        characters = sum(len(tokenizer.decode(row, skip_special_tokens=True)) for row in answers)
        speeds.append(characters / seconds)
    return statistics.median(speeds[1:])
