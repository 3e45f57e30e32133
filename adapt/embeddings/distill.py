"""Learns rows for new tokens from the base itself: `embeddings.init: distill`.

The teacher is the base on the base's segmentation, the student the same frozen weights on the new
one; only the new rows train. After Dobler, Elliott and de Melo 2025, "Token Distillation:
Attention-aware Input Embeddings For New Tokens", arXiv 2505.20133, which compares last hidden
states. Here the comparison stops at a layer part of the way up, so that a step costs that part of
a model, and what an output row must do is learned from the teacher's last hidden states, which
one pass over the snippets gives for good: no step goes through the upper layers.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapt.embeddings.checkpoint import Checkpoint
from adapt.embeddings.frozen import Frozen, batches, refuse_not_finite
from adapt.embeddings.result import Distilled
from adapt.embeddings.snippets import Chosen, Snippet
from adapt.embeddings.student import Measured, NewRows, Student
from adapt.embeddings.teacher import teach
from adapt.progress import watched
from adapt.workspace import fingerprint

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
        save_seconds: From one checkpoint to the next.
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
    save_seconds: float = 60.0


def distill(
    frozen: Frozen,
    chosen: Chosen,
    new_ids: Sequence[int],
    sources: Tensor,
    start: NewRows,
    options: Distillation,
    seed: int = 0,
    *,
    checkpoint: Path | None = None,
    identity: str = "",
) -> tuple[NewRows, Distilled]:
    """Learns the rows of new tokens.

    A run that is ended goes on from its last checkpoint, after reading with the base once more,
    and gives the rows that it would have given: bit for bit where the device computes the same
    twice, as CPUs do, and where the steps and not the seconds are what limits it.

    Args:
        frozen: The base.
        chosen: What to learn from.
        new_ids: Ids of the new tokens.
        sources: (rows of the adapted matrix,) the base's row that each id has; of new tokens and
            of rows that are filled, any number beyond the base's rows.
        start: What to start from; not changed.
        options: Budgets and sizes.
        seed: Of the order of batches.
        checkpoint: File for what is learned so far; stays, for the caller to remove. None: none.
        identity: What tells the base from others; a checkpoint holds for one only.

    Returns:
        The rows: those of tokens that no snippet holds are what they were. And what happened;
        nothing where the snippets that were read are too few to learn from and to measure on.

    Raises:
        ModelError: What the base computes is not finite.
    """
    clock = time.perf_counter()
    snippets = chosen.snippets
    count = max(1, round(options.held_out * len(snippets)))
    mark = _mark(chosen, new_ids, sources, start, options, seed, identity) if checkpoint else ""
    saving = Checkpoint(checkpoint, mark, options.save_seconds)
    state = saving.load()
    teaching = teach(
        frozen,
        _held_out_first(snippets, count),
        sources,
        layer=max(1, round(options.depth * len(frozen.layers))),
        tokens=2 * options.tokens_per_step,
        until=clock + options.teacher_share * options.seconds,
        exactly=state["snippets"] if state else None,
    )
    # Time may have ended the teacher's pass before it came to more than those held out.
    count = min(count, len(teaching.snippets) - 1)
    if count < 1:
        return start, Distilled.nothing(new_ids)
    student = Student(frozen, teaching, new_ids, sources, start, count, chosen.share)
    if not student.can_learn:
        return start, Distilled.nothing(new_ids)
    # What a run that was ended had spent counts, reading a second time does not.
    reading = state["reading"] if state else time.perf_counter() - clock
    here = _train(student, options, reading, seed, saving, state)
    return student.best, Distilled(
        steps=here.step,
        seconds=round(reading + here.seconds, 1),
        snippets=len(teaching.snippets) - count,
        tokens=sum(len(s.base_ids) for s in teaching.snippets[count:]),
        hidden_loss=(here.before.hidden, here.best.hidden),
        next_token_loss=(here.before.next_token, here.best.next_token),
        calibration=(here.before.calibration, here.best.calibration),
        untouched=tuple(id_ for id_, seen in zip(new_ids, student.seen, strict=True) if not seen),
    )


def _mark(
    chosen: Chosen,
    new_ids: Sequence[int],
    sources: Tensor,
    start: NewRows,
    options: Distillation,
    seed: int,
    identity: str,
) -> str:
    """Fingerprint of all that decides which rows are learned."""
    told = {name: value for name, value in asdict(options).items() if name != "save_seconds"}
    rows = hashlib.sha256()
    for tensor in (sources, start.inputs, start.outputs, start.bias):
        if tensor is not None:
            rows.update(tensor.contiguous().numpy().tobytes())
    text = [(s.ids, s.base_ids, s.ends) for s in chosen.snippets]
    share = sorted(chosen.share.items())
    return fingerprint(told, seed, identity, list(new_ids), rows.hexdigest(), text, share)


def _held_out_first(snippets: Sequence[Snippet], count: int) -> list[Snippet]:
    """Snippets spread evenly over the order in which they were chosen, then all others."""
    every = max(len(snippets) // count, 1)
    apart = set(range(every - 1, len(snippets), every)[:count])
    return [snippets[i] for i in sorted(apart)] + [
        s for i, s in enumerate(snippets) if i not in apart
    ]


@dataclass
class _Standing:
    """Where training stands.

    Attributes:
        before: Losses of the rows that it started from.
        best: The lowest so far, by `_loss`.
        step: The last one done.
        worse: Looks at the held-out snippets since then.
        seconds: Of all steps so far.
        queue: Batches of snippets still to come before all have been seen once more.
    """

    before: Measured
    best: Measured
    step: int = 0
    worse: int = 0
    seconds: float = 0.0
    queue: list[list[int]] = field(default_factory=list)


class _Training:
    """What changes from step to step, besides where it stands."""

    def __init__(self, student: Student, options: Distillation, seed: int) -> None:
        self.student, self.options = student, options
        self.draw, self.order = random.Random(seed), torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.Adam(student.parameters, lr=options.learning_rate)
        snippets = student.teaching.snippets
        met = [i for i in range(student.held_out, len(snippets)) if student.pairs[i]]
        lengths = [len(snippets[i].ids) for i in met]
        self.groups = [[met[i] for i in g] for g in batches(lengths, options.tokens_per_step)]
        self.targets = (student.targets.snippet >= student.held_out).nonzero()[:, 0]

    def step(self, here: _Standing, learning_rate: float) -> None:
        """One step of the optimizer."""
        student = self.student
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        here.queue = here.queue or self.draw.sample(self.groups, len(self.groups))
        frequency = student.frequency[self.targets]
        drawn = torch.multinomial(frequency, _TARGETS, replacement=True, generator=self.order)
        self.optimizer.zero_grad()
        weight = self.options.next_token_weight
        loss = student.loss(here.queue.pop(), self.targets[drawn], weight)
        torch.autograd.backward(loss)
        for rows in student.parameters:
            if rows.grad is not None:
                rows.grad[~student.seen] = 0.0
        self.optimizer.step()

    def look(self, here: _Standing) -> None:
        """Measures on held-out snippets, and keeps the rows where none before were as good."""
        now = self.student.measure(self.options.tokens_per_step)
        loss_of = partial(_loss, before=here.before, reading=not self.options.next_token_weight)
        here.worse = 0 if loss_of(now) < loss_of(here.best) else here.worse + 1
        if not here.worse:
            here.best = now
            self.student.keep()

    def state(self, here: _Standing, reading: float) -> dict[str, Any]:
        """What `restore` needs, and `distill`."""
        student = self.student
        return {
            "snippets": len(student.teaching.snippets),
            "reading": reading,
            "standing": asdict(here),
            "rows": [rows.detach().cpu().clone() for rows in student.parameters],
            "best": [student.best.inputs, student.best.outputs],
            "optimizer": self.optimizer.state_dict(),
            "draw": self.draw.getstate(),
            "order": self.order.get_state(),
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> _Standing:
        """Puts everything back as it was."""
        for rows, saved in zip(self.student.parameters, state["rows"], strict=True):
            rows.copy_(saved)
        inputs, outputs = state["best"]
        self.student.best = NewRows(inputs, outputs, self.student.best.bias)
        self.optimizer.load_state_dict(state["optimizer"])
        self.draw.setstate(state["draw"])
        self.order.set_state(state["order"])
        standing = state["standing"]
        measured = {name: Measured(**standing[name]) for name in ("before", "best")}
        return _Standing(**{**standing, **measured})


def _train(
    student: Student,
    options: Distillation,
    reading: float,
    seed: int,
    saving: Checkpoint,
    state: dict[str, Any] | None,
) -> _Standing:
    """Steps until a budget is spent or held-out snippets gain nothing; keeps the best rows."""
    started, training = time.perf_counter(), _Training(student, options, seed)
    if state:
        here = training.restore(state)
    else:
        first = student.measure(options.tokens_per_step)
        refuse_not_finite(torch.tensor([first.hidden, first.next_token, first.calibration]))
        here = _Standing(first, first)
    clock, budget = started - here.seconds, max(options.seconds - reading, 1e-9)
    look = max(1, options.steps // 10)
    for step in watched(range(here.step + 1, options.steps + 1), "Distilling rows"):
        spent = max(step / options.steps, (time.perf_counter() - clock) / budget)
        if spent > 1 and step > 1:
            break
        rate = options.learning_rate * min(1.0, step / 10) * max(0.05, 1 - spent)
        training.step(here, rate)
        if step % look == 0:
            training.look(here)
        here.step, here.seconds = step, time.perf_counter() - clock
        if here.worse >= options.patience:
            break
        if saving.due:
            saving.save(training.state(here, reading))
    if here.step % look:  # time ended between two looks: what was learned since counts too
        training.look(here)
    return here


def _loss(now: Measured, before: Measured, *, reading: bool) -> float:
    """The held-out losses that count, each in units of what it was."""
    if reading:
        return now.hidden
    return now.hidden / max(before.hidden, 1e-9) + now.next_token / max(before.next_token, 1e-9)
