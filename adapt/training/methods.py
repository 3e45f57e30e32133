"""What trains: one function a method, from a loaded model to one whose trainable part is right.

The new rows train in every method, as `adapt.training.rows` has decided, and what trains is float32
(`adapt.training.precision`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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

from adapt.errors import ModelError, TrainingError
from adapt.recipe.training import TrainingSection
from adapt.training.loftq import loftq
from adapt.training.parts import (
    keep_output_bias,
    layers,
    linear_names,
    row_modules,
    rows_to_train,
    task_type,
)
from adapt.training.precision import in_float32
from adapt.training.rows import RowPlan, is_tied
from adapt.training.targets import check_lora

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
    in_float32(prepared)
    if not any(p.requires_grad for p in prepared.parameters()):
        raise TrainingError(
            "nothing would train", where="training.method", got=section.method, fix="take lora"
        )
    return prepared


def _full(model: Any, section: TrainingSection, plan: RowPlan) -> Any:  # noqa: ANN401
    """Every weight; `load_model` has it in float32 for this method."""
    return model.requires_grad_(True)


def _edges(model: Any, section: TrainingSection, plan: RowPlan) -> Any:  # noqa: ANN401
    """Both embedding matrices, the first and the last layer, and what the base has no weights for.

    After AdaptiVocab, which found it better than LoRA once the vocabulary has changed. The layers
    between stay frozen in their own type.
    """
    model.requires_grad_(False)
    own = layers(model)
    trained = [model.get_input_embeddings(), model.get_output_embeddings(), own[0], own[-1]]
    trained += [model.get_submodule(name) for name in _made_anew(model) or []]
    for module in trained:
        if module is not None:
            module.requires_grad_(True)
    return model


def _lora(model: Any, section: TrainingSection, plan: RowPlan) -> Any:  # noqa: ANN401
    """Low-rank adapters; on a quantised base this is qlora."""
    lora, indices = section.lora, plan.how == "token_indices"
    targets: Any = lora.target_modules
    check_lora(model, lora, plan)
    if lora.layers_to_transform is not None and targets == "all-linear":
        targets = linear_names(model)  # PEFT takes layers only together with names
    whole = list(row_modules(model)) if plan.how == "modules_to_save" else []
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
        trainable_token_indices=rows_to_train(model, plan) if indices else None,
        modules_to_save=[*whole, *(_made_anew(model) or [])] or None,
        ensure_weight_tying=bool(whole) and is_tied(model),
    )
    peft_model = _peft(model, config, "training.lora.target_modules")
    if lora.init_lora_weights == "loftq":
        loftq(peft_model)
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
        modules_to_save=_made_anew(model),
    )
    return _peft(model, _with_rows(config, model, plan), "training.ia3.target_modules")


def _rows(model: Any, section: TrainingSection, plan: RowPlan) -> Any:  # noqa: ANN401
    """The new rows alone."""
    if plan.how == "none":
        raise TrainingError(
            "there are no new rows to train", where="training.method", got="rows", fix="take lora"
        )
    if new := _made_anew(model):
        raise ModelError(
            f"would leave {', '.join(new)}, which the base has no weights for, as it was drawn",
            where="training.method",
            got="rows",
            fix="take lora",
        )
    config = TrainableTokensConfig(
        task_type=task_type(model),
        token_indices=list(plan.ids),
        target_modules=list(rows_to_train(model, plan)),
    )
    return _peft(model, config, "training.method")


def _prefix(model: Any, section: TrainingSection, plan: RowPlan) -> Any:  # noqa: ANN401
    """Keys and values before every sequence, in every layer."""
    config = PrefixTuningConfig(
        task_type=_writer(model),
        prefix_projection=section.prompt.prefix_projection,
        modules_to_save=_made_anew(model),
        **_virtual(section),
    )
    return _peft(model, _with_rows(config, model, plan), "training.method")


def _p_tuning(model: Any, section: TrainingSection, plan: RowPlan) -> Any:  # noqa: ANN401
    """Embeddings before every sequence, made by a small network."""
    config = PromptEncoderConfig(
        task_type=_writer(model), modules_to_save=_made_anew(model), **_virtual(section)
    )
    return _reading_rows(_peft(model, _with_rows(config, model, plan), "training.method"))


def _prompt(model: Any, section: TrainingSection, plan: RowPlan) -> Any:  # noqa: ANN401
    """Embeddings before every sequence."""
    config = PromptTuningConfig(
        task_type=_writer(model),
        num_virtual_tokens=section.prompt.num_virtual_tokens,
        modules_to_save=_made_anew(model),
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


def _made_anew(model: Any) -> list[str] | None:  # noqa: ANN401
    """Modules that the checkpoint has no weights for, of which PEFT knows only some by itself."""
    return list(getattr(model, "new_modules", [])) or None


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
        made = get_peft_model(model, config)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(str(error).strip().splitlines()[0], where=where) from None
    keep_output_bias(made)
    return made


def _with_rows(config: Any, model: Any, plan: RowPlan) -> PeftConfig:  # noqa: ANN401
    """Lets new rows train beside an adapter whose configuration has no place for them.

    PEFT looks for this attribute on whatever configuration it gets, but writes it out for LoRA
    only; `save_trained` therefore stores the rows as an adapter of their own.
    """
    if plan.how == "token_indices":
        config.trainable_token_indices = rows_to_train(model, plan)
    made: PeftConfig = config
    return made


def _reading_rows(peft_model: Any) -> Any:  # noqa: ANN401
    """Lets virtual tokens stand before embeddings with the rows that train.

    PEFT has taken hold of the embedding before it put the rows in.
    """
    peft_model.word_embeddings = peft_model.get_base_model().get_input_embeddings()
    return peft_model
