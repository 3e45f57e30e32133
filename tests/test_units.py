"""`tokenizer.new_tokens: auto`: sizes by short trainings, and the one that pays, or none."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import adapt.probe.measure
import adapt.trials
from adapt.errors import RecipeError
from adapt.forecast import forecast
from adapt.pipeline import Pipeline
from adapt.preparation import Preparation
from adapt.probe.benefit import WORTH, NetBenefit
from adapt.probe.units import LOSS, Tried, Units, search, sizes
from adapt.recipe import load_recipe
from adapt.vocab.budget import MOST, Point, sizes_up_to

CURVE = (Point(0, 100, 0.0, 1.0), Point(125, 80, 0.2, 0.9))


def benefit(saved, loss, added=0):
    return NetBenefit(saved, 1_000, added, 1.0, 1.0 + loss)


def found(outcomes):
    """A search over sizes 1, 2, … that have these (saved, loss)."""
    asked = []

    def of(size):
        asked.append(size)
        return benefit(*outcomes[size - 1])

    tried = search(range(1, len(outcomes) + 1), of)
    return Units(tuple(Tried(*each) for each in tried.items()), CURVE, 50), asked


@given(st.lists(st.floats(0.5, 1.2), max_size=16))
def test_sizes_ascend_to_the_most_that_pays_by_tokens(costs):
    known = sizes_up_to(MOST)[1:]
    curve = (
        Point(0, 100, 0.0, 1.0),
        *(Point(n, 1, 0.0, c) for n, c in zip(known, costs, strict=False)),
    )
    most = min(curve, key=lambda point: (point.cost, point.new_tokens))
    tried = sizes(curve)
    assert tried == sorted(set(tried))
    assert tried[-1:] == ([most.new_tokens] if most.cost <= 1 - WORTH else [])
    by_size = {point.new_tokens: point for point in curve}
    assert all(by_size[size].cost <= 1 - WORTH for size in tried)


OUTCOMES = st.lists(st.tuples(st.floats(0, 0.5), st.floats(-0.1, 0.1)), max_size=6)


@given(OUTCOMES)
def test_the_chosen_size_pays_and_none_that_pays_is_better(outcomes):
    units, asked = found(outcomes)
    assert asked == list(range(1, len(asked) + 1))  # the smallest first, and none left out
    assert all(one.benefit.quality_loss <= LOSS for one in units.tried[:-1])  # it stops at once
    if units.best:
        chosen = units.best.benefit
        assert chosen.net >= WORTH
        assert chosen.quality_loss <= LOSS
        assert all(one.benefit.net <= chosen.net for one in units.tried if one.pays)
    else:
        assert not any(one.pays for one in units.tried)
    assert Units.from_json(json.loads(json.dumps(units.to_json()))) == units


def test_little_text_keeps_the_tokenizer_and_says_why():
    units, asked = found([(0.1, 0.05), (0.2, 0.0)])
    assert (units.best, asked) == (None, [1])
    assert "1 units save 10.0% of the tokens, bits per byte +5.0%" in units.note
    assert "none worth it, the tokenizer is kept" in units.note
    assert "2 units chosen" in found([(0.1, 0.01), (0.2, 0.015), (0.1, 0.0)])[0].note
    assert "none added" in found([])[0].note


@pytest.fixture
def auto(tiny_recipe, monkeypatch):
    """A recipe of `new_tokens: auto` whose probes are short, and whose outcome is given."""

    def made(loss, **sections):
        monkeypatch.setattr(adapt.probe.measure, "STEPS", 3)
        monkeypatch.setattr("adapt.probe.units._SMALLEST", 6)
        real = NetBenefit.of.__func__
        monkeypatch.setattr(
            NetBenefit,
            "of",
            classmethod(
                lambda cls, adapted, saved, before, after: replace(
                    real(cls, adapted, saved, before, after),
                    saved=0.3,
                    before=1.0,
                    after=1.0 + loss(adapted),
                )
            ),
        )
        return load_recipe(tiny_recipe(tokenizer={"new_tokens": "auto"}, **sections))

    return made


def test_the_chosen_size_is_what_the_run_has(auto):
    recipe = auto(lambda adapted: 0.01 if adapted.added < 20 else 0.05)
    prepared = Preparation(recipe)
    prepared.all()
    units, vocabulary = prepared.units(), prepared.vocabulary()
    assert (units.best.new_tokens, units.best.multiword) == (6, True)
    assert [one.new_tokens for one in units.tried][:2] == [6, 24]
    assert len(vocabulary.delta.added) == 6 == prepared.adapted_base().added
    assert vocabulary.notes[0] == units.note
    assert vocabulary.curve == units.curve
    assert not (prepared.workspace.root / ".units").exists()
    assert not (prepared.workspace.root / ".probe").exists()
    # The same as a run of that number: nothing of the search is left in what it chose.
    number = recipe.tokenizer.model_copy(update={"new_tokens": 6})
    asked = Preparation(recipe.model_copy(update={"tokenizer": number}))
    asked.vocabulary()
    asked.adapted_base()
    assert asked.stages.marks["embeddings"] == prepared.stages.marks["embeddings"]
    record = json.loads(prepared.workspace.manifest("embeddings").read_text())
    assert record["fingerprint"] == prepared.stages.marks["embeddings"]


def test_units_inside_words_are_tried_where_none_across_spaces_pays(auto):
    recipe = auto(lambda adapted: 0.05 if "across" in adapted.folder.parts else 0.01)
    prepared = Preparation(recipe)
    units, delta = prepared.units(), prepared.vocabulary().delta
    assert [one.multiword for one in units.tried][:2] == [True, False]
    assert not units.best.multiword
    assert f"{units.best.new_tokens:,} units inside words chosen" in units.note
    tokenizer = prepared.tokenizer(prepared.workspace.tokenizer)
    written = [tokenizer.decode([added]).strip() for added in delta.added_ids]
    assert len(written) == units.best.new_tokens
    assert not any(" " in unit for unit in written)


def test_units_across_spaces_are_not_tried_where_the_recipe_forbids_them(auto):
    recipe = auto(lambda adapted: 0.01)
    inside = recipe.tokenizer.model_copy(update={"multiword": False})
    prepared = Preparation(recipe.model_copy(update={"tokenizer": inside}))
    assert {one.multiword for one in prepared.units().tried} == {False}


def test_where_none_pays_the_run_keeps_its_tokenizer(auto):
    recipe = auto(lambda adapted: 0.05, evaluation={"control": False})
    pipeline = Pipeline(recipe)
    summary = pipeline.run()
    assert pipeline.prepared.units().best is None
    assert summary.vocabulary.delta.added == ()
    assert "none worth it" in summary.vocabulary.notes[0]
    base, kept = (
        (folder / "tokenizer.json").read_bytes()
        for folder in (pipeline.prepared.base().folder, pipeline.workspace.tokenizer)
    )
    assert base == kept
    assert forecast(recipe, steps=2).sentence == pipeline.prepared.units().note
    again = Pipeline(recipe)
    again.run()  # nothing is tried anew
    assert again.stages.seconds["units"] == pipeline.stages.seconds["units"]


def test_a_search_that_was_ended_goes_on_where_it_stopped(auto, monkeypatch):
    recipe = auto(lambda adapted: 0.01)
    calls = []
    real = adapt.trials.probe

    def stopped(run, subject, texts, documents=None):
        calls.append(subject.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(run, subject, texts, documents)

    monkeypatch.setattr(adapt.trials, "probe", stopped)
    with pytest.raises(KeyboardInterrupt):
        Preparation(recipe).vocabulary()
    prepared = Preparation(recipe)
    assert prepared.workspace.finished("units", "") is None
    tried = prepared.workspace.root / ".units" / "across" / "6"
    assert (tried / "manifests" / "embeddings.json").is_file()
    prepared.vocabulary()
    assert calls[:4] == ["base", "adapted", "base", "adapted"]
    assert prepared.units().best


def test_several_processes_are_sent_to_one(auto, monkeypatch):
    recipe = auto(lambda adapted: 0.0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="adapt tokenizer build"):
        Preparation(recipe).vocabulary()


def test_an_encoder_goes_by_tokens_alone(tiny_encoder, tmp_path):
    from tests.conftest import encoder_recipe

    recipe = encoder_recipe(tmp_path, tiny_encoder, tokenizer={"new_tokens": "auto"})
    prepared = Preparation(recipe)
    assert prepared.units() is None
    assert prepared.vocabulary().curve
