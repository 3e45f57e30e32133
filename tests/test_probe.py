"""Short trainings: what they measure, the rule they serve, and that nothing of them stays."""

import json
import math
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from adapt import cli
from adapt import forecast as forecasts
from adapt.bases import size
from adapt.check import check
from adapt.embeddings.result import AdaptedBase
from adapt.errors import DataError, ModelError, RecipeError
from adapt.forecast import forecast
from adapt.pipeline import Pipeline
from adapt.preparation import Preparation
from adapt.probe.benefit import WORTH, NetBenefit
from adapt.probe.measure import (
    Measured,
    largest_read,
    measure_training,
    text_phase,
    validation_text,
)
from adapt.probe.meter import scratch, watched_memory
from adapt.probe.sizes import Shape, data_of, shape_of
from adapt.probe.untying import tied_or_untied
from adapt.publish.results import _untied
from adapt.publish.settings import AdapterSettings
from adapt.recipe import load_recipe
from adapt.vocab import load_tokenizer
from tests.conftest import encoder_recipe, write_recipe

MIB = 2**20


# -- the rule ----------------------------------------------------------------------------------


def test_net_benefit_by_hand():
    # 30 % fewer tokens through 10 % more parameters: 0.7 x 1.1 = 0.77 of the cost, so 23 % saved
    found = NetBenefit(0.3, 100, 10, 1.0, 1.05)
    assert found.cost == pytest.approx(0.77)
    assert found.quality_loss == pytest.approx(0.05)
    assert found.net == pytest.approx(0.18)
    assert found.worth_it
    assert not replace(found, after=1.21).worth_it  # 23 % - 21 % = 2 %
    assert replace(found, after=1.19).worth_it  # 4 %
    record = found.to_json()
    assert record["net"] == found.net
    assert json.loads(json.dumps(record))["worth_it"] is True


shares = st.floats(0, 0.9)
bits = st.floats(0.1, 10)


@given(shares, st.integers(1, 10**9), st.integers(0, 10**9), bits, bits)
def test_what_saves_more_or_loses_less_is_never_worth_less(saved, size_, added, before, after):
    one = NetBenefit(saved, size_, added, before, after)
    assert one.worth_it == (one.net >= WORTH)
    assert replace(one, saved=saved + 0.05).net > one.net
    assert replace(one, after=after * 0.9).net > one.net
    assert replace(one, parameters_added=added + size_).net < one.net
    nothing = NetBenefit(0.0, size_, 0, before, before)
    assert nothing.net == 0
    assert not nothing.worth_it


# -- one probe ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tiny_base, tmp_path_factory):
    """A recipe whose stages before training are done."""
    recipe = load_recipe(write_recipe(tmp_path_factory.mktemp("prepared"), tiny_base))
    prepared = Preparation(recipe)
    prepared.all()
    return prepared


def test_a_probe_trains_measures_scores_and_leaves_nothing(prepared):
    recipe, corpus = prepared.recipe, prepared.corpus()
    subject = prepared.subject("adapted", prepared.workspace.adapted_base)
    folder = prepared.workspace.root / ".probe"
    texts = validation_text(recipe, corpus)
    held_out = set(corpus.documents("test"))
    assert texts
    assert not held_out & set(texts)
    before = sorted(prepared.workspace.root.rglob("*"))
    started = time.perf_counter()
    found = measure_training(recipe, corpus, subject, folder, steps=6, texts=texts)
    took = time.perf_counter() - started
    assert sorted(prepared.workspace.root.rglob("*")) == before
    assert (found.name, found.phase, found.steps) == ("adapted", "domain", 6)
    assert 0 < found.seconds_per_step * found.steps < took
    assert 0 < found.resting_bytes <= found.peak_bytes
    assert found.reading_bytes > 0
    assert found.documents > 0
    assert 0 < found.quality < 20
    again = measure_training(recipe, corpus, subject, folder, steps=6, texts=texts)
    assert again.quality == found.quality  # the same seed, the same documents
    assert again.documents == found.documents


def test_both_models_see_the_same_text(prepared):
    recipe, corpus, folder = prepared.recipe, prepared.corpus(), prepared.workspace.root / ".probe"
    base = prepared.subject("base", prepared.base().folder)
    adapted = prepared.subject("adapted", prepared.workspace.adapted_base)
    one = measure_training(recipe, corpus, base, folder, steps=8)
    other = measure_training(recipe, corpus, adapted, folder, steps=8, documents=one.documents)
    assert one.documents == other.documents
    assert one.steps == 8
    assert other.steps < one.steps  # fewer tokens for the same text
    assert one.bits_per_byte is None
    with pytest.raises(ValueError, match="nothing was scored"):
        _ = one.quality


