"""Speed of models that write no text: those with a head of classes, or that fill in hidden words.

In characters a second that are read, cutting them into tokens included; in turns, as
`evaluation.speed` has it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from adapt.evaluation import speed
from adapt.evaluation.heads import encoded, longest_window
from adapt.evaluation.result import SpeedScores

_WEIGHTS = "weights"  # computed on a CPU, as `speed.COMPUTED`: there is no cache


@dataclass(frozen=True)
class ReadingLoad:
    """What a model that writes no text is given to do in every round; the same for all.

    Attributes:
        documents: Texts read in batches, at most.
        characters: Of a text, at most.
        total: Of all texts, at most, but for a first one that is longer. Of short texts it takes
            many to fill a turn that is long enough to time.
        batch_size: Texts at once, those of like length together.
        requests: Of these texts so many are read one at a time as well.
        rounds: Turns of each model that are counted.
    """

    documents: int = 256
    characters: int = 2_000
    total: int = 24_000
    batch_size: int = 8
    requests: int = 16
    rounds: int = 7


def measure_reading(
    models: Mapping[str, speed.Candidate],
    texts: Sequence[str],
    load: ReadingLoad = ReadingLoad(),  # noqa: B008 - frozen
    *,
    max_length: int,
    seed: int = 0,
) -> dict[str, SpeedScores]:
    """Times models that write no text in turns: the first, the second, ..., the first again.

    A turn is all texts in padded batches, from characters to logits, and some of them one by one.
    All models read the same characters: a text that one of them would cut off is shortened before.
    Warming up and loading are as in `measure_speed`.

    Args:
        models: By name, in the order of turns; with a head of classes, or masked language models.
        texts: Held-out texts.
        load: What is to be done.
        max_length: Tokens of a text, at most.
        seed: Of which texts are taken.

    Returns:
        By name, without figures of decoding; empty where there is no text.
    """
    if not any(text.strip() for text in texts):
        return {}
    rows: list[str] = []

    def turn(model: Any, candidate: speed.Candidate, turns: speed.Turns, warm: bool) -> None:  # noqa: ANN401
        if not rows:  # all models are made of one base, and have as many positions
            longest = longest_window(model, candidate.tokenizer, max_length)
            rows.extend(_texts(models, texts, load, longest, seed))
        _read_turn(model, candidate.tokenizer, rows, load, max_length, turns, requests=warm)

    found = speed.in_turns(models, load.rounds, turn)
    return {name: speed.scores_of(turns, len(rows)) for name, turns in found.items()}


def _texts(
    models: Mapping[str, speed.Candidate],
    texts: Sequence[str],
    load: ReadingLoad,
    max_length: int,
    seed: int,
) -> list[str]:
    """Texts, cut at a space where they are too long for any of the models."""
    tokenizers = [candidate.tokenizer for candidate in models.values()]

    def too_long(text: str) -> bool:
        if len(text) > load.characters:
            return True
        lengths = [
            (len(t(text, verbose=False)["input_ids"]), t.model_max_length) for t in tokenizers
        ]
        return any(length > min(max_length, own) for length, own in lengths)

    found: list[str] = []
    room = load.total
    for whole in random.Random(seed).sample(list(texts), len(texts)):
        text = whole.lstrip()  # so that what is left of it is never blank
        while len(text) > 1 and too_long(text):
            text = text[: min(load.characters, len(text) * 3 // 4)].rpartition(" ")[0] or text[:1]
        if found and len(text) > room:
            break
        if text:
            found.append(text)
            room -= len(text)
        if len(found) == load.documents:
            break
    return found


@torch.inference_mode()
def _read_turn(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    rows: Sequence[str],
    load: ReadingLoad,
    max_length: int,
    turns: speed.Turns,
    *,
    requests: bool,
) -> None:
    """One turn of a model that writes no text."""
    before = speed.allocated(model.device)
    start = speed.now(model.device)
    _read(model, tokenizer, rows, load.batch_size, max_length)
    seconds = speed.now(model.device) - start
    turns.prompt.append(sum(map(len, rows)) / seconds)
    turns.rows.append(len(rows) / seconds)
    turns.memory, extra = _WEIGHTS, 0
    if before is not None:
        turns.memory = speed.ALLOCATED
        extra = torch.cuda.max_memory_allocated(model.device) - before
    turns.peak = max(turns.peak, speed.weight_bytes(model) + extra)
    for row in rows[: load.requests if requests else 0]:
        start = speed.now(model.device)
        _read(model, tokenizer, [row], 1, max_length)
        turns.milliseconds.append(1_000 * (speed.now(model.device) - start))


def _read(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    rows: Sequence[str],
    batch_size: int,
    max_length: int,
) -> None:
    """Texts to logits, in batches that are padded on the right."""
    ids = sorted(encoded(model, tokenizer, rows, max_length), key=len, reverse=True)
    pad = tokenizer.pad_token_id
    if pad is None or model.config.get_text_config().pad_token_id is None:
        pad, batch_size = 0, 1  # as `heads.class_logits`: a decoder's head must know its padding
    for first in range(0, len(ids), batch_size):
        batch = ids[first : first + batch_size]
        longest = len(batch[0])
        padded = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        model(input_ids=padded.to(model.device), attention_mask=mask.to(model.device))
