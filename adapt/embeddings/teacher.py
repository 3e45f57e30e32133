"""What the base makes of the snippets: one pass, and all that learning asks of it is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from adapt.embeddings.frozen import Frozen, batches, padded
from adapt.embeddings.snippets import Snippet
from adapt.progress import watched

_CHUNK = 256  # positions whose logits are in memory at a time
_GROUP = 512  # snippets that are sorted by length together; earlier groups matter more


@dataclass(frozen=True)
class Teaching:
    """The base's answers, in memory: in bfloat16 about four times `hidden` bytes a token of text.

    Attributes:
        snippets: Those that were read in time, in their order.
        starts: For each its first position in the tensors; positions are the teacher's tokens.
        middle: (positions, hidden) states after `layer` layers, in the model's type.
        last: (positions, hidden) states that the output layer sees.
        log_total: (positions,) log of the sum of exponentiated logits of all rows that the
            student has too; float32.
        logit: (positions,) of the base token that comes next; at the end of a snippet it
            means nothing.
        layer: Layers below `middle`.
    """

    snippets: tuple[Snippet, ...]
    starts: tuple[int, ...]
    middle: Tensor
    last: Tensor
    log_total: Tensor
    logit: Tensor
    layer: int


@torch.inference_mode()
def teach(
    frozen: Frozen,
    snippets: Sequence[Snippet],
    sources: Tensor,
    *,
    layer: int,
    tokens: int,
    until: float,
    exactly: int | None = None,
) -> Teaching:
    """Reads the snippets with the base.

    Args:
        frozen: The base.
        snippets: The most important first.
        sources: (rows of the student,) the base's row of each id; of new ones any number beyond.
        layer: Layers below the middle states.
        tokens: Of a batch, padding included.
        until: `time.perf_counter()` after which no batch is begun, but the first.
        exactly: Read until there are so many snippets, whatever the time: what an earlier pass
            over the same ones came to.
    """
    kept = sources[sources < len(frozen.outputs)].to(frozen.outputs.device)
    rows, bias = frozen.outputs, frozen.bias
    if len(kept) != len(rows):
        rows, bias = rows[kept], None if bias is None else bias[kept]
    lengths = [len(s.base_ids) for s in snippets]
    read: dict[int, tuple[Tensor, ...]] = {}
    for batch in watched(list(_in_groups(lengths, tokens)), "Reading with the base"):
        if read and (time.perf_counter() > until if exactly is None else len(read) >= exactly):
            break
        ids = padded([snippets[i].base_ids for i in batch], frozen.device)
        middle, last = frozen.both_states(ids, layer)
        held = [lengths[i] for i in batch]
        inside = torch.arange(ids.shape[1]) < torch.tensor(held)[:, None]
        states, following = last[inside], ids.roll(-1, 1)[inside]
        parts = [
            (frozen.logits(part, rows, bias).logsumexp(1), frozen.logits_of(part, token))
            for part, token in zip(
                torch.split(states, _CHUNK), torch.split(following, _CHUNK), strict=True
            )
        ]
        totals, logits = (torch.cat(values).cpu() for values in zip(*parts, strict=True))
        tensors = (middle[inside].cpu(), states.cpu(), totals, logits)
        for i, *own in zip(batch, *(torch.split(t, held) for t in tensors), strict=True):
            read[i] = tuple(own)
    order = sorted(read)
    starts = [0, *accumulate(lengths[i] for i in order)][:-1]
    middles, lasts, totals, nexts = (
        torch.cat(parts) for parts in zip(*(read[i] for i in order), strict=True)
    )
    chosen = tuple(snippets[i] for i in order)
    return Teaching(chosen, tuple(starts), middles, lasts, totals, nexts, layer)


def _in_groups(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Batches of alike length within each group of neighbours."""
    for begin in range(0, len(lengths), _GROUP):
        for batch in batches(lengths[begin : begin + _GROUP], tokens):
            yield [begin + i for i in batch]