def test_training_lowers_what_a_probe_scores(prepared):
    recipe, corpus, folder = prepared.recipe, prepared.corpus(), prepared.workspace.root / ".probe"
    subject = prepared.subject("adapted", prepared.workspace.adapted_base)
    rates = dict.fromkeys(("learning_rate", "new_token_learning_rate"), 2e-2)
    phase = text_phase(recipe.training).model_copy(update=rates)
    texts = validation_text(recipe, corpus)
    few, many = (
        measure_training(recipe, corpus, subject, folder, phase=phase, steps=n, texts=texts).quality
        for n in (1, 16)
    )
    assert many < 0.97 * few


def test_the_score_is_that_of_a_direct_computation(prepared):
    """Bits per byte after a probe of no effect are those of the checkpoint itself."""
    from adapt.evaluation.likelihood import document_bits
    from adapt.training.model import load_model

    recipe, corpus = prepared.recipe, prepared.corpus()
    base = prepared.subject("base", prepared.base().folder)
    texts = validation_text(recipe, corpus)
    phase = text_phase(recipe.training).model_copy(update={"learning_rate": 1e-12})
    folder = prepared.workspace.root / ".probe"
    found = measure_training(recipe, corpus, base, folder, phase=phase, steps=1, texts=texts)
    model = load_model(base.checkpoint, torch.float32)
    direct = document_bits(
        model, base.tokenizer, texts, max_length=64, batch_size=4, label="direct"
    ).sum() / sum(len(text.encode()) for text in texts)
    assert found.quality == pytest.approx(direct, rel=1e-4)


def test_engines_that_need_a_launcher_are_left_out(prepared):
    training = prepared.recipe.training.model_copy(update={"deepspeed": "zero2"})
    recipe = prepared.recipe.model_copy(update={"training": training})
    base = prepared.subject("base", prepared.base().folder)
    folder = prepared.workspace.root / ".probe"
    assert measure_training(recipe, prepared.corpus(), base, folder, steps=2).steps == 2


def test_a_probe_that_fails_leaves_nothing(prepared):
    recipe, folder = prepared.recipe, prepared.workspace.root / ".probe"
    base = replace(prepared.subject("base", prepared.base().folder), checkpoint=Path("nowhere"))
    with pytest.raises(ModelError):
        measure_training(recipe, prepared.corpus(), base, folder, steps=2)
    assert not folder.exists()


def test_text_phase_is_one_on_running_text(prepared):
    section = prepared.recipe.training
    assert text_phase(section) == section.phases[0]
    only = section.model_copy(update={"phases": section.phases[1:]})
    found = text_phase(only)
    assert (found.objective, found.tasks) == ("clm", None)
    assert found.learning_rate == section.phases[1].learning_rate


def test_nothing_to_score_on_is_said(tiny_recipe):
    recipe = load_recipe(tiny_recipe(corpus={"validation_fraction": 0.0}))
    pipeline = Pipeline(recipe)
    pipeline.prepared.build_tokenizer()
    with pytest.raises(DataError, match="validation_fraction"):
        validation_text(recipe, pipeline.prepared.corpus())


# -- what is made of it ------------------------------------------------------------------------


def test_slots_are_those_of_the_batches_that_train(prepared):
    recipe, corpus = prepared.recipe, prepared.corpus()
    subject = prepared.subject("adapted", prepared.workspace.adapted_base)
    for number, phase in enumerate(recipe.training.phases):
        data = data_of(recipe, recipe.training, phase, corpus, subject, number, None, None)
        found = shape_of(phase, data)
        batches = [
            data.collate([data.examples[i] for i in range(at, min(at + 2, len(data.examples)))])
            for at in range(0, len(data.examples), 2)
        ]
        assert found.steps == len(batches)
        assert list(found.slots) == [batch["input_ids"].numel() for batch in batches]
        assert found.largest == max(found.slots)
        assert found.total == sum(found.slots)
        assert found.total >= data.tokens


