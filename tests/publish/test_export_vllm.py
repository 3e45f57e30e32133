"""`adapt export --format vllm`: a checkpoint that no version of vLLM can misread in silence."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from adapt import cli
from adapt.errors import AdaptError, ModelError, VocabularyError, WorkspaceError
from adapt.publish import merge
from adapt.publish.export import ExportError, export, to_vllm
from adapt.workspace import digest
from tests.publish.export_models import checkpoint, in_this_process, trained

THETA = {"rope_type": "default", "rope_theta": 1e6}


@pytest.fixture
def tiny(tiny_base, tmp_path):
    return lambda **settings: checkpoint(tmp_path / "tiny", tiny_base, **settings)


def change(path, **keys):
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def refused(source, place, error, message):
    """The export fails and leaves nothing."""
    with pytest.raises(error, match=message):
        export(source, "vllm", place / "out")
    assert not (place / "out").exists()
    assert [p.name for p in place.iterdir() if p.name.startswith(".")] == []


def test_a_run_is_merged_and_served_with_its_units(tiny_recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(merge.subprocess, "run", in_this_process)
    run = trained(tiny_recipe, tokenizer={"new_tokens": 60})  # units across spaces, too
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", str(run.root), "--format", "vllm", "--output", str(tmp_path / "out")])
    assert not caught.value.code
    out = capsys.readouterr().out
    assert "not compared: vLLM itself was not run" in out
    assert "use: vllm serve" in out
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert digest(tmp_path / "out" / "tokenizer.json") == digest(run.adapter / "tokenizer.json")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == len(tokenizer)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "chat_template.jinja",
        "config.json",
        "export.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize(
    "rope",
    [THETA, {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}],
    ids=["theta", "scaled"],
)
def test_rotary_settings_stand_where_old_versions_look(tiny, tmp_path, rope):
    source = tiny(rope_parameters=rope, tie_word_embeddings=False)
    before = digest(source)
    done = export(source, "vllm", tmp_path / "out")
    assert digest(source) == before
    config = json.loads((done.folder / "config.json").read_text())
    assert config["rope_theta"] == rope["rope_theta"]
    assert config["torch_dtype"] == "float32"
    scaled = {key: value for key, value in rope.items() if key != "rope_theta"}
    assert config.get("rope_scaling") == (scaled if len(scaled) > 1 else None)
    assert AutoConfig.from_pretrained(done.folder).rope_parameters == rope
    ids = torch.arange(20)[None]
    both = [AutoModelForCausalLM.from_pretrained(p)(ids).logits for p in (source, done.folder)]
    assert torch.equal(*both)


def test_a_vocabulary_size_that_is_not_the_rows_is_refused(tiny, tmp_path):
    source = tiny()
    change(source / "config.json", vocab_size=401)
    refused(source, tmp_path, ModelError, "says vocab_size 401, but the embeddings have 400 rows")


def test_an_untied_model_without_output_is_refused(tiny, tmp_path):
    source = tiny()
    change(source / "config.json", tie_word_embeddings=False)
    refused(source, tmp_path, ModelError, "its own matrix, and holds none")


def test_an_id_without_row_is_refused(tiny, tmp_path):
    source = tiny()
    path = source / "model.safetensors"
    tensors = load_file(path)
    name = "model.embed_tokens.weight"
    save_file({**tensors, name: tensors[name][:399].clone()}, path, metadata={"format": "pt"})
    change(source / "config.json", vocab_size=399)
    refused(source, tmp_path, VocabularyError, "a token of id 399, and the model 399 rows")


def test_a_tokenizer_that_is_read_otherwise_fails(tiny, tmp_path, tiny_recipe):
    """transformers rebuilds some classes' pipelines, and loses units across spaces."""
    run = trained(tiny_recipe, tokenizer={"new_tokens": 60})
    source = shutil.copytree(tiny(vocab_size=460), tmp_path / "copy")
    shutil.copyfile(run.tokenizer / "tokenizer.json", source / "tokenizer.json")
    change(source / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    refused(source, tmp_path, ExportError, "AutoTokenizer cuts .* of 1000 texts otherwise")


def test_a_configuration_that_reads_otherwise_fails(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(to_vllm, "_said_twice", lambda config: {"rms_norm_eps": 0.1})
    refused(tiny(), tmp_path, ExportError, "another configuration, in rms_norm_eps")


def test_what_is_not_kept_is_named(tiny, tmp_path):
    source = tiny()
    settings = {"eos_token_id": [2, 0], "suppress_tokens": [7], "num_beams": 4, "top_p": 0.9}
    (source / "generation_config.json").write_text(json.dumps(settings))
    done = export(source, "vllm", tmp_path / "out")
    named = {line.split()[0] for line in done.lost}
    assert named == {"suppress_tokens", "num_beams"}
    assert json.loads((done.folder / "export.json").read_text())["lost"] == list(done.lost)


def test_options_and_folders(tiny, tmp_path):
    source = tiny()
    with pytest.raises(AdaptError, match="--dtype: is not for vllm"):
        export(source, "vllm", tmp_path / "out", dtype="float16")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").touch()
    with pytest.raises(WorkspaceError, match="not an export"):
        export(source, "vllm", mine, force=True)
    assert "vllm" not in sys.modules
