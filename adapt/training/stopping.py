"""When a phase looks at the validation side, ends early, and goes back to its best checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from adapt.recipe.training import Phase


def evaluation_arguments(phase: Phase) -> dict[str, Any]:
    """What `TrainingArguments` need besides the rest; empty where the phase never evaluates."""
    if phase.eval_steps is None:
        return {}
    return {
        "eval_strategy": "steps",
        "eval_steps": phase.eval_steps,
        "per_device_eval_batch_size": phase.per_device_train_batch_size,
        "prediction_loss_only": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
    }


def stopping_callbacks(phase: Phase) -> list[TrainerCallback]:
    """What watches the validation loss of a phase; nothing where there is none."""
    return [] if phase.eval_steps is None else [Validation(phase.early_stopping_patience)]


class Validation(TrainerCallback):
    """Keeps the best weights, and ends a phase whose validation loss has stopped falling.

    Trainer goes back to the best step only if that step has a checkpoint, so one is made there
    whatever `save_steps` is. Losses are counted in Trainer's history, which checkpoints keep, so a
    phase that goes on ends where it would have ended. Every process sees the same losses.

    Args:
        patience: Losses without a new lowest after which the phase ends; None: never.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - the signature of transformers
    ) -> None:
        """Finds the best checkpoint again where the run folder has been moved."""
        best = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        if state.best_global_step and best.is_dir():
            state.best_model_checkpoint = str(best)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - the signature of transformers
    ) -> None:
        """Saves a new best; ends the phase when it has waited long enough for one."""
        since = looks_since_best(h["eval_loss"] for h in state.log_history if "eval_loss" in h)
        if since == 0 and args.load_best_model_at_end:
            control.should_save = True
        if self.patience is not None and since >= self.patience:
            # Without a checkpoint here: one that goes on from the one before ends here again.
            control.should_training_stop, control.should_save = True, False


def looks_since_best(losses: Iterable[float]) -> int:
    """How many losses there are after the lowest one; what is not a number is never that."""
    best, since = math.inf, 0
    for loss in losses:
        best, since = (loss, 0) if loss < best else (best, since + 1)
    return since