def test_accumulated_batches_are_one_step_and_not_one_batch(prepared):
    phase = prepared.recipe.training.phases[0].model_copy(
        update={"gradient_accumulation_steps": 3, "max_steps": 2}
    )
    subject = prepared.subject("base", prepared.base().folder)
    data = data_of(
        prepared.recipe, prepared.recipe.training, phase, prepared.corpus(), subject, 0, None, None
    )
    found = shape_of(phase, data)
    assert found.steps == 2
    assert found.largest < max(found.slots)


MEASURED = Measured("base", "domain", 50, 10, 2.0, 0.004, 3.0, 1_000, 600, 500)


def test_time_goes_by_slots_and_memory_by_the_largest_batch():
    small, large = Shape(10, (500,), 500), Shape(10, (1_000, 2_000), 1_000)
    assert MEASURED.seconds_of(small) == pytest.approx(20)
    assert MEASURED.seconds_of(large) == pytest.approx(60)
    assert MEASURED.memory_of([small]) == 1_000
    assert MEASURED.memory_of([small, large]) == 600 + 2 * 400
    assert MEASURED.memory_of([Shape(10, (5,), 5)]) == 1_000  # never below what was measured


def test_reading_is_largest_in_its_longest_batch():
    assert largest_read([10, 20, 30], 8, 64) == 3 * 30
    assert largest_read([10, 20, 30], 2, 64) == 2 * 30
    assert largest_read([100], 8, 64) == 3 * 64  # 64, then 32 more, then the last 4
    assert largest_read([], 8, 64) == 0


