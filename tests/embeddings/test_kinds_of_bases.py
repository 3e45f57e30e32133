"""Bases that differ from most: each is adapted rightly, or refused in one line with the reason."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AlbertForPreTraining,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MPNetConfig,
    MPNetForMaskedLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from adapt.check import check
from adapt.embeddings.editable import check_editable
from adapt.embeddings.frozen import Frozen
from adapt.embeddings.surgery import write_adapted_base
from adapt.errors import ModelError
from adapt.recipe import load_recipe
from adapt.vocab import load_tokenizer
from tests.conftest import write_recipe
from tests.embeddings.test_surgery import EXTENDED, MIXED, TINY, VOCABULARY, llama

SHARED = {**TINY, "vocab_size": VOCABULARY}
NARROW = {**SHARED, "num_key_value_heads": 1, "head_dim": 8}


def saved(model, folder):
    """A checkpoint of a model with large random weights, and an empty tokenizer beside it."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    model.save_pretrained(str(folder / "base"))
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    return folder / "base"


def edited(base, delta=EXTENDED, **options):
    folder = base.parent / "adapted"
    folder.mkdir()
    write_adapted_base(base, base.parent / "tokenizer", delta, "mean", folder, **options)
    return folder


def without_class(base):
    config = json.loads((base / "config.json").read_text())
    del config["architectures"]
    (base / "config.json").write_text(json.dumps(config))


def test_padding_has_no_place_among_the_rows_that_are_read_with(tmp_path):
    base = saved(llama(pad_token_id=VOCABULARY - 1), tmp_path)
    frozen = Frozen.load(base, torch.float32)
    rows = frozen.inputs[:4].clone().requires_grad_()
    for layer in (1, 2):
        frozen.states(torch.tensor([[0, 1, 2, 3]]), rows, layer).sum().backward()
    base = saved(llama(pad_token_id=2), tmp_path)
    rows = rows.detach().requires_grad_()
    states = Frozen.load(base, torch.float32).states(torch.tensor([[0, 1, 2, 3]]), rows, 1)
    states.square().sum().backward()
    assert (rows.grad != 0).any(1).all()


WRITERS = {
    "scaled": lambda: FalconH1ForCausalLM(
        FalconH1Config(
            lm_head_multiplier=0.2,
            mamba_d_ssm=32,
            mamba_n_heads=4,
            mamba_d_head=8,
            mamba_d_state=8,
            mamba_n_groups=1,
            **NARROW,
        )
    ),
    "capped": lambda: RecurrentGemmaForCausalLM(
        RecurrentGemmaConfig(
            **{**SHARED, "num_hidden_layers": 3}, logits_soft_cap=3.0, num_key_value_heads=1
        )
    ),
}


