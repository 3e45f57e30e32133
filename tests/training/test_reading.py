"""Units that are only read get no probability, in the loss as in generation."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from adapt.training.reading import never_written

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
NEW = [37, 38, 39]


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_probability_stays_with_the_tokens_that_are_written(tied, adapters):
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied)).eval()
    if adapters:
        rows = {"embed_tokens": NEW}
        config = LoraConfig(target_modules="all-linear", trainable_token_indices=rows)
        model = get_peft_model(model, config)
    ids = torch.tensor([[37, 4, 39, 6, 7]])
    plain = model(input_ids=ids).logits
    never_written(model, NEW)
    labels = torch.tensor([[-100, 4, -100, 6, 7]])
    output = model(input_ids=ids, labels=labels)
    assert torch.equal(output.logits[..., :37], plain[..., :37])
    assert (output.logits[..., 37:] == float("-inf")).all()
    kept = torch.log_softmax(plain[0, :, :37], -1)
    wanted = -(kept[0, 4] + kept[2, 6] + kept[3, 7]) / 3
    torch.testing.assert_close(output.loss, wanted)
    if adapters:
        output.loss.backward()
        rows = next(p for n, p in model.named_parameters() if "trainable_tokens_delta" in n)
        assert torch.isfinite(rows.grad).all()
        assert rows.grad[0].any()