def test_peak_memory_is_seen():
    with watched_memory(0.001) as before:
        time.sleep(0.02)
    with watched_memory(0.001) as memory:
        held = torch.ones(64 * MIB // 4)
        time.sleep(0.05)
        assert held[0] == 1
        del held
    assert memory.peak - before.peak > 48 * MIB


def test_scratch_is_empty_and_gone(tmp_path):
    left = tmp_path / "work"
    left.mkdir()
    (left / "of-a-killed-process").touch()
    with scratch(left) as folder:
        assert not list(folder.iterdir())
        (folder / "x").touch()
    assert not left.exists()


# -- check --probe -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forecasted(prepared):
    return forecast(prepared.recipe, steps=6)


def test_a_forecast_covers_the_run(prepared, forecasted):
    parts = [line.part for line in forecasted.lines]
    assert parts == [
        "corpus, vocabulary and rows",
        "adapted: domain",
        "adapted: tasks",
        "adapted: loading and saving",
        "control: domain",
        "control: tasks",
        "control: loading and saving",
        "evaluation",
    ]
    assert all(line.seconds >= 0 for line in forecasted.lines)
    how = {line.part: line.how for line in forecasted.lines}
    assert how["adapted: tasks"] == "domain's, by tokens a step"
    assert "measured" in how["control: domain"]
    assert forecasted.memory_bytes >= max(one.peak_bytes for one in forecasted.measured)
    path = prepared.workspace.reports / "probe.json"
    written = json.loads(path.read_text())
    assert written["seconds"] == pytest.approx(forecasted.seconds)
    assert written["benefit"]["net"] == pytest.approx(forecasted.benefit.net)
    assert not (prepared.workspace.root / ".probe").exists()


def test_the_control_of_the_same_time_takes_what_the_adapted_model_does(prepared, forecasted):
    section = prepared.recipe.evaluation.model_copy(update={"control_time": True})
    recipe = prepared.recipe.model_copy(update={"evaluation": section})
    (line,) = forecasts._same_time(recipe, forecasted.lines)
    adapted = [one.seconds for one in forecasted.lines if one.part.startswith("adapted: ")]
    assert (line.part, line.seconds) == ("control-time: training", sum(adapted))
    assert len(adapted) == 3
    assert forecasts._same_time(prepared.recipe, forecasted.lines) == []


def test_net_benefit_is_of_the_validation_side(prepared, forecasted):
    benefit = forecasted.benefit
    texts = validation_text(prepared.recipe, prepared.corpus())
    base, adapted = (
        load_tokenizer(folder) for folder in (prepared.base().folder, prepared.workspace.tokenizer)
    )
    tokens = [sum(len(t(x)["input_ids"]) for x in texts) for t in (base, adapted)]
    assert benefit.saved == pytest.approx(1 - tokens[1] / tokens[0])
    assert benefit.parameters == size(prepared.base().folder).parameters
    assert benefit.parameters_added == 20 * 32
    assert (benefit.before, benefit.after) == tuple(one.quality for one in forecasted.measured)


def test_the_run_after_it_finds_its_stages_done(prepared, forecasted):
    manifest = prepared.workspace.manifest("embeddings")
    before = manifest.stat().st_mtime_ns
    Preparation(prepared.recipe).adapted_base()
    assert manifest.stat().st_mtime_ns == before


def test_the_sentence_says_what_to_do():
    recipe = load_recipe_like("auto")
    good, bad = NetBenefit(0.3, 100, 1, 1.0, 1.0), NetBenefit(0.03, 100, 1, 1.0, 1.0)
    assert forecasts._sentence(recipe, 1_234, good) == (
        "auto chose 1,234 units; net benefit +29.3%: worth it"
    )
    assert "not worth it (below 3%), keep the tokenizer" in forecasts._sentence(recipe, 9, bad)
    worse = NetBenefit(0.3, 100, 1, 1.0, 1.05)
    assert "by cost, not by quality: bits per byte rise by 5.0%" in forecasts._sentence(
        recipe, 9, worse
    )
    assert forecasts._sentence(load_recipe_like(9), 9, good).startswith("9 new units; ")


def load_recipe_like(new_tokens):
    from types import SimpleNamespace

    return SimpleNamespace(tokenizer=SimpleNamespace(new_tokens=new_tokens))


def test_without_new_units_only_time_is_measured(tiny_recipe):
    recipe = load_recipe(tiny_recipe(tokenizer={"mode": "keep"}, evaluation={"control": False}))
    found = forecast(recipe, steps=3)
    assert found.benefit is None
    assert found.sentence == ""
    assert [one.name for one in found.measured] == ["adapted"]
    assert found.lines[-1].how.endswith("speed of training")
    assert found.lines[-1].seconds > 0


def test_an_encoder_is_timed_and_not_scored(tiny_encoder, tmp_path):
    found = forecast(encoder_recipe(tmp_path, tiny_encoder), steps=3)
    assert found.benefit is None
    assert [(one.phase, one.steps) for one in found.measured] == [("words", 3)]
    assert {"adapted: labels", "control: labels"} <= {line.part for line in found.lines}
    assert found.seconds > 0


def test_units_that_are_only_read_are_probed_as_they_are_scored(tiny_recipe):
    recipe = load_recipe(tiny_recipe(embeddings={"units": "input", "init": "mean"}))
    found = forecast(recipe, steps=3)
    assert 0 < found.benefit.saved < 1
    assert all(math.isfinite(one.quality) for one in found.measured)


def test_check_prints_both_tables(tiny_recipe, monkeypatch, tmp_path):
    monkeypatch.setattr("adapt.forecast.STEPS", 2)
    path = tiny_recipe(tokenizer={"new_tokens": "curve"})
    done = CliRunner().invoke(cli.app, ["check", str(path), "--no-audit", "--probe"])
    assert done.exit_code == 0, done.output
    for text in ("what a run will take", "peak memory about", "net benefit", "cost of a byte"):
        assert text in done.output
    assert re.search(r"curve chose [\d,]+ units; net benefit [+-]", done.output)
    assert (tmp_path / "run" / "reports" / "probe.json").is_file()


def test_check_without_probe_starts_nothing(tiny_recipe, tmp_path):
    done = CliRunner().invoke(cli.app, ["check", str(tiny_recipe()), "--no-audit"])
    assert done.exit_code == 0
    assert not (tmp_path / "run").exists()


# -- embeddings.untie: auto --------------------------------------------------------------------


def decided(tiny_recipe, monkeypatch, scores, **sections):
    """The stage, with probes that come out as told: bits per byte tied, untied."""
    rows = {"untie": "auto", "init": "mean", **sections.pop("embeddings", {})}
    recipe = load_recipe(tiny_recipe(embeddings=rows, **sections))
    given = iter(scores)

    def measured(*args, **kwargs):
        return replace(MEASURED, bits_per_byte=next(given))

    monkeypatch.setattr("adapt.probe.measure.measure_training", measured)
    pipeline = Pipeline(recipe)
    return pipeline, pipeline.prepared.adapted_base()


@pytest.mark.parametrize(("gain", "untied"), [(0.44, False), (0.46, True)])
def test_untying_has_to_pay_for_its_matrix(tiny_recipe, monkeypatch, gain, untied):
    # 420 rows x 32 are 42.0 % of all parameters; 44 % is not the 3 % more that it takes, 46 % is
    pipeline, found = decided(tiny_recipe, monkeypatch, [2.0, 2.0 * (1 - gain)])
    untying = found.untying
    assert untying.parameters_added == 420 * 32
    assert untying.net == pytest.approx(gain - untying.share)
    assert untying.share == pytest.approx(0.42, abs=0.001)
    assert found.untied is untied
    config = json.loads((found.folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is not untied
    assert size(found.folder).parameters == untying.parameters + untied * 420 * 32
    assert found.folder == pipeline.workspace.adapted_base
    assert not list(pipeline.workspace.root.glob(".*"))
    manifest = json.loads(pipeline.workspace.manifest("embeddings").read_text())["result"]
    assert AdaptedBase.from_json(found.folder, manifest) == found
    assert ("its own" in untying.sentence) is untied


def test_what_was_decided_is_what_the_run_and_its_adapter_say(tiny_recipe, monkeypatch):
    sections = {"evaluation": {"control": False, "tasks": []}, "corpus": {"general": []}}
    phase = {"name": "domain", "objective": "clm", "max_steps": 1, "max_length": 64}
    sections["training"] = {"phases": [phase]}
    pipeline, found = decided(tiny_recipe, monkeypatch, [2.0, 0.1], **sections)
    assert found.untied
    adapter = pipeline.tuned.adapter().folder
    assert AdapterSettings.load(adapter).untie is True
    assert _untied({"untie": "auto"}, adapter)
    named = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(named) == found.folder.resolve()  # the original base has no output rows of its own
    again = Preparation(pipeline.recipe).adapted_base()  # read, for there is no score left to give
    assert again == found


@pytest.mark.parametrize(
    "sections",
    [
        {"tokenizer": {"mode": "keep"}},
        {"embeddings": {"units": "input"}},
    ],
    ids=str,
)
def test_nothing_to_decide_needs_no_probe(tiny_recipe, monkeypatch, sections):
    _, found = decided(tiny_recipe, monkeypatch, [], **sections)
    assert not found.untied
    assert found.untying is None


def test_several_processes_are_told_to_decide_first(tiny_recipe, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="check RECIPE --probe"):
        decided(tiny_recipe, monkeypatch, [])


def test_check_takes_auto_for_tied(tiny_recipe):
    recipe = load_recipe(tiny_recipe(embeddings={"untie": "auto"}))
    assert check(recipe) is not None


def test_a_real_probe_decides(tiny_recipe, monkeypatch):
    monkeypatch.setattr("adapt.probe.measure.STEPS", 3)
    recipe = load_recipe(tiny_recipe(embeddings={"untie": "auto", "init": "mean"}))
    found = Preparation(recipe).adapted_base()
    assert not found.untied  # nothing halves the bits in three steps
    assert found.untying.steps == 3
    assert found.remarks == (found.untying.sentence,)
    assert 0 < found.untying.tied < 20
    assert 0 < found.untying.untied < 20


def fake(folder, tied=True, added=1):
    """An adapted base that is a folder with a file."""
    folder.mkdir()
    (folder / "made").write_text(folder.name)
    from adapt.embeddings.result import EditedTensor

    roles = ["input"] if tied else ["input", "output"]
    tensors = tuple(EditedTensor(role, role, "mean", 1, 2) for role in roles)
    return AdaptedBase(folder, "mean", tensors, added=added)


def test_a_failure_half_way_leaves_what_was_there(tmp_path):
    folder, work = tmp_path / "adapted-base", tmp_path / ".untie"
    folder.mkdir()
    (folder / "old").touch()

    def fails(adapted):
        raise KeyboardInterrupt

    for failing in (lambda untie, to: fails(None), lambda untie, to: fake(to)):
        monkey = pytest.MonkeyPatch()
        monkey.setattr("adapt.probe.untying.size", lambda folder: fails(None))
        with pytest.raises(KeyboardInterrupt):
            tied_or_untied(failing, fails, folder, work, steps=1)
        monkey.undo()
        assert [p.name for p in folder.iterdir()] == ["old"]
        assert not work.exists()


def test_a_model_that_cannot_be_untied_stays_tied(tmp_path):
    def make(untie, folder):
        if untie:
            raise ModelError("the model cannot have output rows of its own")
        return fake(folder)

    found = tied_or_untied(make, lambda adapted: 1.0, tmp_path / "to", tmp_path / "work", steps=1)
    assert found.notes == ("not untied: the model cannot have output rows of its own",)
    assert (found.folder / "made").read_text() == "tied"
