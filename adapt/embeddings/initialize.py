"""Rows for new tokens, made from the rows of the base tokens that each glues together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def mean(rows: Tensor, constituents: Sequence[Sequence[int]]) -> Tensor:
    """The mean of the constituents' rows.

    Gee et al. 2022, "Fast Vocabulary Transfer for Language Model Compression", equation 2.

    Args:
        rows: (base tokens, hidden), any floating type.
        constituents: For each new token the base ids it is made of, each id below base tokens.

    Returns:
        (new tokens, hidden) in the type of `rows`; the mean is taken in float32.
    """
    lengths = torch.tensor([len(ids) for ids in constituents])
    flat = torch.tensor([id_ for ids in constituents for id_ in ids])
    owner = torch.repeat_interleave(torch.arange(len(constituents)), lengths)
    sums = torch.zeros(len(constituents), rows.shape[1]).index_add_(0, owner, rows[flat].float())
    return (sums / lengths[:, None]).to(rows.dtype)


# Names that `embeddings.init` may take.
STRATEGIES: dict[str, Callable[[Tensor, Sequence[Sequence[int]]], Tensor]] = {"mean": mean}
