"""Cross-entropy over a large vocabulary in chunks of positions, with its gradient.

All at once it costs several matrices of positions x vocabulary in float32, and, where some rows of
the output layer train, a gradient as large as that layer. Here positions without a label are left
out, the others go through the output layer some at a time, and the gradient is made on the way (as
in Wijmans et al. 2024, "Cut your losses", without its kernels): for the hidden states, and for the
rows that train, or the whole layer where all of it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import log_softmax

from adapt.training.batches import IGNORED

HALF = (torch.bfloat16, torch.float16)

# The sum of the cross-entropy, of hidden states, weight and labels.
Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class OutputLayer:
    """What makes logits of hidden states.

    Attributes:
        weight: (vocabulary, width).
        bias: (vocabulary,) or None.
        rows: (new, width) that stand in for some rows of `weight`, or None.
        ids: (new,) int64, which rows those are; None without.
        never: (few,) int64, ids whose logits are -inf; None without.
    """

    weight: Tensor
    bias: Tensor | None = None
    rows: Tensor | None = None
    ids: Tensor | None = None
    never: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether the weight is all of it."""
        return self.bias is None and self.rows is None and self.never is None

    def to(self, dtype: torch.dtype) -> OutputLayer:
        """The layer in the type that it computes in."""
        bias = None if self.bias is None else self.bias.to(dtype)
        rows = None if self.rows is None else self.rows.to(dtype)
        return OutputLayer(self.weight.to(dtype), bias, rows, self.ids, self.never)

    def logits(self, hidden: Tensor) -> Tensor:
        """(positions, vocabulary) of (positions, width) in the layer's type."""
        found = hidden @ self.weight.T
        if self.bias is not None:
            found += self.bias
        if self.rows is not None and self.ids is not None:
            found.index_copy_(1, self.ids, hidden @ self.rows.T)
        if self.never is not None:
            found.index_fill_(1, self.never, float("-inf"))
        return found


def chunked_loss(
    hidden: Tensor,
    layer: OutputLayer,
    labels: Tensor,
    positions: int,
    num_items_in_batch: Tensor | int | None = None,
    kernel: Kernel | None = None,
) -> Tensor:
    """Cross-entropy of labels under an output layer.

    Args:
        hidden: (positions, width) hidden states.
        layer: The output layer.
        labels: (positions,) int64; `IGNORED` where nothing is to be predicted.
        positions: That go through the layer at once.
        num_items_in_batch: What the sum is divided by; None: the labels that count.
        kernel: That makes the sum of a plain layer in half precision (`adapt.training.kernels`).

    Returns:
        A scalar, float32 (float64 where the layer is); NaN where nothing counts.
    """
    kept = labels != IGNORED
    weight = layer.weight
    autocast = torch.is_autocast_enabled(hidden.device.type)
    dtype = torch.get_autocast_dtype(hidden.device.type) if autocast else weight.dtype
    chosen = hidden[kept.to(hidden.device)].to(weight.device, dtype)
    answers = labels[kept].to(weight.device)
    items = len(answers) if num_items_in_batch is None else num_items_in_batch
    share = 1 / torch.as_tensor(items, dtype=_exact(dtype), device=weight.device)
    with torch.autocast(weight.device.type, enabled=False):
        if kernel is not None and dtype in HALF and len(chosen):
            return kernel(chosen, weight.to(dtype), answers).to(share.dtype) * share
        total: Tensor = _Summed.apply(  # type: ignore[no-untyped-call]
            chosen,
            weight,
            layer.bias,
            layer.rows,
            (layer, answers, share, positions, torch.is_grad_enabled()),
        )
    return total


class _Summed(torch.autograd.Function):
    """The sum over positions times a share; the gradient is made on the way there."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor | None,
        rest: tuple[OutputLayer, Tensor, Tensor, int, bool],
    ) -> Tensor:
        """Given apart, the tensors of the layer (the first of `rest`) have gradients."""
        layer, labels, share, size, learns = rest
        layer = layer.to(hidden.dtype)
        given, exact = (hidden, weight, bias, rows), _exact(hidden.dtype)
        wanted = [learns and needed for needed in ctx.needs_input_grad[:4]]
        gradients = [
            torch.zeros_like(tensor, dtype=exact if i else hidden.dtype) if wanted[i] else None  # type: ignore[arg-type]
            for i, tensor in enumerate(given)
        ]
        total = hidden.new_zeros((), dtype=exact)
        for start in range(0, len(hidden), size):
            some, answers = hidden[start : start + size], labels[start : start + size, None]
            logits = layer.logits(some)
            found = log_softmax(logits, dim=-1, dtype=exact)
            total -= found.gather(1, answers).sum()
            if any(wanted):
                # d loss / d logits: the probabilities, less 1 at the answers; scaled before the
                # products, so that these round as the model's own do
                minus = torch.full_like(answers, -1, dtype=exact)
                slope = logits.copy_(found.exp_().scatter_add_(1, answers, minus).mul_(share))
                here = None if gradients[0] is None else gradients[0][start : start + size]
                _add(layer, some, slope, (here, *gradients[1:]))
        ctx.gradients = gradients, tuple(None if t is None else t.dtype for t in given)
        return total * share

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (gradients, dtypes), ctx.gradients = ctx.gradients, None  # once: they are scaled in place
        both = zip(gradients, dtypes, strict=True)
        return (*(None if g is None else g.mul_(slope).to(t) for g, t in both), None)


def _add(
    layer: OutputLayer, hidden: Tensor, slope: Tensor, sums: tuple[Tensor | None, ...]
) -> None:
    """Adds the gradients of a chunk.

    Args:
        layer: In the type of the products.
        hidden: (chunk, width).
        slope: (chunk, vocabulary) of the logits; is overwritten.
        sums: Gradients of hidden states, weight, bias and rows, where wanted.
    """
    of_hidden, of_weight, of_bias, of_rows = sums
    if of_bias is not None:
        of_bias += slope.sum(0, dtype=of_bias.dtype)
    if layer.rows is not None and layer.ids is not None:
        at_rows = slope.index_select(1, layer.ids)
        slope.index_fill_(1, layer.ids, 0)
        if of_rows is not None:
            of_rows += at_rows.T @ hidden
        if of_hidden is not None:
            of_hidden += at_rows @ layer.rows
    if of_weight is not None:
        of_weight += slope.T @ hidden
    if of_hidden is not None:
        of_hidden += slope @ layer.weight


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
