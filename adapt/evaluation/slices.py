"""What held-out text is called by, and the part of it where a new vocabulary should help most."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from adapt.evaluation.bootstrap import Interval, ratio_interval
from adapt.evaluation.result import Likelihood
from adapt.fertility import measure_groups

FIFTH = 0.2


def text_hash(items: Iterable[Any]) -> str:
    """SHA-256 of texts or rows in their order, one JSON value a line, as a JSONL file has them.

    Two figures with the same hash were measured on the same data.
    """
    found = hashlib.sha256()
    for item in items:
        line = json.dumps(item, ensure_ascii=True, sort_keys=True, default=str)
        found.update(line.encode() + b"\n")
    return found.hexdigest()


def fragmented(tokenizer: Any, texts: Sequence[str], share: float = FIFTH) -> tuple[int, ...]:  # noqa: ANN401
    """Documents with the highest share of words that a tokenizer splits; their bits are there.

    Of equals, those come first that take most tokens a byte: text without spaces is one split word
    a document, and a short text often a few.

    Args:
        tokenizer: The base's, a backend of `tokenizers`: which documents these are must not depend
            on what is measured on them.
        texts: Held-out documents.
        share: Of the documents, rounded up; of those equal in both, the first come first.

    Returns:
        Their places in `texts`, rising. None where no document has a split word.
    """
    if not texts:
        return ()
    groups = {str(i): [text] for i, text in enumerate(texts)}
    _, each = measure_groups(tokenizer, groups, name="base")
    found = [each[str(i)] for i in range(len(texts))]
    split = np.array([one.continued_word_share for one in found])
    if not split.any():
        return ()
    cost = np.array([one.tokens / max(one.bytes_, 1) for one in found])  # tokens a byte
    order = np.lexsort((-cost, -split))[: math.ceil(share * len(texts))]  # stable
    return tuple(sorted(order.tolist()))


def on_slice(likelihood: Likelihood, rows: Sequence[int], seed: int = 0) -> Interval | None:
    """Bits per byte of some of the documents, from the bits that are there; None of none."""
    kept = [i for i in rows if likelihood.bytes_[i]]
    if not kept:
        return None
    bits, bytes_ = ([column[i] for i in kept] for column in (likelihood.bits, likelihood.bytes_))
    return ratio_interval(bits, bytes_, seed)
