"""What trains is float32, whatever the frozen weights are, and the casts that this takes.

AdamW moves a weight by about the learning rate, which bfloat16, with its 8 bits, rounds away for
weights more than 256 times as large.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from adapt.training.parts import layers

# Part of the name that PEFT gives the trainable rows of an embedding.
ROWS = "trainable_tokens_delta"


def in_float32(model: Any) -> None:  # noqa: ANN401
    """Casts what trains, and casts activations wherever they cross into another type.

    PEFT's adapters do so themselves; modules that train whole (`edges`, `modules_to_save`, the
    head of a classifier) would refuse activations of the frozen weights' type.
    """
    whole = [m for m in model.modules() if _trains_whole(m)]
    mixed = any(p.dtype != torch.float32 for m in whole for p in m.parameters())
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.float()
    if mixed:
        _cast_at_borders(model)


def _trains_whole(module: nn.Module) -> bool:
    if isinstance(module, ModulesToSaveWrapper):
        return True
    own = list(module.parameters(recurse=False))
    return bool(own) and isinstance(module, (nn.Linear, nn.Embedding)) and own[0].requires_grad


def _cast_at_borders(model: Any) -> None:  # noqa: ANN401
    """Gives every layer, and every other module above the embedding, input of its own type."""
    all_layers = layers(model)
    inside = {id(m) for layer in all_layers for m in layer.modules()}
    embedding = {id(m) for m in model.get_input_embeddings().modules()}
    leaves = (
        m
        for m in model.modules()
        if id(m) not in inside | embedding
        # Rows that train multiply by the matrix below them without asking it.
        and (list(m.parameters(recurse=False)) or isinstance(m, TrainableTokensLayer))
    )
    for module in (*all_layers, *leaves):
        module.register_forward_pre_hook(_cast_input, with_kwargs=True)


def _cast_input(module: nn.Module, given: Any, named: Any) -> tuple[Any, Any]:  # noqa: ANN401
    dtype = _computes_in(module.named_parameters())
    return _cast(given, dtype), _cast(named, dtype)


def _computes_in(parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.dtype:
    """Type of a module's own weights; adapters inside bring another and cast for themselves."""
    adapters = ("lora_", ROWS)
    own = (
        p
        for name, p in parameters
        if p.is_floating_point() and not any(part in name for part in adapters)
    )
    return next((p.dtype for p in own), torch.float32)


def _cast(value: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(item, dtype) for item in value)
    if isinstance(value, dict):
        return {key: _cast(item, dtype) for key, item in value.items()}
    return value
