"""Every figure of a model names its data, and the slice and the share of new tokens come along."""

import json

import pytest
from transformers import AutoModelForCausalLM

from adapt.corpus.build import build_corpus
from adapt.evaluation.result import ModelScores
from adapt.evaluation.scores import sample, score_model
from adapt.evaluation.slices import fragmented, text_hash
from adapt.recipe import load_recipe
from adapt.vocab import load_tokenizer


@pytest.fixture
def score(tiny_recipe, tiny_base, tmp_path):
    phase = {"name": "d", "objective": "clm", "max_steps": 1}
    evaluation = {"max_documents": 10, "max_bytes": 10_000, "tasks": []}
    path = tiny_recipe(evaluation=evaluation, training={"phases": [phase]})
    recipe = load_recipe(path)
    corpus = build_corpus(recipe.corpus, [], 0, tmp_path / "corpus")
    model = AutoModelForCausalLM.from_pretrained(str(tiny_base)).eval()

    def run(name, **options):
        tokenizer = load_tokenizer(tiny_base)
        folder = tmp_path / "predictions"
        options = {"name": name, "seed": 0, "predictions": folder, **options}
        return score_model(recipe.evaluation, corpus, model, tokenizer, **options)

    run.corpus = corpus
    return run


def test_figures_name_their_data_and_the_base_finds_the_slice(score, tiny_base):
    own = [load_tokenizer(tiny_base)]
    base = score("base", tokenizers=own)
    drawn = sample(lambda: score.corpus.documents("test"), 10, 10_000, 0)
    assert base.domain.data == text_hash(drawn)
    tokenizer = load_tokenizer(tiny_base).backend_tokenizer
    assert base.domain.fragmented == fragmented(tokenizer, drawn)
    assert len(base.domain.fragmented) == 2
    assert base.domain.data != base.general.data
    assert len(base.domain.data) == len(base.general.data) == 64
    assert base.domain.new_token_share is None

    adapted = score("adapted", new_ids=[300, 301, 302])
    assert adapted.domain.data == base.domain.data
    assert adapted.domain.fragmented == ()  # nobody said what the base's tokenizer is
    assert adapted.domain.share_on_fragmented is None
    share = adapted.domain.new_token_share
    assert 0 < share.low <= share.value <= share.high < 1
    assert share.value == pytest.approx(3 / 400, rel=0.5)  # untrained: about as any other three

    named = score("mine", tokenizers=own, new_ids=[300, 301, 302])
    assert named.domain.fragmented == base.domain.fragmented
    assert named.domain.share_on_fragmented.value == pytest.approx(3 / 400, rel=0.5)
    assert named.domain.share_on_fragmented != named.domain.new_token_share
    for one in (base, adapted, named):
        assert ModelScores.from_json(json.loads(json.dumps(one.to_json()))) == one
