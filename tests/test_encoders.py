"""Encoders and heads of classes, end to end: from the recipe to labels in stock transformers."""

import json
from pathlib import Path

import numpy as np
import pytest

import adapt
from adapt.check import check
from adapt.errors import AdaptError
from adapt.evaluation.bootstrap import Interval
from adapt.evaluation.heads import logits_of
from adapt.pipeline import Pipeline
from adapt.publish import merge as merging
from adapt.publish.merge import merge
from adapt.reporting.console import print_summary
from adapt.workspace import Workspace
from tests.conftest import LABELS, ORGAN, PHASES, encoder_recipe
from tests.publish.export_models import in_this_process


@pytest.fixture(scope="module")
def finished(tiny_encoder, tmp_path_factory):
    recipe = encoder_recipe(tmp_path_factory.mktemp("encoder"), tiny_encoder)
    check(recipe)
    return recipe, Pipeline(recipe).run()


def texts_of(recipe):
    return [row["reference"] for row in answers(recipe)], [row["prompt"] for row in answers(recipe)]


def answers(recipe, model="adapted"):
    path = Workspace(Path(recipe.output_dir)).reports / "predictions" / f"organ.{model}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_encoder_is_adapted_trained_scored_and_compared(finished, capsys):
    from rich.console import Console

    recipe, summary = finished
    assert set(summary.scores) == {"control", "adapted"}
    adapted = summary.scores["adapted"]
    assert adapted.domain is None
    assert adapted.speed is None
    assert adapted.tasks["organ"].settings["method"] == "head"
    majority = summary.scores["control"].tasks["organ"].baselines["majority"]
    assert adapted.tasks["organ"].metrics["accuracy"] > majority.metrics["accuracy"]
    leading = summary.comparisons["control"].leading
    assert leading.name == "organ: macro-F1"
    assert isinstance(leading.difference, Interval)
    assert "macro-F1" in summary.verdict.sentence
    figures = summary.verdict.sentence.partition(": ")[2]
    assert figures in Workspace(Path(recipe.output_dir)).report.read_text()
    print_summary(summary, Console(width=120))
    assert "tf-idf" in capsys.readouterr().out


def test_the_adapter_brings_its_head_with_it(finished):
    """Loaded by `adapt.load` as by the run: the labels are those that were scored."""
    recipe, _ = finished
    model, tokenizer = adapt.load(recipe.output_dir)
    _, texts = texts_of(recipe)
    logits = logits_of(model, tokenizer, texts, max_length=128, batch_size=4, label="")
    best, next_ = np.sort(np.asarray(logits))[:, :-3:-1].T
    clear = best - next_ > 1e-3  # merged weights round otherwise: a tie may fall either way
    assert clear.sum() > 0.8 * len(texts)
    names = [model.config.id2label[i] for i in logits.argmax(-1)]
    said = [row["answer"] for row in answers(recipe)]
    assert [n for n, c in zip(names, clear, strict=True) if c] == [
        a for a, c in zip(said, clear, strict=True) if c
    ]


def test_a_merged_classifier_loads_in_stock_transformers(finished, tmp_path, monkeypatch):
    from transformers import pipeline

    recipe, _ = finished
    monkeypatch.setattr(merging.subprocess, "run", in_this_process)
    merge(recipe.output_dir, tmp_path / "merged")
    classify = pipeline("text-classification", model=str(tmp_path / "merged"))
    _, texts = texts_of(recipe)
    assert [one["label"] for one in classify(texts)] == [r["answer"] for r in answers(recipe)]


def test_a_fully_trained_classifier_with_several_labels_a_text(tiny_encoder, tmp_path):
    """Every weight trains, the label column holds two labels, and no control is asked for."""
    recipe = encoder_recipe(
        tmp_path,
        tiny_encoder,
        task={"label": "organ", "label_separator": "e"},  # kidn + y, brain, h + art
        training={"method": "full", "phases": [{**LABELS, "learning_rate": 1e-3}]},
        evaluation={"control": False},
    )
    summary = Pipeline(recipe).run()
    scored = summary.scores["adapted"].tasks["organ"]
    assert list(scored.metrics)[0] == "subset_accuracy"
    assert {one.label for one in scored.classes} == {"kidn", "y", "brain", "h", "art"}
    assert scored.baselines["tf-idf"].metrics["set_micro_f1"] > 0.9
    assert scored.metrics["set_micro_f1"] > 0.5
    assert summary.verdict.choice == "not compared"


