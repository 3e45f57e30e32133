"""Learns rows for new tokens from the base itself: `embeddings.init: distill`.

The teacher is the base on the base's segmentation, the student the same frozen weights on the new
one; only the new rows train. After Dobler, Elliott and de Melo 2025, "Token Distillation:
Attention-aware Input Embeddings For New Tokens", arXiv 2505.20133, which compares last hidden
states. Here the comparison stops at a layer part of the way up, so that a step costs that part of
a model, and what an output row must do is learned from the teacher's last hidden states, which
one pass over the snippets gives for good: no step goes through the upper layers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from adapt.embeddings.frozen import Frozen, batches, padded
from adapt.embeddings.result import Distilled
from adapt.embeddings.snippets import NOWHERE, Chosen, Snippet
from adapt.embeddings.teacher import Teaching, teach
from adapt.progress import watched

_TARGETS = 1_024  # next tokens in a step; they cost little, no step of the model being in them


@dataclass(frozen=True)
class Distillation:
    """How rows are learned; the fields are those of the recipe's `embeddings.distill`.

    Attributes:
        steps: Most steps.
        seconds: Most seconds, loading left out; the teacher takes up to `teacher_share` of them.
        learning_rate: Of Adam on the rows; falls to a twentieth over the steps or the seconds.
        snippet_tokens: Base tokens of text that the teacher reads.
        tokens_per_step: Tokens that the student reads in a step, padding included.
        max_length: Longest snippet; base tokens.
        depth: Share of the layers that the student goes through.
        general_share: Share of the text that is general, where there is some.
        next_token_weight: Of the next-token term, which is scaled to the size of the other;
            where input and output rows are not tied, the terms train different rows. 0: units
            are only read.
        held_out: Share of the snippets that no step sees.
        patience: Looks at the held-out snippets without a lower loss before it stops.
        teacher_share: Share of the seconds that the teacher's pass may take.
        init_from: Strategy that makes the rows that learning starts from.
    """

    steps: int = 300
    seconds: float = 600.0
    learning_rate: float = 3e-3
    snippet_tokens: int = 80_000
    tokens_per_step: int = 1_024
    max_length: int = 256
    depth: float = 0.34
    general_share: float = 0.2
    next_token_weight: float = 1.0
    held_out: float = 0.04
    patience: int = 3
    teacher_share: float = 0.4
    init_from: str = "mean"


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


def distill(
    frozen: Frozen,
    chosen: Chosen,
    new_ids: Sequence[int],
    sources: Tensor,
    start: NewRows,
    options: Distillation,
    seed: int = 0,
) -> tuple[NewRows, Distilled]:
    """Learns the rows of new tokens.

    Args:
        frozen: The base.
        chosen: What to learn from.
        new_ids: Ids of the new tokens.
        sources: (rows of the adapted matrix,) the base's row that each id has; of new tokens and
            of rows that are filled, any number beyond the base's rows.
        start: What to start from; not changed.
        options: Budgets and sizes.
        seed: Of the order of batches.

    Returns:
        The rows: those of tokens that no snippet holds are what they were. And what happened.
    """
    clock = time.perf_counter()
    snippets = chosen.snippets
    count = max(1, round(options.held_out * len(snippets)))
    teaching = teach(
        frozen,
        _held_out_first(snippets, count),
        sources,
        layer=max(1, round(options.depth * len(frozen.layers))),
        tokens=2 * options.tokens_per_step,
        until=clock + options.teacher_share * options.seconds,
    )
    student = _Student(frozen, teaching, new_ids, sources, start, count, chosen.share)
    left = options.seconds - (time.perf_counter() - clock)
    steps, before, after = _train(student, options, left, seed)
    return student.best, Distilled(
        steps=steps,
        seconds=round(time.perf_counter() - clock, 1),
        snippets=len(teaching.snippets) - count,
        tokens=sum(len(s.base_ids) for s in teaching.snippets[count:]),
        hidden_loss=(before.hidden, after.hidden),
        next_token_loss=(before.next_token, after.next_token),
        calibration=(before.calibration, after.calibration),
        untouched=tuple(id_ for id_, seen in zip(new_ids, student.seen, strict=True) if not seen),
    )


def _held_out_first(snippets: Sequence[Snippet], count: int) -> list[Snippet]:
    """Snippets spread evenly over the order in which they were chosen, then all others."""
    every = max(len(snippets) // count, 1)
    apart = set(range(every - 1, len(snippets), every)[:count])
    return [snippets[i] for i in sorted(apart)] + [
        s for i, s in enumerate(snippets) if i not in apart
    ]


@dataclass(frozen=True)
class _Measured:
    """Losses on held-out snippets, and how far new tokens are from what the base gives them."""

    hidden: float
    next_token: float
    calibration: float


class _Student:
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
        self.inputs = nn.Parameter(start.inputs.float().to(device))
        self.outputs, self.bias, self.best = self.inputs, None, start
        if start.outputs is not None:
            self.outputs = nn.Parameter(start.outputs.float().to(device))
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
        self.scale = (1 / (spread + 1e-6 * spread.median())).to(device)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What trains."""
        return [self.inputs] if self.outputs is self.inputs else [self.inputs, self.outputs]

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
    def measure(self, tokens: int) -> _Measured:
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
        return _Measured(
            sum(losses) / max(sum(weights), 1),
            -float((often * logs).sum() / often.sum()),
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
    snippet_, position, token, end = torch.tensor(found).reshape(-1, 4).T
    return _Targets(snippet_, position, token, (logs[end] - logs[position]).float())


def _train(
    student: _Student, options: Distillation, seconds: float, seed: int
) -> tuple[int, _Measured, _Measured]:
    """Steps until a budget is spent or held-out snippets gain nothing; keeps the best rows."""
    clock, draw = time.perf_counter(), random.Random(seed)
    teaching = student.teaching
    inside = range(student.held_out, len(teaching.snippets))
    met = [i for i in inside if student.pairs[i]]
    lengths = [len(teaching.snippets[i].ids) for i in met]
    groups = [[met[i] for i in group] for group in batches(lengths, options.tokens_per_step)]
    of_lessons = (student.targets.snippet >= student.held_out).nonzero()[:, 0]
    frequency = student.frequency[of_lessons]
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(student.parameters, lr=options.learning_rate)
    before = best = student.measure(options.tokens_per_step)
    loss_of = partial(_loss, before=before, reading=not options.next_token_weight)
    step, worse, queue = 0, 0, list[list[int]]()
    look = max(1, options.steps // 10)
    for step in watched(range(1, options.steps + 1), "Distilling rows"):
        spent = max(step / options.steps, (time.perf_counter() - clock) / max(seconds, 1e-9))
        if spent > 1 and step > 1:
            step -= 1
            break
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * min(1.0, step / 10) * max(0.05, 1 - spent)
        queue = queue or draw.sample(groups, len(groups))
        picked = of_lessons[
            torch.multinomial(frequency, _TARGETS, replacement=True, generator=order)
        ]
        optimizer.zero_grad()
        torch.autograd.backward(student.loss(queue.pop(), picked, options.next_token_weight))
        for rows in student.parameters:
            if rows.grad is not None:
                rows.grad[~student.seen] = 0.0
        optimizer.step()
        if step % look == 0:
            now = student.measure(options.tokens_per_step)
            worse = 0 if loss_of(now) < loss_of(best) else worse + 1
            if not worse:
                best = now
                student.keep()
            if worse >= options.patience:
                break
    return step, before, best


def _loss(now: _Measured, before: _Measured, *, reading: bool) -> float:
    """The held-out losses that count, each in units of what it was."""
    if reading:
        return now.hidden
    return now.hidden / max(before.hidden, 1e-9) + now.next_token / max(before.next_token, 1e-9)
