"""What LoRA is refused for: targets and layers that PEFT takes, but not as they are meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from adapt.errors import ModelError
from adapt.recipe.training import LoraSection
from adapt.training.parts import layers, row_modules
from adapt.training.rows import RowPlan, is_tied

_TARGETS = "training.lora.target_modules"


def check_lora(model: Any, lora: LoraSection, plan: RowPlan) -> None:  # noqa: ANN401
    """Refuses what would train as something else than is asked for, or than is merged afterwards.

    An adapter on one side of a tied matrix would be merged into both; PEFT cannot put one onto a
    matrix whose new rows train, leaves out layers that there are not, and begins `olora` from
    matrices as if none were held transposed.

    Args:
        model: The adapted base.
        lora: `training.lora` of the recipe.
        plan: How new rows train.

    Raises:
        ModelError: With the key that is to be changed.
    """
    if lora.layers_to_transform is not None:
        _check_layers(len(layers(model)), lora.layers_to_transform)
    if isinstance(lora.target_modules, str):
        _check_expression(lora.target_modules)
    tied = is_tied(model)
    held = list(row_modules(model).values()) if tied or plan.how == "token_indices" else []
    if tied:
        held.append(model.get_output_embeddings())
    for name, module in _targeted(model, lora.target_modules):
        if any(module is one for one in held):
            reason = "is tied to the other embedding" if tied else "has new rows that train"
            fix = "leave it out, or take all-linear"
            raise ModelError(f"{name} {reason}", where=_TARGETS, fix=fix)
        if lora.init_lora_weights == "olora" and isinstance(module, Conv1D):
            raise ModelError(
                f"cannot begin from {name}, which is held transposed",
                where="training.lora.init_lora_weights",
                got="olora",
                fix="take true or pissa",
            )


def _check_layers(count: int, wanted: list[int]) -> None:
    outside = [number for number in wanted if not 0 <= number < count]
    if outside or not wanted:
        raise ModelError(
            f"the base has {count} layers, counted from 0",
            where="training.lora.layers_to_transform",
            got=outside or wanted,
            fix="name layers that there are, or leave it out",
        )


def _check_expression(given: str) -> None:
    try:
        re.compile(given)
    except re.error as error:
        reason = f"is no regular expression, {error}"
        raise ModelError(reason, where=_TARGETS, got=given) from None


def _targeted(model: nn.Module, targets: str | list[str]) -> Iterator[tuple[str, nn.Module]]:
    """Modules that PEFT takes for one of the targets, a tied one under each of its names."""
    for name, module in model.named_modules(remove_duplicate=False):
        if targets == "all-linear":  # never the output layer
            found = isinstance(module, Conv1D)
        elif isinstance(targets, str):
            found = re.fullmatch(targets, name) is not None
        else:
            found = any(name == one or name.endswith(f".{one}") for one in targets)
        if found:
            yield name, module
