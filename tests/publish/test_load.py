"""`adapt.load`: every mode gives the run's own merged model, from wherever it is loaded."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import adapt
from adapt import bases
from adapt.errors import AdaptError, ModelError, WorkspaceError
from adapt.pipeline import Pipeline
from adapt.publish.load import locate
from adapt.publish.settings import AdapterSettings
from adapt.recipe import load_recipe
from adapt.training.model import load_merged
from adapt.workspace import Workspace
from tests.publish.conftest import PHASE

TEXT = (
    "An abnormality of the renal pelvis characterized by chronic inflammatory infiltrate in 1987."
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Rebuilt bases of one test are not there for the next."""
    monkeypatch.setenv("ADAPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def untied_base(tiny_base, tmp_path_factory):
    """The tiny base with an output matrix of its own."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("untied-base")
    shutil.copytree(tiny_base, folder, dirs_exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(tiny_base, tie_word_embeddings=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model.lm_head.weight.data.normal_(std=0.02)
    model.save_pretrained(folder)
    return folder


def taken_away(run: Workspace, place: Path) -> Path:
    """The adapter alone, on a machine that has nothing else of the run."""
    folder = shutil.copytree(run.adapter, place / "elsewhere")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/no/such/folder"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def logits(model, tokenizer):
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return model(input_ids=ids).logits


def own(run: Workspace):
    """The run's merged model, as its evaluation loads it."""
    from adapt.vocab import load_tokenizer

    merged = load_merged(run.adapted_base, run.adapter, torch.float32)
    return logits(merged, load_tokenizer(run.tokenizer))


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


MODES = {
    "extend": {"new_tokens": 12},
    "replace": {"mode": "replace", "new_tokens": 12},
    "keep": {"mode": "keep"},
    "prune": {"mode": "prune"},
    "extend-prune": {"new_tokens": 12, "prune": True},
    "train": {"mode": "train", "vocab_size": 300},
}
CASES = [(mode, "tied") for mode in MODES] + [("extend", "untied"), ("extend-prune", "untied")]
REBUILT = {"prune", "extend-prune", "train"}


@pytest.mark.parametrize(("mode", "tied"), CASES)
def test_every_mode_loads_from_run_and_adapter(
    trained, tiny_base, untied_base, cache, tmp_path, mode, tied
):
    base = tiny_base if tied == "tied" else untied_base
    run = trained(tokenizer=MODES[mode], model={"base": str(base)})
    expected = own(run)
    same(logits(*adapt.load(run.root)), expected)
    same(logits(*adapt.load(run.adapter)), expected)
    elsewhere = taken_away(run, tmp_path)
    for merged in (False, True):
        model, tokenizer = adapt.load(elsewhere, base=str(base), merged=merged)
        same(logits(model, tokenizer), expected)
        assert hasattr(model, "peft_config") is not merged
        assert model.config.vocab_size == expected.shape[-1]
        assert not model.training
    assert (cache / "adapted").is_dir() is (mode in REBUILT)


@pytest.mark.parametrize(
    "embeddings", [{"pad_to_multiple_of": 64}, {"untie": True, "init_output": "first"}], ids=str
)
def test_rows_that_plain_peft_lacks_are_made_again(trained, tiny_base, cache, tmp_path, embeddings):
    run = trained(tokenizer={"new_tokens": 12}, embeddings=embeddings)
    expected = own(run)
    same(logits(*adapt.load(run.adapter)), expected)
    elsewhere = taken_away(run, tmp_path)
    same(logits(*adapt.load(elsewhere, base=str(tiny_base))), expected)
    (rebuilt,) = (cache / "adapted").iterdir()
    stamp = (rebuilt / "config.json").stat().st_mtime_ns
    assert locate(elsewhere, base=str(tiny_base)).checkpoint == rebuilt  # and is kept
    assert (rebuilt / "config.json").stat().st_mtime_ns == stamp
    other = tmp_path / "other-cache"
    found = locate(elsewhere, base=str(tiny_base), cache_dir=other)
    assert other in found.checkpoint.parents


def test_another_base_gives_another_rebuilt_one(trained, tiny_base, untied_base, cache):
    run = trained(tokenizer=MODES["prune"], model={"base": str(tiny_base)})
    one = locate(run.adapter, base=str(tiny_base)).checkpoint
    assert locate(run.adapter, base=str(untied_base)).checkpoint != one
    assert not [p for p in one.iterdir() if "adapter" in p.name]


def test_the_adapter_says_how_it_was_made_and_where_nothing_lies(trained, tmp_path):
    run = trained(tokenizer={"new_tokens": 12}, embeddings={"pad_to_multiple_of": 64})
    settings = AdapterSettings.load(run.adapter)
    assert (settings.base, settings.pad_to_multiple_of) == ("local", 64)
    assert (settings.tokenizer_mode, settings.dtype) == ("extend", "float32")
    assert settings.adapt == adapt.__version__
    assert (run.adapter / "vocab_delta.json").is_file()
    for file in run.adapter.glob("*.json"):
        if file.name != "adapter_config.json":  # plain PEFT needs the base's place
            assert str(tmp_path.parent) not in file.read_text(encoding="utf-8"), file.name
    hub = bases.Base(tmp_path, "org/x", "org/x", "main")
    control = AdapterSettings.of_control(load_recipe(run.recipe), hub)
    assert (control.base, control.revision, control.tokenizer_mode) == ("org/x", "main", "keep")


def test_a_base_that_is_not_here_is_asked_for(trained, tiny_base, tmp_path):
    run = trained(tokenizer=MODES["prune"], model={"base": str(tiny_base)})
    elsewhere = taken_away(run, tmp_path)
    with pytest.raises(ModelError, match="give the original base"):
        adapt.load(elsewhere)
    settings = json.loads((elsewhere / "adapt.json").read_text())
    (elsewhere / "adapt.json").write_text(json.dumps(settings | {"later": 1}))
    with pytest.raises(WorkspaceError, match="later version"):
        adapt.load(elsewhere)


def test_a_control_and_a_plain_checkpoint_load(tiny_recipe, tiny_base):
    pipeline = Pipeline(load_recipe(tiny_recipe(training={"phases": [PHASE]})))
    pipeline.prepared.build_tokenizer()
    pipeline.tuned.control()
    run = pipeline.workspace
    model, tokenizer = adapt.load(run.control)
    merged = load_merged(tiny_base, run.control, torch.float32)
    same(logits(model, tokenizer), logits(merged, tokenizer))
    plain, _ = adapt.load(tiny_base, dtype="bfloat16")
    assert plain.dtype == torch.bfloat16


def test_a_run_that_is_not_finished_is_refused(trained, tiny_base, tmp_path):
    whole = trained(tokenizer=MODES["extend"], model={"base": str(tiny_base)})
    run = Workspace(shutil.copytree(whole.root, tmp_path / "copy"))
    adapt.load(run.root)
    manifest = run.manifest("embeddings")
    record = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(record | {"fingerprint": "rows of another tokenizer"}))
    with pytest.raises(WorkspaceError, match="no finished training"):
        adapt.load(run.root)
    manifest.write_text(json.dumps(record))
    run.manifest("training").unlink()
    with pytest.raises(WorkspaceError, match="no finished training"):
        adapt.load(run.root)


