"""A kernel for the loss of large vocabularies, where its package is installed and its GPU is there.

Cut cross-entropy (Wijmans et al. 2024, arXiv:2411.09009; the package `cut-cross-entropy`) makes the
loss and its gradient without any logits in memory. It takes a plain output layer in half precision.
Where some rows train apart (`OutputLayer.rows`) it would need a copy of the matrix and a gradient
as large, which chunks do not; so these keep their chunks, as do biases and float32.

Nothing of it is taken on trust: before a phase it is run once on the layer at hand, and what it
says is compared with the chunks.
"""

from __future__ import annotations

import logging
from functools import partial

import torch

from adapt.training.cross_entropy import HALF, Kernel, OutputLayer, chunked_loss

logger = logging.getLogger("adapt")

DEVICES = ("cuda",)

# Largest relative difference to the chunks: both round to half precision in their own order, and
# the kernel leaves out gradients that such a type would lose.
_TOLERANCE = 5e-2
_POSITIONS = 64
_SPREAD = 4.0  # of the logits in the comparison: a few tokens likely, as of a trained model


def kernel_for(layer: OutputLayer) -> Kernel | None:
    """The kernel, if it can be used for an output layer; the log says why where it cannot.

    Args:
        layer: On the device that it trains on.

    Returns:
        Of hidden states (positions, width), weight (vocabulary, width) and labels (positions,),
        the first two of one half precision, the sum of the cross-entropy.
    """
    weight = layer.weight
    if weight.device.type not in DEVICES:
        return None
    try:
        from cut_cross_entropy import linear_cross_entropy  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    kernel = partial(linear_cross_entropy, reduction="sum")
    reason = _refusal(layer, kernel)
    if reason:
        logger.info("cut-cross-entropy is installed and not used: %s.", reason)
        return None
    logger.info("In half precision the loss is computed by cut-cross-entropy.")
    return kernel


def _refusal(layer: OutputLayer, kernel: Kernel) -> str | None:
    if not layer.plain:
        return "the output layer has rows that train apart, a bias or ids that are never written"
    try:
        error = _largest_error(layer, kernel)
    except Exception as failure:  # of a compiler, a driver or the kernel; chunks work everywhere
        return f"it fails here ({type(failure).__name__}: {str(failure).strip()[:200]})"
    if not error <= _TOLERANCE:
        return f"it differs from the chunks by {error:.1%}, {_TOLERANCE:.0%} allowed"
    return None


def _largest_error(layer: OutputLayer, kernel: Kernel) -> float:
    """Of the loss and its gradients, relative to the chunks', on random hidden states."""
    weight = layer.weight.detach()
    weight = weight.to(weight.dtype if weight.dtype in HALF else torch.bfloat16)
    vocabulary, width = weight.shape
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(_POSITIONS, width, generator=generator)
    hidden *= _SPREAD / (float(weight.float().std()) * width**0.5)
    labels = torch.randint(vocabulary, (_POSITIONS,), generator=generator).to(weight.device)
    found = []
    for own in (False, True):
        given = [t.detach().clone().requires_grad_() for t in (hidden.to(weight), weight)]
        with torch.enable_grad(), torch.autocast(weight.device.type, enabled=False):
            if own:
                loss = chunked_loss(given[0], OutputLayer(given[1]), labels, _POSITIONS, 1)
            else:
                loss = kernel(given[0], given[1], labels)
        found.append([loss.detach(), *torch.autograd.grad(loss, given)])
    pairs = [(a.float(), b.float()) for a, b in zip(*found, strict=True)]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)
