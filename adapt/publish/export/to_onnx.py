"""ONNX: one graph from ids to logits, by `torch.onnx.export` (dynamo), compared in onnxruntime.

What must agree:

1. logits of the graph and of the checkpoint in float32, in units of their spread (see
   `result.differences`), on texts of different lengths, one by one and in a padded batch: every
   one to `EXACT`;
2. with `--int8`, bits that the 8-bit graph needs for the same texts: `INT8` more or fewer than
   the float32 graph, as a share. Weights are rounded per channel, activations as they come
   (dynamic quantisation), so single logits move. SmolLM2-135M needs 15.7 % more.

The graph has no cache of keys and values: each pass reads the whole text.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from adapt.errors import DependencyError, ModelError
from adapt.publish.agreement import EXACT, differences
from adapt.publish.export.files import copy_beside, generation_settings
from adapt.publish.export.result import ExportError, Options, Written, ids_of, logits
from adapt.publish.load import Source
from adapt.training.model import load_model
from adapt.vocab import load_tokenizer

MODEL, MODEL_INT8 = "model.onnx", "model_int8.onnx"
INT8 = 0.25

_INPUTS = ("input_ids", "attention_mask", "position_ids")
# Above this a file of the format cannot hold the weights itself; bytes.
_LARGEST = 2**31 - 2**20


def refuse(source: Source, recipe: Path | None) -> None:
    """Refuses where a package is missing.

    Raises:
        DependencyError: One is.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError:
            raise DependencyError(package, "onnx", where="adapt export --format onnx") from None


def write(checkpoint: Path, folder: Path, options: Options) -> Written:
    """Writes `model.onnx`, `model_int8.onnx` where asked for, tokenizer and configuration.

    Raises:
        ModelError: The model cannot be traced.
        ExportError: A graph does not give what the checkpoint gives.
    """
    trust = options.trust_remote_code
    tokenizer = load_tokenizer(checkpoint, trust_remote_code=trust)
    model = load_model(checkpoint, torch.float32, trust_remote_code=trust).cpu()
    with _quiet():
        _trace(model, folder / MODEL, checkpoint)
    session = _session(folder / MODEL)
    texts = ids_of(tokenizer)
    checked = [_parity(model, session, texts, folder)]
    lost = [
        "no cache of keys and values: each new token costs a pass over the whole text",
        f"the type of the weights: those of {MODEL} are float32, whatever the checkpoint's",
    ]
    if options.int8:
        with _quiet():
            _quantise(folder)
        line, share = _parity_int8(session, _session(folder / MODEL_INT8), texts, folder)
        checked.append(line)
        lost.append(f"precision, in {MODEL_INT8}: {share:+.1%} bits for the texts compared")
    copy_beside(checkpoint, folder, weights=False)
    suppressed = generation_settings(checkpoint).get("suppress_tokens")
    if suppressed:
        lost.append(
            f"suppress_tokens: the graph gives logits of {len(suppressed)} tokens that are never "
            "to be written; mask them as generation_config.json says"
        )
    use = f"onnxruntime.InferenceSession('{MODEL}'): {', '.join(_INPUTS)} (int64) to logits"
    return Written(use, tuple(checked), (), tuple(lost))


# -- writing ----------------------------------------------------------------------------------


