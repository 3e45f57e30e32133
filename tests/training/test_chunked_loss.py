"""The loss in chunks: the same numbers as all at once, and never all logits."""

import logging
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from adapt.training.chunked_loss import in_chunks
from adapt.training.cross_entropy import OutputLayer, chunked_loss
from adapt.training.faster import rows_looked_up
from adapt.training.reading import never_written

VOCABULARY, WIDTH, NEW = 40, 16, 5
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def llama(**options):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **options}))


def batch(vocabulary=VOCABULARY, rows=3, length=7):
    """Packed rows, some of whose positions have no label."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, vocabulary, (rows, length), generator=generator)
    labels = ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.3, -100)
    positions = torch.arange(length) % 4
    return {"input_ids": ids, "labels": labels, "position_ids": positions.expand(rows, -1)}


def learned(model, positions, **named):
    """Loss and gradients of a pass, with the loss in chunks of so many positions, or plain."""
    model.zero_grad()
    with in_chunks(model, positions):
        output = model(**batch(), use_cache=False, **named)
    output.loss.backward()
    trained = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return output.loss.detach(), trained


def with_adapter(model, **options):
    torch.manual_seed(1)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=2,
        target_modules=["q_proj", "v_proj"],
        init_lora_weights=False,
        **options,
    )
    return get_peft_model(model, config)


# -- the function -----------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    positions=st.integers(1, 12),
    vocabulary=st.integers(2, 30),
    size=st.integers(1, 14),
    ignored=st.sets(st.integers(0, 11)),
    trains=st.sampled_from(["hidden", "rows", "weight", "all"]),
    bias=st.booleans(),
    never=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_it_is_the_loss_of_all_logits_at_once(
    positions, vocabulary, size, ignored, trains, bias, never, dtype, seed, data
):
    draw = torch.Generator().manual_seed(seed)

    def random(*shape, grad):
        return torch.randn(shape, generator=draw, dtype=dtype).requires_grad_(grad)

    hidden = random(positions, 6, grad=True)
    weight = random(vocabulary, 6, grad=trains in ("weight", "all"))
    offset = random(vocabulary, grad=trains in ("weight", "all")) if bias else None
    rows = ids = silent = None
    labels = torch.randint(0, vocabulary, (positions,), generator=draw)
    if trains in ("rows", "all"):
        some = data.draw(st.sets(st.integers(0, vocabulary - 1), min_size=1))
        ids = torch.tensor(data.draw(st.permutations(sorted(some))))
        rows = random(len(ids), 6, grad=True)
        offset = None  # PEFT's rows have none
    if never:
        silent = torch.tensor([vocabulary - 1])
        labels = labels.clamp(max=vocabulary - 2)
    labels[[i for i in ignored if i < positions]] = -100
    inputs = [t for t in (hidden, weight, offset, rows) if t is not None and t.requires_grad]

    matrix = weight if rows is None else weight.index_copy(0, ids, rows)
    logits = hidden @ matrix.T + (0 if offset is None else offset)
    if never:
        logits = logits.index_fill(1, silent, float("-inf"))
    expected = cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / 7
    layer = OutputLayer(weight, offset, rows, ids, silent)
    found = chunked_loss(hidden, layer, labels, size, num_items_in_batch=7)
    torch.testing.assert_close(found, expected)
    slopes = torch.autograd.grad(3 * found, inputs)
    wanted = torch.autograd.grad(3 * expected, inputs)
    for ours, theirs in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    mean = chunked_loss(hidden, layer, labels, size)
    plain = cross_entropy(logits, labels, ignore_index=-100)
    torch.testing.assert_close(mean, plain, equal_nan=True)


def test_rows_that_do_not_train_have_no_gradient_and_evaluation_makes_none():
    hidden, weight = torch.randn(4, 6), torch.randn(9, 6, requires_grad=True)
    labels = torch.tensor([1, 2, 3, 4])
    with torch.no_grad():
        assert not chunked_loss(hidden, OutputLayer(weight), labels, 2).requires_grad
    frozen = OutputLayer(weight.detach())
    assert not chunked_loss(hidden, frozen, labels, 2).requires_grad


# -- models -----------------------------------------------------------------------------------


def phi():
    torch.manual_seed(0)
    model = PhiForCausalLM(PhiConfig(**SIZES))
    torch.nn.init.normal_(model.lm_head.bias)
    return model


MODELS = {
    "tied": lambda: llama(tie_word_embeddings=True),
    "untied": lambda: llama(tie_word_embeddings=False),
    "bias": phi,
    "adapter": lambda: with_adapter(llama(tie_word_embeddings=True)),
    "rows, tied": lambda: with_adapter(
        llama(tie_word_embeddings=True),
        trainable_token_indices={"embed_tokens": list(range(VOCABULARY - NEW, VOCABULARY))},
    ),
    "rows, untied": lambda: with_adapter(
        llama(tie_word_embeddings=False),
        trainable_token_indices={"embed_tokens": [9, 3, 39], "lm_head": [9, 3, 39]},
    ),
    "rows, input only": lambda: with_adapter(
        llama(tie_word_embeddings=False), trainable_token_indices={"embed_tokens": [9, 3, 39]}
    ),
    "whole matrices": lambda: with_adapter(
        llama(tie_word_embeddings=False), modules_to_save=["embed_tokens", "lm_head"]
    ),
    "read only": lambda: never_written(
        with_adapter(
            llama(tie_word_embeddings=True),
            trainable_token_indices={"embed_tokens": [0, 37]},
        ),
        [0],
    ),
}


@pytest.mark.parametrize("positions", [1, 4, 1000])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_learns_the_same(name, positions, caplog):
    model = MODELS[name]()
    caplog.set_level(logging.INFO, "adapt")
    for named in ({}, {"num_items_in_batch": torch.tensor(50)}):
        loss, slopes = learned(model, positions, **named)
        expected, wanted = learned(model, None, **named)
        torch.testing.assert_close(loss, expected)
        assert slopes.keys() == wanted.keys()
        for key, slope in slopes.items():
            torch.testing.assert_close(slope, wanted[key], rtol=1e-4, atol=1e-6)
    assert not caplog.records


def test_in_bfloat16_it_is_as_near_as_its_rounding():
    model = MODELS["rows, tied"]().to(torch.bfloat16)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    loss, slopes = learned(model, 4)
    expected, wanted = learned(model, None)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    for key, slope in slopes.items():
        assert slope.dtype == torch.float32
        torch.testing.assert_close(slope, wanted[key], rtol=0.1, atol=float(slope.abs().max()) / 10)


def test_without_labels_and_afterwards_the_model_is_its_own():
    model = MODELS["rows, tied"]()
    ids = batch()["input_ids"]
    before = model(input_ids=ids).logits
    state = {name: set(module.__dict__) for name, module in model.named_modules()}
    mode = model.get_base_model().eval().training
    with rows_looked_up(model), in_chunks(model, 4):
        torch.testing.assert_close(model(input_ids=ids).logits, before)
        assert model(**batch(), use_cache=False).logits is None
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == state
    assert model.get_base_model().training == mode
    assert model(**batch()).logits.shape == (*ids.shape, VOCABULARY)


def gemma2():
    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=30.0))


def cohere():
    torch.manual_seed(0)
    return CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.5, eos_token_id=1))


def quantised():
    model = llama(tie_word_embeddings=False)
    model.lm_head = type("Linear4bit", (torch.nn.Linear,), {})(WIDTH, VOCABULARY, bias=False)
    return model


def other_loss():
    model = llama()
    model.loss_function = lambda logits, labels, **kwargs: logits.sum()
    return model


OTHERS = {
    "softcap": (gemma2, "it changes logits before the loss"),
    "scale": (cohere, "it changes logits before the loss"),
    "adapter on the output": (
        lambda: get_peft_model(
            llama(tie_word_embeddings=False), LoraConfig(target_modules=["lm_head"])
        ),
        "its output layer is not a plain one",
    ),
    "quantised": (quantised, "its output layer is not a plain one"),
    "loss": (other_loss, "its loss is one of its own"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_where_the_output_is_something_else_the_model_keeps_its_own_loss(name, caplog):
    make, reason = OTHERS[name]
    model = make()
    caplog.set_level(logging.INFO, "adapt")
    loss, _ = learned(model, 4)
    expected, _ = learned(model, None)
    assert torch.equal(loss, expected)
    assert [record.getMessage() for record in caplog.records] == [
        f"The loss is the model's own, not in chunks: {reason}."
    ]


# -- memory -----------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The largest tensor that any operation gives."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return found


def test_with_100k_tokens_there_is_never_a_matrix_of_all_positions_nor_of_the_vocabulary():
    vocabulary, length, positions = 100_000, 64, 8
    ids = list(range(vocabulary - 500, vocabulary))
    base = llama(vocab_size=vocabulary, tie_word_embeddings=True)
    model = with_adapter(base, trainable_token_indices={"embed_tokens": ids})
    texts = batch(vocabulary, 1, length)
    sizes = {}
    for chunk in (None, positions):
        lookup = rows_looked_up(model) if chunk else nullcontext()
        with lookup, in_chunks(model, chunk), Largest() as seen:
            model(**texts, use_cache=False).loss.backward()
        sizes[chunk] = seen.elements
    assert sizes[None] >= length * vocabulary
    # transposed, the frozen matrix itself shows up: the only thing of its size
    assert sizes[positions] == max(positions * vocabulary, WIDTH * vocabulary)


# -- the stage --------------------------------------------------------------------------------


def test_a_run_has_the_losses_of_the_models_own(runs, losses):
    phase = {"gradient_accumulation_steps": 2, "eval_steps": 2}
    plain, chunked = (
        losses(runs(f"chunk-{chunk}", False, phase, loss_chunk=chunk, lora={"r": 2}))
        for chunk in (None, 7)
    )
    assert len(plain[0]) == 4
    assert plain != chunked  # else it was never in chunks
    torch.testing.assert_close(torch.tensor(chunked), torch.tensor(plain), rtol=1e-4, atol=1e-5)
