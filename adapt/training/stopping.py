"""When a phase looks at the validation side, ends early, and goes back to its best checkpoint."""

from __future__ import annotations

from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

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
        "load_best_model_at_end": phase.load_best_model_at_end,
    }


def stopping_callbacks(phase: Phase) -> list[TrainerCallback]:
    """What ends a phase whose validation loss has stopped falling."""
    if phase.early_stopping_patience is None:
        return []
    return [EarlyStoppingCallback(phase.early_stopping_patience)]
