"""Tasks of a recipe scored on a tiny model: what is kept, written and survives the manifest."""

import json
from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from adapt.corpus.build import build_corpus
from adapt.errors import AdaptError
from adapt.evaluation.result import ModelScores
from adapt.evaluation.scores import score_model
from adapt.evaluation.slices import fragmented
from adapt.evaluation.tasks import extremes
from adapt.recipe import load_recipe
from adapt.recipe.evaluation import SCORING_KEYS, ClassificationTask, GenerationTask
from adapt.vocab import load_tokenizer


@pytest.fixture
def score(tiny_recipe, tiny_base, tmp_path):
    def run(name="base", new_ids=(), **evaluation):
        recipe = load_recipe(tiny_recipe(evaluation=evaluation))
        corpus = build_corpus(recipe.corpus, recipe.evaluation.tasks, 0, tmp_path / "corpus")
        model = AutoModelForCausalLM.from_pretrained(str(tiny_base)).eval()
        return corpus, score_model(
            recipe.evaluation,
            corpus,
            model,
            load_tokenizer(tiny_base),
            name=name,
            seed=0,
            predictions=tmp_path / "predictions",
            baselines=name == "base",
            new_ids=new_ids,
            tokenizers=[load_tokenizer(tiny_base)],
        )

    return run


def written(folder, name):
    rows = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    settings = (folder / f"{name}.settings.json").read_text(encoding="utf-8")
    return [json.loads(row) for row in rows], json.loads(settings)


def test_a_classification_task(score, tmp_path):
    corpus, scores = score()
    task = scores.tasks["organ"]
    labels = sorted({row["organ"] for row in corpus.rows("organ", "train")})
    assert set(task.answers) <= set(labels)
    assert list(task.metrics) == ["accuracy", "macro_f1", "micro_f1", "mcc", "ece"]
    assert task.main == task.intervals["accuracy"]
    assert set(task.intervals) == set(task.metrics)
    for name, interval in task.intervals.items():
        assert interval.value == pytest.approx(task.metrics[name])
        assert interval.low <= interval.value <= interval.high
    assert sum(one.rows for one in task.classes) == task.rows == len(task.each)
    assert sum(one.rows for one in task.calibration) == task.rows
    gaps = [one.rows * abs(one.accuracy - one.confidence) for one in task.calibration]
    assert sum(gaps) / task.rows == pytest.approx(task.metrics["ece"])
    assert sum(n for _, _, n in task.confusion) == task.rows
    assert sorted(task.example_rows) == list(range(task.rows))  # fewer than forty rows
    assert {one: set(base.metrics) for one, base in task.baselines.items()} == {
        "tf-idf": set(task.metrics),
        "majority": set(task.metrics),
    }
    part = list(task.fragmented)
    for one in task.baselines.values():
        assert set(one.on_fragmented) == set(task.metrics)
        own = np.array(one.each)[part]
        assert one.on_fragmented["accuracy"].value == pytest.approx(own.mean())
    assert task.baselines["tf-idf"].main.value > task.baselines["majority"].main.value
    rows, settings = written(tmp_path / "predictions", "organ.base")
    assert settings["method"] == "likelihood"
    assert settings["labels"] == labels
    for i, row in enumerate(rows):
        assert row["answer"] == task.answers[i]
        assert row["scores"]["accuracy"] == task.each[i]
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert max(row["probabilities"], key=row["probabilities"].get) == row["answer"]


def test_a_generation_task(score, tmp_path):
    terms = tmp_path / "terms.txt"
    terms.write_text("mitral valve\nureter\nabnormality\n")
    how = {"do_sample": True, "temperature": 0.5, "seed": 7}
    _, scores = score(generation=how, terms=str(terms), new_ids=[300])
    task = scores.tasks["define"]
    assert task.main == task.intervals["rouge_l"]
    assert {"similarity", "term_recall", "chrf", "bleu", "length_ratio"} <= set(task.metrics)
    assert "json_valid" not in task.metrics
    for name, interval in task.intervals.items():
        assert interval.value == pytest.approx(task.metrics[name]), name
    rows, settings = written(tmp_path / "predictions", "define.base")
    assert len(rows) == task.rows
    assert set(rows[0]) == {"prompt", "reference", "answer", "scores"}
    assert {"rouge_l", "chrf", "looping", "similarity"} <= set(rows[0]["scores"])
    assert settings["temperature"] == 0.5
    assert settings["seed"] == 7
    assert settings["num_beams"] == 1
    assert settings["max_new_tokens"] == 8


