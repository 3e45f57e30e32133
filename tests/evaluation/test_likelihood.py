"""Bits per byte against a direct computation, whatever the batch and the window."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from adapt.evaluation.likelihood import _windows, document_bits
from adapt.training.batches import encode_documents
from adapt.vocab import load_tokenizer

TEXTS = ["the harbour", "A farmer sold his garden.", "x", "", "Her sister at noon. " * 6, "日本 é"]


@pytest.fixture(scope="module")
def pair(tiny_base):
    return AutoModelForCausalLM.from_pretrained(str(tiny_base)).eval(), load_tokenizer(tiny_base)


def direct(model, tokenizer, text):
    ids = torch.tensor([next(encode_documents(tokenizer, [text]))])
    with torch.inference_mode():
        log = torch.log_softmax(model(ids).logits[0].double(), -1)
    return -sum(float(log[i, ids[0, i + 1]]) for i in range(ids.shape[1] - 1)) / math.log(2)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_bits_are_those_of_a_direct_computation(pair, batch_size):
    bits = document_bits(*pair, TEXTS, max_length=512, batch_size=batch_size, label="")
    np.testing.assert_allclose(bits, [direct(*pair, text) for text in TEXTS], rtol=1e-4)


def test_windows_score_each_token_once_with_context():
    ids = list(range(100))
    for max_length in (4, 10, 33, 99):
        windows = _windows(ids, max_length)
        scored = [id_ for part, first in windows for id_ in part[first:]]
        assert scored == ids[1:]
        assert all(len(part) <= max_length for part, _ in windows)
        assert all(first >= max_length // 2 for _, first in windows[1:])


def test_long_documents_cost_nearly_the_same_in_windows(pair):
    text = ["The old captain described two bicycles last winter. " * 8]
    whole, cut = (
        document_bits(*pair, text, max_length=n, batch_size=2, label="")[0] for n in (500, 64)
    )
    assert cut == pytest.approx(whole, rel=0.05)
