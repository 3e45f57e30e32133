"""A model from disk: how it is loaded, and how what was trained is put onto it again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import nn

from adapt.errors import DependencyError, ModelError
from adapt.recipe.sources import ModelSection
from adapt.training.precision import ROWS

ADAPTER_CONFIG = "adapter_config.json"

# Subfolder of the adapter that goes onto the new rows, where PEFT has no place for both in one.
ON_ROWS = "on_rows"

# Keys of `from_pretrained` that an adapter needs besides its base.
CONTEXT = "context.json"

WRITES = "AutoModelForCausalLM"
CLASSIFIES = "AutoModelForSequenceClassification"


@dataclass(frozen=True)
class Loading:
    """How a model is loaded, beyond its type.

    Attributes:
        attn_implementation: Attention kernels; `auto` leaves it to `transformers`.
        rope_scaling: Type and factor of `model.rope_scaling`; None: as the model has it.
        device_map: Spreads the model over devices; None: this process's device.
        max_memory: With device_map: device to most bytes, as in "20GiB".
    """

    attn_implementation: str = "auto"
    rope_scaling: tuple[str, float] | None = None
    device_map: str | None = None
    max_memory: Mapping[str, str] | None = None

    @classmethod
    def of(cls, section: ModelSection) -> Loading:
        """What the recipe says."""
        rope = section.rope_scaling
        scaling = (rope.type, rope.factor) if rope else None
        return cls(section.attn_implementation, scaling, section.device_map, section.max_memory)


AS_IT_IS = Loading()


def best_dtype(asked: str) -> torch.dtype:
    """The type of frozen weights: bfloat16 where the device computes in it, else float32.

    Args:
        asked: `auto`, or the name of a type.
    """
    if asked != "auto":
        return getattr(torch, asked)  # type: ignore[no-any-return]
    if torch.accelerator.is_available():
        cuda = torch.cuda.is_available()
        return torch.bfloat16 if not cuda or torch.cuda.is_bf16_supported() else torch.float32
    flags = torch.cpu.get_capabilities()
    fast = flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("bf16")
    return torch.bfloat16 if fast else torch.float32


def training_dtype(method: str, asked: str) -> torch.dtype:
    """The type that a method's model is loaded in.

    float32 where every weight trains: AdamW moves a weight by about the learning rate, which
    bfloat16 rounds away for weights more than 256 times as large. Methods that train a part of the
    weights have that part cast (`adapt.training.precision`).

    Args:
        method: `training.method`.
        asked: `model.dtype`.
    """
    return torch.float32 if method == "full" else best_dtype(asked)


def device() -> torch.device:
    """Where a model of this process lives."""
    from accelerate import PartialState

    found: torch.device = PartialState().device
    return found


def load_model(folder: Path | str, dtype: torch.dtype, *, trust_remote_code: bool = False) -> Any:  # noqa: ANN401
    """A causal language model, or one with a head of classes where the checkpoint says that it is.

    Returns:
        The model in evaluation mode, on this process's device.

    Raises:
        ModelError: The folder does not hold one.
    """
    options = {"trust_remote_code": trust_remote_code}
    return _loaded(folder, dtype, options, auto_class(Path(folder)))


def auto_class(folder: Path) -> str:
    """The class of `transformers` that a trained model is loaded with.

    Args:
        folder: An adapter or a checkpoint; a Hub id counts as one that writes.
    """
    adapter, config = folder / ADAPTER_CONFIG, folder / "config.json"
    if (folder / ON_ROWS).is_dir():
        adapter = folder / ON_ROWS / ADAPTER_CONFIG
    if adapter.is_file():
        task = json.loads(adapter.read_text(encoding="utf-8")).get("task_type")
        return CLASSIFIES if task == "SEQ_CLS" else WRITES
    names = json.loads(config.read_text(encoding="utf-8")).get("architectures") or []
    heads = [name for name in names if name.endswith("ForSequenceClassification")]
    return CLASSIFIES if heads else WRITES


def load_for_training(
    folder: Path | str,
    dtype: torch.dtype,
    loading: Loading,
    quantization: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> Any:  # noqa: ANN401
    """The same, with everything that a recipe can say of it.

    Args:
        folder: The checkpoint.
        dtype: Of the weights; of what is computed in where they are quantised.
        loading: Attention, rotary positions, devices.
        quantization: `nf4`, `int8`, or None. Nothing is ever merged into such a model.
        trust_remote_code: As in `transformers`.

    Raises:
        ModelError: The folder does not hold one, or it has no rotary positions to scale.
        DependencyError: A package is missing.
    """
    trust = trust_remote_code
    options = loading_options(folder, dtype, loading, quantization, trust_remote_code=trust)
    return _loaded(folder, dtype, {"trust_remote_code": trust, **options})


def _loaded(
    folder: Path | str,
    dtype: torch.dtype,
    options: dict[str, Any],
    kind: str = WRITES,
) -> Any:  # noqa: ANN401
    import transformers

    try:
        with expecting_new_weights() if kind == CLASSIFIES else nullcontext():
            model = getattr(transformers, kind).from_pretrained(str(folder), dtype=dtype, **options)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot be loaded with {kind}, {str(error).splitlines()[0]}", where=str(folder)
        ) from None
    return (model if "device_map" in options else model.to(device())).eval()


@contextmanager
def expecting_new_weights() -> Iterator[None]:
    """Without the table of missing weights that `transformers` prints: a head is made anew."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def loading_options(
    folder: Path | str,
    dtype: torch.dtype,
    loading: Loading,
    quantization: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Further keywords of `from_pretrained`, for any class of model; see `load_for_training`.

    With `device_map` among them, the model lies where it belongs and is not to be moved.
    """
    check_packages(loading, quantization)
    options: dict[str, Any] = {}
    if loading.attn_implementation != "auto":
        options["attn_implementation"] = loading.attn_implementation
    if loading.rope_scaling:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        options |= scaled_positions(config, *loading.rope_scaling, where=str(folder))
    if loading.device_map:
        options["device_map"] = loading.device_map
    if loading.max_memory:
        named = loading.max_memory.items()
        options["max_memory"] = {int(k) if k.isdigit() else k: size for k, size in named}
    if quantization:
        from transformers import BitsAndBytesConfig

        options.setdefault("device_map", {"": device()})  # such a model cannot be moved afterwards
        options["quantization_config"] = (
            BitsAndBytesConfig(load_in_8bit=True)
            if quantization == "int8"
            else BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
        )
    return options


def check_packages(loading: Loading, quantization: str | None) -> None:
    """Refuses what needs a package that is not installed; loads none.

    Raises:
        DependencyError: bitsandbytes is missing.
        ModelError: flash_attn is missing, or a GPU for it.
    """
    if quantization and find_spec("bitsandbytes") is None:
        raise DependencyError("bitsandbytes", "quantize", where="training.quantization")
    if loading.attn_implementation == "flash_attention_2":
        missing = find_spec("flash_attn") is None
        if missing or not torch.accelerator.is_available():
            lacks = "the package flash_attn, which is not installed" if missing else "a GPU"
            raise ModelError(
                f"needs {lacks}",
                where="model.attn_implementation",
                got="flash_attention_2",
                fix="take sdpa, or install flash-attn on a machine with a GPU",
            )


def scaled_positions(config: Any, type_: str, factor: float, *, where: str) -> dict[str, Any]:  # noqa: ANN401
    """Keys of a model's configuration that stretch its rotary positions.

    Args:
        config: The model's own.
        type_: linear, dynamic or yarn.
        factor: New context length over the model's.
        where: The model, for messages.

    Raises:
        ModelError: It has no rotary positions, has scaled ones, or scales them layer by layer.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    here, length = "model.rope_scaling", getattr(text, "max_position_embeddings", None)
    if not rope or not length or text is not config:
        raise ModelError("has no rotary positions that can be scaled", where=here, got=where)
    if any(isinstance(value, dict) for value in rope.values()):
        raise ModelError("has other rotary positions layer by layer", where=here, got=where)
    if rope.get("rope_type", "default") != "default":
        reason = f"has rotary positions of type {rope['rope_type']} already"
        raise ModelError(reason, where=here, got=where, fix="leave out model.rope_scaling")
    scaled = {**rope, "rope_type": type_, "factor": factor}
    if type_ == "dynamic":  # reads the model's own length from the configuration
        return {"rope_parameters": scaled}
    if type_ == "yarn":
        scaled["original_max_position_embeddings"] = length
    return {"rope_parameters": scaled, "max_position_embeddings": math.floor(length * factor)}


