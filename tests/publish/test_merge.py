"""`adapt merge`: stock transformers loads the folder, and nothing wrong is left behind."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import adapt
from adapt import cli
from adapt.errors import ModelError, WorkspaceError
from adapt.publish import merge as module
from adapt.publish.merge import MergeError, _Answers, _judge, merge
from adapt.workspace import digest

TEXT = "An abnormality of the renal pelvis characterized by chronic inflammatory infiltrate."


@pytest.fixture
def in_process(monkeypatch):
    """The fresh process costs seconds; what is not about it runs its script in this one."""

    def run(command, **options):
        assert command[:2] == [sys.executable, "-P"]
        try:
            module.stock.main(*command[3:])
        except Exception as error:
            return subprocess.CompletedProcess(command, 1, "", f"{type(error).__name__}: {error}")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", run)


def plain(folder):
    """Logits and a greedy continuation, without adapt."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, tokenizer, answers(model, tokenizer)


def answers(model, tokenizer):
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = model(input_ids=ids).logits
        written = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20
        )
    return logits, written.tolist()


@pytest.mark.parametrize(
    ("tokenizer", "embeddings"),
    [({"new_tokens": 12}, {}), ({"new_tokens": 12, "prune": True}, {"untie": True})],
    ids=["tied", "untied"],
)
def test_stock_transformers_loads_what_was_merged(
    trained, tmp_path, request, tokenizer, embeddings
):
    if embeddings:
        request.getfixturevalue("in_process")
    run = trained(tokenizer=tokenizer, embeddings=embeddings)
    target = tmp_path / "merged"
    done = merge(run.root, target, max_shard_size="30KB")
    assert (done.folder, done.dtype, done.near_ties) == (target, "float32", 0)
    assert done.continuations == 20
    assert done.difference <= 1e-4
    assert done.files > 1
    assert (target / "model.safetensors.index.json").is_file()

    model, loaded, (logits, written) = plain(target)
    expected = answers(*adapt.load(run.root))
    torch.testing.assert_close(logits, expected[0], rtol=1e-4, atol=1e-5)
    assert written == expected[1]
    tied = not embeddings
    assert model.config.vocab_size == done.vocabulary == model.get_input_embeddings().num_embeddings
    assert model.config.tie_word_embeddings is tied
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is tied
    stored = [name for file in target.glob("*.safetensors") for name in load_file(file)]
    assert ("lm_head.weight" in stored) is not tied
    adapted = json.loads((run.adapted_base / "generation_config.json").read_text())
    for key in ("eos_token_id", "bos_token_id", "pad_token_id"):
        assert getattr(model.generation_config, key) == adapted[key]
    original = (run.adapter / "chat_template.jinja").read_text()
    assert loaded.chat_template == original
    assert digest(target / "tokenizer.json") == digest(run.adapter / "tokenizer.json")
    assert not [p.name for p in target.iterdir() if "adapter" in p.name or "delta" in p.name]


def test_a_narrow_type_is_rounded_once_and_checked_in_its_tolerance(trained, tmp_path, in_process):
    run = trained(tokenizer={"new_tokens": 12}, embeddings={})
    exact = merge(run.root, tmp_path / "exact")
    for dtype in ("bfloat16", "float16"):
        done = merge(run.adapter, tmp_path / dtype, dtype=dtype)
        assert exact.difference < done.difference < done.tolerance
        whole, narrow = (
            load_file(folder / "model.safetensors") for folder in (exact.folder, done.folder)
        )
        for name, tensor in narrow.items():
            assert tensor.dtype == getattr(torch, dtype)
            assert torch.equal(tensor, whole[name].to(tensor.dtype)), name
        assert json.loads((done.folder / "config.json").read_text())["dtype"] == dtype


def test_a_folder_that_is_there_is_kept_unless_forced(trained, tmp_path, in_process):
    run = trained(tokenizer={"new_tokens": 12}, embeddings={})
    target = tmp_path / "merged"
    target.mkdir()
    with pytest.raises(WorkspaceError, match="--force"):
        merge(run.root, target)
    assert merge(run.root, target, force=True).folder == target
    (target / "stale").touch()
    merge(run.root, target, force=True)
    assert not (target / "stale").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").touch()
    with pytest.raises(WorkspaceError, match="not a checkpoint"):
        merge(run.root, mine, force=True)
    with pytest.raises(WorkspaceError, match="give --output"):
        merge(run.adapter)
    with pytest.raises(ModelError, match="no adapter to merge"):
        merge(target, tmp_path / "again")


