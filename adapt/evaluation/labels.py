"""Log probability of every label after every prompt: what is common is read once.

Labels share beginnings, so they are laid out as a tree of tokens, one sequence whose mask lets
every token see the prompt and its own ancestors only. Prompts share beginnings too (a system
message, examples), which are read once for all of them. Models that cannot be read like this, such
as recurrent ones, are found out by comparing and read one prompt at a time.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import DynamicCache

from adapt.progress import watched

logger = logging.getLogger(__name__)

Ids = Sequence[int]

NODES = 128  # of one tree: its logits are what fills the memory, nodes x vocabulary a prompt
_PROBED = 8  # answers that both ways of reading are compared on
# Largest difference, nats a token, that rounding explains; a mask that is ignored gives more. In
# bfloat16 logits between 16 and 32 are 0.125 apart.
_AGREE = {torch.float32: 1e-3, torch.float64: 1e-6}
_AGREE_NARROW = 0.25


@dataclass(frozen=True)
class Tree:
    """Beginnings of some answers, each once.

    Attributes:
        answers: Which answers.
        ids: Token of each node.
        parents: Node before each node, always an earlier one; -1 is the prompt.
        steps: (answer, node before, token) of every token of every answer; node -1 is the prompt.
    """

    answers: list[int]
    ids: list[int]
    parents: list[int]
    steps: list[tuple[int, int, int]]


def trees(answers: Sequence[Ids], limit: int = NODES) -> Iterator[Tree]:
    """Lays answers out as trees of at most `limit` nodes; a longer answer has one of its own.

    Nothing is predicted after an answer's last token, so that token needs no node.
    """
    tree, known = Tree([], [], [], []), dict[tuple[int, ...], int]()
    for number in sorted(range(len(answers)), key=lambda i: tuple(answers[i])):
        ids = tuple(answers[number])
        more = sum(ids[:i] not in known for i in range(1, len(ids)))
        if tree.ids and len(tree.ids) + more > limit:
            yield tree
            tree, known = Tree([], [], [], []), {}
        tree.answers.append(number)
        before = -1
        for i, id_ in enumerate(ids):
            tree.steps.append((number, before, id_))
            beginning = ids[: i + 1]
            if i + 1 < len(ids) and beginning not in known:
                known[beginning] = len(tree.ids)
                tree.ids.append(id_)
                tree.parents.append(before)
            before = known.get(beginning, -1)
    if tree.answers:
        yield tree


def answer_log_probabilities(
    model: Any,  # noqa: ANN401
    prompts: Sequence[Ids],
    answers: Sequence[Ids],
    *,
    batch_size: int,
    label: str,
) -> NDArray[np.float64]:
    """Log probability of each answer after each prompt.

    The batch size changes no figure by more than 1e-4 in float32. In bfloat16 a padded row is
    rounded in other places, as is every other figure of such a model.

    Args:
        model: A causal language model in evaluation mode.
        prompts: Token ids, at least one each.
        answers: Token ids, at least one each.
        batch_size: Prompts at once, those of like length together.
        label: For the progress bar.

    Returns:
        (prompts, answers) nats.
    """
    result = np.zeros((len(prompts), len(answers)))
    if not prompts or not answers:
        return result
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    if not _packs(model, [prompts[order[0]], prompts[order[-1]]], answers):
        logger.warning("%s: read one prompt at a time, for it takes no mask of its own", label)
        for i in watched(order, label):
            result[i] = _one(model, prompts[i], answers)
        return result
    forest = list(trees(answers))
    common = _common(prompts)
    begun = _begin(model, prompts[0][:common])
    for first in watched(range(0, len(order), batch_size), label):
        batch = order[first : first + batch_size]
        result[batch] = _packed(model, [prompts[i] for i in batch], forest, len(answers), begun)
    return result


def _common(prompts: Sequence[Ids]) -> int:
    """Tokens that all prompts begin with; each keeps one of its own to go on from."""
    low, high = min(prompts, key=tuple), max(prompts, key=tuple)
    shortest = min(map(len, prompts)) - 1
    differ = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return min(shortest, next(differ, shortest))


@torch.inference_mode()
def _begin(model: Any, ids: Ids) -> DynamicCache:  # noqa: ANN401
    """The cache after the tokens that all prompts begin with."""
    # Made without the model's configuration, a cache keeps every token, sliding windows or not.
    cache = DynamicCache()
    if ids:
        model(
            input_ids=torch.tensor([list(ids)], device=model.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    return cache


@torch.inference_mode()
def _packed(
    model: Any,  # noqa: ANN401
    prompts: Sequence[Ids],
    forest: Sequence[Tree],
    answers: int,
    begun: DynamicCache,
) -> NDArray[np.float64]:
    """(prompts, answers) nats of one batch."""
    common = begun.get_seq_length()
    cache = copy.deepcopy(begun)
    if common:
        cache.batch_repeat_interleave(len(prompts))
    longest = max(map(len, prompts))
    fill = [longest - len(ids) for ids in prompts]
    # Filled after what all have in common, so that every prompt ends where the labels begin.
    own = [[0] * n + list(p[common:]) for p, n in zip(prompts, fill, strict=True)]
    seen = torch.tensor([[1] * common + [0] * n + [1] * (longest - common - n) for n in fill])
    seen = seen.to(model.device)
    places = (seen.cumsum(-1) - 1).clamp(min=0)
    last = model(
        input_ids=torch.tensor(own, device=model.device),
        attention_mask=seen,
        position_ids=places[:, common:],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1:]  # (prompts, 1, vocabulary)
    result = np.zeros((len(prompts), answers))
    for tree in forest:
        after = _read_tree(model, tree, seen, cache) if tree.ids else last[:, :0]
        which, before, ids = (list(column) for column in zip(*tree.steps, strict=True))
        rows = [node + 1 for node in before]
        for i in range(len(prompts)):  # one at a time: a float32 copy of all would be large
            predicted = log_softmax(torch.cat([last[i], after[i]]).float(), dim=-1)
            np.add.at(result[i], which, predicted[rows, ids].double().cpu().numpy())
    return result


def _read_tree(model: Any, tree: Tree, seen: Tensor, cache: DynamicCache) -> Tensor:  # noqa: ANN401
    """What follows each node: (prompts, nodes, vocabulary) logits. The cache is left as it was."""
    count, (prompts, length) = len(tree.ids), seen.shape
    related = torch.zeros(count, count, dtype=torch.bool)  # [node, the node or an ancestor]
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            related[node] = related[parent]
        related[node, node] = True
    visible = torch.cat(
        [
            seen.bool()[:, None].expand(-1, count, -1),
            related.to(seen.device)[None].expand(prompts, -1, -1),
        ],
        dim=-1,
    )
    # Added to the attention scores, which every implementation but flash attention understands.
    lowest = torch.finfo(model.dtype).min
    mask = torch.zeros(prompts, 1, count, length + count, dtype=model.dtype, device=seen.device)
    mask.masked_fill_(~visible[:, None], lowest)
    depth = related.sum(-1).to(seen.device)
    logits: Tensor = model(
        input_ids=torch.tensor([tree.ids], device=seen.device).expand(prompts, -1),
        attention_mask=mask,
        position_ids=seen.sum(-1, keepdim=True) + depth - 1,
        past_key_values=cache,
        use_cache=True,
    ).logits
    cache.crop(-count)
    return logits


# -- the plain way, and which of the two ------------------------------------------------------


@torch.inference_mode()
def _one(model: Any, prompt: Ids, answers: Sequence[Ids]) -> NDArray[np.float64]:  # noqa: ANN401
    """(answers,) nats after one prompt: the answers are a padded batch on its repeated cache."""
    ids = torch.tensor([list(prompt)], device=model.device)
    result = []
    for start in range(0, len(answers), NODES):
        part = answers[start : start + NODES]
        first = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        cache = first.past_key_values
        cache.batch_repeat_interleave(len(part))
        longest = max(map(len, part))
        # Right padding: causal attention never looks there, and what it predicts is masked below.
        padded = torch.tensor([[*a, *[0] * (longest - len(a))] for a in part], device=model.device)
        real = torch.tensor([[i < len(a) for i in range(longest)] for a in part])
        after = model(input_ids=padded, past_key_values=cache, use_cache=True).logits
        start_logits = first.logits[:, -1:].expand(len(part), -1, -1)
        predicted = log_softmax(torch.cat([start_logits, after[:, :-1]], dim=1).float(), dim=-1)
        each = predicted.gather(-1, padded[..., None]).squeeze(-1).cpu().double()
        result.append((each * real).sum(-1).numpy())
    return np.concatenate(result)


def _packs(model: Any, prompts: Sequence[Ids], answers: Sequence[Ids]) -> bool:  # noqa: ANN401
    """Whether a batch of trees gives what one prompt after the other gives.

    Tried on the longest and the shortest prompt, so padding and sliding windows are in the trial.
    """
    longest = max(range(len(answers)), key=lambda i: len(answers[i]))
    some = [answers[longest], *answers[: _PROBED - 1]]
    try:
        begun = _begin(model, prompts[0][: _common(prompts)])
        packed = _packed(model, prompts, list(trees(some)), len(some), begun)
    except Exception as error:  # what a model that has no such mask or cache raises is its own
        logger.debug("labels cannot be packed: %s", error)
        return False
    alone = np.stack([_one(model, prompt, some) for prompt in prompts])
    allowed = _AGREE.get(model.dtype, _AGREE_NARROW)
    lengths = np.array([len(ids) for ids in some])
    return bool((np.abs(packed - alone) / lengths).max() <= allowed)
