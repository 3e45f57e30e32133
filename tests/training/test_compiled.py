"""`training.torch_compile`: the same losses and weights, on a processor with a C++ compiler.

Slow for the compiler: half a minute for a model of two layers.
"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from adapt.recipe import load_recipe
from adapt.workspace import Workspace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no compiler"),
]
LOSS = 1e-5  # relative; compiled code sums in other orders (2e-7 was seen)
WEIGHT = 1e-3  # absolute, as in test_distributed


def trained(path):
    """Everything that was saved, by name."""
    files = Workspace(Path(load_recipe(path).output_dir)).adapter.glob("*.safetensors")
    return {key: value for file in files for key, value in load_file(file).items()}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_compiled_training_is_the_same_training(method, runs, losses):
    plain = runs("plain", method=method)
    expected, graphs = losses(plain), counters["stats"]["unique_graphs"]
    compiled = runs("compiled", method=method, torch_compile=True)
    found = losses(compiled)
    assert counters["stats"]["unique_graphs"] > graphs
    for one, two in zip(expected, found, strict=True):
        assert two == pytest.approx(one, rel=LOSS)
    torch.testing.assert_close(trained(compiled), trained(plain), rtol=0, atol=WEIGHT)
