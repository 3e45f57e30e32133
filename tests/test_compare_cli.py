"""`adapt evaluate` on any checkpoint, and `adapt compare` on what it leaves."""

import csv
import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
import yaml

from adapt.corpus import Corpus
from adapt.pipeline import Pipeline
from adapt.recipe import load_recipe

SMALL = {"max_documents": 12, "max_bytes": 4_000, "max_length": 64}
CLM = [{"name": "domain", "objective": "clm", "max_steps": 2, "max_length": 64}]


@pytest.fixture
def recipe(tiny_recipe):
    """A recipe without generation, which takes longest."""
    path = tiny_recipe(evaluation=SMALL)
    record = yaml.safe_load(path.read_text())
    record["evaluation"]["tasks"] = record["evaluation"]["tasks"][:1]
    path.write_text(yaml.safe_dump(record))
    return path


@pytest.fixture
def shaken(tiny_base, tmp_path):
    """Another checkpoint on the same tokenizer: its weights are larger, so it predicts worse."""
    from transformers import AutoModelForCausalLM

    folder = shutil.copytree(tiny_base, tmp_path / "shaken")
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    model.save_pretrained(folder)
    return folder


def mtimes(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_evaluate_then_compare(adapt, recipe, tiny_base, shaken, tmp_path):
    folders = []
    for model, name in ((tiny_base, "plain"), (shaken, "shaken")):
        folder = tmp_path / "scored" / name
        code, out, err = adapt(
            "evaluate", model, "--recipe", recipe, "--name", name, "--output", folder
        )
        assert code == 0, err
        assert "bits per byte, domain text" in out
        assert "fragmented text" in out
        rows = (folder / "predictions" / f"organ.{name}.jsonl").read_text().splitlines()
        assert {"prompt", "reference", "answer", "scores"} <= set(json.loads(rows[0]))
        folders.append(folder)
    record = json.loads((folders[0] / "scores.json").read_text())
    assert len(record["scores"]["domain"]["data"]) == 64
    assert len(record["scores"]["tasks"]["organ"]["data"]) == 64
    assert record["scores"]["domain"]["fragmented"]

    # Again: nothing is done, nothing changes.
    before = mtimes(folders[0])
    assert (
        adapt("evaluate", tiny_base, "--recipe", recipe, "--name", "plain", "--output", folders[0])[
            0
        ]
        == 0
    )
    assert mtimes(folders[0]) == before

    files = [tmp_path / "c.json", tmp_path / "c.csv"]
    code, out, err = adapt("compare", *folders, "--output", files[0], "--output", files[1])
    assert code == 0, err
    assert "Do not extend" in out
    assert "McNemar, exact" in out
    compared = json.loads(files[0].read_text())["comparisons"][0]
    assert compared["verdict"]["choice"] == "do not extend"
    names = [figure["name"] for figure in compared["figures"]]
    assert "organ: accuracy" in names
    rows = list(csv.DictReader(files[1].open()))
    assert [row["name"] for row in rows] == names
    assert float(rows[0]["p_value"]) < 0.001

    # A changed model is scored again, though the command is the same.
    for weights in tiny_base.glob("*.safetensors"):
        shutil.copyfile(weights, shaken / weights.name)
    first = json.loads((folders[1] / "scores.json").read_text())["scores"]["domain"]["bits"]
    assert (
        adapt("evaluate", shaken, "--recipe", recipe, "--name", "shaken", "--output", folders[1])[0]
        == 0
    )
    again = json.loads((folders[1] / "scores.json").read_text())["scores"]["domain"]["bits"]
    assert again == record["scores"]["domain"]["bits"] != first
    code, out, _ = adapt("compare", *folders)
    assert "No difference" in out

    # A name of its own, or a folder of its own.
    code, _, err = adapt(
        "evaluate", tiny_base, "--recipe", recipe, "--name", "new", "--output", folders[0]
    )
    assert code == 2
    assert "holds the scores of plain" in err


def test_the_corpus_of_the_run_is_used_and_its_folder_left_alone(
    adapt, recipe, tiny_base, tmp_path
):
    run = Pipeline(load_recipe(recipe))
    run.prepared.build_tokenizer()
    before = mtimes(run.workspace.root)
    code, _, err = adapt("evaluate", tiny_base, "--recipe", recipe, "--name", "base")
    assert code == 0, err
    folder = Path(f"{run.workspace.root}-evaluations") / "base"
    assert mtimes(run.workspace.root) == before
    test = "corpus/test.jsonl"
    assert (folder / test).stat().st_ino == (run.workspace.root / test).stat().st_ino

    # With another split it is not: what the command makes is its own.
    code, _, err = adapt("evaluate", tiny_base, "--recipe", recipe, "seed=5", "--name", "five")
    assert code == 0, err
    folder = folder.with_name("five")
    assert (folder / test).read_bytes() != (run.workspace.root / test).read_bytes()
    assert mtimes(run.workspace.root) == before
    code, _, err = adapt("compare", folder.with_name("base"), folder)
    assert code == 2
    assert "other held-out documents" in err
    code, _, err = adapt("evaluate", tiny_base, "--recipe", recipe, "--output", run.workspace.root)
    assert code == 2
    assert "is a run" in err


class Text(str):
    """One that can be seen to be let go."""


def test_held_out_text_is_streamed(adapt, recipe, tiny_base, tmp_path, monkeypatch):
    read, most, alive = set(), 0, weakref.WeakSet()
    documents = Corpus.documents

    def watched(corpus, split):
        nonlocal most
        for text in map(Text, documents(corpus, split)):
            read.add(str(text))
            alive.add(text)
            most = max(most, len(alive))
            yield text

    monkeypatch.setattr(Corpus, "documents", watched)
    monkeypatch.setattr("adapt.vocab.offsets.BATCH_CHARACTERS", 300)
    arguments = ["corpus.test_fraction=0.5", "evaluation.max_documents=3", "--name", "base"]
    arguments += ["--output", tmp_path / "base"]
    code, _, err = adapt("evaluate", tiny_base, "--recipe", recipe, *arguments)
    assert code == 0, err
    assert len(read) > 60
    assert 3 <= most < 20  # those that were drawn, and a batch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "a"], "nothing to compare"),
        (["compare", "a", "b"], "no finished evaluation"),
        (["compare", "a", "b", "--output", "c.txt"], "known: .json, .csv"),
        (["evaluate", "nothing/here", "--recipe", "RECIPE"], "no such folder"),
        (["evaluate", "BASE", "--recipe", "RECIPE", "--name", "a/b"], "--name"),
        (["evaluate", "BASE", "--recipe", "RECIPE", "--name", ".."], "--name"),
    ],
)
def test_wrong_input_is_one_line(adapt, recipe, tiny_base, arguments, message):
    known = {"RECIPE": recipe, "BASE": tiny_base}
    code, out, err = adapt(*[known.get(one, one) for one in arguments])
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_output_that_holds_something_else_is_left_alone(adapt, recipe, tiny_base, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("all of it")
    code, _, err = adapt("evaluate", tiny_base, "--recipe", recipe, "--output", other)
    assert code == 2
    assert "holds other files" in err
    assert [p.name for p in other.iterdir()] == ["thesis.txt"]


def test_a_recipe_of_read_only_units_scores_second_halves(adapt, recipe, tiny_base, tmp_path):
    arguments = ["evaluate", tiny_base, "--recipe", recipe, "embeddings.units=input"]
    code, _, err = adapt(*arguments, "--output", tmp_path / "half")
    assert code == 0, err
    record = json.loads((tmp_path / "half" / "scores.json").read_text())
    halves, whole = record["scores"]["domain"], record["fertility"]["domain"][0]
    each = whole["bytes_"] / whole["documents"]
    assert 0.3 < sum(halves["bytes_"]) / len(halves["bytes_"]) / each < 0.6


@pytest.fixture
def head(tiny_base, tmp_path):
    """A checkpoint with a head of classes, which writes nothing."""
    from transformers import AutoModelForSequenceClassification

    folder = shutil.copytree(tiny_base, tmp_path / "head")
    AutoModelForSequenceClassification.from_pretrained(tiny_base).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("place", "changes", "said"),
    [
        (1, {}, "define is scored by generation"),
        (0, {"method": "likelihood"}, "organ is scored by likelihood"),
    ],
)
def test_what_a_head_of_classes_cannot_do_is_refused(
    adapt, tiny_recipe, head, tmp_path, place, changes, said
):
    path = tiny_recipe()
    record = yaml.safe_load(path.read_text())
    record["evaluation"]["tasks"] = [record["evaluation"]["tasks"][place] | changes]
    path.write_text(yaml.safe_dump(record))
    folder = tmp_path / "scored"
    code, _, err = adapt("evaluate", head, "--recipe", path, "--output", folder)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1
    assert not folder.exists()


def test_the_harness_is_refused_to_units_that_are_only_read(adapt, tiny_recipe, tmp_path):
    run = Pipeline(load_recipe(tiny_recipe(embeddings={"units": "input"})))
    run.prepared.all()
    model = shutil.copytree(run.workspace.adapted_base, tmp_path / "model")
    shutil.copytree(run.workspace.tokenizer, model, dirs_exist_ok=True)
    harness = {"tasks": ["arc_easy"]}
    path = tiny_recipe(evaluation={"harness": harness, "tasks": []}, training={"phases": CLM})
    folder = tmp_path / "scored"
    code, _, err = adapt("evaluate", model, "--recipe", path, "--output", folder)
    assert code == 2
    assert "evaluation.harness" in err
    assert len(err.splitlines()) == 1
    assert not folder.exists()
