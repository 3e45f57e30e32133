"""A base with a table of positions is scored in windows that it has positions for."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from adapt.corpus.build import build_corpus
from adapt.errors import ModelError
from adapt.evaluation.scores import score_model
from adapt.recipe import load_recipe
from adapt.vocab import load_tokenizer

POSITIONS = 40


@pytest.fixture
def score(tiny_recipe, tiny_base, tmp_path):
    tokenizer = load_tokenizer(tiny_base)
    torch.manual_seed(0)
    sizes = {"n_positions": POSITIONS, "n_embd": 32, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).eval()

    def run():
        recipe = load_recipe(tiny_recipe(evaluation={"max_length": 64}))
        corpus = build_corpus(recipe.corpus, recipe.evaluation.tasks, 0, tmp_path / "corpus")
        folder = tmp_path / "predictions"
        options = {"name": "base", "seed": 0, "predictions": folder, "tokenizers": [tokenizer]}
        return score_model(recipe.evaluation, corpus, model, tokenizer, **options)

    run.model = model
    return run


def test_text_and_tasks_are_scored_though_the_recipe_asks_for_longer_windows(score):
    scores = score()
    assert scores.domain.interval.value > 0
    assert {len(task.answers) for task in scores.tasks.values()} != {0}


def test_a_model_whose_weights_are_no_numbers_is_refused(score):
    score.model.transformer.h[0].mlp.c_fc.weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="no probability that is a number"):
        score()
