"""A GGUF read back and compared with the checkpoint that it was made of.

What must agree with the checkpoint, once the file is read back:

1. tokens, their types and merges: all of them;
2. ids of 1,000 texts, with the tokenizer that llama.cpp makes of those fields by the rules of
   `adapt.publish.export.llama_cpp`, and with llama-cpp-python itself where that is installed;
3. logits of the same ids, as `transformers` reads the file, in units of their spread: every one to
   `EXACT` with the checkpoint whose matrices are rounded alike, and the median of all positions to
   `ROUNDING` with the checkpoint itself (see `adapt.publish.agreement` for both).
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapt.publish.agreement import EXACT, ROUNDING, differences
from adapt.publish.export import llama_cpp
from adapt.publish.export.gguf_tokens import Tokens, cut_by_llama_cpp
from adapt.publish.export.result import (
    ExportError,
    ids_of,
    logits,
    refuse_otherwise_cut,
    sample_texts,
)


def check(
    path: Path,
    tokens: Tokens,
    tokenizer: Any,  # noqa: ANN401
    model: Any,  # noqa: ANN401
    dtype: str,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Compares; rounds the model's matrices to do so.

    Args:
        path: The file.
        tokens: What its fields of the tokenizer are to be.
        tokenizer: The checkpoint's.
        model: The checkpoint in float32.
        dtype: Of the file's matrices.

    Returns:
        What was compared, and what was not.

    Raises:
        ExportError: They differ.
    """
    sample = _sample(tokenizer)
    checked = [
        _same_tokens(path, tokens),
        _same_ids(path, tokenizer, sample),
        _same_logits(path, model, ids_of(tokenizer), dtype),
    ]
    cut = cut_by_llama_cpp(path, sample)
    if cut is None:
        return tuple(checked), (
            "llama.cpp itself was not run: llama-cpp-python is not installed, so ids were "
            "compared with its rules as adapt knows them, and no text was generated",
        )
    refuse_otherwise_cut(cut, _plain_ids(tokenizer, sample), "llama-cpp-python", path)
    checked.append(f"llama-cpp-python gives the same ids on {len(sample):,} texts")
    return tuple(checked), ("llama.cpp's own logits",)


def _fields(path: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    reader = GGUFReader(str(path))
    wanted = ("tokens", "token_type", "merges", "pre")
    return {name: reader.fields[f"tokenizer.ggml.{name}"].contents() for name in wanted}


def _same_tokens(path: Path, tokens: Tokens) -> str:
    found = _fields(path)
    expected = {"tokens": tokens.tokens, "token_type": tokens.types, "merges": tokens.merges}
    wrong = [name for name, value in expected.items() if found[name] != value]
    if wrong:
        raise ExportError(f"reads back otherwise, {', '.join(wrong)}", where=str(path))
    count = f"{len(tokens.tokens):,} tokens and {len(tokens.merges):,} merges"
    return f"{count} read back as they are; pre-tokenizer {found['pre']}"


def _plain_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:  # noqa: ANN401
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids


def _sample(tokenizer: Any) -> list[str]:  # noqa: ANN401
    """Texts to cut; composed where the tokenizer composes, for llama.cpp takes them as they are."""
    texts = sample_texts(tokenizer)
    composes = tokenizer.backend_tokenizer.normalizer is not None
    return [unicodedata.normalize("NFC", text) for text in texts] if composes else texts


def _same_ids(path: Path, tokenizer: Any, texts: list[str]) -> str:  # noqa: ANN401
    found = _fields(path)
    made = llama_cpp.rebuilt(
        found["tokens"], found["token_type"], found["merges"], found["pre"]
    ).encode_batch(texts, add_special_tokens=False)
    expected = _plain_ids(tokenizer, texts)
    refuse_otherwise_cut([one.ids for one in made], expected, "the file", path)
    return f"its tokens, by llama.cpp's rules, give the same ids on {len(texts):,} texts"


def _same_logits(path: Path, model: Any, texts: list[Tensor], dtype: str) -> str:  # noqa: ANN401
    """Compares with the model, and rounds its matrices to do so."""
    whole = [logits(model, ids) for ids in texts]
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.to(getattr(torch, dtype)).float()
    rounded = [logits(model, ids) for ids in texts]
    read = _read(path)
    found = [logits(read, ids) for ids in texts]
    exact = float(differences(found, rounded).max())
    if not exact <= EXACT:
        raise ExportError(
            f"logits of the file differ by {exact:.2g} of their spread, {EXACT:g} allowed",
            where=str(path),
            fix="nothing was written; please report it with the config.json",
        )
    median, allowed = float(differences(found, whole).median()), ROUNDING[dtype]
    if not median <= allowed:
        raise ExportError(
            f"rounding changed the model too much: logits differ by {median:.2g} of their "
            f"spread, {allowed:.2g} allowed",
            where=str(path),
            fix="give --dtype float32",
        )
    return (
        f"read by transformers, its logits are within {exact:.2g} of their spread of the "
        f"checkpoint's rounded to {dtype} ({EXACT:g} allowed), and within {median:.2g} of the "
        f"checkpoint's own (median of positions; {allowed:g} allowed)"
    )


def _read(path: Path) -> Any:  # noqa: ANN401
    """The file as `transformers` reads it, with the factors of frequencies that it leaves out."""
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, GgufConfig

    read: Any = AutoModelForCausalLM.from_pretrained(
        str(path.parent),
        gguf_file=path.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    for tensor in GGUFReader(str(path)).tensors:
        if tensor.name == "rope_freqs.weight":
            read.model.rotary_emb.inv_freq /= torch.from_numpy(np.array(tensor.data))
    return read.eval()