def lose_a_row(folder):
    """The last row of the embedding is another's: a token that hardly any text has."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][-1] += 1.0
    save_file(tensors, path, metadata={"format": "pt"})


def forget_the_units(folder):
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["model"]["merges"] = spec["model"]["merges"][:-12]
    (folder / "tokenizer.json").write_text(json.dumps(spec))


def cut_the_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_a_row, "what was written is not what was merged"),
        (forget_the_units, "cuts text otherwise"),
        (cut_the_file, "cannot load what was merged"),
    ],
)
def test_a_damaged_checkpoint_fails_and_leaves_nothing(
    trained, tmp_path, monkeypatch, request, capsys, damage, message
):
    if damage is not cut_the_file:
        request.getfixturevalue("in_process")
    run = trained(tokenizer={"new_tokens": 12}, embeddings={})
    save = module._save

    def save_and_damage(model, dtype, size, source, folder):
        save(model, dtype, size, source, folder)
        damage(folder)

    monkeypatch.setattr(module, "_save", save_and_damage)
    place = tmp_path / "place"
    with pytest.raises(SystemExit) as caught:
        cli.main(["merge", str(run.root), "--output", str(place / "merged")])
    assert caught.value.code == 1
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in err
    assert list(place.iterdir()) == []


def test_a_wrong_merge_fails_before_anything_is_written(trained, tmp_path, monkeypatch):
    run = trained(tokenizer={"new_tokens": 12}, embeddings={})
    load_weights = module.load_weights

    def forgets_one_layer(source, dtype, *, merged, trust_remote_code):
        model = load_weights(source, dtype, merged=merged, trust_remote_code=trust_remote_code)
        if merged:
            base = load_file(run.adapted_base / "model.safetensors")
            name = "model.layers.1.mlp.down_proj.weight"
            model.get_parameter(name).data.copy_(base[name])
        return model

    monkeypatch.setattr(module, "load_weights", forgets_one_layer)
    with pytest.raises(MergeError, match="merging changed the model"):
        merge(run.root, tmp_path / "place" / "merged")
    assert not (tmp_path / "place").exists()


def test_a_continuation_may_differ_at_a_near_tie_only():
    logits = [torch.tensor([[1.0, 2.0, 4.0]])]
    spread = float(logits[0].std())
    model = _Answers([[1]], logits, [[0]])

    def judged(gap):
        return _judge(model, [None, gap], logits, model, 0.1)

    assert judged(0.19 * spread) == (0.0, 1)
    assert judged(None) == (0.0, 0)
    with pytest.raises(MergeError, match="1 of 2 greedy continuations"):
        judged(0.21 * spread)
    broken = [torch.tensor([[1.0, 2.0, float("nan")]])]
    with pytest.raises(MergeError, match="what was written"):
        _judge(_Answers([[1]], broken, [[0]]), [None], logits, model, 0.1)


def test_the_verb_says_what_was_compared(trained, capsys, in_process):
    run = trained(tokenizer={"new_tokens": 12}, embeddings={})
    with pytest.raises(SystemExit) as caught:
        cli.main(["merge", str(run.root)])
    assert not caught.value.code
    out = capsys.readouterr().out
    assert "20 greedy continuations the same" in out
    assert f"merged: {run.root / 'merged'}" in out
    shutil.rmtree(run.root / "merged")


def test_the_script_of_the_fresh_process_knows_nothing_of_adapt(tmp_path, tiny_base):
    questions = {"texts": ["two bicycles"], "prompts": ["a", "The mayor sold"], "device": "cpu"}
    questions |= {"expected": [[0, 0], [0, 0]], "trust_remote_code": False}
    questions["auto_class"] = "AutoModelForCausalLM"
    (tmp_path / "q.json").write_text(json.dumps(questions))
    script = Path(module.stock.__file__)
    assert "adapt" not in script.read_text().split('"""')[2]
    module.stock.main(str(tiny_base), str(tmp_path / "q.json"), str(tmp_path / "a"))
    with safe_open(str(tmp_path / "a"), framework="pt") as file:
        record = json.loads(file.metadata()["answers"])
        assert file.get_tensor("logits.0").shape == (len(file.get_tensor("ids.0")), 400)
    assert [len(ids) for ids in record["generated"]] == [2, 2]
    assert all(gap > 0 for gap in record["gaps"])
