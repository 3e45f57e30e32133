"""What all exports share: their options, their results, and the texts and measures of checks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapt.errors import AdaptError
from adapt.vocab.audit import generated_texts

# Texts of different lengths, from one token or two to some hundred.
TEXTS = (
    "Fever",
    "The results show that",
    "According to the report of 1987, the mayor repaired the bridge before the rain.\n\nThen",
    "An abnormality of the renal pelvis characterized by chronic inflammation (see p. 12). "
    "It's not known whether Zoë's naïve β-test, at 3.5 mg/dL, was 10,000 times too high. "
    "def add(a, b):\n    return a + b\n",
)
TOKENIZED_TEXTS = 1_000


class ExportError(AdaptError):
    """An export that is not what was exported."""

    exit_code = 1


@dataclass(frozen=True)
class Options:
    """What formats can be asked for.

    Attributes:
        name: What the model is called.
        dtype: GGUF: type of the weights; auto is that of the checkpoint.
        int8: ONNX: whether a second graph with weights of 8 bits is written.
        trust_remote_code: As in `transformers`.
    """

    name: str
    dtype: str = "auto"
    int8: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Written:
    """What a format has to say of what it wrote.

    Attributes:
        use: How it is used, one line.
        checked: What was compared, with figures and tolerances.
        unchecked: What was not.
        lost: What the format, or the program that reads it, does not keep.
    """

    use: str
    checked: tuple[str, ...]
    unchecked: tuple[str, ...]
    lost: tuple[str, ...]


def logits(model: Any, ids: Tensor) -> Tensor:  # noqa: ANN401
    """Logits of one text, (tokens, vocabulary) in float32 on the CPU, from ids (1, tokens)."""
    with torch.inference_mode():
        found: Tensor = model(input_ids=ids.to(model.device), use_cache=False).logits[0]
    return found.float().cpu()


def ids_of(tokenizer: Any) -> list[Tensor]:  # noqa: ANN401
    """Ids of `TEXTS`, each (1, tokens)."""
    return [tokenizer(text, return_tensors="pt")["input_ids"] for text in TEXTS]


def sample_texts(tokenizer: Any, count: int = TOKENIZED_TEXTS) -> list[str]:  # noqa: ANN401
    """Texts to compare tokenizers on: half odd strings, half tokens of the vocabulary at random."""
    rng = random.Random(0)
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    ordinary = [id_ for id_ in sorted(tokenizer.get_vocab().values()) if id_ not in special]
    made = [rng.choices(ordinary, k=rng.randint(1, 16)) for _ in range(count - count // 2)]
    return [*generated_texts(count // 2, seed=0), *map(tokenizer.decode, made)]


def refuse_otherwise_cut(
    found: Sequence[Sequence[int]], expected: Sequence[Sequence[int]], who: str, where: Path
) -> None:
    """Refuses two tokenizers that disagree.

    Raises:
        ExportError: They do, on any text.
    """
    wrong = sum(list(f) != list(e) for f, e in zip(found, expected, strict=True))
    if wrong:
        raise ExportError(
            f"{who} cuts {wrong} of {len(expected)} texts otherwise than the adapted tokenizer",
            where=str(where),
            fix="nothing was written; please report it with the tokenizer.json",
        )
