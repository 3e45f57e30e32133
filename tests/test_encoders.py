"""Encoders and heads of classes, end to end: from the recipe to labels in stock transformers."""

import json
import shutil
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest

import adapt
from adapt.check import check
from adapt.errors import AdaptError
from adapt.evaluation.bootstrap import Interval
from adapt.evaluation.heads import class_names, logits_of, single
from adapt.pipeline import Pipeline
from adapt.publish import merge as merging
from adapt.publish.kinds import has_mask_head
from adapt.publish.merge import merge
from adapt.reporting.console import print_summary
from adapt.training.parts import keep_output_bias
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
    assert adapted.speed.rows_per_second.median > 0
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
    printed = capsys.readouterr().out
    assert "tf-idf" in printed
    assert "read characters/s" in printed
    for shown in (printed, Workspace(Path(recipe.output_dir)).report.read_text()):
        assert "generated" not in shown.lower()


def probabilities(recipe):
    """(texts, classes) that the run wrote beside its answers, classes by name."""
    by_name = [sorted(row["probabilities"].items()) for row in answers(recipe)]
    return np.array([[value for _, value in row] for row in by_name])


def test_the_adapter_brings_its_head_with_it(finished):
    """Loaded by `adapt.load` as by the run: classes are as probable as when scored."""
    recipe, _ = finished
    model, tokenizer = adapt.load(recipe.output_dir)
    _, texts = texts_of(recipe)
    longest = recipe.evaluation.max_length
    logits = logits_of(model, tokenizer, texts, max_length=longest, batch_size=4, label="")
    assert class_names(model) == ("brain", "heart", "kidney")
    np.testing.assert_allclose(single(logits), probabilities(recipe), atol=1e-4)


def test_a_merged_classifier_loads_in_stock_transformers(finished, tmp_path, monkeypatch):
    from transformers import pipeline

    recipe, _ = finished
    monkeypatch.setattr(merging.subprocess, "run", in_this_process)
    assert merge(recipe.output_dir, tmp_path / "merged").continuations == 0
    classify = pipeline("text-classification", model=str(tmp_path / "merged"), top_k=None)
    _, texts = texts_of(recipe)
    read = classify(texts, truncation=True, max_length=recipe.evaluation.max_length)
    by_name = [sorted(text, key=itemgetter("label")) for text in read]
    found = [[one["score"] for one in text] for text in by_name]
    np.testing.assert_allclose(found, probabilities(recipe), atol=1e-4)


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
    assert scored.fragmented
    assert set(scored.on_fragmented) == set(scored.intervals)
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
        (PHASES[:1], {}, "fills in hidden words and answers no evaluation.tasks organ"),
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


# -- ending in hidden words -----------------------------------------------------------------------

WORDS = {**PHASES[0], "max_steps": 8}


@pytest.fixture(scope="module")
def with_head(tiny_encoder, tmp_path_factory):
    """The encoder as a checkpoint that brings its head for hidden words."""
    import torch
    from transformers import AutoTokenizer, BertForMaskedLM

    folder = tmp_path_factory.mktemp("with-head")
    torch.manual_seed(0)
    model = BertForMaskedLM.from_pretrained(str(tiny_encoder))
    torch.nn.init.normal_(model.cls.predictions.decoder.bias, std=0.1)
    model.save_pretrained(str(folder))
    AutoTokenizer.from_pretrained(str(tiny_encoder)).save_pretrained(str(folder))
    return folder


def words_recipe(folder, base, **changes):
    """A recipe that ends in hidden words."""
    sections = {"training": {"phases": [WORDS]}, "evaluation": {"tasks": [], "max_documents": 12}}
    for name, section in changes.items():
        sections[name] = {**sections.get(name, {}), **section}
    return encoder_recipe(folder, base, **sections)


@pytest.fixture(scope="module")
def filled(with_head, tmp_path_factory):
    # A rate that spares the head, which is not drawn anew.
    full = {"method": "full", "phases": [{**WORDS, "learning_rate": 1e-3}]}
    recipe = words_recipe(tmp_path_factory.mktemp("filled"), with_head, training=full)
    check(recipe)
    return recipe, Pipeline(recipe).run()


def scored_again(recipe, model, tokenizer):
    """Bits of the held-out documents, as the run measured them."""
    from adapt.corpus import open_corpus
    from adapt.evaluation.heads import longest_window
    from adapt.evaluation.masked import read_masked, shared_words
    from adapt.evaluation.scores import sample
    from adapt.vocab import load_tokenizer

    section, corpus = recipe.evaluation, open_corpus(Workspace(Path(recipe.output_dir)).corpus)
    limits = section.max_documents, section.max_bytes, recipe.seed
    texts = sample(lambda: corpus.documents("test"), *limits)
    longest = longest_window(model, tokenizer, section.max_length)
    both = [load_tokenizer(recipe.model.base), tokenizer]
    words = shared_words(texts, both, max_length=longest)
    read = {"max_length": longest, "batch_size": 3, "label": ""}
    return read_masked(model, tokenizer, texts, words, **read).bits


