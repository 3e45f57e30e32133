"""What trains: one function a method, from a loaded model to one whose trainable part is right.

The new rows train in every method, as `adapt.training.rows` has decided. What trains is float32,
whatever the frozen weights are: AdamW moves a weight by about the learning rate, which bfloat16,
with its 8 bits, rounds away for weights more than 256 times as large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TrainableTokensConfig,
    get_peft_model,
)
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from adapt.errors import ModelError, TrainingError
from adapt.recipe.training import TrainingSection
from adapt.training.rows import RowPlan, is_tied

# Part of the name that PEFT gives the trainable rows of an embedding.
ROWS = "trainable_tokens_delta"

# Methods that put virtual tokens before a row: each row may hold one document only.
PROMPTS = ("prefix", "p_tuning", "prompt")

# First values after which the frozen weights are not the base's any more, or make good what
# quantisation lost; what was learned is then the difference to them.
SHIFTED = ("pissa", "olora", "loftq")

Prepare = Callable[[Any, TrainingSection, RowPlan], Any]


def prepare(model: Any, section: TrainingSection, plan: RowPlan) -> Any:  # noqa: ANN401
    """Lets train what the recipe's method trains, and nothing else.

    Args:
        model: The adapted base, as `load_model` gives it; never resized here.
        section: `training` of the recipe.
        plan: How new rows train.

    Returns:
        A `PeftModel`, or the model itself for methods that train its own weights.

    Raises:
        ModelError: The method does not fit the model.
        TrainingError: Nothing would train.
    """
    prepared = METHODS[section.method](model, section, plan)
    _in_float32(prepared)
    if not any(p.requires_grad for p in prepared.parameters()):
        raise TrainingError(
            "nothing would train", where="training.method", got=section.method, fix="take lora"
        )
    return prepared


def _full(model: Any, section: TrainingSection, plan: RowPlan) -> Any:  # noqa: ANN401
    """Every weight; `load_model` has it in float32 for this method."""
    return model.requires_grad_(True)


def _edges(model: Any, section: TrainingSection, plan: RowPlan) -> Any:  # noqa: ANN401
    """Both embedding matrices, and the first and the last layer.

    After AdaptiVocab, which found it better than LoRA once the vocabulary has changed. The layers
    between stay frozen in their own type.
    """
    model.requires_grad_(False)
    layers = list(_layers(model))
    trained = [model.get_input_embeddings(), model.get_output_embeddings(), layers[0], layers[-1]]
    for module in filter(None, trained):
        module.requires_grad_(True)
    return model


def _lora(model: Any, section: TrainingSection, plan: RowPlan) -> Any:  # noqa: ANN401
    """Low-rank adapters; on a quantised base this is qlora."""
    lora, indices = section.lora, plan.how == "token_indices"
    targets: Any = lora.target_modules
    if lora.layers_to_transform is not None and targets == "all-linear":
        targets = _linear_names(model)  # PEFT takes layers only together with names
    whole = list(_row_modules(model)) if plan.how == "modules_to_save" else []
    heads = getattr(model, "new_modules", [])  # made anew, and PEFT knows only some by itself
    config = LoraConfig(
        task_type=task_type(model),
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        # LoftQ starts from the full-precision weights, which are read after this
        init_lora_weights=True if lora.init_lora_weights == "loftq" else lora.init_lora_weights,
        layers_to_transform=lora.layers_to_transform,
        trainable_token_indices=_rows_to_train(model, plan) if indices else None,
        modules_to_save=[*whole, *heads] or None,
        ensure_weight_tying=bool(whole) and is_tied(model),
    )
    peft_model = _peft(model, config, "training.lora.target_modules")
    if lora.init_lora_weights == "loftq":
        _loftq(peft_model)
    if lora.init_lora_weights in SHIFTED:
        peft_model.first_lora = {
            name: p.detach().clone() for name, p in peft_model.named_parameters() if "lora_" in name
        }
    return peft_model


def _ia3(model: Any, section: TrainingSection, plan: RowPlan) -> Any:  # noqa: ANN401
    """Learned scales of keys, values and the feed-forward layer."""
    config = IA3Config(
        task_type=task_type(model),
        target_modules=section.ia3.target_modules,
        feedforward_modules=section.ia3.feedforward_modules,
    )
    return _peft(model, _with_rows(config, model, plan), "training.ia3.target_modules")


def _rows(model: Any, section: TrainingSection, plan: RowPlan) -> Any:  # noqa: ANN401
    """The new rows alone."""
    if plan.how == "none":
        raise TrainingError(
            "there are no new rows to train", where="training.method", got="rows", fix="take lora"
        )
    config = TrainableTokensConfig(
        task_type=task_type(model),
        token_indices=list(plan.ids),
        target_modules=list(_rows_to_train(model, plan)),
    )
    return _peft(model, config, "training.method")


def _prefix(model: Any, section: TrainingSection, plan: RowPlan) -> Any:  # noqa: ANN401
    """Keys and values before every sequence, in every layer."""
    config = PrefixTuningConfig(
        task_type=_writer(model),
        prefix_projection=section.prompt.prefix_projection,
        **_virtual(section),
    )
    return _peft(model, _with_rows(config, model, plan), "training.method")


def _p_tuning(model: Any, section: TrainingSection, plan: RowPlan) -> Any:  # noqa: ANN401
    """Embeddings before every sequence, made by a small network."""
    config = PromptEncoderConfig(task_type=_writer(model), **_virtual(section))
    return _reading_rows(_peft(model, _with_rows(config, model, plan), "training.method"))


def _prompt(model: Any, section: TrainingSection, plan: RowPlan) -> Any:  # noqa: ANN401
    """Embeddings before every sequence."""
    config = PromptTuningConfig(
        task_type=_writer(model), num_virtual_tokens=section.prompt.num_virtual_tokens
    )
    return _reading_rows(_peft(model, _with_rows(config, model, plan), "training.method"))


METHODS: dict[str, Prepare] = {
    "full": _full,
    "lora": _lora,
    "qlora": _lora,
    "ia3": _ia3,
    "prefix": _prefix,
    "p_tuning": _p_tuning,
    "prompt": _prompt,
    "rows": _rows,
    "edges": _edges,
}


# -- parts ------------------------------------------------------------------------------------


def task_type(model: Any) -> str | None:  # noqa: ANN401
    """What PEFT calls the model's task; None for those it has no class of its own for."""
    name = type(model).__name__
    if name.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    return "CAUSAL_LM" if name.endswith(("ForCausalLM", "LMHeadModel")) else None


