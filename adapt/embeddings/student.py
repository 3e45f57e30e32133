"""The frozen base with rows that train: what it is compared with, and how far it is from that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapt.embeddings.frozen import Frozen, batches, padded
from adapt.embeddings.snippets import NOWHERE, Snippet
from adapt.embeddings.teacher import Teaching


@dataclass(frozen=True)
class NewRows:
    """Rows of the new tokens, each (new tokens, hidden) in float32.

    Attributes:
        inputs: Of the input embedding; of both where they are tied.
        outputs: Of an output embedding of its own.
        bias: What the output layer adds, (new tokens,); not trained.
    """

    inputs: Tensor
    outputs: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True)
class Measured:
    """Losses on held-out snippets, and how far new tokens are from what the base gives them."""

    hidden: float
    next_token: float
    calibration: float


class Student:
    """The frozen model with rows that train, and what it is compared with.

    Attributes:
        inputs: (new tokens, hidden), trains.
        outputs: The same of an output embedding of its own; `inputs` where they are tied.
        frequency: (targets,) how often each is to be drawn, so that a new token is a target as
            often as in the text; about 1.
        seen: (new tokens,) whether a snippet that is trained on holds the token.
        best: The rows with the lowest held-out loss so far.
    """

    def __init__(
        self,
        frozen: Frozen,
        teaching: Teaching,
        new_ids: Sequence[int],
        sources: Tensor,
        start: NewRows,
        held_out: int,
        share: dict[int, float],
    ) -> None:
        self.frozen, self.teaching, self.held_out = frozen, teaching, held_out
        device = frozen.device
        # Copies, for what they start from is the best until something better is there.
        self.inputs = nn.Parameter(start.inputs.to(device, torch.float32, copy=True))
        self.outputs, self.bias, self.best = self.inputs, None, start
        if start.outputs is not None:
            self.outputs = nn.Parameter(start.outputs.to(device, torch.float32, copy=True))
        if start.bias is not None:
            self.bias = start.bias.float().to(device)
        place = {id_: i for i, id_ in enumerate(new_ids)}
        used = sorted({id_ for s in teaching.snippets for id_ in s.ids if id_ not in place})
        # What the student reads with is small: rows of the snippets' tokens, then the new ones.
        self.old = frozen.inputs[sources[used].to(device)]
        self.compact = {id_: i for i, id_ in enumerate(used)}
        self.compact |= {id_: len(used) + i for id_, i in place.items()}
        self.pairs = [_hidden_pairs(s) for s in teaching.snippets]
        self.targets = _next_tokens(teaching, place)
        # Snippets seek out rare units. Were their targets drawn as often as they stand there, a
        # unit would be learned to be as probable as here, not as in the text.
        rarer = torch.tensor([1 / share.get(id_, 1.0) for id_ in new_ids] + [1.0])
        self.frequency = rarer[self.targets.token]  # a base token's -1 is the last
        counts = torch.zeros(len(place), dtype=torch.bool)
        met = {id_ for s in teaching.snippets[held_out:] for id_ in s.ids} & place.keys()
        counts[[place[id_] for id_ in met]] = True
        self.seen = counts
        # Each column by its own spread, for a few are hundreds of times as large as the others.
        sample = teaching.middle[:: 1 + len(teaching.middle) // 8_192]
        spread = sample.float().var(0)
        self.scale = (1 / (spread + 1e-6 * spread.median()).clamp_min(1e-12)).to(device)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What trains."""
        return [self.inputs] if self.outputs is self.inputs else [self.inputs, self.outputs]

    @property
    def can_learn(self) -> bool:
        """Whether there is something to learn from, and something else to measure it on."""
        trained = self.targets.snippet >= self.held_out
        measured = any(self.pairs[: self.held_out]) or not bool(trained.all())
        return any(self.pairs[self.held_out :]) and bool(trained.any()) and measured

    def hidden(self, batch: Sequence[int]) -> Tensor:
        """Squared distance of middle states where both end alike, in units of their variance."""
        teaching = self.teaching
        rows = torch.cat([self.old, self.inputs.to(self.old.dtype)])
        ids = padded(
            [[self.compact[i] for i in teaching.snippets[s].ids] for s in batch], rows.device
        )
        states = self.frozen.states(ids, rows, teaching.layer)
        text = [row for row, s in enumerate(batch) for _ in self.pairs[s]]
        here = [place for s in batch for place, _ in self.pairs[s]]
        there = [teaching.starts[s] + end for s in batch for _, end in self.pairs[s]]
        wanted = teaching.middle[there].to(rows.device).float()
        return ((states[text, here].float() - wanted).square() * self.scale).mean()

    def next_token(self, picked: Tensor) -> Tensor:
        """Negative log-probability of next tokens, given the teacher's last states.

        Only new rows' logits are computed: the others' sum is known from the teacher.
        """
        return -self._log_probability(picked).mean()

    def loss(self, batch: Sequence[int], picked: Tensor, weight: float) -> Tensor:
        """Both terms; where both train the same rows, neither may drown the other."""
        hidden = self.hidden(batch)
        if not weight:
            return hidden
        following = self.next_token(picked)
        if self.outputs is self.inputs:
            weight *= float(hidden.detach() / following.detach())
        return hidden + weight * following

    def _log_probability(self, picked: Tensor) -> Tensor:
        position, token = self.targets.position[picked], self.targets.token[picked]
        device, teaching = self.frozen.device, self.teaching
        states = teaching.last[position].to(device).float()
        logits = self.frozen.logits(states, self.outputs, self.bias)
        total = torch.logaddexp(teaching.log_total[position].to(device), logits.logsumexp(1))
        old = teaching.logit[position].to(device)
        token = token.to(device)
        new = logits.gather(1, token.clamp_min(0)[:, None])[:, 0]
        return torch.where(token >= 0, new, old) - total

    @torch.no_grad()
    def measure(self, tokens: int) -> Measured:
        """On the held-out snippets."""
        inside = range(self.held_out)
        groups = batches([len(self.teaching.snippets[i].ids) for i in inside], tokens)
        weights = [sum(len(self.pairs[i]) for i in group) for group in groups]
        losses = [float(self.hidden(g)) * n for g, n in zip(groups, weights, strict=True) if n]
        picked = (self.targets.snippet < self.held_out).nonzero()[:, 0]
        logs = torch.cat([self._log_probability(part) for part in torch.split(picked, 1_024)]).cpu()
        often = self.frequency[picked]
        new = often * (self.targets.token[picked] >= 0)
        gap = logs - self.targets.log_unit[picked]
        return Measured(
            sum(losses) / max(sum(weights), 1),
            -float((often * logs).sum() / often.sum().clamp_min(1e-9)),
            float((new * gap).sum() / new.sum().clamp_min(1e-9)),
        )

    def keep(self) -> None:
        """Remembers the rows as they are now."""
        inputs = self.inputs.detach().cpu().clone()
        outputs = None if self.outputs is self.inputs else self.outputs.detach().cpu().clone()
        self.best = NewRows(inputs, outputs, self.best.bias)


