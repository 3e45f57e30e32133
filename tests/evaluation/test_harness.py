"""The bridge to lm-evaluation-harness, on a task of its own format whose data lies here."""

import json
import math

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from adapt.check import check
from adapt.errors import AdaptError
from adapt.evaluation.harness import harness_scores
from adapt.recipe import load_recipe
from adapt.recipe.evaluation import HarnessSection
from adapt.vocab import load_tokenizer
from tests.conftest import clinical

CHOICES = ["brain", "heart", "kidney"]


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    """A section with one multiple-choice task; one folder, as the index of tasks takes seconds."""
    folder = tmp_path_factory.mktemp("harness")
    rows = [clinical(seed) for seed in range(12)]
    lines = [
        json.dumps({"asked": row["definition"], "answer": CHOICES.index(row["organ"])})
        for row in rows
    ]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    task = {
        "task": "adapt_organs",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{asked}}\nOrgan:",
        "doc_to_choice": CHOICES,
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "tasks").mkdir()
    (folder / "tasks" / "organs.yaml").write_text(yaml.safe_dump(task))
    return {"tasks": ["adapt_organs"], "include_path": str(folder / "tasks")}, rows


def test_the_harness_says_what_a_direct_computation_says(harness, tiny_base):
    section, rows = harness
    model = AutoModelForCausalLM.from_pretrained(str(tiny_base)).eval()
    tokenizer = load_tokenizer(tiny_base)
    found = harness_scores(HarnessSection(**section), model, tokenizer, batch_size=4, seed=0)
    right = [
        _likeliest(model, tokenizer, f"{row['definition']}\nOrgan:") == row["organ"] for row in rows
    ]
    share = sum(right) / len(right)
    accuracy = found["adapt_organs"]["acc"]
    assert accuracy.value == pytest.approx(share)
    error = math.sqrt(share * (1 - share) / (len(right) - 1))
    assert accuracy.high - accuracy.value == pytest.approx(1.96 * error)


def _likeliest(model, tokenizer, prompt):
    def score(answer):
        ids = tokenizer(prompt + answer, return_tensors="pt", add_special_tokens=False)["input_ids"]
        start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        with torch.inference_mode():
            logits = model(ids).logits[0].log_softmax(-1)
        return sum(float(logits[i - 1, ids[0, i]]) for i in range(start, ids.shape[1]))

    return max(CHOICES, key=lambda choice: score(f" {choice}"))


def test_what_the_harness_cannot_score_is_refused_before_any_work(harness, tiny_recipe):
    section, _ = harness
    with pytest.raises(AdaptError, match=r"evaluation.harness.tasks.*no such task.*adapt_organs"):
        check(
            load_recipe(tiny_recipe(evaluation={"harness": {**section, "tasks": ["adapt_orgns"]}}))
        )
    with pytest.raises(AdaptError, match="leave out embeddings.units input"):
        load_recipe(tiny_recipe(evaluation={"harness": section}, embeddings={"units": "input"}))


def test_its_figures_are_in_the_scores_of_a_run(harness, tiny_recipe, tiny_base, tmp_path):
    from adapt.corpus import build_corpus
    from adapt.evaluation.result import ModelScores
    from adapt.evaluation.scores import score_model

    section, _ = harness
    phase = {"name": "domain", "objective": "clm", "max_steps": 1}
    evaluation = {"harness": section, "tasks": []}
    recipe = load_recipe(tiny_recipe(evaluation=evaluation, training={"phases": [phase]}))
    corpus = build_corpus(recipe.corpus, [], 0, tmp_path / "corpus")
    model = AutoModelForCausalLM.from_pretrained(str(tiny_base)).eval()
    scores = score_model(
        recipe.evaluation,
        corpus,
        model,
        load_tokenizer(tiny_base),
        name="base",
        seed=0,
        predictions=tmp_path / "predictions",
    )
    assert set(scores.harness) == {"adapt_organs"}
    assert ModelScores.from_json(json.loads(json.dumps(scores.to_json()))) == scores
