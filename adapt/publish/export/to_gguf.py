"""GGUF for llama.cpp, of the Llama family, through the `gguf` package.

Units across spaces need a pre-tokenizer that llama.cpp does not have, so they are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapt.errors import DependencyError, ModelError, VocabularyError
from adapt.publish.export import llama_cpp
from adapt.publish.export.files import GENERATION, IDLE, generation_settings, read_only
from adapt.publish.export.gguf_checks import check
from adapt.publish.export.gguf_tokens import Tokens, tokens_of
from adapt.publish.export.result import Options, Written
from adapt.publish.load import Source
from adapt.training.model import load_model
from adapt.vocab import load_tokenizer
from adapt.vocab.spec import BYTE_LEVEL, family, spec_of

# Architecture of `transformers` to llama.cpp's, and whether its rotary halves are interleaved.
ARCHITECTURES = {
    "LlamaForCausalLM": ("llama", True),
    "MistralForCausalLM": ("llama", True),
    "Qwen2ForCausalLM": ("qwen2", False),
}
# Types of weights: GGUF's name, and the number in `general.file_type` (llama.cpp's llama_ftype).
TYPES = {"float32": ("F32", 0), "float16": ("F16", 1), "bfloat16": ("BF16", 32)}

_HOW = "adapt export --format gguf"


def refuse(source: Source, recipe: Path | None) -> None:
    """Refuses what a GGUF cannot hold.

    Raises:
        DependencyError: The `gguf` package is not there.
        ModelError: The architecture is another, or units are only read.
        VocabularyError: llama.cpp could not cut text as the tokenizer does.
    """
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise DependencyError("gguf", "gguf", where=_HOW) from None
    _refuse_model(source)
    spec = spec_of(load_tokenizer(source.tokenizer).backend_tokenizer)
    where = str(source.tokenizer)
    if family(spec) != BYTE_LEVEL:
        fix = "adapt exports byte-level BPE"
        raise VocabularyError(f"is {family(spec)}, not exported to GGUF", where=where, fix=fix)
    if (spec["normalizer"] or {"type": "NFC"})["type"] != "NFC":
        kind = spec["normalizer"]["type"]
        raise VocabularyError(f"normalises text ({kind}), llama.cpp does not", where=where)
    name, widened = llama_cpp.recognise(spec)
    if name is None:
        raise VocabularyError(
            "has a pre-tokenizer that adapt does not know by a name of llama.cpp's",
            where=where,
            got=str(llama_cpp.patterns_of(spec) or spec["pre_tokenizer"]),
            fix=f"known: {', '.join(llama_cpp.PRE_TOKENIZERS)}",
        )
    if widened:
        run = f"adapt run {recipe}" if recipe else "adapt run with its recipe and"
        raise VocabularyError(
            "has units across spaces, which take a pre-tokenizer that llama.cpp does not have",
            where=where,
            got=f"{name}, widened",
            fix=f"make a run without them and export that: {run} tokenizer.multiword=false "
            "output_dir=ANOTHER",
        )


def _refuse_model(source: Source) -> None:
    if source.settings.units_read_only or read_only(source.checkpoint, source.tokenizer):
        raise ModelError(
            "has units that are read and never written, and a GGUF has one vocabulary for both",
            where=_HOW,
            fix="make a run with embeddings.units=both and export that",
        )
    _refuse_config(source.checkpoint)


def _refuse_config(checkpoint: Path) -> None:
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(str(checkpoint))
    names = config.architectures or ["no architecture"]
    where = str(checkpoint)
    if names[0] not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError("not exported to GGUF", where=where, got=names[0], fix=f"known: {known}")
    window = getattr(config, "sliding_window", None)
    window = window if getattr(config, "use_sliding_window", True) else None
    rope = config.rope_parameters["rope_type"]
    for setting, value, wanted in (
        ("hidden_act", config.hidden_act, ("silu",)),
        ("sliding_window", window, (None,)),
        ("attention_bias", getattr(config, "attention_bias", False), (False,)),
        ("mlp_bias", getattr(config, "mlp_bias", False), (False,)),
        ("rope_type", rope, ("default", "llama3")),
    ):
        if value not in wanted:
            raise ModelError(f"{setting} is not exported to GGUF", where=where, got=value)


def write(checkpoint: Path, folder: Path, options: Options) -> Written:
    """Writes `model-<type>.gguf`.

    Raises:
        ModelError: A weight has no name in llama.cpp, or is too large for the type.
        VocabularyError: The tokenizer has no end of text.
        ExportError: What is read back is not what was exported.
    """
    _refuse_config(checkpoint)  # an adapter may bring settings of its own, such as longer context
    tokenizer = load_tokenizer(checkpoint)
    model = load_model(checkpoint, torch.float32).cpu()
    stored = _stored(checkpoint)
    dtype = stored if options.dtype == "auto" else options.dtype
    tokens = tokens_of(tokenizer, model.config.vocab_size)
    path = folder / f"model-{TYPES[dtype][0].lower()}.gguf"
    _write(path, model, tokens, dtype, options.name)
    checked, unchecked = check(path, tokens, tokenizer, model, dtype)
    lost = [*tokens.lost, *_lost(checkpoint, stored, dtype)]
    return Written(f"llama-cli -m {path.name}", checked, unchecked, tuple(lost))


def _stored(checkpoint: Path) -> str:
    """The type of a checkpoint's weights, as its configuration says."""
    from transformers import AutoConfig

    named = str(AutoConfig.from_pretrained(str(checkpoint)).dtype).removeprefix("torch.")
    return named if named in TYPES else "float32"


