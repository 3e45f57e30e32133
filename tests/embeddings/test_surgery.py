"""The adapted base is an ordinary checkpoint, and everything the base had is bit-identical."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from adapt.embeddings.initialize import mean
from adapt.embeddings.surgery import embedding_names, write_adapted_base
from adapt.errors import ModelError
from adapt.vocab import NewToken, VocabDelta
from adapt.workspace import digest, new_folder

VOCABULARY = 50
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
DELTA = VocabDelta(
    VOCABULARY,
    VOCABULARY,
    (NewToken(50, "ab", "ab", (1, 2)), NewToken(51, "abc", "abc", (1, 2, 3))),
)


def llama(**options):
    return LlamaForCausalLM(LlamaConfig(**{"vocab_size": VOCABULARY, **TINY, **options}))


MODELS = {
    "llama tied": lambda: llama(tie_word_embeddings=True),
    "llama untied": lambda: llama(tie_word_embeddings=False),
    "llama padded": lambda: llama(vocab_size=64),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2)
    ),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=VOCABULARY, **TINY)),
}


@pytest.fixture(params=sorted(MODELS))
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


def adapted(model, tmp_path, delta=DELTA, **saving):
    base, tokenizer = tmp_path / "base", tmp_path / "tokenizer"
    tokenizer.mkdir(exist_ok=True)
    model.save_pretrained(str(base), **saving)
    (tokenizer / "tokenizer.json").write_text("{}", encoding="utf-8")
    with new_folder(tmp_path / "adapted") as unfinished:
        write_adapted_base(base, tokenizer, delta, "mean", unfinished)
    return AutoModelForCausalLM.from_pretrained(str(tmp_path / "adapted"), dtype="auto").eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kept_rows_are_identical_and_new_rows_are_means(model, tmp_path, dtype):
    model = model.to(dtype)
    new = adapted(model, tmp_path)
    assert new.dtype == dtype
    for before, after in (
        (model.get_input_embeddings(), new.get_input_embeddings()),
        (model.get_output_embeddings(), new.get_output_embeddings()),
    ):
        old = before.weight.data
        assert torch.equal(after.weight[:VOCABULARY], old[:VOCABULARY])
        expected = old[[1, 2, 3]].float().mean(0).to(dtype)
        assert torch.equal(after.weight[51], expected)


def test_tied_stays_tied_and_untied_untied(model, tmp_path):
    new = adapted(model, tmp_path)

    def is_tied(m):
        return m.get_input_embeddings().weight is m.get_output_embeddings().weight

    assert is_tied(new) == is_tied(model)


def test_logits_of_old_tokens_do_not_change(model, tmp_path):
    new = adapted(model, tmp_path)
    ids = torch.randint(0, VOCABULARY, (2, 9))
    with torch.inference_mode():
        before, after = model(ids).logits, new(ids).logits
    torch.testing.assert_close(after[..., :VOCABULARY], before[..., :VOCABULARY])


def test_padding_rows_are_used_before_the_matrix_grows(tmp_path):
    new = adapted(MODELS["llama padded"](), tmp_path)
    assert new.get_input_embeddings().weight.shape[0] == 64
    assert new.config.vocab_size == 64


def test_sharded_checkpoints_keep_their_shards(tmp_path):
    model = MODELS["llama untied"]()
    new = adapted(model, tmp_path, max_shard_size="8KB")
    shards = sorted(p.name for p in (tmp_path / "adapted").glob("*.safetensors"))
    assert len(shards) > 2
    assert new.get_output_embeddings().weight.shape[0] == VOCABULARY + 2
    linked = [
        name
        for name in shards
        if (tmp_path / "base" / name).stat().st_ino == (tmp_path / "adapted" / name).stat().st_ino
    ]
    edited = {
        n
        for n in shards
        if any("embed" in k or "lm_head" in k for k in load_file(str(tmp_path / "adapted" / n)))
    }
    assert set(linked) == set(shards) - edited


def test_the_base_is_not_touched(model, tmp_path):
    model.save_pretrained(str(tmp_path / "base"))
    before = digest(tmp_path / "base")
    adapted(model, tmp_path)
    assert digest(tmp_path / "base") == before


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    foreign = VocabDelta(99, 99, (NewToken(99, "ab", "ab", (1, 2)),))
    with pytest.raises(ModelError, match=r"98.*50 rows"):
        adapted(MODELS["llama tied"](), tmp_path, foreign)
    assert not (tmp_path / "adapted").exists()


def test_a_checkpoint_without_safetensors_is_refused(tmp_path):
    model = MODELS["llama tied"]()
    model.save_pretrained(str(tmp_path / "base"))
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        write_adapted_base(tmp_path / "base", tmp_path, DELTA, "mean", tmp_path)


def test_nothing_added_links_everything(tmp_path):
    new = adapted(MODELS["gpt2"](), tmp_path, VocabDelta(VOCABULARY, VOCABULARY))
    assert new.config.vocab_size == VOCABULARY


def test_names_come_from_the_model(tiny_base):
    assert embedding_names(tiny_base) == ("model.embed_tokens.weight", None)


def test_mean_is_taken_in_float32():
    rows = torch.tensor([[1.0], [256.0], [3.0]], dtype=torch.bfloat16)
    assert mean(rows, [(0, 1, 2), (2, 2)]).float().tolist() == [
        [pytest.approx(86.667, abs=0.4)],
        [3.0],
    ]


def test_copies_where_linking_is_impossible(tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    assert adapted(MODELS["gpt2"](), tmp_path).config.vocab_size == VOCABULARY + 2
    assert shutil.disk_usage(tmp_path).free
