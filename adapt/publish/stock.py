"""Reads a checkpoint as anyone would: a script for a fresh process, with `transformers` alone.

    python -P stock.py FOLDER QUESTIONS ANSWERS

QUESTIONS is a JSON file with `texts`, `prompts`, `expected` (ids that each prompt is to be
continued with; none of a model that writes no text), `auto_class`, `device` and
`trust_remote_code`. ANSWERS is a safetensors file: `logits.<i>`, (tokens, vocabulary) or (1,
classes) of each text, and `ids.<i>`; metadata `answers` is JSON with `vocab_size`,
`generated` (ids of each prompt) and `gaps` (where a continuation differs from the expected one, by
how much the logit of the token taken exceeds that of the expected one there; else null).
Weights are computed in float32, whatever they are stored in.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig


def read(model: Any, tokenizer: Any, texts: list[str]) -> list[tuple[Tensor, Tensor]]:  # noqa: ANN401
    """Ids, (tokens,), and logits of each text in float32, on the CPU.

    Logits are (tokens, vocabulary), or (1, classes) of a model with a head of classes.
    """
    found = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=ids.to(model.device)).logits[0]
        found.append((ids[0], logits.reshape(-1, logits.shape[-1]).float().cpu()))
    return found


def go_on(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    prompts: list[str],
    tokens: int,
) -> tuple[list[list[int]], list[Tensor]]:
    """Greedy continuations in one batch, and the logits behind them.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        prompts: Texts, none empty.
        tokens: Length of each continuation; nothing ends it before.

    Returns:
        Ids of each prompt's, and for each step (prompts, vocabulary).
    """
    encoded = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    longest = max(map(len, encoded))
    ids = torch.tensor([[0] * (longest - len(e)) + e for e in encoded], device=model.device)
    mask = torch.tensor([[0] * (longest - len(e)) + [1] * len(e) for e in encoded])
    model.generation_config = GenerationConfig(pad_token_id=0)  # what the model brings is no matter
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=tokens,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    with torch.inference_mode():
        made = model.generate(
            input_ids=ids, attention_mask=mask.to(model.device), generation_config=config
        )
    return made.sequences[:, longest:].tolist(), [step.float().cpu() for step in made.logits]


def main(folder: str, questions: str, answers: str) -> None:
    """Answers the questions of a file."""
    asked = json.loads(Path(questions).read_text(encoding="utf-8"))
    trust = {"trust_remote_code": asked["trust_remote_code"]}
    tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
    kind = getattr(transformers, asked["auto_class"])
    model = kind.from_pretrained(folder, dtype=torch.float32, **trust)
    model = model.to(asked["device"]).eval()
    tensors = {}
    for i, (ids, logits) in enumerate(read(model, tokenizer, asked["texts"])):
        tensors[f"ids.{i}"], tensors[f"logits.{i}"] = ids, logits
    expected = asked["expected"]
    generated: list[list[int]] = []
    steps: list[Tensor] = []
    if expected:
        generated, steps = go_on(model, tokenizer, asked["prompts"], len(expected[0]))
    gaps: list[float | None] = []
    for row, (own, wanted) in enumerate(zip(generated, expected, strict=True)):
        pairs = enumerate(zip(own, wanted, strict=True))
        differ = [steps[i][row, a] - steps[i][row, b] for i, (a, b) in pairs if a != b]
        gaps.append(differ[0].item() if differ else None)
    size = model.config.get_text_config().vocab_size
    record = {"vocab_size": size, "generated": generated, "gaps": gaps}
    save_file(tensors, answers, metadata={"answers": json.dumps(record)})


if __name__ == "__main__":
    main(*sys.argv[1:])
