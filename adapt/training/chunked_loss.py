"""The loss of causal models in chunks, so that all logits never exist at once.

The model's own forward pass runs as it is: only its output layer is made to hand the hidden states
on, and its loss to take them (`adapt.training.cross_entropy`). So it works under whatever wraps the
model, and for every architecture whose loss is `transformers`' own on what the output layer gives,
unchanged. Whether that is so is found out by running it once on numbers that show any change
(`_refusal`); where it is not, the model keeps its own loss. Where a kernel is installed that makes
the same loss on a GPU, it takes the chunks' place (`adapt.training.kernels`).
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.loss.loss_utils import ForCausalLMLoss

from adapt.training.batches import IGNORED
from adapt.training.cross_entropy import Kernel, OutputLayer, chunked_loss
from adapt.training.kernels import kernel_for

logger = logging.getLogger("adapt")

# Largest relative difference to the model's own loss in the self-check, by type of the layer.
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 2e-2}

# Spread of the numbers that stand for logits in the self-check: far enough out for a soft cap.
_LOUD = 50.0


@contextmanager
def in_chunks(model: Any, positions: int | None) -> Iterator[None]:  # noqa: ANN401
    """Lets a causal model take its loss in chunks, as long as the context lasts.

    Losses are those of the model's own to rounding, in training and evaluation, whatever the
    number of batches that make a step. Its outputs have no logits where there are labels.

    Args:
        model: With or without adapters, on its device; parameters whole on every process.
        positions: That go through the output layer at once; None leaves the model alone.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if positions is None:
        yield
        return
    reason, never = _refusal(base)
    if reason:
        logger.info("The loss is the model's own, not in chunks: %s.", reason)
        yield
        return
    layer = _layer(base.get_output_embeddings(), never)
    assert layer is not None  # it was when the self-check looked
    with _replaced(base, forward=_forward(base, positions, never, kernel_for(layer))):
        yield


def _forward(
    base: Any,  # noqa: ANN401
    positions: int,
    never: Tensor | None,
    kernel: Kernel | None,
) -> Any:  # noqa: ANN401
    """The model's own forward pass, in which the output layer hands on what it is given."""
    plain, head = base.forward, base.get_output_embeddings()

    @functools.wraps(plain)
    def forward(*given: Any, **named: Any) -> Any:  # noqa: ANN401
        if named.get("labels") is None:
            return plain(*given, **named)

        def loss(logits: Tensor, *a: Any, **kw: Any) -> Tensor:  # noqa: ANN401
            layer = _layer(head, never)
            assert layer is not None  # it was when the context began
            return _loss(logits, layer, positions, kernel, *a, **kw)

        with (
            _replaced(head, forward=_same, _forward_hooks=OrderedDict()),
            _replaced(base, _loss_function=loss),
        ):
            output = plain(*given, **named)
        if dataclasses.is_dataclass(output) and not isinstance(output, type):
            return dataclasses.replace(output, logits=None)  # type: ignore[call-arg, unused-ignore]
        return output

    return forward


def _loss(
    hidden: Tensor,
    layer: OutputLayer,
    positions: int,
    kernel: Kernel | None,
    labels: Tensor,
    vocab_size: int | None = None,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = IGNORED,
    shift_labels: Tensor | None = None,
    **kwargs: Any,  # noqa: ANN401
) -> Tensor:
    """In place of `ForCausalLMLoss`; `hidden` stands where that has logits."""
    if shift_labels is None:
        shift_labels = pad(labels, (0, 1), value=ignore_index)[..., 1:]
    flat = shift_labels.reshape(-1)
    if ignore_index != IGNORED:
        flat = flat.masked_fill(flat == ignore_index, IGNORED)
    return chunked_loss(
        hidden.reshape(-1, hidden.shape[-1]), layer, flat, positions, num_items_in_batch, kernel
    )


