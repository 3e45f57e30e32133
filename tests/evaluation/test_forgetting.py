"""A task that nothing trains on: scored before and after, and told apart from the others."""

import json

import pytest

from adapt.errors import RecipeErrors
from adapt.pipeline import Pipeline
from adapt.recipe import load_recipe
from adapt.training.phases import check_tasks, phase_data
from adapt.vocab import load_tokenizer
from adapt.workspace import Workspace
from tests.conftest import general

SAID = "poems, which nothing was trained on: accuracy "


@pytest.fixture
def recipe(tiny_recipe, tmp_path):
    """The tiny recipe with a general task of two labels beside its own."""
    kinds = ("old", "new")
    rows = [{"verse": f"{general(n)} {n}", "kind": kinds[n % 2]} for n in range(2_000, 2_090)]
    path = tmp_path / "poems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = load_recipe(tiny_recipe())
    poems = {
        "name": "poems",
        "kind": "classification",
        "path": str(path),
        "text": "verse",
        "label": "kind",
        "trained": False,
    }
    tasks = [*(task.model_dump() for task in plain.evaluation.tasks), poems]
    return tiny_recipe(evaluation={"tasks": tasks}, corpus={"test_fraction": 0.3})


def test_it_is_scored_and_never_trained_on(recipe, adapt):
    code, out, err = adapt("run", recipe)
    assert code == 0, err
    run = Workspace(recipe.parent / "run")
    found = json.loads((run.reports / "evaluation.json").read_text())
    base, adapted = (found["scores"][name]["tasks"]["poems"] for name in ("base", "adapted"))
    (sentence,) = found["forgotten"]
    before, after = (one["metrics"]["accuracy"] for one in (base, adapted))
    assert sentence.startswith(f"{SAID}{before:.3f} before, {after:.3f} after")
    assert base["baselines"] == {}
    assert found["scores"]["base"]["tasks"]["organ"]["baselines"]
    assert "poems: accuracy, not trained on" in {row["measure"] for row in found["table"]}
    for place in (out, run.report.read_text(), (run.adapter / "README.md").read_text()):
        assert SAID in " ".join(place.split())


def test_no_phase_reads_its_rows(recipe):
    pipeline = Pipeline(load_recipe(recipe))
    tasks, corpus = pipeline.recipe.evaluation.tasks, pipeline.prepared.corpus()
    tokenizer = load_tokenizer(pipeline.prepared.base().folder)
    phase = pipeline.recipe.training.phases[1].model_copy(update={"max_steps": 500})
    assert list(corpus.rows("poems", "train"))

    def texts(tasks):
        data = phase_data(phase, tokenizer, corpus, tasks, 0, None)
        return {tokenizer.decode(example.input_ids) for example in data.examples}

    others = [task for task in tasks if task.name != "poems"]
    assert texts(tasks) == texts(others)
    poems = [task.model_copy(update={"trained": True}) for task in tasks]
    assert texts(poems) != texts(others)


def test_a_phase_that_names_it_is_refused(recipe):
    loaded = load_recipe(recipe)
    phase = loaded.training.phases[1].model_copy(update={"tasks": ["poems"]})
    with pytest.raises(Exception, match="poems.*leave it out of the phase"):
        check_tasks(phase, loaded.evaluation.tasks)
    poems = [task for task in loaded.model_dump()["evaluation"]["tasks"] if not task["trained"]]
    alone = json.dumps({"tasks": poems})
    with pytest.raises(RecipeErrors, match="needs evaluation.tasks to train on"):
        load_recipe(recipe, [f"evaluation={alone}"])
