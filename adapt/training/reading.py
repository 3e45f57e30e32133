"""Units that are only read (`embeddings.units: input`): the model gives them no probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def never_written(model: Any, ids: Sequence[int]) -> Any:  # noqa: ANN401
    """Makes a model's logits of some tokens -inf, as `suppress_tokens` does in generation.

    So the loss of training and every likelihood are those of a model that has the base's tokens
    to write with, whatever the rows of read-only units are: tied rows are made to be read.

    Args:
        model: A causal language model, with or without adapters around its output layer.
        ids: Tokens that are never written.

    Returns:
        The same model.
    """
    if not ids:
        return model
    columns = torch.tensor(list(ids))

    def suppress(module: nn.Module, given: Any, logits: Tensor) -> Tensor:  # noqa: ANN401
        return logits.index_fill(-1, columns.to(logits.device), float("-inf"))

    model.get_output_embeddings().register_forward_hook(suppress)
    return model
