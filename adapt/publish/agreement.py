"""How far logits of two models may lie apart, measured in the spread of the logits.

The spread is their standard deviation over the vocabulary, mean of all positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EXACT = 2e-3
ROUNDING = {"float32": 2e-3, "float16": 0.05, "bfloat16": 0.25}


def spread(logits: Sequence[Tensor]) -> float:
    """Standard deviation of logits over the vocabulary, mean of all positions.

    Args:
        logits: Of each text, (positions, vocabulary).
    """
    return float(torch.cat([text.std(dim=-1) for text in logits]).mean())


def differences(found: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
    """Largest difference of a logit at each position of all texts, (positions,), in spreads.

    What is no number counts as infinitely far.

    Args:
        found: Of each text, (positions, vocabulary).
        expected: The same of the model to agree with; its spread is the unit.
    """
    pairs = zip(found, expected, strict=True)
    each = [(f - e).abs().nan_to_num(float("inf")).amax(dim=-1) for f, e in pairs]
    return torch.cat(each) / spread(expected)