class _Logits(torch.nn.Module):
    """A model as the graph sees it."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        """Logits, (batch, tokens, vocabulary), of ids, mask and positions, (batch, tokens) each."""
        given = {"attention_mask": attention_mask, "position_ids": position_ids}
        found: Tensor = self.model(input_ids=input_ids, **given, use_cache=False).logits
        return found


def _trace(model: Any, path: Path, checkpoint: Path) -> None:  # noqa: ANN401
    """Any batch and any length; two rows, one of them padded, are what tracing sees."""
    from torch.export import Dim

    example = _padded([torch.arange(1, 8)[None], torch.arange(1, 5)[None]])
    try:
        torch.onnx.export(
            _Logits(model).eval(),
            kwargs={name: torch.from_numpy(given) for name, given in example.items()},
            f=str(path),
            dynamo=True,
            dynamic_shapes={name: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for name in _INPUTS},
            input_names=list(_INPUTS),
            output_names=["logits"],
            external_data=True,
            verbose=False,
        )
    except Exception as error:  # every layer of the exporter has errors of its own
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        raise ModelError(f"cannot be traced for ONNX ({reason})", where=str(checkpoint)) from error


def _quantise(folder: Path) -> None:
    from onnxruntime.quantization import (  # type: ignore[import-untyped]
        QuantType,
        quantize_dynamic,
    )

    weights = sum(path.stat().st_size for path in folder.glob(f"{MODEL}*"))
    quantize_dynamic(
        str(folder / MODEL),
        str(folder / MODEL_INT8),
        # Signed weights overflow on x86 without VNNI: a graph that is right only on some machines.
        weight_type=QuantType.QUInt8,
        per_channel=True,
        use_external_data_format=weights > _LARGEST,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tools' warnings, of packages that are not there and passes that are not needed.

    What would matter of them shows in the comparison.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# -- comparing --------------------------------------------------------------------------------


def _session(path: Path) -> Any:  # noqa: ANN401
    import onnxruntime  # type: ignore[import-untyped]

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _padded(texts: Sequence[Tensor]) -> dict[str, NDArray[np.int64]]:
    """A batch, padded on the left, where generation pads; the mask hides the filling."""
    longest = max(ids.shape[1] for ids in texts)
    ids = np.zeros((len(texts), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, longest - text.shape[1] :] = text[0].numpy()
        mask[row, longest - text.shape[1] :] = 1
    positions = (mask.cumsum(axis=1) - 1).clip(min=0)
    return dict(zip(_INPUTS, (ids, mask, positions), strict=True))


def _answers(session: Any, texts: Sequence[Tensor]) -> list[Tensor]:  # noqa: ANN401
    """Logits of each text, (tokens, vocabulary), from one batch; those of padding left out."""
    batch = _padded(texts)
    (found,) = session.run(["logits"], batch)
    rows = zip(found, batch["attention_mask"].astype(bool), strict=True)
    return [torch.from_numpy(row[real]) for row, real in rows]


def _parity(model: Any, session: Any, texts: Sequence[Tensor], folder: Path) -> str:  # noqa: ANN401
    expected = [logits(model, ids) for ids in texts]
    alone = [each for ids in texts for each in _answers(session, [ids])]
    largest = max(
        float(differences(found, expected).max()) for found in (alone, _answers(session, texts))
    )
    if not largest <= EXACT:
        raise ExportError(
            f"the graph's logits differ from the checkpoint's by {largest:.2g} of their spread, "
            f"{EXACT:g} allowed",
            where=str(folder / MODEL),
            fix="nothing was written; please report it with the model's name",
        )
    lengths = ", ".join(str(ids.shape[1]) for ids in texts)
    return (
        f"{MODEL}: logits within {largest:.2g} of their spread ({EXACT:g} allowed) of the "
        f"checkpoint's in float32, on texts of {lengths} tokens, one by one and in a padded batch"
    )


def _parity_int8(
    whole: Any,  # noqa: ANN401
    narrow: Any,  # noqa: ANN401
    texts: Sequence[Tensor],
    folder: Path,
) -> tuple[str, float]:
    bits, bits_int8 = _bits(whole, texts), _bits(narrow, texts)
    share = bits_int8 / bits - 1
    if not abs(share) <= INT8:
        raise ExportError(
            f"8 bits change the bits of text by {share:+.1%}, {INT8:.0%} allowed",
            where=str(folder / MODEL_INT8),
            fix="leave --int8 out",
        )
    line = (
        f"{MODEL_INT8}: {bits_int8:.1f} bits instead of {bits:.1f} for the same texts "
        f"({share:+.2%}, {INT8:.0%} allowed)"
    )
    return line, share


def _bits(session: Any, texts: Sequence[Tensor]) -> float:  # noqa: ANN401
    """Negative log2 probability of all tokens but the first of each text."""
    pairs = zip(_answers(session, texts), texts, strict=True)
    nats = (cross_entropy(found[:-1], ids[0, 1:], reduction="sum") for found, ids in pairs)
    return float(sum(nats)) / math.log(2)
