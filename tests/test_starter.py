"""`adapt init`: the recipe that it writes is one that runs, for what it was given."""

import csv
import json

import pytest

from adapt.check import check
from adapt.pipeline import Pipeline
from adapt.recipe import load_recipe
from tests.conftest import clinical, general


@pytest.fixture
def files(tmp_path):
    """Domain text, general text and labelled rows, with columns of other names around them."""
    rows = [{"id": f"row {n}", "note": f"n{n % 3}", **clinical(n)} for n in range(120)]
    (tmp_path / "notes.jsonl").write_text(
        "".join(json.dumps({k: row[k] for k in ("id", "definition")}) + "\n" for row in rows)
    )
    (tmp_path / "news.txt").write_text("\n".join(general(n) for n in range(1_000, 1_020)))
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "definition", "organ"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


def made(adapt, files, base, *options):
    """The recipe that the command writes, loaded; and what it prints."""
    path = files / "mine.yaml"
    text = ["--text", files / "notes.jsonl", "--general", files / "news.txt"]
    code, out, err = adapt("init", path, "--base", base, *text, *options)
    assert code == 0, err
    return path, out


def test_a_model_that_writes(adapt, files, tiny_base):
    path, out = made(adapt, files, tiny_base, "--labels", files / "rows.csv")
    recipe = load_recipe(path, [f"output_dir={files / 'run'}"])
    assert recipe.name == "mine"
    assert [source.text for source in recipe.corpus.sources] == ["definition"]
    task = recipe.evaluation.tasks[0]
    assert (task.text, task.label) == ("definition", "organ")
    assert [phase.objective for phase in recipe.training.phases] == ["clm", "sft"]
    assert f"{files / 'rows.csv'}: text in column definition, labels in organ" in out
    assert f"adapt check {path} --probe" in out
    check(recipe)


def test_it_runs(adapt, files, tiny_base):
    path, _ = made(adapt, files, tiny_base)
    short = ["tokenizer.new_tokens=10", "training.phases.0.max_steps=2", "embeddings.init=mean"]
    small = ["evaluation.control=false", "training.phases.0.max_length=64", "model.dtype=float32"]
    recipe = load_recipe(path, [*short, *small, f"output_dir={files / 'run'}"])
    assert Pipeline(recipe).run().verdict.sentence
    assert (files / "run" / "report.html").is_file()


def test_an_encoder(adapt, files, tiny_encoder):
    path, _ = made(adapt, files, tiny_encoder, "--labels", files / "rows.csv")
    recipe = load_recipe(path, [f"output_dir={files / 'run'}"])
    assert [phase.objective for phase in recipe.training.phases] == ["mlm", "classification"]
    check(recipe)


def test_an_encoder_without_labels_is_scored_on_little_text(adapt, files, tiny_encoder):
    path, _ = made(adapt, files, tiny_encoder)
    recipe = load_recipe(path, [f"output_dir={files / 'run'}"])
    assert recipe.training.fills_masks
    assert recipe.evaluation.max_bytes == 20_000
    assert recipe.evaluation.max_length == recipe.training.phases[0].max_length
    check(recipe)


def test_steps_follow_the_text(adapt, files, tiny_base):
    path, _ = made(adapt, files, tiny_base)
    few = load_recipe(path).training.phases[0].max_steps
    with (files / "notes.jsonl").open("a") as file:
        file.writelines(json.dumps({"definition": "valve " * 2_000}) + "\n" for _ in range(100))
    more = load_recipe(made(adapt, files, tiny_base, "--force")[0]).training.phases[0].max_steps
    assert few == 20
    assert more == pytest.approx(1.2e6 / 4 / (4 * 4 * 512), rel=0.05)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--text", "no.jsonl"], "no.jsonl: no such file"),
        (["--text", "numbers.jsonl"], "numbers.jsonl: has no column of text, got 'n'"),
        (["--text", "notes.jsonl", "--column", "txt"], "has no column txt"),
        (["--text", "notes.jsonl", "--labels", "bare.jsonl"], "has no column of labels beside"),
        (["--text", "empty.jsonl"], "empty.jsonl: holds no rows"),
    ],
)
def test_what_cannot_be_used(adapt, files, tiny_base, options, line):
    (files / "numbers.jsonl").write_text('{"n": 1}\n')
    (files / "bare.jsonl").write_text('{"words": "a valve"}\n')
    (files / "empty.jsonl").write_text("")
    given = [files / each if each.endswith(".jsonl") else each for each in options]
    code, _, err = adapt("init", files / "mine.yaml", "--base", tiny_base, *given)
    assert code == 2
    assert line in err
    assert len(err.splitlines()) == 1
    assert not (files / "mine.yaml").exists()


def test_a_file_that_is_there_stays(adapt, files, tiny_base):
    path = files / "mine.yaml"
    path.write_text("mine")
    code, _, err = adapt("init", path, "--base", tiny_base, "--text", files / "notes.jsonl")
    assert (code, path.read_text()) == (2, "mine")
    assert "is there already" in err
    code, _, err = adapt("init", files / "x.json", "--base", tiny_base, "--text", "a.txt")
    assert code == 2
    assert "a recipe is a .yaml file" in err
