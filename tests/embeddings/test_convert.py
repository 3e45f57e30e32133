"""`pytorch_model.bin` becomes safetensors with the same weights, and runs no code."""

import json
import os
import pickle

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from adapt.embeddings.convert import with_safetensors
from adapt.embeddings.surgery import write_adapted_base
from adapt.errors import ModelError
from adapt.vocab.delta import Kept, NewToken, VocabDelta

DELTA = VocabDelta(50, 51, (Kept(0, 0, 50),), (NewToken(50, "ab", "ab", (1, 2)),))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
    config = LlamaConfig(
        vocab_size=50, num_attention_heads=2, tie_word_embeddings=request.param, **sizes
    )
    return LlamaForCausalLM(config).bfloat16()


def as_bin(model, folder, shards):
    """The checkpoint as old versions of `transformers` wrote it."""
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.dtype = "bfloat16"
    model.config.save_pretrained(str(folder))
    state = dict(model.state_dict())
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    names = sorted(state)
    places = {name: f"pytorch_model-{i % shards}.bin" for i, name in enumerate(names)}
    for file in set(places.values()):
        torch.save({n: state[n] for n in names if places[n] == file}, folder / file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("shards", [1, 3])
def test_weights_are_the_same_and_can_be_edited(model, shards, tmp_path):
    base = tmp_path / "base"
    as_bin(model, base, shards)
    converted = with_safetensors(base)
    assert with_safetensors(base) == converted  # done once
    assert not list(converted.glob("*.bin*"))
    loaded, info = AutoModelForCausalLM.from_pretrained(
        str(converted), dtype="auto", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "new").mkdir()
    write_adapted_base(converted, tmp_path / "tokenizer", DELTA, "last", tmp_path / "new")
    new = AutoModelForCausalLM.from_pretrained(str(tmp_path / "new"), dtype="auto")
    assert torch.equal(new.lm_head.weight[50], model.lm_head.weight[2])


def test_another_base_at_the_same_place_is_converted_anew(model, tmp_path):
    base = tmp_path / "base"
    as_bin(model, base, 1)
    first = with_safetensors(base)
    as_bin(model, base, 1)
    os.utime(base / "pytorch_model.bin", ns=(1, 1))
    assert with_safetensors(base) != first


def test_a_base_in_safetensors_is_taken_as_it_is(tiny_base):
    assert with_safetensors(tiny_base) == tiny_base


class Code:
    def __reduce__(self):
        return os.mkdir, (os.environ["ADAPT_CACHE"] + "-ran",)


def test_code_in_a_pickle_does_not_run(model, tmp_path):
    base = tmp_path / "base"
    as_bin(model, base, 1)
    (base / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Code()}))
    with pytest.raises(ModelError, match="plain weights"):
        with_safetensors(base)
    assert not list(tmp_path.glob("cache-ran"))
    assert not list(tmp_path.glob("cache/bases/*"))