def test_the_rows_that_the_base_cuts_most_have_figures_of_their_own(score, tiny_base, tmp_path):
    corpus, scores = score(name="adapted", new_ids=[300])
    tokenizer = load_tokenizer(tiny_base).backend_tokenizer
    known = [row["definition"] for row in corpus.rows("organ", "test")]
    for name, task in scores.tasks.items():
        rows, _ = written(tmp_path / "predictions", f"{name}.adapted")
        texts = [f"{row['prompt']} {row['reference']}" for row in rows]
        if name == "organ":  # the label is not what is read
            texts = [next(one for one in known if one in row["prompt"]) for row in rows]
        assert task.fragmented == fragmented(tokenizer, texts)
        assert 0 < len(task.fragmented) < task.rows
        own = [task.each[i] for i in task.fragmented]
        main = next(iter(task.metrics))
        assert task.on_fragmented[main].value == pytest.approx(sum(own) / len(own))
        assert set(task.on_fragmented) <= set(task.intervals)
        # the adoption rate of an answer that could use no new token is no figure
        assert set(task.metrics) - set(task.on_fragmented) <= {"adoption_rate"}
    assert len(scores.edge.on_fragmented) == 3


def test_baselines_are_measured_once_a_run_and_examples_shown_to_the_base(score, tmp_path):
    task = {
        "name": "organ",
        "kind": "classification",
        "path": str(tmp_path / "classification.jsonl"),
        "text": "definition",
        "label": "organ",
        "method": "constrained",
        "shots": 2,
    }
    corpus, base = score(tasks=[task])
    assert set(base.tasks["organ"].baselines) == {"tf-idf", "majority", "base, 2 examples shown"}
    _, adapted = score(name="adapted", tasks=[task])
    assert adapted.tasks["organ"].baselines == {}
    rows, settings = written(tmp_path / "predictions", "organ.adapted")
    assert settings["method"] == "constrained"
    assert "probabilities" not in rows[0]
    assert 0 < rows[0]["scores"]["confidence"] <= 1


def test_scores_survive_the_manifest(score):
    _, scores = score()
    assert ModelScores.from_json(json.loads(json.dumps(scores.to_json()))) == scores
    # As an earlier version wrote it.
    record = scores.to_json()
    for task in record["tasks"].values():
        for name in set(task) - {"kind", "rows", "metrics", "main", "examples"}:
            del task[name]
    read = ModelScores.from_json(record)
    assert replace(read.tasks["organ"], examples=()).answers == ()
    assert scores.tasks["organ"].calibration
    assert read.tasks["organ"].calibration == ()


def test_the_worst_come_first_then_the_best():
    import numpy as np

    assert extremes(np.array([3, 1, 2, 0])) == ((3, 1, 0, 2), 2)
    assert extremes(np.array([0])) == ((0,), 1)
    many, worst = extremes(np.arange(100))
    assert many == (*range(20), *range(99, 79, -1))
    assert worst == 20


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"method": "few_shot"}, "few_shot needs shots"),
        ({"num_beams": 2}, "num_beams is for method constrained"),
        ({"method": "constrained", "calibrate": True}, "normalize and calibrate are for likelih"),
        ({"method": "guess"}, "evaluation.tasks.0.method"),
    ],
)
def test_options_that_do_not_go_together(tiny_recipe, tmp_path, setting, said):
    task = {
        "name": "organ",
        "kind": "classification",
        "path": str(tmp_path / "classification.jsonl"),
        "text": "definition",
        "label": "organ",
    }
    with pytest.raises(AdaptError, match=said):
        load_recipe(tiny_recipe(evaluation={"tasks": [task | setting]}))


def test_sampling_options_need_sampling(tiny_recipe):
    with pytest.raises(AdaptError, match="temperature and top_k matter only with do_sample"):
        load_recipe(tiny_recipe(evaluation={"generation": {"temperature": 0.5, "top_k": 3}}))
    load_recipe(tiny_recipe(evaluation={"generation": {"do_sample": True, "top_k": 3}}))


def test_keys_of_scoring_are_keys_of_tasks():
    assert {*ClassificationTask.model_fields, *GenerationTask.model_fields} > SCORING_KEYS