def _virtual(section: TrainingSection) -> dict[str, Any]:
    options = section.prompt
    return {
        "num_virtual_tokens": options.num_virtual_tokens,
        "encoder_hidden_size": options.encoder_hidden_size,
    }


def _writer(model: Any) -> str:  # noqa: ANN401
    """The task of a model that virtual tokens may stand before."""
    found = task_type(model)
    if found is None:
        raise ModelError(
            f"virtual tokens need a model that writes or classifies, not {type(model).__name__}",
            where="training.method",
            fix="take lora",
        )
    return found


def _peft(model: Any, config: PeftConfig, where: str) -> Any:  # noqa: ANN401
    try:
        return get_peft_model(model, config)
    except (ValueError, NotImplementedError) as error:
        raise ModelError(str(error).strip().splitlines()[0], where=where) from None


def _with_rows(config: Any, model: Any, plan: RowPlan) -> PeftConfig:  # noqa: ANN401
    """Lets new rows train beside an adapter whose configuration has no place for them.

    PEFT looks for this attribute on whatever configuration it gets, but writes it out for LoRA
    only; `save_trained` therefore stores the rows as an adapter of their own.
    """
    if plan.how == "token_indices":
        config.trainable_token_indices = _rows_to_train(model, plan)
    made: PeftConfig = config
    return made


def _reading_rows(peft_model: Any) -> Any:  # noqa: ANN401
    """Lets virtual tokens stand before embeddings with the rows that train.

    PEFT has taken hold of the embedding before it put the rows in.
    """
    peft_model.word_embeddings = peft_model.get_base_model().get_input_embeddings()
    return peft_model


