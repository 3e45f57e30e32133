"""What watches a training run: its log lines, its checkpoints, and when it has to end."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from adapt.errors import TrainingError
from adapt.training.encoded import column
from adapt.training.examples import Examples
from adapt.training.failures import Stop
from adapt.training.model import new_row_parameters
from adapt.workspace import write_json

logger = logging.getLogger("adapt")

# Written into a checkpoint last, when every process has written its part.
COMPLETE = "complete.json"


class StopOnNan(TrainerCallback):
    """Ends training when the loss is no longer a number: the weights are lost from there on."""

    def __init__(self, phase: str) -> None:
        self.phase = phase

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - the signature of transformers
    ) -> None:
        """Looks at each logged loss."""
        loss = kwargs["logs"].get("loss", 0.0)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is not a number at step {state.global_step}",
                where=f"training.phases: {self.phase}",
                got=loss,
                fix="lower learning_rate or max_grad_norm, or set model.dtype=float32",
            )


class Bar(ProgressCallback):
    """The progress bar alone: what is logged has a line of its own."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,  # noqa: ANN401 - the signature of transformers
    ) -> None:
        """Says nothing."""


class LogLine(TrainerCallback):
    """Adds to every log what can be compared across tokenizers, and prints it as one line.

    Speeds are those since the line before. Bits per byte are those of the text that the steps
    since then have read: loss / ln 2 x predicted tokens / UTF-8 bytes, where the first token of
    each part of a document is not predicted, and a document that is cut into several examples
    counts its bytes with the first.

    Args:
        phase: Its name.
        examples: In training order.
        sequences: Examples of a step, over all processes.
        model: Whose new rows are watched.
        new_ids: Those rows; none where an engine has cut them.
        every_token: Whether the loss is over every token that is read, without which there are no
            bits per byte.
    """

    def __init__(
        self,
        phase: str,
        examples: Examples[Any],
        sequences: int,
        model: nn.Module,
        new_ids: Sequence[int],
        *,
        every_token: bool,
    ) -> None:
        self.phase, self.sequences, self.every_token = phase, sequences, every_token
        self.read = read_by(examples)
        self.ids = list(new_ids)
        self.first_norm = _mean_norm(model, self.ids)
        self.step, self.since = 0, time.perf_counter()

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - the signature of transformers
    ) -> None:
        """Starts the clock, at the checkpoint's step where there is one."""
        self.step, self.since = state.global_step, time.perf_counter()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - the signature of transformers
    ) -> None:
        """Adds to what every other callback will see."""
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs or state.global_step <= self.step:
            return
        now, last = time.perf_counter(), len(self.read) - 1
        start, end = (min(step * self.sequences, last) for step in (self.step, state.global_step))
        tokens, predicted, bytes_ = (self.read[end] - self.read[start]).tolist()
        seconds = max(now - self.since, 1e-9)
        logs["tokens_per_second"] = round(tokens / seconds, 1)
        logs["bytes_per_second"] = round(bytes_ / seconds, 1)
        if self.every_token and bytes_:
            logs["bits_per_byte"] = logs["loss"] / math.log(2) * predicted / bytes_
            # Trainer's history, which checkpoints keep, has a copy made before the callbacks.
            state.log_history[-1]["bits_per_byte"] = logs["bits_per_byte"]
        norm = _mean_norm(kwargs["model"], self.ids)
        if self.first_norm and norm is not None:
            logs["new_rows_norm_drift"] = norm / self.first_norm - 1
        self.step, self.since = state.global_step, now
        if state.is_world_process_zero:
            logger.info("%s", line(self.phase, state.global_step, state.max_steps, logs))


def line(phase: str, step: int, steps: int, logs: dict[str, float]) -> str:
    """One log as a line for people.

    Args:
        phase: Its name.
        step: Optimizer step.
        steps: All of them.
        logs: With `loss`; what else it has is shown.
    """
    shown = [
        (name, form.format(float(logs[key])))
        for key, name, form in (
            ("loss", "loss per token", "{:.4f}"),
            ("bits_per_byte", "bits per byte", "{:.4f}"),
            ("tokens_per_second", "tokens/s", "{:,.0f}"),
            ("bytes_per_second", "bytes/s", "{:,.0f}"),
            ("learning_rate", "learning rate", "{:.2e}"),
            ("grad_norm", "gradient norm", "{:.3g}"),
            ("new_rows_norm_drift", "new rows' norm", "{:+.2%}"),
        )
        if key in logs
    ]
    return f"{phase} {step}/{steps}: " + ", ".join(f"{name} {value}" for name, value in shown)