@dataclass(frozen=True)
class _Targets:
    """What comes next in the student's segmentation, where the text so far ends alike.

    Attributes:
        snippet: (targets,) which one.
        position: (targets,) in the teaching's tensors: what the next token is predicted from.
        token: (targets,) index of the new token that comes next; negative for a base token.
        log_unit: (targets,) what the base gives all that the next token stands for.
    """

    snippet: Tensor
    position: Tensor
    token: Tensor
    log_unit: Tensor


def _hidden_pairs(snippet: Snippet) -> list[tuple[int, int]]:
    """Places of the student and of the teacher that end alike, from the first new token on."""
    places = range(snippet.first, len(snippet.ids))
    return [(i, snippet.ends[i]) for i in places if snippet.ends[i] != NOWHERE]


def _next_tokens(teaching: Teaching, new: dict[int, int]) -> _Targets:
    logs = torch.cat([torch.zeros(1), (teaching.logit - teaching.log_total).double().cumsum(0)])
    found: list[tuple[int, int, int, int]] = []
    for s, (snippet, start) in enumerate(zip(teaching.snippets, teaching.starts, strict=True)):
        for i, id_ in enumerate(snippet.ids[1:]):
            here, there = snippet.ends[i], snippet.ends[i + 1]
            # A base token comes next for both only where the teacher takes one step as well.
            if NOWHERE not in (here, there) and (id_ in new or there == here + 1):
                found.append((s, start + here, new.get(id_, NOWHERE), start + there))
    snippet_, position, token, end = torch.tensor(found, dtype=torch.long).reshape(-1, 4).T
    return _Targets(snippet_, position, token, (logs[end] - logs[position]).float())