def _row_modules(model: Any) -> dict[str, Any]:  # noqa: ANN401
    """Modules that have rows of their own: the input embedding, and an untied output."""
    names = {id(module): name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    found = {names[id(inputs)]: inputs}
    if outputs is not None and outputs.weight is not inputs.weight:
        found[names[id(outputs)]] = outputs
    return found


def _rows_to_train(model: Any, plan: RowPlan) -> dict[str, list[int]]:  # noqa: ANN401
    """Which module trains which rows.

    Given as a list, PEFT trains the input side only; a tied output follows the input by itself,
    an untied one must be named. An output layer that has no such rows, for units that are only
    read, is left alone.
    """
    longest = max(plan.ids, default=0)
    modules = _row_modules(model).items()
    return {name: list(plan.ids) for name, m in modules if len(m.weight) > longest}


def _layers(model: Any) -> nn.ModuleList:  # noqa: ANN401
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ModelError("has no layers that can be told apart", where="training.method")
    return max(lists, key=len)


def _linear_names(model: Any) -> list[str]:  # noqa: ANN401
    """Last parts of the names of all linear modules inside the layers."""
    named = _layers(model).named_modules()
    kinds = {name.rsplit(".", 1)[-1] for name, m in named if isinstance(m, nn.Linear)}
    return sorted(kinds)


@torch.no_grad()
def _loftq(peft_model: Any) -> None:  # noqa: ANN401
    """Adapters that make good what 4 bits lost, from the weights of the checkpoint itself.

    The best approximation of rank r to W - Q(W), by its singular value decomposition (Li et al.
    2023, algorithm 1, one step; Q(W) stays what was loaded). PEFT's own needs a GPU.
    """
    from bitsandbytes.functional import dequantize_4bit
    from safetensors import safe_open

    base = peft_model.get_base_model()
    files = sorted(Path(base.name_or_path).glob("*.safetensors"))
    opened: list[Any] = [safe_open(str(path), "pt") for path in files]
    stored = {name: file for file in opened for name in file.keys()}
    for name, module in base.named_modules():
        if not (hasattr(module, "lora_A") and hasattr(module.base_layer.weight, "quant_state")):
            continue
        if f"{name}.weight" not in stored:
            raise ModelError(
                f"loftq finds no {name}.weight in the checkpoint",
                where="training.lora.init_lora_weights",
                fix="take true",
            )
        held = module.base_layer.weight
        weight = stored[f"{name}.weight"].get_tensor(f"{name}.weight").to(held.device).float()
        lost = weight - dequantize_4bit(held.data, held.quant_state).float()
        down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
        u, sigma, v = torch.linalg.svd(lost, full_matrices=False)
        rank = min(len(down), len(sigma))
        root = sigma[:rank].sqrt()
        down.zero_()[:rank] = root[:, None] * v[:rank]
        up.zero_()[:, :rank] = u[:, :rank] * root / module.scaling["default"]


def _in_float32(model: Any) -> None:  # noqa: ANN401
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
    layers = _layers(model)
    inside = {id(m) for layer in layers for m in layer.modules()}
    embedding = {id(m) for m in model.get_input_embeddings().modules()}
    leaves = (
        m
        for m in model.modules()
        if id(m) not in inside | embedding and list(m.parameters(recurse=False))
    )
    for module in (*layers, *leaves):
        module.register_forward_pre_hook(_cast_input, with_kwargs=True)


def _cast_input(module: nn.Module, given: Any, named: Any) -> tuple[Any, Any]:  # noqa: ANN401
    dtype = _computes_in(module.named_parameters())
    return _cast(given, dtype), _cast(named, dtype)


def _computes_in(parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.dtype:
    """Type of a module's own weights; adapters inside bring another and cast for themselves."""
    own = (p for name, p in parameters if p.is_floating_point() and "lora_" not in name)
    return next((p.dtype for p in own), torch.float32)


def _cast(value: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(item, dtype) for item in value)
    if isinstance(value, dict):
        return {key: _cast(item, dtype) for key, item in value.items()}
    return value
