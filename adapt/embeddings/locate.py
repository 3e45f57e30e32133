"""Which tensors of a checkpoint have a row for each token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adapt.embeddings.editable import refuse_uneditable
from adapt.embeddings.shards import DTYPES, Stored
from adapt.errors import ModelError

# Bodies alone, and heads that have no row for a token.
_WITHOUT_OUTPUT = (
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)


@dataclass(frozen=True)
class Parameters:
    """What the model calls its embeddings; several names where a tensor is shared.

    Attributes:
        inputs: The input embedding, (rows, hidden).
        outputs: The output embedding, (rows, hidden); empty where it is the input's, or none.
        bias: What the output layer adds to the logits, (rows,); empty where it adds nothing.
        initializer_range: Standard deviation that the model's own new weights have.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    bias: tuple[str, ...]
    initializer_range: float


@dataclass(frozen=True)
class Embeddings:
    """The same by their names in the checkpoint, each with where it lies.

    Attributes:
        inputs: Input embedding; a second one where a tied output is stored too.
        outputs: Output embedding where it is not tied.
        bias: Of the output layer.
        rows: Rows of each.
    """

    inputs: Mapping[str, Stored]
    outputs: Mapping[str, Stored]
    bias: Mapping[str, Stored]
    rows: int


def parameters(folder: Path, *, untie: bool = False, trust_remote_code: bool = False) -> Parameters:
    """Asks the model itself, on the meta device: no weight is read.

    Args:
        folder: Its checkpoint.
        untie: As the model is once its configuration says `tie_word_embeddings: false`.
        trust_remote_code: As in `transformers`.

    Raises:
        ModelError: `transformers` has no such model, or it is of a kind that cannot be edited.
    """
    model = _meta_model(folder, trust_remote_code, untie=untie)
    names = _all_names(model)
    inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings()
    weight, bias = getattr(outputs, "weight", None), getattr(outputs, "bias", None)
    untied = weight is not None and weight is not inputs
    return Parameters(
        tuple(names[id(inputs)]),
        tuple(names[id(weight)]) if untied else (),
        tuple(names[id(bias)]) if bias is not None else (),
        float(getattr(model.config.get_text_config(), "initializer_range", None) or 0.02),
    )


def tied_names(folder: Path, *, trust_remote_code: bool = False) -> frozenset[str]:
    """Names of parameters that are another's, such as a tied output's.

    Raises:
        ModelError: `transformers` has no such model.
    """
    names = _all_names(_meta_model(folder, trust_remote_code)).values()
    return frozenset(name for same in names for name in same[1:])


def _all_names(model: Any) -> dict[int, list[str]]:  # noqa: ANN401
    """Names of each parameter, its own first, by identity."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _meta_model(folder: Path, trust_remote_code: bool, *, untie: bool = False) -> Any:  # noqa: ANN401
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        refuse_uneditable(config, where=str(folder))
        if untie:
            config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
        with torch.device("meta"):
            model = _kind(config).from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"not a model that can be edited, {str(error).splitlines()[0]}",
            where=str(folder),
            fix="see that config.json names the class it was saved from, under architectures",
        ) from None
    model.tie_weights()
    return model


def _kind(config: Any) -> Any:  # noqa: ANN401
    """The class of `transformers` that a checkpoint is read as."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
    )

    name = (config.architectures or ["ForCausalLM"])[0]
    if name.endswith("ForMaskedLM"):
        return AutoModelForMaskedLM
    if name.endswith(_WITHOUT_OUTPUT) and not name.endswith("LMHeadModel"):
        return AutoModel
    # What does not say its class, or one that is both, such as AlbertForPreTraining.
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    if masked and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForMaskedLM
    return AutoModelForCausalLM


def find(wanted: Parameters, tensors: Mapping[str, Stored], where: str) -> Embeddings:
    """Finds the model's embeddings among a checkpoint's tensors.

    A checkpoint may use older names than the model that loads it (GPT-NeoX: `embed_out` for
    `lm_head`), or leave out or add the prefix of the body (GPT-2). A name itself is looked for,
    then one that differs by a prefix, then the one matrix left of the input embedding's shape.

    Args:
        wanted: From `parameters`.
        tensors: All tensors of the checkpoint.
        where: The checkpoint, for messages.

    Raises:
        ModelError: One is not found, or several fit, or they are not as the model has them.
    """
    inputs = _named(wanted.inputs, tensors)
    if not inputs:
        raise ModelError("has no tensor for the input embedding", where=where, got=wanted.inputs[0])
    outputs = [key for key in _named(wanted.outputs, tensors) if key not in inputs]
    shape = tensors[inputs[0]].shape
    if wanted.outputs and not outputs:
        outputs = [k for k, t in tensors.items() if t.shape == shape and k not in inputs]
        if len(outputs) != 1:
            raise ModelError(
                f"cannot tell which tensor is {wanted.outputs[0]}",
                where=where,
                got=", ".join(outputs) or "none that fits",
            )
    beside = [key.removesuffix("weight") + "bias" for key in outputs]
    bias = _named([*wanted.bias, *beside], tensors) if wanted.bias else []
    for key in (*inputs, *outputs, *bias):
        stored = tensors[key]
        if stored.shape[:1] != shape[:1] or len(stored.shape) != (1 if key in bias else 2):
            raise ModelError(
                f"{key} has the shape {list(stored.shape)}, the input embedding {list(shape)}",
                where=where,
            )
        if stored.dtype not in DTYPES:
            raise ModelError(
                f"{key} is stored as {stored.dtype}",
                where=where,
                fix="take a base whose embeddings are float32, float16 or bfloat16",
            )
    inside, out, added = ({k: tensors[k] for k in keys} for keys in (inputs, outputs, bias))
    return Embeddings(inside, out, added, shape[0])


def _named(names: Iterable[str], tensors: Mapping[str, Stored]) -> list[str]:
    """Tensors that carry one of the names, or it with a longer or shorter prefix."""
    found: list[str] = []
    for name in names:
        near = [k for k in tensors if name.endswith(f".{k}") or k.endswith(f".{name}")]
        found += [name] if name in tensors else near if len(near) == 1 else []
    return list(dict.fromkeys(found))
