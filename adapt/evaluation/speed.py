"""Speed in characters a second, comparable across tokenizers, of several models side by side.

Models are timed in turns, round after round, on the same documents: what else the machine does then
slows all of them alike, and a round's figures may be compared in pairs. Models that write continue
prompts here; those that only read are timed by `evaluation.reading`.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from transformers import StoppingCriteria

from adapt.evaluation.generation import decoding, left_padded
from adapt.evaluation.likelihood import halves
from adapt.evaluation.result import Rounds, SpeedScores
from adapt.progress import watched
from adapt.training.batches import encode_documents

# What `SpeedScores.memory` says of a figure: on a device PyTorch counts every tensor, on a CPU
# nothing does, and the process's own size holds the other models and all that was freed.
ALLOCATED, COMPUTED = "allocated", "weights and cache"

_SLACK = 1.25  # how much larger the others may be than the first model to be held beside it


@dataclass(frozen=True)
class Candidate:
    """A model to be timed.

    Attributes:
        load: Gives the model, in evaluation mode on its device; may be called again where not all
            models fit into memory.
        tokenizer: Of what it reads and writes.
        writer: Of what it writes, where units are only read.
    """

    load: Callable[[], Any]
    tokenizer: Any
    writer: Any = None


@dataclass(frozen=True)
class Load:
    """What a model is given to do in every round; the same for all.

    Attributes:
        documents: First halves of so many documents are continued, in one batch.
        prompt_characters: Of a first half, at most.
        new_tokens: Tokens of each continuation; two or more.
        requests: Of these documents so many are continued one at a time as well.
        request_tokens: Tokens of each of those continuations.
        rounds: Turns of each model that are counted.
    """

    documents: int = 8
    prompt_characters: int = 2_000
    new_tokens: int = 32
    requests: int = 4
    request_tokens: int = 32
    rounds: int = 3


@dataclass
class Turns:
    """What was measured of one model, turn by turn."""

    prompt: list[float] = field(default_factory=list)
    rows: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    peak: int = 0
    memory: str = COMPUTED


def measure_speed(
    models: Mapping[str, Candidate],
    texts: Sequence[str],
    load: Load = Load(),  # noqa: B008 - frozen
    *,
    max_length: int | None = None,
    seed: int = 0,
) -> dict[str, SpeedScores]:
    """Times models in turns: the first, the second, ..., the first again.

    A turn is one batch of documents' first halves, continued greedily with the cache, and some of
    them one by one. Of the batch the time up to the first token is the prompt's, the rest is
    decoding's. Every continuation has the same number of tokens, so that a model is neither fast
    for rambling nor slow for answering briefly. Right after loading comes a short turn that warms
    up and is not counted. Where the machine has no room for all models at once, each is loaded for
    every turn.

    Args:
        models: By name, in the order of turns.
        texts: Held-out documents.
        load: What is to be done.
        max_length: Tokens of a prompt and its continuation, at most; documents that are longer for
            any of the tokenizers are left out. None: no limit.
        seed: Of which documents are taken.

    Returns:
        By name; empty where no document can be halved and is short enough.
    """
    prompts = _prompts(models, texts, load, max_length, seed)
    if not prompts:
        return {}
    warm_up = replace(load, new_tokens=2, requests=0)

    def turn(model: Any, candidate: Candidate, turns: Turns, warm: bool) -> None:  # noqa: ANN401
        _turn(model, candidate, prompts, load if warm else warm_up, turns)

    found = in_turns(models, load.rounds, turn)
    return {name: scores_of(turns, len(prompts)) for name, turns in found.items()}


def in_turns(
    models: Mapping[str, Candidate],
    rounds: int,
    turn: Callable[[Any, Candidate, Turns, bool], None],
) -> dict[str, Turns]:
    """Turns of all models, each warmed up by a turn that is not counted when it was loaded."""
    shelf, found = _Shelf(models), {name: Turns() for name in models}
    for _ in watched(range(rounds), "Timing models in turns"):
        for name, candidate in models.items():
            model, fresh = shelf.take(name)
            if fresh:
                turn(model, candidate, Turns(), False)
            turn(model, candidate, found[name], True)
            del model
            shelf.put_back(name)
    return found


def _prompts(
    models: Mapping[str, Candidate],
    texts: Sequence[str],
    load: Load,
    max_length: int | None,
    seed: int,
) -> list[str]:
    """First halves of documents, cut at a space, that all models can take."""
    longest = load.prompt_characters
    room = None
    if max_length is not None:
        room = max_length - max(load.new_tokens, load.request_tokens)
    found: list[str] = []
    for text in random.Random(seed).sample(list(texts), len(texts)):
        first, second = halves(text)
        if len(first) > longest:
            first = first[:longest].rpartition(" ")[0] or first[:longest]
        lengths = [len(next(iter(encode_documents(c.tokenizer, [first])))) for c in models.values()]
        if second and first.strip() and (room is None or max(lengths) <= room):
            found.append(first)
        if len(found) == load.documents:
            break
    return found


class _Shelf:
    """Loaded models: all of them where there is room, else the one that is in use."""

    def __init__(self, models: Mapping[str, Candidate]) -> None:
        self.models, self.loaded = models, dict[str, Any]()
        self.keep: bool | None = None

    def take(self, name: str) -> tuple[Any, bool]:
        """A model, and whether it was loaded just now."""
        if name in self.loaded:
            return self.loaded[name], False
        model = self.loaded[name] = self.models[name].load()
        if self.keep is None:
            others = (len(self.models) - 1) * weight_bytes(model) * _SLACK
            self.keep = free_bytes(model.device) >= others
        return model, True

    def put_back(self, name: str) -> None:
        """Lets go of a model where there is no room to keep it."""
        if not self.keep:
            del self.loaded[name]
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """Memory that a device has left; bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


