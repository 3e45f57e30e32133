"""The same forward and backward pass with less work, for as long as a phase trains.

Each part takes the place of something that PEFT or `transformers` does in a general way, only where
it is known to give the same to rounding, and is gone afterwards; nothing of it is in a checkpoint.
What decided each stands in `docs/decisions.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import embedding, softmax
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from adapt.training.chunked_loss import in_chunks

# Tokens up to which it was measured to be faster; its scores take tokens x tokens of memory.
_PAYS = 1024

# Name of `attention` among the attention functions of `transformers`.
PRODUCTS = "adapt_products"


@contextmanager
def faster(model: Any, positions: int | None, *, any_attention: bool) -> Iterator[None]:  # noqa: ANN401
    """All parts together.

    Args:
        model: With or without adapters, on its device; parameters whole on every process.
        positions: That go through the output layer at once; None: the model's own loss.
        any_attention: Whether how attention is computed is left to us.
    """
    with ExitStack() as stack:
        stack.enter_context(rows_looked_up(model))
        stack.enter_context(adapters_in_their_input_type(model))
        if any_attention:
            stack.enter_context(attention_by_products(model))
        stack.enter_context(in_chunks(model, positions))
        yield


@contextmanager
def rows_looked_up(model: nn.Module) -> Iterator[None]:
    """Looks tokens up in the embedding matrix and in the rows that train, and chooses.

    PEFT writes the rows into a copy of the whole matrix at every pass, and its gradient is as
    large as the matrix again. Here repeated tokens' gradients are added up in the rows' own type.
    """

    def known(layer: Any) -> bool:  # noqa: ANN401
        base = layer.base_layer
        plain = isinstance(base, nn.Embedding) and base.max_norm is None and not base.sparse
        return plain and not base.scale_grad_by_freq and _one_active(layer)

    layers: list[Any] = [m for m in model.modules() if isinstance(m, TrainableTokensLayer)]
    with _instead([(m, _look_up(m)) for m in layers if known(m)], "forward_adapters"):
        yield


def _look_up(layer: Any) -> Callable[..., Tensor]:  # noqa: ANN401
    base, (name,) = layer.base_layer, layer.active_adapters
    ids = torch.tensor(layer.token_indices[name], dtype=torch.int64)
    places = torch.full((len(base.weight),), -1, dtype=torch.int64)  # -1: not among the rows
    places[ids] = torch.arange(len(ids))
    places = places.to(base.weight.device)

    def forward(tokens: Tensor, active: Any, *given: Any, **named: Any) -> Tensor:  # noqa: ANN401
        place = places[tokens]
        old = embedding(tokens, base.weight, padding_idx=base.padding_idx)
        new = embedding(place.clamp(min=0), layer.trainable_tokens_delta[name]).to(old.dtype)
        found = torch.where((place < 0)[..., None], old, new)
        scale = layer._get_embed_scale()
        return found if scale is None else found * scale.to(found.dtype)

    return forward


@contextmanager
def adapters_in_their_input_type(model: nn.Module) -> Iterator[None]:
    """Multiplies low-rank adapters in bfloat16 where what they are added to is bfloat16.

    As autocast would; the adapters themselves, their gradients and the optimizer stay float32.
    PEFT casts input and output of every layer to float32 and back, and multiplies in float32.
    """

    def known(layer: Any) -> bool:  # noqa: ANN401
        base = layer.base_layer
        low = type(base) is nn.Linear and base.weight.dtype == torch.bfloat16
        if not low or not _one_active(layer) or layer.lora_variant:
            return False
        return layer.lora_B[layer.active_adapters[0]].bias is None

    layers: list[Any] = [m for m in model.modules() if type(m) is LoraLinear]
    with _instead([(m, partial(_low_rank, m)) for m in layers if known(m)], "forward"):
        yield


def _low_rank(layer: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    """Of (..., in features), (..., out features)."""
    name = layer.active_adapters[0]
    result: Tensor = layer.base_layer(x)
    down = layer.lora_A[name].weight.to(result.dtype)
    up = (layer.lora_B[name].weight * layer.scaling[name]).to(result.dtype)
    inner = layer.lora_dropout[name](x.reshape(-1, x.shape[-1])) @ down.T
    flat = torch.addmm(result.reshape(-1, result.shape[-1]), inner, up.T)
    return flat.view(result.shape)


@contextmanager
def attention_by_products(model: Any) -> Iterator[None]:  # noqa: ANN401
    """Attention by plain matrix products, where torch would take its kernel for processors.

    In bfloat16 that kernel takes two to three times as long up to 1,000 tokens.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = base.config._attn_implementation
    low = base.dtype == torch.bfloat16 and base.device.type == "cpu"
    if not low or before != "sdpa" or base.config.sub_configs:
        yield
        return
    AttentionInterface.register(PRODUCTS, attention)
    AttentionMaskInterface.register(PRODUCTS, eager_mask)
    base.set_attn_implementation(PRODUCTS)
    try:
        yield
    finally:
        base.set_attn_implementation(before)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **named: Any,  # noqa: ANN401
) -> tuple[Tensor, None]:
    """Scaled dot-product attention, for `transformers.AttentionInterface`.

    Args:
        module: The attention layer.
        query: (batch, heads, tokens, width).
        key: (batch, key heads, tokens, width), each for heads / key heads queries.
        value: As `key`.
        attention_mask: (batch or 1, 1, tokens, tokens), added to the scores.
        dropout: Of the probabilities.
        scaling: Of the scores; None: 1 / sqrt(width).
        **named: What `transformers` gives besides.

    Returns:
        (batch, tokens, heads, width), and None for the probabilities.
    """
    other = named.get("position_bias") is not None or named.get("cache")
    if attention_mask is None or other or query.shape[2] > _PAYS:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **named
        )
    batch, heads, tokens, width = query.shape
    shared = batch * key.shape[1], -1, width  # queries of one key head go through it together
    query = query * (width**-0.5 if scaling is None else scaling)
    scores = query.reshape(shared) @ key.reshape(shared).transpose(1, 2)
    scores = scores.view(batch, heads, tokens, -1).add_(attention_mask)
    shares = softmax(scores, dim=-1)  # sums in float32, whatever the type
    if dropout:
        shares = drop(shares, dropout)
    mixed = shares.view(shared[0], -1, key.shape[2]) @ value.reshape(shared[0], -1, value.shape[3])
    return mixed.view(batch, heads, tokens, -1).transpose(1, 2).contiguous(), None


def _one_active(layer: Any) -> bool:  # noqa: ANN401
    return len(layer.active_adapters) == 1 and not layer.merged and not layer.disable_adapters


@contextmanager
def _instead(places: list[tuple[nn.Module, Callable[..., Tensor]]], name: str) -> Iterator[None]:
    """Puts functions in the place of methods of modules."""
    for module, function in places:
        module.__dict__[name] = function
    try:
        yield
    finally:
        for module, _ in places:
            del module.__dict__[name]