def read_by(examples: Examples[Any]) -> NDArray[np.int64]:
    """Tokens, predicted tokens and new bytes up to each example: (examples + 1, 3)."""
    sizes = column(examples.store, "bytes_")
    met: set[int] = set()
    rows = np.zeros((len(examples) + 1, 3), dtype=np.int64)
    for number, row in enumerate(examples.rows, start=1):
        tokens = sum(part.end - part.start for part in row)
        fresh = {part.drawn for part in row} - met
        met |= fresh
        bytes_ = sum(int(sizes[examples.drawn[drawn]]) for drawn in fresh)
        rows[number] = (tokens, tokens - len(row), bytes_)
    return rows.cumsum(axis=0)


@torch.no_grad()
def _mean_norm(model: nn.Module, ids: Sequence[int]) -> float | None:
    """Mean length of the new input rows; None without any."""
    if not ids:
        return None
    rows: list[Any] = list(new_row_parameters(model))
    if rows:
        held: Tensor = rows[0]
    else:
        embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
        held = embedding.weight[list(ids)]
    return float(held.detach().float().norm(dim=-1).mean())


class Checkpoints(TrainerCallback):
    """Ends what was asked to end after a checkpoint, and tells whole checkpoints from others.

    A checkpoint counts when its mark is there, which comes after every process has written its
    part; the one before is removed after that. So a kill at any moment leaves one to go on from.
    The mark says how long training took up to it, which is then counted once.

    Args:
        stop: Whether to end.
        earlier: Seconds up to the checkpoint that training goes on from.

    Attributes:
        stopped: Whether it has ended the phase, with a checkpoint at its last step.
    """

    def __init__(self, stop: Stop, earlier: float = 0.0) -> None:
        self.stop, self.earlier, self.since = stop, earlier, time.perf_counter()
        self.stopping = self.stopped = False

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - the signature of transformers
    ) -> None:
        """Starts the clock."""
        self.since = time.perf_counter()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - the signature of transformers
    ) -> None:
        """Saves and ends where any process was asked to; logs whenever it saves.

        The losses since the last log are not in a checkpoint: with a log, none is split by a
        resumption. An evaluation may find a new best, which is saved too.
        """
        if any_asked(self.stop.asked):
            self.stop.asked = control.should_save = control.should_training_stop = True
            self.stopping = True
        may_save = control.should_evaluate and args.load_best_model_at_end
        control.should_log = control.should_log or control.should_save or may_save

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - the signature of transformers
    ) -> None:
        """Marks the checkpoint that was just made, and removes those before."""
        PartialState().wait_for_everyone()
        self.stopped = self.stopping
        if not state.is_world_process_zero:
            return
        folder = Path(str(args.output_dir))
        made = folder / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        seconds = round(self.earlier + time.perf_counter() - self.since, 3)
        mark = {"step": state.global_step, "seconds": seconds}
        write_json(made / COMPLETE, mark)
        kept = {made.name, Path(state.best_model_checkpoint or "").name}
        for other in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            if other.name not in kept:
                shutil.rmtree(other, ignore_errors=True)


def last_checkpoint(folder: Path) -> str | None:
    """The last checkpoint that every process has finished; None where there is none."""
    found = [path.parent for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{COMPLETE}")]
    return str(max(found, key=lambda path: int(path.name.rsplit("-", 1)[1]))) if found else None


def seconds_until(checkpoint: str | None) -> float:
    """How long training took up to a checkpoint; 0 where there is none, or it does not say."""
    if checkpoint is None:
        return 0.0
    mark = json.loads((Path(checkpoint) / COMPLETE).read_text(encoding="utf-8"))
    return float(mark.get("seconds", 0.0))


def any_asked(asked: bool) -> bool:
    """Whether any process was asked to end; every process calls it, for they must end as one."""
    state = PartialState()
    if state.num_processes == 1:
        return asked
    flag = torch.tensor(int(asked), device=state.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag.item())