def test_a_run_may_end_in_hidden_words(filled, capsys):
    from rich.console import Console

    recipe, summary = filled
    assert list(summary.scores) == ["base", "control", "adapted"]
    assert not any("began at random" in note for note in summary.vocabulary.notes)
    for scores in summary.scores.values():
        for one in (scores.domain, scores.general):
            assert one.measure == "pseudo bits per byte"
            assert 0.1 < one.interval.value < 10
            assert one.told > 0
        assert scores.tasks == {}
        assert scores.edge is None
    assert len({one.domain.data for one in summary.scores.values()}) == 1
    assert all(one.speed.rows_per_second for one in summary.scores.values())
    trained, base = (summary.scores[m].domain.interval.value for m in ("control", "base"))
    assert trained < base
    assert summary.scores["adapted"].domain.new_token_share.value > 0
    assert summary.scores["adapted"].domain.fragmented
    leading = summary.comparisons["control"].leading
    assert leading.name == "pseudo bits per byte, domain text"
    assert "pseudo bits per byte on held-out domain text" in summary.verdict.sentence
    report = Workspace(Path(recipe.output_dir)).report.read_text()
    assert "Pseudo bits per byte, domain text, with 95 % intervals" in report
    assert "Difference in pseudo bits per byte" in report
    assert "compare with their own kind alone" in report
    print_summary(summary, Console(width=160))
    printed = capsys.readouterr().out
    assert "pseudo bits per byte, general text" in printed
    assert "pseudo bits per byte, fragmented text" in printed
    assert "number of masks" in printed
    print_summary(summary, Console(width=80))
    assert "…" not in capsys.readouterr().out, "no figure is cut off"


def test_what_fills_in_words_is_loaded_as_such(filled):
    from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

    recipe, summary = filled
    model, tokenizer = adapt.load(recipe.output_dir)
    expected = summary.scores["adapted"].domain.bits
    np.testing.assert_allclose(scored_again(recipe, model, tokenizer), expected, rtol=1e-3)
    folder = str(Workspace(Path(recipe.output_dir)).adapter)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    np.testing.assert_allclose(scored_again(recipe, model, tokenizer), expected, rtol=1e-3)
    fill = pipeline("fill-mask", model=model, tokenizer=tokenizer)
    assert len(fill(f"An abnormality of the {tokenizer.mask_token}.")) == 5
    card = (Workspace(Path(recipe.output_dir)).adapter / "README.md").read_text()
    for part in ('pipeline("fill-mask"', "type: fill-mask", "pseudo_bits_per_byte"):
        assert part in card
    assert "CausalLM" not in card


@pytest.fixture(scope="module")
def lora_filled(with_head, tmp_path_factory):
    recipe = words_recipe(tmp_path_factory.mktemp("lora-filled"), with_head)
    check(recipe)
    return recipe, Pipeline(recipe).run()


def test_new_rows_train_beside_the_biases_of_the_base(lora_filled, tmp_path):
    """What is merged, what is not, and what is put onto the base without the run are one model.

    The base brings biases, which an adapter has no place for: the adapted base is made anew.
    """
    recipe, summary = lora_filled
    assert list(summary.scores) == ["base", "control", "adapted"]
    expected = summary.scores["adapted"].domain.bits
    adapter = tmp_path / "adapter"
    shutil.copytree(Workspace(Path(recipe.output_dir)).adapter, adapter)
    for reference in (recipe.output_dir, adapter):
        for merged in (False, True):
            model, tokenizer = adapt.load(
                reference, base=recipe.model.base, merged=merged, cache_dir=tmp_path / "cache"
            )
            np.testing.assert_allclose(scored_again(recipe, model, tokenizer), expected, rtol=1e-3)


