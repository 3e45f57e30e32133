"""Bits per byte against a direct computation, whatever the batch and the window."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from adapt.evaluation.likelihood import _windows, document_bits, halves, read_documents
from adapt.recipe.vocabulary import TokenizerSection
from adapt.training.batches import encode_documents
from adapt.vocab import OUTPUT, Material, adapt_vocabulary, load_tokenizer
from tests.conftest import clinical

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
        for begin in (1, 3, 50, 99, 100):
            windows = _windows(ids, begin, max_length)
            scored = [id_ for part, first in windows for id_ in part[first:]]
            assert scored == ids[begin:]
            assert all(len(part) <= max_length for part, _ in windows)
            assert all(first >= max_length // 2 for _, first in windows[1:])


def test_long_documents_cost_nearly_the_same_in_windows(pair):
    text = ["The old captain described two bicycles last winter. " * 8]
    whole, cut = (
        document_bits(*pair, text, max_length=n, batch_size=2, label="")[0] for n in (500, 64)
    )
    assert cut == pytest.approx(whole, rel=0.05)


@settings(max_examples=50)
@given(st.text())
def test_halves_are_the_whole(text):
    first, second = halves(text)
    assert first + second == text
    assert bool(first) == bool(text)
    assert bool(second) == (len(text) > 1)
    if " " in text[1:]:
        assert second[0] == " "
    if " " in text[max(1, len(text) // 2) :]:
        assert len(first) >= len(text) // 2


def test_halves_of_text_that_has_no_space_after_its_middle():
    assert halves("der Befund unauffaellig") == ("der Befund", " unauffaellig")
    assert halves("心臓の異常所見") == ("心臓の", "異常所見")
    assert halves("一") == ("一", "")


def test_the_second_half_is_scored_after_the_first_in_another_tokenizer(pair, tmp_path):
    model, tokenizer = pair
    section = TokenizerSection(new_tokens=20)
    texts = [clinical(seed)["definition"] for seed in range(60)]
    base = load_tokenizer(tokenizer.name_or_path)
    material = Material(texts=lambda: texts)
    folder = adapt_vocabulary(section, base, material, tmp_path / "t", read_only=True).folder
    reader, writer = load_tokenizer(folder), load_tokenizer(folder / OUTPUT)
    model = LlamaForCausalLM(LlamaConfig(**{**model.config.to_dict(), "vocab_size": 420})).eval()
    bits = document_bits(
        model, reader, texts[:5], writer=writer, max_length=512, batch_size=2, label=""
    )
    for text, found in zip(texts, bits, strict=False):
        first, second = halves(text)
        before = next(encode_documents(reader, [first]))
        after = writer(second, add_special_tokens=False)["input_ids"]
        assert max(before) >= 400 > max(after)
        ids = torch.tensor([before + after])
        with torch.inference_mode():
            log = torch.log_softmax(model(ids).logits[0].double(), -1)
        nats = -sum(float(log[i - 1, ids[0, i]]) for i in range(len(before), ids.shape[1]))
        assert found == pytest.approx(nats / math.log(2), rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_probability_on_new_tokens_is_summed_over_positions(pair, batch_size):
    model, tokenizer = pair
    new = [5, 300, 399]
    found = read_documents(
        *pair, TEXTS, max_length=512, batch_size=batch_size, label="", new_ids=new
    )
    for i, text in enumerate(TEXTS):
        ids = torch.tensor([next(encode_documents(tokenizer, [text]))])
        with torch.inference_mode():
            shares = torch.softmax(model(ids).logits[0].double(), -1)[:-1, new].sum()
        assert found.positions[i] == ids.shape[1] - 1
        assert found.new[i] == pytest.approx(float(shares), rel=1e-4, abs=1e-9)
    np.testing.assert_allclose(
        found.bits, document_bits(*pair, TEXTS, max_length=512, batch_size=2, label=""), rtol=1e-5
    )
    assert not read_documents(*pair, TEXTS, max_length=9, batch_size=2, label="").new.any()
