"""The adapted base is an ordinary checkpoint; rows move by id, and kept ones are bit-identical."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from adapt.embeddings.locate import parameters
from adapt.embeddings.result import AdaptedBase
from adapt.embeddings.surgery import row_sources, rows_needed, write_adapted_base
from adapt.errors import ModelError
from adapt.vocab import OUTPUT
from adapt.vocab.delta import Kept, NewToken, VocabDelta
from adapt.workspace import digest, new_folder

VOCABULARY = 50
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def delta_of(sources, base_size=VOCABULARY, holes=(), size=None):
    """A delta from what each new id is: a base id, a tuple of constituents, or None."""
    kept = [(new, old) for new, old in enumerate(sources) if isinstance(old, int)]
    added = [(new, made) for new, made in enumerate(sources) if isinstance(made, tuple)]
    left = {old for _, old in kept}
    return VocabDelta(
        base_size,
        len(sources) if size is None else size,
        tuple(Kept(old, new, 1) for new, old in kept),
        tuple(NewToken(new, f"t{new}", f"t{new}", made) for new, made in added),
        tuple(sorted(set(range(base_size)) - left - set(holes))),
    )


ALL = list(range(VOCABULARY))
EXTENDED = VocabDelta(
    VOCABULARY,
    VOCABULARY + 2,
    (Kept(0, 0, VOCABULARY),),
    (NewToken(50, "ab", "ab", (1, 2)), NewToken(51, "abc", "abc", (1, 2, 3))),
)
PRUNED = delta_of([i for i in ALL if i % 7 != 3])
REPLACED = delta_of([(1, 2) if i == 20 else i for i in ALL])
MIXED = delta_of([*ALL[40:], (4, 5, 6), *ALL[:30], (7,)])
DELTAS = {"extended": EXTENDED, "pruned": PRUNED, "replaced": REPLACED, "mixed": MIXED}


def llama(**options):
    return LlamaForCausalLM(LlamaConfig(**{"vocab_size": VOCABULARY, **TINY, **options}))


def gemma():
    sizes = {**TINY, "num_key_value_heads": 1, "head_dim": 8}
    return GemmaForCausalLM(GemmaConfig(vocab_size=VOCABULARY, **sizes))


MODELS = {
    "llama tied": lambda: llama(tie_word_embeddings=True),
    "llama untied": lambda: llama(tie_word_embeddings=False),
    "qwen2 padded": lambda: Qwen2ForCausalLM(
        Qwen2Config(vocab_size=64, num_key_value_heads=2, tie_word_embeddings=True, **TINY)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2)
    ),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=VOCABULARY, **TINY)),
    "phi with bias": lambda: PhiForCausalLM(PhiConfig(vocab_size=VOCABULARY, **TINY)),
    "gemma": gemma,
    "bert": lambda: BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, **TINY)),
}

# Bases that were fine-tuned before: no output has a row for a token.
HEADED = {
    "classifier": lambda: BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, **TINY)),
    "tagger": lambda: BertForTokenClassification(BertConfig(vocab_size=VOCABULARY, **TINY)),
    "llama judge": lambda: LlamaForSequenceClassification(
        LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=False, pad_token_id=0, **TINY)
    ),
}


def make(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for module in (model.get_output_embeddings(), getattr(model, "cls", None)):
        bias = getattr(module, "bias", None)
        if bias is not None:
            bias.data.normal_()  # zeros would hide a bias that did not move
    if name == "bert":
        model.cls.predictions.bias.data.normal_()
    return model


@pytest.fixture(params=sorted(MODELS))
def model(request):
    return make(request.param)


def adapted(model, tmp_path, delta=EXTENDED, init="mean", saving=None, **options):
    """The model after the edit, loaded as anyone would, and the result."""
    base, tokenizer = tmp_path / "base", tmp_path / "tokenizer"
    tokenizer.mkdir(exist_ok=True)
    model.save_pretrained(str(base), **(saving or {}))
    (tokenizer / "tokenizer.json").write_text("{}", encoding="utf-8")
    with new_folder(tmp_path / "adapted") as unfinished:
        result = write_adapted_base(base, tokenizer, delta, init, unfinished, **options)
    new, info = type(model).from_pretrained(
        str(tmp_path / "adapted"), dtype="auto", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return new.eval(), result


def token_tensors(model):
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    bias = getattr(outputs, "bias", None)
    found = [inputs.weight.data, outputs.weight.data]
    return found if bias is None else [*found, bias.data]


def bits(tensor):
    """Equality of bits: not a number equals itself, and -0.0 is not 0.0."""
    return tensor.contiguous().view(torch.uint8)


# -- rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("edit", sorted(DELTAS))
def test_kept_rows_are_identical_and_new_rows_are_means(edit, dtype, tmp_path):
    check_rows(make("phi with bias").to(dtype), DELTAS[edit], tmp_path)


def test_every_model_has_its_rows_moved(model, tmp_path):
    check_rows(model, MIXED, tmp_path)


@pytest.mark.parametrize("head", sorted(HEADED))
def test_a_base_that_was_fine_tuned_before_keeps_its_head(head, tmp_path):
    torch.manual_seed(0)
    model = HEADED[head]().eval()
    new, result = adapted(model, tmp_path, MIXED)
    base_ids, new_ids = (torch.tensor(ids) for ids in MIXED.kept_ids)
    rows, before = (m.get_input_embeddings().weight for m in (new, model))
    assert torch.equal(rows[new_ids], before[base_ids])
    for token in MIXED.added:
        torch.testing.assert_close(rows[token.id], before[list(token.constituents)].mean(0))
    picked = torch.randint(0, len(base_ids), (1, 9))
    with torch.inference_mode():
        now, then = new(new_ids[picked]).logits, model(base_ids[picked]).logits
    torch.testing.assert_close(now, then)
    assert result.added == len(MIXED.added)


def check_rows(model, delta, tmp_path):
    dtype = model.dtype
    before = [tensor.clone() for tensor in token_tensors(model)]
    new, _ = adapted(model, tmp_path, delta)
    assert new.dtype == dtype
    base_ids, new_ids = delta.kept_ids
    after = token_tensors(new)
    assert len(after) == len(before)
    for old, now in zip(before, after, strict=True):
        assert torch.equal(bits(now[new_ids]), bits(old[base_ids]))
        for token in delta.added:
            expected = old[list(token.constituents)].float().mean(0).to(dtype)
            torch.testing.assert_close(now[token.id], expected, rtol=1e-6, atol=0)


@st.composite
def deltas(draw):
    """Any edit of a vocabulary of up to 12 ids, some of which stand for no token."""
    base_size = draw(st.integers(1, 12))
    holes = draw(st.sets(st.integers(0, base_size - 1), max_size=base_size - 1))
    tokens = [i for i in range(base_size) if i not in holes]
    kept = draw(st.lists(st.sampled_from(tokens), unique=True, max_size=12))
    made = st.lists(st.sampled_from(tokens), min_size=1, max_size=4).map(tuple)
    rest = draw(st.lists(st.none() | made, max_size=6))
    sources = draw(st.permutations([*kept, *rest])) or [None]
    return delta_of(sources, base_size, holes, size=len(sources)), holes


@settings(max_examples=150, deadline=None)
@given(deltas(), st.integers(0, 5), st.sampled_from([None, 1, 4, 8]))
def test_every_row_comes_from_where_it_must(drawn, padding, multiple):
    delta, holes = drawn
    base_rows = delta.base_size + padding
    rows = rows_needed(delta, base_rows, multiple)
    sources = row_sources(delta, base_rows, rows)
    assert rows >= delta.size
    if multiple:
        assert rows % multiple == 0
    elif delta.size >= delta.base_size:
        assert rows == max(base_rows, delta.size)
    else:
        assert rows == delta.size
    kept = dict(zip(*reversed(delta.kept_ids), strict=True))
    added = {token.id: base_rows + i for i, token in enumerate(delta.added)}
    no_token = set(holes) | set(range(delta.base_size, base_rows))
    for id_, source in enumerate(sources.tolist()):
        if id_ in kept or id_ in added:
            assert source == (kept | added)[id_]
        else:
            assert source == (id_ if id_ in no_token else base_rows + len(delta.added))
    assert not set(sources.tolist()) & set(delta.removed)


BASE = {}


@settings(max_examples=25, deadline=None)
@given(deltas(), st.booleans(), st.sampled_from([None, 8]))
def test_files_hold_the_rows_that_the_plan_says(tmp_path_factory, drawn, sharded, multiple):
    delta, _ = drawn
    key = (delta.base_size, sharded)
    if key not in BASE:
        BASE[key] = tmp_path_factory.mktemp("base")
        torch.manual_seed(0)
        config = PhiConfig(vocab_size=delta.base_size + 2, **(TINY | {"num_hidden_layers": 1}))
        model = PhiForCausalLM(config)
        model.lm_head.bias.data.normal_()
        model.save_pretrained(str(BASE[key]), max_shard_size="3KB" if sharded else "1GB")
    folder = tmp_path_factory.mktemp("adapted")
    result = write_adapted_base(
        BASE[key],
        tmp_path_factory.getbasetemp(),
        delta,
        "last",
        folder,
        pad_to_multiple_of=multiple,
    )
    before, after = all_tensors(BASE[key]), all_tensors(folder)
    assert before.keys() == after.keys()
    vocabulary = {"model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"}
    for name, now in after.items():
        old = before[name]
        if name not in vocabulary:
            assert torch.equal(bits(now), bits(old))
            continue
        last = [old[token.constituents[-1]] for token in delta.added]
        fill = old[: delta.base_size].double().mean(0).float()
        known = torch.stack([*old, *last, fill])
        rows = rows_needed(delta, len(old), multiple)
        assert torch.equal(now, known[row_sources(delta, len(old), rows)])
    if result.tensors:
        assert {tensor.name for tensor in result.tensors} == vocabulary


def all_tensors(folder):
    return {k: v for p in folder.glob("*.safetensors") for k, v in load_file(str(p)).items()}


def test_a_filled_row_takes_no_more_than_its_share(tmp_path):
    model = make("llama untied")
    model.lm_head.weight.data -= 30 * model.model.norm.weight.data  # logits far from zero
    new, result = adapted(model, tmp_path, pad_to_multiple_of=64)
    assert result.filled == 64 - VOCABULARY - 2
    with torch.inference_mode():
        probability = new(torch.randint(0, VOCABULARY, (2, 9))).logits.softmax(-1)
    assert probability[..., VOCABULARY + 2 :].max() <= 1 / VOCABULARY


# -- the model ---------------------------------------------------------------------------------


def test_tied_stays_tied_and_untied_untied(model, tmp_path):
    new, result = adapted(model, tmp_path)

    def is_tied(m):
        return m.get_input_embeddings().weight is m.get_output_embeddings().weight

    assert is_tied(new) == is_tied(model) == result.tied


@pytest.mark.parametrize("edit", ["extended", "mixed"])
def test_text_without_new_tokens_gives_the_same_logits(model, edit, tmp_path):
    delta = DELTAS[edit]
    new, _ = adapted(model, tmp_path, delta)
    base_ids, new_ids = (torch.tensor(ids) for ids in delta.kept_ids)
    picked = torch.randint(0, len(base_ids), (2, 9))
    with torch.inference_mode():
        before = model(base_ids[picked], output_hidden_states=True)
        after = new(new_ids[picked], output_hidden_states=True)
    for old, now in zip(before.hidden_states, after.hidden_states, strict=True):
        assert torch.equal(now, old)
    # A product of another width may add up in another order, so the whole is only close ...
    torch.testing.assert_close(after.logits[..., new_ids], before.logits[..., base_ids])
    # ... and the product of the same width the same.
    states = before.hidden_states[-1]
    rows = [token_tensors(m)[1][ids] for m, ids in ((model, base_ids), (new, new_ids))]
    assert torch.equal(states @ rows[0].T, states @ rows[1].T)


def test_padding_rows_are_used_before_the_matrix_grows(tmp_path):
    model = make("qwen2 padded")
    new, _ = adapted(model, tmp_path)
    assert new.config.vocab_size == new.get_input_embeddings().weight.shape[0] == 64
    padding = model.get_input_embeddings().weight[VOCABULARY + 2 :]
    assert torch.equal(new.get_input_embeddings().weight[VOCABULARY + 2 :], padding)


def test_a_smaller_vocabulary_gives_a_smaller_matrix(tmp_path):
    new, result = adapted(make("qwen2 padded"), tmp_path, PRUNED)
    assert new.config.vocab_size == new.get_input_embeddings().weight.shape[0] == PRUNED.size
    assert (result.kept, result.removed, result.added) == (PRUNED.size, 50 - PRUNED.size, 0)


def test_rows_come_in_multiples_where_asked(tmp_path):
    new, result = adapted(make("gpt2"), tmp_path, pad_to_multiple_of=16)
    assert new.config.vocab_size == new.get_input_embeddings().weight.shape[0] == 64
    assert result.filled == 12


def test_a_tied_output_that_is_stored_too_is_edited_too(tmp_path):
    model = make("llama tied")
    model.save_pretrained(str(tmp_path / "base"))
    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(str(file))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, str(file), metadata={"format": "pt"})
    (tmp_path / "new").mkdir()
    result = write_adapted_base(tmp_path / "base", tmp_path, MIXED, "mean", tmp_path / "new")
    assert set(result.rows) == {"lm_head.weight", "model.embed_tokens.weight"}
    stored = load_file(str(tmp_path / "new" / "model.safetensors"))
    assert torch.equal(stored["lm_head.weight"], stored["model.embed_tokens.weight"])


def test_input_and_output_rows_have_strategies_of_their_own(tmp_path):
    model = make("phi with bias")
    new, result = adapted(model, tmp_path, init="last", init_output="first")
    inputs, outputs, bias = token_tensors(model)
    now = token_tensors(new)
    assert torch.equal(now[0][51], inputs[3])
    assert torch.equal(now[1][51], outputs[1])
    assert now[2][51] == bias[1]
    assert {t.role: t.init for t in result.tensors} == {
        "input": "last",
        "output": "first",
        "bias": "first",
    }


def test_a_strategy_for_outputs_that_are_tied_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"embeddings\.init_output.*no output rows of its own"):
        adapted(make("gpt2"), tmp_path, init_output="first")


@pytest.mark.parametrize("init", ["weighted", "global", "random"])
def test_every_strategy_writes_a_checkpoint(init, tmp_path):
    model = make("llama untied").bfloat16()
    new, _ = adapted(model, tmp_path, init=init, seed=3)
    for old, now in zip(token_tensors(model), token_tensors(new), strict=True):
        assert torch.equal(now[:VOCABULARY], old)
        assert now.isfinite().all()
        assert now[VOCABULARY:].abs().sum(1).all()


# -- files -------------------------------------------------------------------------------------


def test_sharded_checkpoints_keep_their_shards(tmp_path):
    new, result = adapted(make("llama untied"), tmp_path, saving={"max_shard_size": "8KB"})
    base, folder = tmp_path / "base", tmp_path / "adapted"
    shards = sorted(p.name for p in folder.glob("*.safetensors"))
    assert len(shards) > 3
    assert new.get_output_embeddings().weight.shape[0] == VOCABULARY + 2
    linked = {n for n in shards if (base / n).stat().st_ino == (folder / n).stat().st_ino}
    edited = {n for n in shards if set(result.rows) & set(load_file(str(folder / n)))}
    assert linked == set(shards) - edited
    assert result.bytes_linked == sum((folder / n).stat().st_size for n in linked)
    assert result.bytes_written == sum((folder / n).stat().st_size for n in edited)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    stored = {k: (n, v) for n in shards for k, v in load_file(str(folder / n)).items()}
    assert index["weight_map"] == {k: n for k, (n, _) in stored.items()}
    assert index["metadata"]["total_size"] == sum(v.nbytes for _, v in stored.values())
    parameters = index["metadata"].get("total_parameters")
    assert parameters in (None, sum(v.numel() for _, v in stored.values()))


def test_the_base_is_not_touched(tmp_path):
    model = make("phi with bias")
    model.save_pretrained(str(tmp_path / "base"))
    before = digest(tmp_path / "base")
    adapted(model, tmp_path, MIXED)
    assert digest(tmp_path / "base") == before


def test_an_unchanged_vocabulary_links_everything(tmp_path):
    unchanged = VocabDelta(VOCABULARY, VOCABULARY, (Kept(0, 0, VOCABULARY),))
    new, result = adapted(make("gpt2"), tmp_path, unchanged)
    assert new.config.vocab_size == VOCABULARY
    assert not result.tensors
    files = [tmp_path / folder / "model.safetensors" for folder in ("base", "adapted")]
    assert files[0].stat().st_ino == files[1].stat().st_ino


def test_links_into_a_hub_cache_are_followed(tmp_path):
    model = make("llama untied")
    adapted(model, tmp_path, saving={"max_shard_size": "8KB"})
    (tmp_path / "cache").mkdir()
    for path in (tmp_path / "base").iterdir():
        (tmp_path / "cache" / path.name).symlink_to(path)
    (tmp_path / "again").mkdir()
    write_adapted_base(tmp_path / "cache", tmp_path, EXTENDED, "mean", tmp_path / "again")
    assert not any(path.is_symlink() for path in (tmp_path / "again").iterdir())


def test_copies_where_linking_is_impossible(tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    new, result = adapted(make("llama untied"), tmp_path, saving={"max_shard_size": "8KB"})
    assert new.config.vocab_size == VOCABULARY + 2
    assert result.bytes_copied > 0 == result.bytes_linked


def test_copies_where_the_kernel_does_not(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("not supported")

    monkeypatch.setattr("adapt.embeddings.shards._LARGE", 64)
    check_rows(make("llama untied"), MIXED, tmp_path)
    monkeypatch.setattr("os.copy_file_range", refuse, raising=False)
    shutil.rmtree(tmp_path / "base")
    check_rows(make("llama untied"), MIXED, tmp_path)


def test_a_crash_leaves_no_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("adapt.embeddings.surgery.rewrite", full)
    with pytest.raises(OSError, match="no space"):
        adapted(make("gpt2"), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "tokenizer"]


# -- settings ----------------------------------------------------------------------------------


def test_ids_in_the_settings_move(tmp_path):
    model = llama(bos_token_id=1, eos_token_id=[2, 44], pad_token_id=33, tie_word_embeddings=True)
    model.generation_config.suppress_tokens = [41, 31]
    model.generation_config.bad_words_ids = [[40, 41], [31, 41]]
    model.generation_config.max_new_tokens = 44
    new, result = adapted(model, tmp_path, MIXED)  # 40-49 come first, 30-39 are gone
    assert (new.config.bos_token_id, new.config.eos_token_id) == (12, [13, 4])
    assert new.config.pad_token_id is None
    settings = new.generation_config
    assert (settings.bos_token_id, settings.eos_token_id) == (12, [13, 4])
    assert settings.suppress_tokens == [1]
    assert settings.bad_words_ids == [[0, 1]]
    assert settings.max_new_tokens == 44
    assert any("config.json: pad_token_id was 33" in note for note in result.notes)


def test_ids_that_are_called_an_index_move(tmp_path):
    model = llama(tie_word_embeddings=True)
    model.config.image_token_index = 41
    new, _ = adapted(model, tmp_path, MIXED)
    assert new.config.image_token_index == 1


@pytest.mark.parametrize("stored", [True, False])
def test_units_that_are_only_read_are_never_generated(stored, tmp_path):
    model = llama(eos_token_id=3, pad_token_id=0, tie_word_embeddings=True)
    base, tokenizer = tmp_path / "base", tmp_path / "tokenizer"
    model.save_pretrained(str(base))
    if not stored:
        (base / "generation_config.json").unlink()
    (tokenizer / OUTPUT).mkdir(parents=True)
    (tokenizer / OUTPUT / "tokenizer.json").write_text("{}")
    delta = replace(EXTENDED, read_only=True)
    with new_folder(tmp_path / "new") as unfinished:
        write_adapted_base(base, tokenizer, delta, "mean", unfinished)
    new = LlamaForCausalLM.from_pretrained(str(tmp_path / "new"))
    new.get_output_embeddings().weight.data[delta.added_ids] = 0
    new.get_output_embeddings().weight.data[: delta.base_size] = -1
    ids = torch.tensor([[50, 7, 51, 9]])
    written = new.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8)[0, 4:]
    assert max(written.tolist()) < delta.base_size
    assert (new.generation_config.eos_token_id, new.generation_config.pad_token_id) == (3, 0)
    assert new.generation_config.suppress_tokens == delta.added_ids
    assert (tmp_path / "new" / OUTPUT / "tokenizer.json").is_file()


def test_ids_in_the_settings_stay_where_tokens_do(tmp_path):
    model = llama(bos_token_id=1, eos_token_id=2, pad_token_id=-1, tie_word_embeddings=True)
    model.save_pretrained(str(tmp_path / "base"))
    before = json.loads((tmp_path / "base" / "config.json").read_text())
    adapted(model, tmp_path)
    after = json.loads((tmp_path / "adapted" / "config.json").read_text())
    assert after == before | {"vocab_size": VOCABULARY + 2}


# -- refusals ----------------------------------------------------------------------------------


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    foreign = VocabDelta(99, 100, (Kept(0, 0, 99),), (NewToken(99, "ab", "ab", (1, 2)),))
    with pytest.raises(ModelError, match=r"98.*50 rows"):
        adapted(make("llama tied"), tmp_path, foreign)
    assert not (tmp_path / "adapted").exists()


def test_a_checkpoint_without_safetensors_is_refused(tmp_path):
    make("llama tied").save_pretrained(str(tmp_path / "base"))
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        write_adapted_base(tmp_path / "base", tmp_path, EXTENDED, "mean", tmp_path)


def test_a_shard_that_was_cut_off_is_refused(tmp_path):
    make("llama tied").save_pretrained(str(tmp_path / "base"))
    file = tmp_path / "base" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        write_adapted_base(tmp_path / "base", tmp_path, EXTENDED, "mean", tmp_path)


def test_embeddings_in_whole_numbers_are_refused(tmp_path):
    make("llama tied").save_pretrained(str(tmp_path / "base"))
    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(str(file))
    name = "model.embed_tokens.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, str(file))
    with pytest.raises(ModelError, match="stored as I8"):
        write_adapted_base(tmp_path / "base", tmp_path, EXTENDED, "mean", tmp_path)


def test_names_come_from_the_model(tiny_base):
    found = parameters(tiny_base)  # tied: the output's is another name of the same
    assert found.inputs[0] == "model.embed_tokens.weight"
    assert found.outputs == ()


def test_the_result_outlives_its_manifest(tmp_path):
    _, result = adapted(make("llama untied"), tmp_path)
    record = json.loads(json.dumps(result.to_json()))
    assert AdaptedBase.from_json(result.folder, record) == result