def test_the_command_line_takes_it_for_what_it_is(lora_filled, tmp_path):
    from typer.testing import CliRunner

    from adapt.cli import app

    def run(*arguments):
        return CliRunner().invoke(app, [str(one) for one in arguments])

    recipe, summary = lora_filled
    for command in (
        ["generate", recipe.output_dir, "An abnormality"],
        ["classify", Workspace(Path(recipe.output_dir)).adapter, "--text", "a", "--labels", "b,c"],
    ):
        done = run(*command)
        assert done.exit_code
        assert "fills in hidden words" in str(done.exception)
    own = Path(recipe.output_dir) / "recipe.yaml"
    for model, name in ((recipe.output_dir, "adapted"), (recipe.model.base, "base")):
        done = run("evaluate", model, "--recipe", own, "--output", tmp_path / name)
        assert done.exit_code == 0, done.exception
        scores = json.loads((tmp_path / name / "scores.json").read_text())["scores"]
        assert scores["speed"]["rows_per_second"]
        if name == "adapted":
            assert scores["domain"]["data"] == summary.scores[name].domain.data
            expected = summary.scores[name].domain.bits
            np.testing.assert_allclose(scores["domain"]["bits"], expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("architecture", "brings"),
    [
        ("BertForMaskedLM", True),
        ("BertForPreTraining", True),
        ("BertModel", False),
        ("ElectraForPreTraining", False),  # tells words from replaced ones, and names none
        ("FunnelForPreTraining", False),
    ],
)
def test_only_a_head_that_names_words_is_a_head_for_them(tmp_path, architecture, brings):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    assert has_mask_head(tmp_path) == brings


def test_a_peft_that_knows_of_biases_is_left_alone(with_head, monkeypatch):
    """Its output layer adds the bias; a second one would change every figure."""
    import torch
    from peft import LoraConfig, get_peft_model
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
    from transformers import BertForMaskedLM

    plain = BertForMaskedLM.from_pretrained(str(with_head)).eval()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        expected = plain(ids).logits
    before = TrainableTokensLayer.forward_adapters

    def mended(self, x, *args, **named):
        found, layer = before(self, x, *args, **named), self.base_layer
        return found + layer.bias if isinstance(layer, torch.nn.Linear) else found

    for forward in (before, mended):
        monkeypatch.setattr(TrainableTokensLayer, "forward_adapters", forward)
        fresh = BertForMaskedLM.from_pretrained(str(with_head))
        config = LoraConfig(target_modules=["query"], trainable_token_indices=[5, 6])
        model = get_peft_model(fresh, config).eval()
        keep_output_bias(model)
        with torch.no_grad():
            torch.testing.assert_close(model(input_ids=ids).logits, expected)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_base_without_a_head_is_not_scored(tiny_encoder, tmp_path, monkeypatch, method):
    """Its head would be drawn for the occasion; the trained ones are kept, whatever trained."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    recipe = words_recipe(tmp_path, tiny_encoder, training={"method": method, "phases": [WORDS]})
    summary = Pipeline(recipe).run()
    assert list(summary.scores) == ["control", "adapted"]
    assert list(summary.comparisons) == ["control"]
    assert "all heads began at random" in summary.vocabulary.notes[-1]
    model, tokenizer = adapt.load(recipe.output_dir)
    expected = summary.scores["adapted"].domain.bits
    np.testing.assert_allclose(scored_again(recipe, model, tokenizer), expected, rtol=1e-3)
    if method == "lora":  # without the run: what plain PEFT would do
        adapter = tmp_path / "adapter"
        shutil.copytree(Workspace(Path(recipe.output_dir)).adapter, adapter)
        model, tokenizer = adapt.load(adapter, base=recipe.model.base)
        np.testing.assert_allclose(scored_again(recipe, model, tokenizer), expected, rtol=1e-3)
        monkeypatch.setattr(merging.subprocess, "run", in_this_process)
        merged = merge(recipe.output_dir, tmp_path / "merged").folder
        model = AutoModelForMaskedLM.from_pretrained(str(merged)).eval()
        tokenizer = AutoTokenizer.from_pretrained(str(merged))
        np.testing.assert_allclose(scored_again(recipe, model, tokenizer), expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embeddings": {"units": "input"}}, "predicts what it reads"),
        ({"evaluation": {"harness": {"tasks": ["arc_easy"]}}}, "harness scores models that write"),
        (
            {
                "training": {"method": "rows", "phases": [WORDS]},
                "evaluation": {"control": False},
            },
            "does not train the head for hidden",
        ),
        ({"training": {"method": "prefix", "phases": [WORDS]}}, "has virtual tokens"),
    ],
)
def test_what_cannot_end_in_hidden_words_is_refused(tiny_encoder, tmp_path, changes, said):
    with pytest.raises(AdaptError, match=said):
        check(words_recipe(tmp_path, tiny_encoder, **changes))


def test_what_writes_cannot_end_in_hidden_words(tiny_base, tmp_path):
    with pytest.raises(AdaptError, match="not a language model"):
        check(words_recipe(tmp_path, tiny_base))


def test_what_fills_in_words_is_not_exported(filled, tmp_path):
    from adapt.publish.export import export

    recipe, _ = filled
    with pytest.raises(AdaptError, match="fills in hidden words"):
        export(recipe.output_dir, "vllm", tmp_path / "x")
    assert not (tmp_path / "x").exists()


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
