"""What spares work while a phase trains gives the same, and leaves nothing behind."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import scaled_dot_product_attention
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from adapt.training.faster import (
    adapters_in_their_input_type,
    attention,
    attention_by_products,
    faster,
    rows_looked_up,
)

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
NEW = [39, 3, 17]


def llama(dtype=torch.float32, **options):
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)).to(dtype)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        target_modules="all-linear",
        init_lora_weights=False,
        trainable_token_indices={"embed_tokens": NEW},
        **options,
    )
    model = get_peft_model(base, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def batch():
    """Two documents to a row."""
    ids = torch.randint(1, 40, (3, 12), generator=torch.Generator().manual_seed(0))
    ids[:, 5] = 17
    positions = torch.arange(12) % 6
    return {"input_ids": ids, "labels": ids, "position_ids": positions.expand(3, -1)}


def learned(model, part=None):
    model.zero_grad()
    if part is None:
        loss = model(**batch(), use_cache=False).loss
        loss.backward()
    else:
        with part(model):
            loss = model(**batch(), use_cache=False).loss
            loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def all_parts(model):
    return faster(model, 5, any_attention=True)


PARTS = [rows_looked_up, adapters_in_their_input_type, attention_by_products, all_parts]


@pytest.mark.parametrize("part", PARTS)
def test_in_float32_it_is_the_same(part):
    model = llama()
    expected, wanted = learned(model)
    loss, slopes = learned(model, part)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(slopes, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("part", PARTS)
def test_in_bfloat16_it_is_as_near_to_float32_as_before(part):
    exact, wanted = learned(llama())
    model = llama(torch.bfloat16)
    plain, before = learned(model)
    loss, slopes = learned(model, part)
    assert abs(loss - exact) < max(2 * abs(plain - exact), 5e-3)
    assert slopes.keys() == wanted.keys()
    for name, slope in slopes.items():
        assert slope.dtype == torch.float32
        error, usual = ((s[name] - wanted[name]).norm() for s in (slopes, before))
        assert error < max(2 * usual, 0.02 * wanted[name].norm())
    held = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    learned(model, part)
    assert all(torch.equal(p, held[n]) for n, p in model.named_parameters() if n in held)


def test_documents_of_a_row_do_not_see_each_other():
    model = llama(torch.bfloat16)
    texts = batch()
    other = {**texts, "input_ids": texts["input_ids"].clone()}
    other["input_ids"][:, :6] = 1
    with torch.no_grad(), attention_by_products(model):
        model.eval()
        logits = [
            model(input_ids=t["input_ids"], position_ids=t["position_ids"], use_cache=False).logits
            for t in (texts, other)
        ]
    assert torch.equal(logits[0][:, 6:], logits[1][:, 6:])
    assert not torch.equal(logits[0][:, :6], logits[1][:, :6])


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_attention(key_heads, masked):
    torch.manual_seed(0)
    query = torch.randn(2, 4, 5, 8, dtype=torch.float64)
    key, value = torch.randn(2, 2, key_heads, 5, 8, dtype=torch.float64)
    mask = torch.zeros(2, 1, 5, 5, dtype=torch.float64)
    mask.masked_fill_(~torch.ones(5, 5, dtype=torch.bool).tril(), torch.finfo(torch.float64).min)
    layer = torch.nn.Module()
    layer.num_key_value_groups, layer.is_causal = 4 // key_heads, True
    found, _ = attention(layer, query, key, value, mask if masked else None, scaling=0.3)
    expected = scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_a_scaled_embedding_is_scaled_once():
    sizes = {**SIZES, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    base = Gemma3ForCausalLM(Gemma3TextConfig(**sizes))
    config = LoraConfig(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": NEW})
    model = get_peft_model(base, config).eval()
    ids = batch()["input_ids"]
    expected = model(input_ids=ids).logits
    with rows_looked_up(model):
        torch.testing.assert_close(model(input_ids=ids).logits, expected)


def test_what_is_not_a_plain_adapter_is_left_alone():
    model = llama(torch.bfloat16, use_dora=True)
    expected, _ = learned(model)
    loss, _ = learned(model, adapters_in_their_input_type)
    assert torch.equal(loss, expected)


def test_attention_that_was_asked_for_stays():
    model = llama(torch.bfloat16)
    expected, _ = learned(model)
    loss, _ = learned(model, lambda m: faster(m, None, any_attention=False))
    named = model.get_base_model().config._attn_implementation
    with faster(model, None, any_attention=False):
        assert model.get_base_model().config._attn_implementation == named
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)


def test_nothing_stays():
    model = llama(torch.bfloat16)
    expected, _ = learned(model)
    state = {name: set(module.__dict__) for name, module in model.named_modules()}
    named = model.get_base_model().config._attn_implementation
    learned(model, all_parts)
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == state
    assert model.get_base_model().config._attn_implementation == named
    loss, _ = learned(model)
    assert torch.equal(loss, expected)
