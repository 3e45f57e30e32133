"""What decides scores beside the recipe: files that it names, and what is installed."""

import json

import pytest

from adapt.pipeline import Pipeline
from adapt.recipe import load_recipe
from adapt.recipe.evaluation import EvaluationSection
from adapt.scoring import read_beside

MISSING = "adapt.evaluation.similarity.missing"


@pytest.fixture
def section(tmp_path):
    """Names a file of terms, a schema, and a folder of harness tasks."""
    (tmp_path / "terms.txt").write_text("renal pelvis\n")
    (tmp_path / "schema.json").write_text("{}")
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "task.yaml").write_text("task: a\n")
    task = {"name": "g", "kind": "generation", "path": "rows.jsonl", "prompt": "{a}", "target": "b"}
    task["json_schema"] = str(tmp_path / "schema.json")
    return EvaluationSection.model_validate(
        {
            "terms": str(tmp_path / "terms.txt"),
            "tasks": [task],
            "harness": {"tasks": ["a"], "include_path": str(tmp_path / "harness")},
        }
    )


@pytest.mark.parametrize("name", ["terms.txt", "schema.json", "harness/task.yaml"])
def test_every_file_that_is_named_decides(section, tmp_path, name):
    before = read_beside(section)
    assert read_beside(section) == before
    (tmp_path / name).write_text('{"type": "object"}\n')
    after = read_beside(section)
    assert after != before
    (tmp_path / name).unlink()
    assert read_beside(section) not in (before, after)


def test_compiled_files_do_not(section, tmp_path):
    before = read_beside(section)
    compiled = tmp_path / "harness" / "__pycache__" / "utils.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"x")
    assert read_beside(section) == before


def test_an_encoder_that_was_installed_decides(section, monkeypatch):
    monkeypatch.setattr(MISSING, lambda: "install it")
    before = read_beside(section)
    monkeypatch.setattr(MISSING, lambda: None)
    assert read_beside(section) != before


@pytest.mark.parametrize("absent", [None, "install it"])
def test_where_nothing_is_named_or_generated_older_fingerprints_hold(section, monkeypatch, absent):
    monkeypatch.setattr(MISSING, lambda: absent)
    assert not read_beside(EvaluationSection())
    unused = section.model_copy(update={"tasks": [], "harness": None})
    assert not read_beside(unused)  # terms are looked for in answers alone


def test_a_run_is_scored_again_after_a_terms_file_was_edited(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("adapt.evaluation.text_tasks.missing", lambda: "install it")
    terms = tmp_path / "terms.txt"
    terms.write_text("no such thing\n")
    recipe = load_recipe(tiny_recipe(evaluation={"terms": str(terms), "control": False}))

    def recall():
        run = Pipeline(recipe)
        run.prepared.all()
        found = run.scored.scores("base").tasks["define"].metrics.get("term_recall")
        return found, run.workspace.manifest("evaluation-base").stat().st_mtime_ns

    first, then = recall()
    assert first is None
    assert recall() == (None, then)  # done already
    terms.write_text("abnormality\npatients\n")
    again, later = recall()
    assert again is not None
    assert later > then


def test_evaluate_scores_again_after_a_schema_was_edited(adapt, tiny_recipe, tiny_base, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    path = tiny_recipe()
    tasks = load_recipe(path).evaluation.model_dump()["tasks"][1:]
    tasks[0]["json_schema"] = str(schema)
    path = tiny_recipe(evaluation={"tasks": tasks})
    folder = tmp_path / "scored"

    def times():
        code, _, err = adapt("evaluate", tiny_base, "--recipe", path, "--output", folder)
        assert code == 0, err
        scores = folder / "scores.json"
        assert (
            "json_schema_valid"
            in json.loads(scores.read_text())["scores"]["tasks"]["define"]["metrics"]
        )
        return scores.stat().st_mtime_ns

    first = times()
    assert times() == first
    schema.write_text('{"type": "array"}')
    assert times() > first