class _Clock(StoppingCriteria):
    """Stops nothing; notes when each token was there."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.times = device, list[float]()

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # noqa: ANN401
        self.times.append(now(self.device))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def now(device: torch.device) -> float:
    """The time at which the device has done what it was told; seconds."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


@torch.inference_mode()
def _turn(
    model: Any,  # noqa: ANN401
    candidate: Candidate,
    prompts: Sequence[str],
    load: Load,
    turns: Turns,
) -> None:
    """One model's turn, added to what is known of it."""
    encoded = list(encode_documents(candidate.tokenizer, prompts))
    before = allocated(model.device)
    start, clock, output = _continue(model, candidate.tokenizer, encoded, load.new_tokens)
    prompt, rest = clock.times[0] - start, clock.times[-1] - clock.times[0]
    longest = max(map(len, encoded))
    answers = output.sequences[:, longest + 1 :].tolist()  # the first token is the prompt's
    writer = candidate.writer or candidate.tokenizer
    characters = sum(len(writer.decode(row, skip_special_tokens=True)) for row in answers)
    turns.prompt.append(sum(map(len, prompts)) / prompt)
    turns.decode.append(characters / rest)
    turns.tokens.append(sum(map(len, answers)) / rest)
    if before is None:
        extra = _cached(output.past_key_values)
    else:
        turns.memory = ALLOCATED
        extra = torch.cuda.max_memory_allocated(model.device) - before
    turns.peak = max(turns.peak, weight_bytes(model) + extra)
    del output
    for ids in encoded[: load.requests]:
        start, clock, _ = _continue(model, candidate.tokenizer, [ids], load.request_tokens)
        turns.milliseconds.append(1_000 * (clock.times[-1] - start))


def _continue(
    model: Any,  # noqa: ANN401
    tokenizer: Any,  # noqa: ANN401
    encoded: Sequence[Sequence[int]],
    new_tokens: int,
) -> tuple[float, _Clock, Any]:
    """Greedy continuations of exactly so many tokens, and when it began; the clock has the rest."""
    config = decoding(tokenizer, max_new_tokens=new_tokens)
    config.min_new_tokens = new_tokens  # an end of the text would end the work early
    config.return_dict_in_generate = True
    ids, mask = (tensor.to(model.device) for tensor in left_padded(tokenizer, encoded))
    clock = _Clock(model.device)
    start = now(model.device)
    output = model.generate(
        input_ids=ids, attention_mask=mask, generation_config=config, stopping_criteria=[clock]
    )
    return start, clock, output


def allocated(device: torch.device) -> int | None:
    """Bytes that tensors take on a device that counts them; begins to look for the most."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return int(torch.cuda.memory_allocated(device))


def weight_bytes(model: Any) -> int:  # noqa: ANN401
    """Bytes of a model's parameters and buffers, shared ones once."""
    tensors = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    return sum(tensors.values())


def _cached(cache: Any) -> int:  # noqa: ANN401
    """Bytes of all tensors of a cache of keys and values."""
    layers = getattr(cache, "layers", None) or []
    held = (t for layer in layers for t in vars(layer).values() if isinstance(t, Tensor))
    return sum({t.data_ptr(): t.nbytes for t in held}.values())


def scores_of(turns: Turns, documents: int) -> SpeedScores:
    """All turns of a model as its scores; what was not measured is None."""
    half, most, nearly_all = np.percentile(turns.milliseconds, [50, 90, 99]).tolist()
    return SpeedScores(
        prompt_characters_per_second=Rounds(tuple(turns.prompt)),
        decode_characters_per_second=Rounds(tuple(turns.decode)) if turns.decode else None,
        decode_tokens_per_second=Rounds(tuple(turns.tokens)) if turns.tokens else None,
        latency_p50_ms=half,
        latency_p90_ms=most,
        latency_p99_ms=nearly_all,
        requests=len(turns.milliseconds),
        documents=documents,
        peak_memory_bytes=turns.peak,
        memory=turns.memory,
        rows_per_second=Rounds(tuple(turns.rows)) if turns.rows else None,
    )
