"""A frozen model that reads with rows of our own, up to the layer that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from adapt.errors import ModelError

_TRIED = 8  # ids that the model's own logits are compared of
_DIFFERENT = 0.03  # of the largest logit; rounding in bfloat16 comes to less than a hundredth


class _Reached(Exception):  # noqa: N818 - no error: it ends a forward pass early
    """The layer is reached whose input was wanted."""


@dataclass(frozen=True)
class Frozen:
    """A causal language model whose parameters do not train.

    Attributes:
        model: On its device, in evaluation mode.
        body: The part below the output layer.
        embedding: The body's name for the input embedding's weight.
        layers: The body's layers, from the first.
    """

    model: Any
    body: nn.Module
    embedding: str
    layers: nn.ModuleList

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype, *, trust_remote_code: bool = False) -> Frozen:
        """Loads the base.

        Args:
            folder: Its checkpoint.
            dtype: Of its weights, which is what they are computed in.
            trust_remote_code: As in `transformers`.

        Raises:
            ModelError: It is not a causal language model, or one whose output layer does more
                than is known here.
        """
        from accelerate import PartialState
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        made_as = (config.architectures or ["ForCausalLM"])[0]
        try:
            if made_as.endswith(("ForMaskedLM", "ForPreTraining")):
                raise ValueError(f"it is a {made_as}")
            model: Any = AutoModelForCausalLM.from_pretrained(
                str(folder), dtype=dtype, trust_remote_code=trust_remote_code
            )
        except (OSError, ValueError) as error:
            raise ModelError(
                f"distill needs a causal language model, {str(error).splitlines()[0]}",
                where="embeddings.init",
                fix="take mean",
            ) from None
        model = model.to(PartialState().device).eval().requires_grad_(False)
        body = model.base_model
        inputs = body.get_input_embeddings().weight
        # A student reads with fewer rows, where the padding's id may lie outside, or be a new
        # token's, which would get no gradient.
        body.get_input_embeddings().padding_idx = None
        embedding = next(name for name, p in body.named_parameters() if p is inputs)
        lists = [module for module in body.modules() if isinstance(module, nn.ModuleList)]
        frozen = cls(model, body, embedding, max(lists, key=len))
        frozen._refuse_other_logits()
        return frozen

    @torch.inference_mode()
    def _refuse_other_logits(self) -> None:
        """Refuses a model whose own logits, of a few ids, are not what `logits` makes of them."""
        ids = torch.linspace(0, len(self.inputs) - 1, _TRIED).long().to(self.device)[None]
        wanted = self.model(input_ids=ids, use_cache=False).logits[0].float()
        refuse_not_finite(wanted)
        made = self.logits(self._last(ids, self.inputs)[0], self.outputs, self.bias)
        same = made.shape == wanted.shape
        if not same or float((made - wanted).abs().max() / wanted.abs().max()) > _DIFFERENT:
            raise ModelError(
                f"distill does not know what the output layer of {type(self.model).__name__} does",
                where="embeddings.init",
                fix="set embeddings.init=mean",
            )

    @property
    def inputs(self) -> Tensor:
        """The input embedding, (rows, hidden)."""
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight

    @property
    def outputs(self) -> Tensor:
        """The output embedding, (rows, hidden); the input's where they are tied."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        """What the output layer adds, (rows,)."""
        bias: Tensor | None = getattr(self.model.get_output_embeddings(), "bias", None)
        return bias

    @property
    def device(self) -> torch.device:
        """Where it lives."""
        return self.inputs.device

    def states(self, ids: Tensor, rows: Tensor, layer: int) -> Tensor:
        """Hidden states, computed no further up than they are needed.

        Args:
            ids: (texts, tokens), each a row of `rows`, padded on the right, where causal
                attention never looks.
            rows: (any, hidden) in the model's type: the input embedding to read with.
            layer: How many layers to go through; all of them gives what the output layer sees.

        Returns:
            (texts, tokens, hidden).
        """
        if layer >= len(self.layers):
            return self._last(ids, rows)
        with self._catching(layer, stop=True) as caught, suppress(_Reached):
            self._last(ids, rows)
        return caught[0]

    def both_states(self, ids: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """States after `layer` layers, and last ones, with the model's own rows.

        Args:
            ids: (texts, tokens) of the base, padded on the right.
            layer: As in `states`.

        Returns:
            Two of (texts, tokens, hidden).
        """
        if layer >= len(self.layers):
            last = self._last(ids, self.inputs)
            return last, last
        with self._catching(layer, stop=False) as caught:
            last = self._last(ids, self.inputs)
        return caught[0], last

    def _last(self, ids: Tensor, rows: Tensor) -> Tensor:
        named = {"input_ids": ids, "use_cache": False}
        out = functional_call(self.body, {self.embedding: rows}, (), named)
        last: Tensor = out.last_hidden_state
        return last

    @contextmanager
    def _catching(self, layer: int, *, stop: bool) -> Iterator[list[Tensor]]:
        """Catches what goes into a layer, and ends the pass there if asked to."""
        caught: list[Tensor] = []

        def catch(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            caught.append(given[0] if given else named["hidden_states"])
            if stop:
                raise _Reached

        handle = self.layers[layer].register_forward_pre_hook(catch, with_kwargs=True)
        try:
            yield caught
        finally:
            handle.remove()

    def logits(self, states: Tensor, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """What the output layer makes of last hidden states with rows of its kind.

        Args:
            states: (positions, hidden).
            rows: (tokens, hidden) of the same type.
            bias: (tokens,), or none.

        Returns:
            (positions, tokens) in float32, scaled and capped as the configuration says.
        """
        logits = (states @ rows.T).float()
        return self._shaped(logits if bias is None else logits + bias.float())

    def logits_of(self, states: Tensor, ids: Tensor) -> Tensor:
        """The logit of one token of the base at each position, (positions,) in float32."""
        logits = (states.float() * self.outputs[ids].float()).sum(1)
        return self._shaped(logits if self.bias is None else logits + self.bias[ids].float())

    def _shaped(self, logits: Tensor) -> Tensor:
        config = self.model.config.get_text_config()
        if scale := getattr(config, "logit_scale", None):  # Cohere
            logits = logits * scale
        if scale := getattr(config, "lm_head_multiplier", None):  # Falcon-H1
            logits = logits * scale
        if scale := getattr(config, "logits_scaling", None):  # Granite
            logits = logits / scale
        for key in ("final_logit_softcapping", "logits_soft_cap"):  # Gemma 2, RecurrentGemma
            if cap := getattr(config, key, None):
                logits = cap * torch.tanh(logits / cap)
        return logits


def refuse_not_finite(values: Tensor) -> None:
    """Refuses a base that computes no numbers.

    Raises:
        ModelError: One of the values is infinite or not a number.
    """
    if not bool(values.isfinite().all()):
        raise ModelError(
            "the base computes what is not a number: its weights, or their type, are at fault",
            where="model.base",
            fix="check its weights, or set model.dtype=float32",
        )


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Ids filled up with 0 on the right, (rows, longest)."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)


def batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Indices grouped so that a padded batch has at most `tokens` tokens, alike in length."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if groups and (len(groups[-1]) + 1) * lengths[i] <= tokens:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups
