"""`adapt export --format gguf`: what is read back is what was exported, or nothing is there."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from gguf import GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapt import cli
from adapt.errors import AdaptError, DependencyError, ModelError, VocabularyError, WorkspaceError
from adapt.publish import merge
from adapt.publish.export import ExportError, export, llama_cpp, to_gguf
from adapt.vocab.spec import merges as merges_of
from adapt.vocab.spec import spec_of
from tests.publish.export_models import checkpoint, in_this_process, trained

WORDS = {"tokenizer": {"new_tokens": 12, "multiword": False}}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.fixture
def tiny(tiny_base, tmp_path):
    """A checkpoint with SmolLM2's kind of tokenizer."""
    return lambda **settings: checkpoint(tmp_path / "tiny", tiny_base, **settings)


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(merge.subprocess, "run", in_this_process)


def change(folder, edit, name="tokenizer.json"):
    """Edits a JSON file of a checkpoint."""
    value = json.loads((folder / name).read_text())
    edit(value)
    (folder / name).write_text(json.dumps(value))


def fields(path):
    return {name: field.contents() for name, field in GGUFReader(str(path)).fields.items()}


def test_a_run_becomes_a_gguf_with_its_units(tiny_recipe, capsys, in_process, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)  # as where it is not installed
    run = trained(tiny_recipe, **WORDS)
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(run.root), "--format", "gguf", "--dtype", "float16"])
    assert not caught.value.code
    out = capsys.readouterr().out
    assert "llama.cpp itself was not run" in out
    assert "not kept: precision: weights of float32 are rounded to float16" in out
    folder = run.root / "exports" / "gguf"
    found = fields(folder / "model-f16.gguf")
    tokenizer = AutoTokenizer.from_pretrained(run.adapter)
    assert found["tokenizer.ggml.pre"] == "smollm"
    assert found["tokenizer.ggml.model"] == "gpt2"
    assert len(found["tokenizer.ggml.tokens"]) == found["llama.vocab_size"] == len(tokenizer)
    spelled = {token: id_ for id_, token in enumerate(found["tokenizer.ggml.tokens"])}
    assert spelled == tokenizer.get_vocab()
    spec = spec_of(tokenizer.backend_tokenizer)
    assert found["tokenizer.ggml.merges"] == [" ".join(pair) for pair in merges_of(spec)]
    assert found["tokenizer.chat_template"] == tokenizer.chat_template
    assert found["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert found["tokenizer.ggml.add_bos_token"] is False
    special = [i for i, t in enumerate(found["tokenizer.ggml.token_type"]) if t == 3]
    assert special == sorted(tokenizer.added_tokens_decoder)
    record = json.loads((folder / "export.json").read_text())
    assert record["format"] == "gguf"
    assert set(record["bytes_"]) == {"model-f16.gguf"}
    assert any("1,000 texts" in line for line in record["checked"])
    with pytest.raises(WorkspaceError, match="--force"):
        export(run.root, "gguf")
    assert export(run.root, "gguf", force=True).folder == folder
    assert not (folder / "model-f16.gguf").exists()


@pytest.mark.parametrize(
    "shape",
    [
        {"tie_word_embeddings": False, "num_key_value_heads": 1},
        {"head_dim": 16, "rope_parameters": LLAMA3_ROPE},
        {"kind": "Mistral", "sliding_window": None, "num_key_value_heads": 4},
        {"kind": "Qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ],
    ids=["untied", "llama3-rope", "mistral", "qwen2"],
)
def test_other_shapes_give_the_same_logits(tiny, tmp_path, shape):
    source = tiny(**shape)
    done = export(source, "gguf", tmp_path / "out")
    assert any("rounded to float32" in line for line in done.checked)
    tensors = {t.name: t for t in GGUFReader(str(done.folder / "model-f32.gguf")).tensors}
    assert ("rope_freqs.weight" in tensors) is ("llama3-rope" in str(shape) or "head_dim" in shape)
    assert ("output.weight" in tensors) is (shape.get("tie_word_embeddings") is False)
    assert ("blk.1.attn_q.bias" in tensors) is (shape.get("kind") == "Qwen2")


def test_rows_that_no_token_has_get_names_of_their_own(tiny, tmp_path):
    source = tiny(vocab_size=448)
    done = export(source, "gguf", tmp_path / "out", dtype="bfloat16")
    found = fields(done.folder / "model-bf16.gguf")
    assert found["tokenizer.ggml.token_type"][400:] == [5] * 48
    assert len(set(found["tokenizer.ggml.tokens"])) == 448


def test_units_across_spaces_are_refused_with_the_way_out(tiny_recipe, tmp_path):
    run = trained(tiny_recipe, tokenizer={"new_tokens": 60})
    with pytest.raises(VocabularyError) as caught:
        export(run.root, "gguf", tmp_path / "place" / "out")
    assert f"adapt run {run.recipe} tokenizer.multiword=false" in str(caught.value)
    assert "smollm, widened" in str(caught.value)
    assert not (tmp_path / "place").exists()


def unknown_cut(spec):
    spec["pre_tokenizer"] = {"type": "Whitespace"}


def lower(spec):
    spec["normalizer"] = {"type": "Lowercase"}


def looks_up(spec):
    spec["model"]["ignore_merges"] = True


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (unknown_cut, "BPE over characters"),
        (lower, "Lowercase"),
        (looks_up, "known: gpt-2, smollm, llama-bpe, qwen2"),
    ],
)
def test_tokenizers_that_llama_cpp_reads_otherwise_are_refused(tiny, tmp_path, edit, message):
    source = tiny()
    change(source, edit)
    with pytest.raises(VocabularyError, match=message):
        export(source, "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "GPTNeoX"}, "GPTNeoXForCausalLM"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"kind": "Mistral", "sliding_window": 128}, "sliding_window"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "linear"),
    ],
)
def test_models_of_another_kind_are_refused(tiny, tmp_path, settings, message):
    with pytest.raises(ModelError, match=message):
        export(tiny(**settings), "gguf", tmp_path / "out")


def test_what_is_not_kept_is_named(tiny, tmp_path):
    source = tiny()

    def mark(spec):
        spec["normalizer"] = {"type": "NFC"}
        spec["added_tokens"][0]["lstrip"] = True

    change(source, mark)
    generation = {"eos_token_id": [2, 0], "temperature": 0.6, "top_p": 0.9, "do_sample": True}
    (source / "generation_config.json").write_text(json.dumps(generation))
    lost = "\n".join(export(source, "gguf", tmp_path / "out").lost)
    for word in ("NFC", "<|endoftext|>", "[2, 0]", "temperature of", "top_p of"):
        assert word in lost


def test_units_that_are_only_read_are_refused(tiny, tmp_path):
    source = tiny()
    (source / "tokenizer-output").mkdir()
    for format_ in ("gguf", "vllm"):
        with pytest.raises(ModelError, match="embeddings.units=both"):
            export(source, format_, tmp_path / "out")


# -- damage -----------------------------------------------------------------------------------


def forget_a_merge(tokens):
    tokens.merges.pop()


def swap_tokens(tokens):
    tokens.tokens[300], tokens.tokens[301] = tokens.tokens[301], tokens.tokens[300]


@pytest.mark.parametrize("damage", [forget_a_merge, swap_tokens])
def test_a_vocabulary_that_is_not_the_models_fails(tiny, tmp_path, monkeypatch, damage):
    tokens_of = to_gguf.tokens_of

    def damaged(tokenizer, rows):
        tokens = tokens_of(tokenizer, rows)
        damage(tokens)
        return tokens

    monkeypatch.setattr(to_gguf, "tokens_of", damaged)
    with pytest.raises(ExportError, match=r"the file cuts \d+ of 1000 texts otherwise"):
        export(tiny(), "gguf", tmp_path / "place" / "out")
    assert list((tmp_path / "place").iterdir()) == []


def test_fields_that_read_back_otherwise_fail(tiny, tmp_path, monkeypatch):
    from gguf import GGUFWriter

    add = GGUFWriter.add_token_types
    monkeypatch.setattr(GGUFWriter, "add_token_types", lambda self, t: add(self, [1] * len(t)))
    with pytest.raises(ExportError, match="reads back otherwise, token_type"):
        export(tiny(), "gguf", tmp_path / "place" / "out")
    assert list((tmp_path / "place").iterdir()) == []


def test_rows_in_the_wrong_order_fail(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(to_gguf, "_interleaved", lambda tensor, config, keys: tensor)
    with pytest.raises(ExportError, match="logits of the file differ"):
        export(tiny(), "gguf", tmp_path / "place" / "out")
    assert list((tmp_path / "place").iterdir()) == []


def test_weights_that_a_type_cannot_hold_are_refused(tiny, tmp_path):
    source = tiny()
    model = AutoModelForCausalLM.from_pretrained(source)
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e5
    model.save_pretrained(source)
    with pytest.raises(ModelError, match="--dtype bfloat16"):
        export(source, "gguf", tmp_path / "out", dtype="float16")


@pytest.mark.parametrize("right", [True, False])
def test_llama_cpp_itself_is_asked_where_it_is_installed(tiny, tmp_path, monkeypatch, right):
    source = tiny()
    tokenizer = AutoTokenizer.from_pretrained(source)

    class Llama:
        def __init__(self, model_path, vocab_only, verbose):
            assert vocab_only
            assert model_path.endswith(".gguf")

        def tokenize(self, text, add_bos, special):
            assert not add_bos
            assert not special
            ids = tokenizer(text.decode(), add_special_tokens=False)["input_ids"]
            return ids if right else ids[1:]

    monkeypatch.setitem(sys.modules, "llama_cpp", SimpleNamespace(Llama=Llama))
    if right:
        done = export(source, "gguf", tmp_path / "out")
        assert "llama-cpp-python gives the same ids on 1,000 texts" in done.checked
    else:
        with pytest.raises(ExportError, match="llama-cpp-python cuts 1000 of 1000"):
            export(source, "gguf", tmp_path / "out")


def test_options_and_packages(tiny, tmp_path, monkeypatch):
    source = tiny()
    for wrong in ({"format_": "guf"}, {"format_": "gguf", "int8": True}):
        with pytest.raises(AdaptError, match=r"did you mean gguf|--int8: is not for gguf"):
            export(source, output=tmp_path / "out", **wrong)
    with pytest.raises(WorkspaceError, match="give --output"):
        export(source, "gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(DependencyError, match=r"adapt-lm\[gguf\]"):
        export(source, "gguf", tmp_path / "out")


# -- llama.cpp's rules --------------------------------------------------------------------------

# As llama.cpp spells them; it has no last alternative, for what matches nothing stays a piece.
THEIRS = {
    "gpt-2": [r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"],
    "smollm": [
        r"\p{N}",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    ],
}


@pytest.mark.parametrize("name", THEIRS)
@given(text=st.text(st.sampled_from(" \t\n\r\u3000'sdlaZé字9½٣.,-_(\u0301🫀"), max_size=20))
@settings(max_examples=300)
def test_patterns_cut_as_llama_cpps_own(name, text):
    def cut(patterns):
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
        return pre_tokenizers.Sequence(splits).pre_tokenize_str(text)

    assert cut(llama_cpp.PRE_TOKENIZERS[name].patterns) == cut(THEIRS[name])


def test_patterns_are_recognised(tiny_base):
    spec = json.loads((tiny_base / "tokenizer.json").read_text())
    assert llama_cpp.recognise(spec) == ("smollm", False)
    spec["pre_tokenizer"] = spec["pre_tokenizer"]["pretokenizers"][1]
    assert llama_cpp.recognise(spec) == ("gpt-2", False)
    spec["pre_tokenizer"]["add_prefix_space"] = True
    assert llama_cpp.recognise(spec) == (None, False)
    for name in ("llama-bpe", "qwen2"):
        known = llama_cpp.PRE_TOKENIZERS[name]
        split = {"type": "Split", "behavior": "Isolated", "invert": False}
        split["pattern"] = {"Regex": known.patterns[0]}
        level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
        spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
        spec["model"]["ignore_merges"] = known.ignore_merges
        assert llama_cpp.recognise(spec) == (name, False)


def test_the_check_of_logits_counts_what_is_no_number():
    from adapt.publish.agreement import differences

    found, expected = torch.tensor([[1.0, float("nan")]]), torch.tensor([[1.0, 2.0]])
    assert differences([found], [expected]).isinf().all()
