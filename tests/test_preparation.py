"""What a vocabulary is made from where there is more text than memory, and what is streamed."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from adapt import bases, fertility, preparation, vocab
from adapt.corpus import Corpus
from adapt.preparation import Preparation, identity
from adapt.recipe import load_recipe


@pytest.fixture
def prepared(tiny_recipe, monkeypatch):
    """Makes the stages of the tiny recipe, with units learned from at most so many bytes."""

    def prepared(learned=None, **tokenizer):
        if learned is not None:
            monkeypatch.setattr(preparation, "LEARNED_BYTES", learned)
        path = tiny_recipe(tokenizer=tokenizer, corpus={"validation_fraction": 0.2})
        return Preparation(load_recipe(path))

    return prepared


@pytest.fixture
def learned_from(monkeypatch):
    """The documents that units were learned from, a list for each vocabulary."""
    given = []
    real = vocab.build.extend

    def spied(ground, learning, texts, general):
        given.append(list(texts()))
        return real(ground, learning, texts, general)

    monkeypatch.setattr(vocab.build, "extend", spied)
    return given


def train_of(run):
    texts = list(run.corpus().documents("train"))
    return texts, sum(len(text.encode()) for text in texts)


def test_units_are_learned_from_all_text_that_memory_takes(prepared, learned_from):
    run = prepared()
    train, size = train_of(run)
    vocabulary = run.vocabulary()
    assert vocabulary.notes == ()
    assert learned_from == [train]
    assert prepared(size).vocabulary() == vocabulary  # the same stage, done already
    assert len(learned_from) == 1


def test_of_more_text_every_nth_document_counts_and_it_is_said(prepared, learned_from):
    train, size = train_of(prepared())
    learned = size // 3 + 1
    vocabulary = prepared(learned).vocabulary()
    assert learned_from == [train[::3]]
    assert vocabulary.notes == ("units are learned from one training document in 3, for memory",)
    assert prepared(learned).vocabulary() == vocabulary  # done already, and said again
    assert len(learned_from) == 1
    prepared(size // 2 + 1).vocabulary()  # with more memory it is made anew
    assert learned_from[1] == train[::2]
    assert prepared(1, mode="keep").vocabulary().notes == ()


def test_what_is_pruned_is_judged_by_all_text(prepared, monkeypatch):
    real, counted = vocab.prune.usage, []

    def spied(tokenizer, texts):
        counted.extend(texts := list(texts))
        return real(tokenizer, texts)

    monkeypatch.setattr(vocab.prune, "usage", spied)
    run = prepared(1_000, prune=True)
    assert "one training document in" in " ".join(run.vocabulary().notes)
    assert set(train_of(run)[0]) <= set(counted)


def test_fertility_streams_held_out_text(prepared, monkeypatch):
    measured, kinds = fertility.measure, []

    def spied(tokenizer, texts, **options):
        kinds.append(isinstance(texts, Iterator))
        return measured(tokenizer, texts, **options)

    monkeypatch.setattr(fertility, "measure", spied)
    run = prepared()
    report = run.fertility()
    assert kinds == [True] * 4
    for kind, texts in (
        ("domain", run.corpus().documents("test")),
        ("general", run.corpus().general()),
    ):
        whole = list(texts)
        for name, found in zip(("base", "adapted"), getattr(report, kind), strict=True):
            folder = run.base().folder if name == "base" else run.vocabulary().folder
            tokenizer = run.tokenizer(folder).backend_tokenizer
            alone = fertility.FertilityReport((measured(tokenizer, whole, name=name),), ()).domain[
                0
            ]
            assert (found.documents, found.tokens) == (alone.documents, alone.tokens)
            assert found.most_split_words == alone.most_split_words


def test_without_general_text_there_are_no_figures_of_it(tiny_recipe, monkeypatch):
    monkeypatch.setattr(Corpus, "general", lambda self: pytest.fail("read, though there is none"))
    recipe = load_recipe(tiny_recipe(corpus={"general": []}))
    assert Preparation(recipe).fertility().general == ()


def test_a_base_that_was_trained_on_in_its_folder_is_another(tiny_base, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    found = bases.resolve(str(base))
    before = identity(found)
    shutil.copytree(base, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "model.safetensors", (0, 0))
    assert identity(replace(found, folder=tmp_path / "copy")) == before
    tensors = load_file(str(base / "model.safetensors"))
    first = next(iter(tensors))
    changed = {**tensors, first: tensors[first] + 1}
    save_file(changed, str(base / "model.safetensors"), metadata={"format": "pt"})
    assert identity(found) != before
