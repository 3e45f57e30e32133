"""Generation in left-padded batches with the cache: greedy, with beams, or sampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig

from adapt.evaluation.heads import decoder_window
from adapt.generation import Completion, complete
from adapt.training.batches import prompt_ids


def decoding(
    tokenizer: Any,  # noqa: ANN401
    *,
    max_new_tokens: int,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    num_beams: int = 1,
    repetition_penalty: float = 1.0,
) -> GenerationConfig:
    """How answers are decoded, greedily by default; the arguments are those of `transformers`.

    Every parameter is set. What is left out, `transformers` takes from the base's own
    `generation_config.json`, so that two models would be decoded in different ways.

    Args:
        tokenizer: For its end and padding tokens.
        max_new_tokens: Longest answer; tokens.
        do_sample: Sample instead of taking the likeliest.
        temperature: Of sampling.
        top_p: Sampling takes the likeliest tokens up to this probability.
        top_k: Sampling takes this many of the likeliest tokens; 0: all.
        num_beams: Beams; 1: none.
        repetition_penalty: 1: none.
    """
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    # Set without sampling, these only raise warnings; and then the base's cannot matter either.
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k} if do_sample else {}
    return GenerationConfig(
        do_sample=do_sample,
        num_beams=num_beams,
        repetition_penalty=repetition_penalty,
        length_penalty=1.0,
        no_repeat_ngram_size=0,
        max_new_tokens=max_new_tokens,
        pad_token_id=end if pad is None else pad,
        eos_token_id=end,
        use_cache=True,
        **sampling,
    )


def answers(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[str],
    *,
    config: GenerationConfig,
    max_length: int,
    batch_size: int,
    label: str,
    seed: int = 0,
    heal: bool = False,
) -> list[Completion]:
    """Answers each prompt, put into the chat template.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        prompts: What the model is asked.
        config: As `decoding` makes it.
        max_length: Prompts lose tokens from their left beyond this.
        batch_size: Prompts at once, those of like length together. Greedy answers do not depend
            on it; sampled ones are the same again for the same seed and batch size.
        label: For the progress bar.
        seed: Of sampling; the generator of the process is left as it was.
        heal: Whether the prompt's last tokens may be made anew (`adapt.generation.heal`). Not by
            default: a task's prompt ends in the chat template's own text, or a line break, after
            which training begins the answer with a token of its own (`prompt_ids`). Such
            a prompt ends where the model saw prompts end, and healing would take that away.
    """
    room = decoder_window(model, max_length, after=config.max_new_tokens)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return complete(
            model,
            tokenizer,
            [prompt_ids(tokenizer, prompt)[-room:] for prompt in prompts],
            heal=heal,
            batch_size=batch_size,
            label=label,
            generation_config=config,
        )


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
    """Texts of greedy `answers`, without the spaces around them.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        prompts: What the model is asked.
        max_new_tokens: Longest answer; tokens.
        max_length: Prompts lose tokens from their left beyond this.
        batch_size: Prompts at once.
        label: For the progress bar.
        heal: As for `answers`.
    """
    done = answers(
        model,
        tokenizer,
        prompts,
        config=decoding(tokenizer, max_new_tokens=max_new_tokens),
        max_length=max_length,
        batch_size=batch_size,
        label=label,
        heal=heal,
    )
    return [answer.text.strip() for answer in done]


def left_padded(
    tokenizer: Any,  # noqa: ANN401
    prompts: Sequence[Sequence[int]],
) -> tuple[Tensor, Tensor]:
    """Prompts of one batch, each ending where generation begins, and which tokens are real.

    Returns:
        Ids and mask, (prompts, tokens of the longest), int64.
    """
    longest = max(map(len, prompts))
    fill = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = [[fill or 0] * (longest - len(p)) + list(p) for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def adoption(
    tokenizer: Any,  # noqa: ANN401
    completions: Sequence[Completion],
    new_ids: Collection[int],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How often each answer used new tokens where it could have.

    An opportunity is a new token in the answer's text as the tokenizer encodes it; it was taken
    where the model wrote that token, and not the base's tokens for the same text. Within one
    answer tokens are counted by id, not by place.

    Args:
        tokenizer: The adapted one.
        completions: Answers of the adapted model.
        new_ids: Ids of the new tokens.

    Returns:
        Tokens taken and opportunities, (answers,) each; the adoption rate is the ratio of sums.
    """
    new, backend = set(new_ids), tokenizer.backend_tokenizer
    taken, chances = np.zeros(len(completions)), np.zeros(len(completions))
    for i, completion in enumerate(completions):
        again = backend.encode(completion.text, add_special_tokens=False).ids
        possible = Counter(id_ for id_ in again if id_ in new)
        written = Counter(id_ for id_ in completion.ids if id_ in new)
        taken[i], chances[i] = (possible & written).total(), possible.total()
    return taken, chances