def test_an_encoder_in_half_precision_under_a_head_in_full(tiny_encoder, tmp_path):
    """The new head of hidden words trains in float32 and multiplies by rows in bfloat16."""
    short = [{**phase, "max_steps": 2} for phase in PHASES]
    recipe = encoder_recipe(
        tmp_path,
        tiny_encoder,
        model={"dtype": "bfloat16"},
        training={"phases": short},
        evaluation={"control": False},
    )
    trained = Pipeline(recipe).run().trained["adapted"]
    assert [len(phase.losses) for phase in trained.phases] == [1, 1]


def test_a_decoder_may_end_in_a_head(tiny_base, tmp_path):
    recipe = encoder_recipe(
        tmp_path, tiny_base, training={"phases": [LABELS]}, evaluation={"control": False}
    )
    summary = Pipeline(recipe).run()
    assert summary.scores["adapted"].domain is None
    model, _ = adapt.load(recipe.output_dir)
    assert model.config.id2label == {0: "brain", 1: "heart", 2: "kidney"}


GENERATION = {"name": "define", "kind": "generation", "prompt": "Define: {term}"}


@pytest.mark.parametrize(
    ("phases", "task", "said"),
    [
        (PHASES[:1], {}, "objective mlm, which no score compares"),
        ([{**LABELS, "tasks": ["other"]}], {}, "no such task"),
        (
            [{"name": "words", "objective": "clm", "max_steps": 1}],
            {"method": "head"},
            "no head for evaluation.tasks organ",
        ),
        (
            [{"name": "words", "objective": "clm", "max_steps": 1}],
            {"label_separator": ","},
            "needs a last phase with objective classification",
        ),
        (
            [{"name": "words", "objective": "clm", "max_steps": 1}, LABELS],
            {},
            "writes no text",
        ),
    ],
)
def test_what_cannot_be_trained_or_scored_is_refused_before_any_work(
    tiny_encoder, tmp_path, phases, task, said
):
    with pytest.raises(AdaptError, match=said):
        check(encoder_recipe(tmp_path, tiny_encoder, task=task, training={"phases": phases}))
    assert not (tmp_path / "run").exists()


def test_another_task_beside_the_heads_own_is_refused(tiny_encoder, tmp_path):
    other = {**ORGAN, "name": "other", "path": str(tmp_path / "classification.jsonl")}
    own = {**ORGAN, "path": str(tmp_path / "classification.jsonl")}
    with pytest.raises(AdaptError, match="a head for organ, and none for evaluation.tasks other"):
        encoder_recipe(
            tmp_path,
            tiny_encoder,
            training={"phases": [{**LABELS, "tasks": ["organ"]}]},
            evaluation={"tasks": [own, other]},
        )


# -- on the command line ------------------------------------------------------------------------


def test_the_command_line_takes_a_head_for_what_it_is(finished, tmp_path):
    from typer.testing import CliRunner

    from adapt.cli import app

    def run(*arguments):
        return CliRunner().invoke(app, [str(one) for one in arguments])

    recipe, _ = finished
    said = answers(recipe)[0]
    done = run("classify", recipe.output_dir, "--text", said["prompt"])
    assert done.exit_code == 0
    label, probability = done.stdout.splitlines()[-1].split("\t")
    assert label == said["answer"]
    assert float(probability) == pytest.approx(said["probabilities"][label], abs=1e-3)
    adapter = Workspace(Path(recipe.output_dir)).adapter
    options = ["--recipe", Path(recipe.output_dir) / "recipe.yaml", "--output", tmp_path / "e"]
    assert run("evaluate", recipe.output_dir, *options).exit_code == 0
    scores = json.loads((tmp_path / "e" / "scores.json").read_text())["scores"]["tasks"]["organ"]
    assert scores["answers"] == [row["answer"] for row in answers(recipe)]
    for command in (
        ["generate", recipe.output_dir, "An abnormality"],
        ["export", recipe.output_dir, "--format", "vllm", "--output", tmp_path / "x"],
        ["classify", adapter, "--text", "a", "--labels", "b,c"],
    ):
        done = run(*command)
        assert done.exit_code
        assert "head" in str(done.exception)
    assert not (tmp_path / "x").exists()
