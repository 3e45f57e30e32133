"""How fast new rows train beside adapters, and by themselves."""

import pytest
import torch
from safetensors.torch import load_file

from adapt.pipeline import Pipeline
from adapt.recipe import load_recipe

RATE = 1e-2
ONE_STEP = {"max_steps": 1, "learning_rate": RATE, "warmup_ratio": 0.0}


def drift(path):
    """The farthest that a value of a new row went in the first phase."""
    pipeline = Pipeline(load_recipe(path))
    pipeline.tuned.adapter()
    after = load_file(str(pipeline.workspace.adapter / "adapter_model.safetensors"))
    rows = next(tensor for name, tensor in after.items() if "trainable_tokens" in name)
    before = load_file(str(pipeline.workspace.adapted_base / "model.safetensors"))
    matrix = before["model.embed_tokens.weight"]
    new = pipeline.prepared.vocabulary().delta.added_ids
    return float((rows - matrix[torch.tensor(list(new))]).abs().max())


# Adam's first step moves every value by the learning rate itself; there are two phases of one step.
@pytest.mark.parametrize(
    ("method", "own", "share"),
    [("lora", None, 0.1), ("lora", RATE, 1.0), ("rows", None, 1.0)],
    ids=["beside-adapters", "as-asked", "alone"],
)
def test_rows_move_by_their_own_rate(method, own, share, runs):
    path = runs("run", phase={**ONE_STEP, "new_token_learning_rate": own}, method=method)
    assert drift(path) == pytest.approx(2 * share * RATE, rel=0.35)
