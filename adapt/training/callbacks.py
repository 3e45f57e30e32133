"""What watches a training run."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from adapt.errors import TrainingError


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