def new_row_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The trainable rows of new tokens."""
    return [p for n, p in model.named_parameters() if ROWS in n]


def load_merged(
    checkpoint: Path, adapter: Path, dtype: torch.dtype, *, trust_remote_code: bool = False
) -> Any:  # noqa: ANN401
    """A trained model as it would be served.

    The adapter is merged into freshly loaded weights of full precision, whatever it was trained
    on: merging into quantised ones gave wrong logits. Virtual tokens cannot be merged, and stay
    what PEFT makes of them; their logits are left out, so that there is one for each token given.

    Args:
        checkpoint: What the adapter was trained on; not read where a whole checkpoint was trained.
        adapter: Folder written by `save_trained`.
        dtype: Of the weights that are merged into.
        trust_remote_code: As in `transformers`.
    """
    if not (adapter / ADAPTER_CONFIG).is_file():
        return load_model(adapter, dtype, trust_remote_code=trust_remote_code)
    context = adapter / CONTEXT
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if context.is_file():
        options |= json.loads(context.read_text(encoding="utf-8"))
    if "id2label" in options:  # JSON has made texts of the numbers
        options["id2label"] = {int(number): name for number, name in options["id2label"].items()}
    model = _loaded(checkpoint, dtype, options, auto_class(adapter))
    for folder in (adapter, adapter / ON_ROWS):
        if folder.is_dir():
            model = _merged(model, folder)
    return model.eval()


def _merged(model: Any, adapter: Path) -> Any:  # noqa: ANN401
    adapted = PeftModel.from_pretrained(model, str(adapter))
    config: Any = PeftConfig.from_pretrained(str(adapter))
    if not config.is_prompt_learning:
        # As `from_pretrained` gives a model: of frozen weights torch's matmul copies the output
        # layer once for every prompt of a batch, which took 40 % of the time up to the first token.
        return adapted.merge_and_unload().requires_grad_(True)
    if config.peft_type != "PREFIX_TUNING":
        adapted.register_forward_hook(partial(_without_virtual, config.num_virtual_tokens))
    return adapted


def _without_virtual(count: int, model: nn.Module, given: Any, output: Any) -> Any:  # noqa: ANN401
    if output.logits.dim() == 3:  # else those of classes, one row a text
        output.logits = output.logits[:, count:]
    return output