@pytest.mark.parametrize("name", sorted(WRITERS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_those_of_the_model_itself(name, dtype, tmp_path):
    frozen = Frozen.load(saved(WRITERS[name](), tmp_path), dtype)
    ids = torch.randint(3, VOCABULARY, (1, 8))
    with torch.inference_mode():
        wanted = frozen.model(ids).logits[0].float()
        logits = frozen.logits(frozen.both_states(ids, 1)[1][0], frozen.outputs, frozen.bias)
    torch.testing.assert_close(logits, wanted, rtol=0.05, atol=0.02)


def test_a_head_that_does_more_is_refused(tmp_path):
    base = saved(BertLMHeadModel(BertConfig(is_decoder=True, **SHARED)), tmp_path)
    with pytest.raises(ModelError, match="output layer of BertLMHeadModel does; set embeddings.in"):
        Frozen.load(base, torch.float32)


def test_a_base_that_computes_no_numbers_is_refused(tmp_path):
    base = saved(llama(), tmp_path)
    file = base / "model.safetensors"
    tensors = load_file(str(file))
    tensors["model.layers.0.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(tensors, str(file), metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not a number"):
        Frozen.load(base, torch.float32)


ENCODERS = {
    "bert": lambda: BertForMaskedLM(BertConfig(**SHARED)),
    "xlm-r": lambda: XLMRobertaForMaskedLM(XLMRobertaConfig(**SHARED)),
    "mpnet": lambda: MPNetForMaskedLM(MPNetConfig(**SHARED)),
    "albert": lambda: AlbertForMaskedLM(AlbertConfig(embedding_size=8, **SHARED)),
    "deberta": lambda: DebertaV2ForMaskedLM(DebertaV2Config(**SHARED)),
}


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_untying_a_head_for_hidden_words_keeps_its_bias(name, tmp_path):
    model = ENCODERS[name]()
    base = saved(model, tmp_path)
    folder = edited(base, untie=True)
    made, told = type(model).from_pretrained(str(folder), output_loading_info=True)
    assert not any(told.values())
    ids = torch.randint(3, VOCABULARY, (1, 8))
    with torch.inference_mode():
        wanted, found = model.eval()(ids).logits, made.eval()(ids).logits
    assert made.get_input_embeddings().weight is not made.get_output_embeddings().weight
    torch.testing.assert_close(found[..., :VOCABULARY], wanted)


REFUSED = {
    "second table": (
        lambda: Gemma3nForCausalLM(
            Gemma3nTextConfig(
                vocab_size_per_layer_input=VOCABULARY,
                hidden_size_per_layer_input=4,
                num_kv_shared_layers=0,
                laurel_rank=4,
                layer_types=["sliding_attention", "full_attention"],
                activation_sparsity_pattern=[0.0, 0.0],
                **{**NARROW, "intermediate_size": [32, 32]},
            )
        ),
        "a gemma3n_text model cannot be adapted: each of its layers has a table of tokens",
    ),
    "two halves": (
        lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        ),
        "a t5 model cannot be adapted: it reads with an encoder and writes with a decoder",
    ),
    "images": (
        lambda: Gemma3ForConditionalGeneration(
            Gemma3Config(
                text_config=NARROW,
                vision_config={
                    **TINY,
                    "image_size": 28,
                    "patch_size": 14,
                },
                mm_tokens_per_image=4,
            )
        ),
        "a gemma3 model cannot be adapted: it reads more than text",
    ),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_adapted_is_refused_at_once(name, tmp_path):
    make, message = REFUSED[name]
    base = saved(make(), tmp_path)
    with pytest.raises(ModelError, match=message):
        edited(base)
    with pytest.raises(ModelError, match="^model.base: " + message):
        check_editable(str(base))


def test_what_can_be_adapted_is_not_refused(tmp_path):
    check_editable(str(saved(llama(), tmp_path)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: AlbertForPreTraining(AlbertConfig(embedding_size=8, **SHARED)),
        lambda: DebertaV2ForMaskedLM(DebertaV2Config(**SHARED)),
    ],
    ids=["for pre-training", "no class"],
)
def test_an_encoder_that_is_not_said_to_be_one_is_edited(make, tmp_path):
    base = saved(make(), tmp_path)
    if "DebertaV2ForMaskedLM" in (base / "config.json").read_text():
        without_class(base)
    held = {k: v for k, v in load_file(str(edited(base, MIXED) / "model.safetensors")).items()}
    assert sum(v.shape[:1] == (MIXED.size,) for v in held.values()) == 2  # rows and bias


def test_the_single_file_comes_before_an_index(tmp_path):
    """`transformers` takes it so; what an index names is not even looked at."""
    base = saved(llama(tie_word_embeddings=True), tmp_path)
    whole = load_file(str(base / "model.safetensors"))
    config = LlamaConfig(**SHARED, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(str(tmp_path / "other"), max_shard_size="3KB")
    for path in (tmp_path / "other").glob("model*"):
        path.rename(base / path.name)
    folder = edited(base)
    assert not (folder / "model.safetensors.index.json").exists()
    made = LlamaForCausalLM.from_pretrained(str(folder)).get_input_embeddings().weight
    assert torch.equal(made[:VOCABULARY], whole["model.embed_tokens.weight"])


def test_the_check_of_a_recipe_refuses_it_too(tmp_path, tiny_base):
    base = saved(REFUSED["two halves"][0](), tmp_path)
    load_tokenizer(tiny_base).save_pretrained(str(base))
    with pytest.raises(ModelError, match="model.base: a t5 model cannot be adapted"):
        check(load_recipe(write_recipe(tmp_path, base)))