def _lost(checkpoint: Path, stored: str, dtype: str) -> list[str]:
    """What of weights and settings a GGUF does not have."""
    lost = []
    if stored != dtype and dtype != "float32":
        lost.append(f"precision: weights of {stored} are rounded to {dtype}")
    given = generation_settings(checkpoint)
    ends = given.get("eos_token_id")
    if isinstance(ends, list) and len(ends) > 1:
        lost.append(f"ends of text but the tokenizer's: {GENERATION} has the ids {ends}")
    kept = IDLE | {"bos_token_id", "eos_token_id", "pad_token_id"}
    names = sorted(key for key, value in given.items() if value is not None and key not in kept)
    return [*lost, *(f"{name} of {GENERATION}: give it to the program" for name in names)]


# -- writing ----------------------------------------------------------------------------------


def _write(path: Path, model: Any, tokens: Tokens, dtype: str, name: str) -> None:  # noqa: ANN401
    import gguf

    architecture, interleaved = ARCHITECTURES[model.config.architectures[0]]
    writer = gguf.GGUFWriter(str(path), architecture, use_temp_file=True)
    writer.add_name(name)
    writer.add_file_type(TYPES[dtype][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_settings(writer, model.config)
    tokens.add_to(writer)
    kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    for own, tensor in model.state_dict().items():
        if own == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        known = names.get_name(own, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise ModelError("has a weight that llama.cpp does not know", where=_HOW, got=own)
        if interleaved and (".q_proj." in own or ".k_proj." in own):
            tensor = _interleaved(tensor, model.config, keys=".k_proj." in own)
        _add(writer, known, tensor, dtype)
    factors = _rope_factors(model)
    if factors is not None:
        _add(writer, "rope_freqs.weight", factors, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_settings(writer: Any, config: Any) -> None:  # noqa: ANN401
    heads, width = config.num_attention_heads, config.hidden_size
    head = getattr(config, "head_dim", None) or width // heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(width)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def _interleaved(tensor: Tensor, config: Any, *, keys: bool) -> Tensor:  # noqa: ANN401
    """Rows of a projection in llama.cpp's order.

    Its rotation turns neighbouring rows of a head, that of `transformers` row i with row
    i + half the head.
    """
    heads = config.num_key_value_heads if keys else config.num_attention_heads
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def _rope_factors(model: Any) -> Tensor | None:  # noqa: ANN401
    """What llama.cpp divides each frequency by, (head / 2,); None where they are plain.

    Taken from the frequencies that the model computes with, so that no formula is repeated.
    """
    config = model.config
    if config.rope_parameters["rope_type"] == "default":
        return None
    own: Tensor = model.model.rotary_emb.inv_freq.float().cpu()
    steps = torch.arange(len(own)) / len(own)
    theta = torch.tensor(float(config.rope_parameters["rope_theta"]))
    return theta.pow(-steps) / own


def _add(writer: Any, name: str, tensor: Tensor, dtype: str) -> None:  # noqa: ANN401
    """Adds a tensor; vectors stay float32, as llama.cpp wants them."""
    import gguf

    data = np.ascontiguousarray(tensor.float().cpu().numpy())
    if data.ndim == 1 or dtype == "float32":
        writer.add_tensor(name, data)
        return
    if dtype == "float16" and np.abs(data).max() > np.finfo(np.float16).max:
        fix = "give --dtype bfloat16"
        raise ModelError("has weights too large for float16", where=_HOW, got=name, fix=fix)
    kind = gguf.GGMLQuantizationType[TYPES[dtype][0]]
    writer.add_tensor(name, gguf.quantize(data, kind), raw_dtype=kind)