def _same(hidden: Tensor) -> Tensor:
    return hidden


@contextmanager
def _replaced(thing: Any, **values: Any) -> Iterator[None]:  # noqa: ANN401
    """Sets attributes of an object itself, past what `nn.Module` makes of them, for a while."""
    held = thing.__dict__
    before = {name: held[name] for name in values if name in held}
    held.update(values)
    try:
        yield
    finally:
        for name in values:
            held.pop(name, None)
        held.update(before)


def _layer(head: Any, never: Tensor | None = None) -> OutputLayer | None:  # noqa: ANN401
    """The parts of an output layer; None for kinds that are not known."""
    if isinstance(head, TrainableTokensWrapper):
        adapter: Any = head.token_adapter
        active = adapter.active_adapters
        plain = _layer(adapter.base_layer, never)
        if plain is None or plain.bias is not None or len(active) != 1 or adapter.merged:
            return None
        ids = torch.tensor(adapter.token_indices[active[0]], device=plain.weight.device)
        return dataclasses.replace(plain, rows=adapter.trainable_tokens_delta[active[0]], ids=ids)
    if isinstance(head, ModulesToSaveWrapper):
        active = head.active_adapters
        return _layer(head.modules_to_save[active[0]], never) if len(active) == 1 else None
    known = type(head) is nn.Linear and head.weight.dtype in _TOLERANCE
    if not known or hasattr(head, "_hf_hook") or head.weight.is_meta:
        return None
    return OutputLayer(head.weight, head.bias, never=never)


def _refusal(base: Any) -> tuple[str | None, Tensor | None]:  # noqa: ANN401
    """Why a model must keep its own loss, if it must, and else the ids it gives no probability.

    Random numbers stand where the output layer gives logits, and are looked for where the loss
    takes them. The loss in chunks is then compared with the model's own on the same hidden states.
    """
    head = base.get_output_embeddings()
    layer = None if head is None else _layer(head)
    if layer is None:
        return "its output layer is not a plain one", None
    if getattr(base, "loss_function", None) is not ForCausalLMLoss:
        return "its loss is one of its own", None
    ids = torch.arange(min(8, len(layer.weight)), device=layer.weight.device)[None]
    shape, seed = (1, ids.shape[1], len(layer.weight)), torch.Generator().manual_seed(0)
    loud = (_LOUD * torch.randn(shape, generator=seed)).to(layer.weight)
    given: list[Tensor] = []
    taken: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = []

    def show(hidden: Tensor) -> Tensor:
        given.append(hidden)
        return loud

    def look(logits: Tensor, *a: Any, **kw: Any) -> Tensor:  # noqa: ANN401
        taken.append((logits, a, kw))
        return logits.new_zeros((), dtype=torch.float32)

    was_training = base.training
    # As in training: quantised layers are repacked when a pass has no gradient.
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        base.train()
        with _replaced(head, forward=show), _replaced(base, _loss_function=look):
            base(input_ids=ids, labels=ids, use_cache=False)
        base.train(was_training)
    if len(given) != 1 or len(taken) != 1 or taken[0][0].shape != loud.shape:
        return "it does more than one output layer and one loss", None
    logits, a, kw = taken[0]
    silent = torch.isneginf(logits).flatten(0, 1).all(0)
    never = silent.nonzero()[:, 0] if silent.any() else None
    if not torch.equal(logits[..., ~silent].float(), loud[..., ~silent].float()):
        return "it changes logits before the loss", None
    hidden = given[0].detach()
    with torch.no_grad():
        own = ForCausalLMLoss(head(hidden), *a, **kw)
        ours = _loss(hidden, dataclasses.replace(layer, never=never), 3, None, *a, **kw)
    rtol = _TOLERANCE[layer.weight.dtype]
    same = bool(torch.isclose(own.float(), ours.float(), rtol=rtol, atol=1e-6))
    return (None, never) if same else ("the two differ", None)
