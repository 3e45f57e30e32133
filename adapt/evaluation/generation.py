"""Greedy generation with the cache, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig

from adapt.generation import complete
from adapt.training.batches import prompt_ids


def generate(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    max_length: int,
    batch_size: int,
    label: str,
    heal: bool = False,
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
        heal: Whether the prompt's last tokens may be made anew (`adapt.generation.heal`). Not by
            default: a task's prompt ends in the chat template's own text, or a line break, after
            which training begins the answer with a token of its own (`encode_completion`). Such
            a prompt ends where the model saw prompts end, and healing would take that away.
    """
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id
        if tokenizer.pad_token_id is not None
        else tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    answers = complete(
        model,
        tokenizer,
        [prompt_ids(tokenizer, prompt)[-max_length:] for prompt in prompts],
        heal=heal,
        batch_size=batch_size,
        label=label,
        generation_config=config,
    )
    return [answer.text.strip() for answer in answers]