def test_the_hub_is_read_with_its_own_client(trained, monkeypatch, tiny_base):
    run = trained(tokenizer=MODES["extend"], model={"base": str(tiny_base)})
    asked = {}

    def snapshot_download(repo, **options):
        asked.update(options, repo=repo)
        return str(run.adapter)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    same(logits(*adapt.load("org/name", revision="v1", cache_dir="here")), own(run))
    assert (asked["repo"], asked["revision"], asked["cache_dir"]) == ("org/name", "v1", "here")
    assert "*.py" not in asked["allow_patterns"]


def test_a_repository_without_safetensors_is_fetched_as_pickles(monkeypatch, tmp_path):
    asked = []

    def snapshot_download(repo, **options):
        asked.append(options["allow_patterns"])
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ModelError, match="neither a run"):
        adapt.load("org/name")
    assert "pytorch_model*.bin" not in asked[0]
    assert "pytorch_model*.bin" in asked[1]


@pytest.mark.parametrize(
    ("reference", "options", "message"),
    [
        ("no/such-model", {}, "the Hub does not give it"),
        ("no such/folder/at all", {}, "the Hub does not give it"),
        (".", {}, "neither a run, nor an adapter"),
        (".", {"dtype": "float17"}, "did you mean float16"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, monkeypatch, reference, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AdaptError, match=message):
        adapt.load(reference, **options)


def test_importing_adapt_imports_no_torch():
    code = "import sys, adapt; adapt.load; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
