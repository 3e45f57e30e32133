"""Parts of a model by name: its task, its layers, and the modules that have a row a token."""

from __future__ import annotations

from typing import Any

from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adapt.errors import ModelError
from adapt.training.rows import RowPlan

# Names that `transformers` gives to tables with a row for each position.
_POSITIONS = ("position_embeddings", "wpe", "embed_positions")


def task_type(model: Any) -> str | None:  # noqa: ANN401
    """What PEFT calls the model's task; None for those it has no class of its own for."""
    name = type(model).__name__
    if name.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    return "CAUSAL_LM" if name.endswith(("ForCausalLM", "LMHeadModel")) else None


def row_modules(model: Any) -> dict[str, Any]:  # noqa: ANN401
    """Modules that have rows of their own: the input embedding, and an untied output."""
    names = {id(module): name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    found = {names[id(inputs)]: inputs}
    if outputs is not None and outputs.weight is not inputs.weight:
        found[names[id(outputs)]] = outputs
    return found


def rows_to_train(model: Any, plan: RowPlan) -> dict[str, list[int]]:  # noqa: ANN401
    """Which module trains which rows.

    Given as a list, PEFT trains the input side only; a tied output follows the input by itself,
    an untied one must be named. An output layer that has no such rows, for units that are only
    read, is left alone.
    """
    longest = max(plan.ids, default=0)
    modules = row_modules(model).items()
    return {name: list(plan.ids) for name, m in modules if len(m.weight) > longest}


def keep_output_bias(model: nn.Module) -> None:
    """Gives an output layer back the bias that PEFT 0.21 leaves out while new rows train beside it.

    Without it a model trains as another one than it is merged to. A PEFT that knows of biases is
    left alone: a second one would be as wrong as none.
    """
    code = TrainableTokensLayer.forward_adapters.__code__
    if "bias" in {*code.co_names, *code.co_consts}:
        return
    found: list[Any] = [m for m in model.modules() if isinstance(m, TrainableTokensLayer)]
    for layer in found:
        if isinstance(layer.base_layer, nn.Linear) and layer.base_layer.bias is not None:
            layer.register_forward_hook(_with_bias)


def _with_bias(layer: Any, given: Any, output: Tensor) -> Tensor:  # noqa: ANN401
    if layer.merged or layer.disable_adapters or not layer.active_adapters:
        return output  # that of the layer below, which has added it
    found: Tensor = output + layer.base_layer.bias.to(output)
    return found


def layers(model: Any) -> nn.ModuleList:  # noqa: ANN401
    """The model's layers: its longest list of modules.

    Raises:
        ModelError: It has none.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ModelError("has no layers that can be told apart", where="training.method")
    return max(lists, key=len)


def linear_names(model: Any) -> list[str]:  # noqa: ANN401
    """Last parts of the names of all linear modules inside the layers."""
    named = layers(model).named_modules()
    kinds = {name.rsplit(".", 1)[-1] for name, m in named if isinstance(m, (nn.Linear, Conv1D))}
    return sorted(kinds)


def outside_layers(model: Any) -> list[str]:  # noqa: ANN401
    """Full names of all linear modules outside the layers: heads, and what leads to them."""
    inside = {id(m) for m in layers(model).modules()}
    linear = (nn.Linear, Conv1D)
    named = model.named_modules()
    return [name for name, m in named if isinstance(m, linear) and id(m) not in inside]


def learned_positions(model: nn.Module) -> int | None:
    """Tokens that a table of positions has room for; None where a model counts otherwise.

    RoBERTa and OPT leave the first rows of theirs alone.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rsplit(".", 1)[-1] in _POSITIONS:
            padding = -1 if module.padding_idx is None else module.padding_idx
            return module.num_embeddings - max(padding + 1, int(getattr(module, "offset", 0)))
    return None
