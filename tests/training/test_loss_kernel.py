"""The kernel for the loss: used where it agrees with the chunks, and the chunks everywhere else."""

import logging
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

from adapt.training import kernels
from adapt.training.chunked_loss import in_chunks
from tests.training.test_chunked_loss import batch, learned, llama, with_adapter


def same_function(e, c, targets, reduction):
    """What `cut_cross_entropy.linear_cross_entropy` computes, in plain torch."""
    return cross_entropy((e @ c.T).float(), targets, reduction=reduction)


@pytest.fixture
def installed(monkeypatch):
    """Puts a function in the package's place, and this processor in a GPU's; says its calls."""

    def put(function):
        calls = []

        def counted(*given, **named):
            calls.append(given[0].shape)
            return function(*given, **named)

        package = SimpleNamespace(linear_cross_entropy=counted)
        monkeypatch.setitem(sys.modules, "cut_cross_entropy", package)
        monkeypatch.setattr(kernels, "DEVICES", ("cpu",))
        return calls

    return put


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_losses_and_gradients_are_those_of_the_chunks(installed, monkeypatch, adapter, tied):
    model = llama(tie_word_embeddings=tied).bfloat16()
    model = with_adapter(model) if adapter else model
    chunked, expected = learned(model, 5)
    calls = installed(same_function)
    loss, found = learned(model, 5)
    assert len(calls) == 2  # the comparison, and the pass: nothing is cut
    torch.testing.assert_close(loss, chunked, rtol=1e-3, atol=0)
    assert found.keys() == expected.keys()
    for name, one in found.items():
        difference = (one - expected[name]).float().norm()
        assert difference <= 0.02 * expected[name].float().norm(), name
    assert loss.dtype == chunked.dtype == torch.float32


def wrong_loss(e, c, targets, reduction):
    return 1.1 * same_function(e, c, targets, reduction)


def wrong_gradient(e, c, targets, reduction):
    return same_function(e, c.detach(), targets, reduction) + 0 * c.sum()


def not_a_number(e, c, targets, reduction):
    return same_function(e, c, targets, reduction) * float("nan")


def breaks(e, c, targets, reduction):
    raise RuntimeError("no such instruction")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (wrong_loss, r"differs from the chunks by 10\.\d%, 5% allowed"),
        (wrong_gradient, "differs from the chunks by 100"),
        (not_a_number, "differs from the chunks by nan%"),
        (breaks, r"fails here \(RuntimeError: no such instruction\)"),
    ],
)
def test_a_kernel_that_is_wrong_here_is_not_used(installed, caplog, function, reason):
    model = llama().bfloat16()
    expected, _ = learned(model, 5)
    calls = installed(function)
    with caplog.at_level(logging.INFO, "adapt"):
        loss, _ = learned(model, 5)
    assert torch.equal(loss, expected)
    assert len(calls) == 1
    assert re.search(reason, caplog.text)


def test_rows_that_train_apart_and_float32_keep_their_chunks(installed, caplog):
    calls = installed(same_function)
    model = with_adapter(
        llama(tie_word_embeddings=True).bfloat16(), trainable_token_indices={"embed_tokens": [3, 5]}
    )
    with caplog.at_level(logging.INFO, "adapt"):
        learned(model, 5)
    assert calls == []
    assert "not used: the output layer has rows that train apart" in caplog.text
    learned(llama(), 5)  # float32: compared in half precision, and left alone
    assert len(calls) == 1


def test_a_batch_without_a_label_is_left_to_the_chunks(installed):
    calls = installed(same_function)
    model, texts = llama().bfloat16(), batch()
    texts["labels"] = torch.full_like(texts["labels"], -100)
    with in_chunks(model, 5):
        loss = model(**texts, use_cache=False).loss
    assert loss.isnan()
    assert len(calls) == 1


def test_without_the_package_or_a_gpu_nothing_is_said(monkeypatch, caplog, installed):
    model = llama().bfloat16()
    calls = installed(same_function)
    monkeypatch.setattr(kernels, "DEVICES", ("cuda",))
    with caplog.at_level(logging.INFO, "adapt"):
        learned(model, 5)
        monkeypatch.setattr(kernels, "DEVICES", ("cpu",))
        monkeypatch.setitem(sys.modules, "cut_cross_entropy", None)
        learned(model, 5)
    assert calls == []
    assert "cut-cross-entropy" not in caplog.text


@pytest.mark.gpu
def test_the_package_itself_on_a_gpu(caplog):
    pytest.importorskip("cut_cross_entropy", reason="the extra cce is not installed")
    model = llama(vocab_size=1024, hidden_size=64).bfloat16().cuda()
    texts = {name: one.cuda() for name, one in batch(1024).items()}
    losses = []
    for positions in (5, None):
        with caplog.at_level(logging.INFO, "adapt"), in_chunks(model, positions):
            losses.append(float(model(**texts, use_cache=False).loss))
    assert "computed by cut-cross-entropy" in caplog.text
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
