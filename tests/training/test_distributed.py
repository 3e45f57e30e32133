"""Two processes on CPU (gloo): every engine trains what one process trains, and its result loads.

One launch trains all combinations: importing costs more than training. Each is broken off in its
second phase and run again, so what is compared has been resumed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from adapt.recipe import load_recipe
from adapt.training import run
from adapt.training.rows import RowPlan, plan

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parents[2]
ENGINES = {
    "ddp": {},
    "zero2": {"deepspeed": "zero2"},
    "zero3": {"deepspeed": "zero3"},
    "fsdp": {"fsdp": True},
}
# Where parameters are cut, new rows beside LoRA need an output layer of their own.
UNTIED = ("lora-zero3", "lora-fsdp")
NAMES = [f"{method}-{engine}" for method in ("lora", "full") for engine in ENGINES]
LOSS = 1e-5  # relative; other orders of the same float32 sums
# Absolute; a step moves a weight by up to 1e-2, and Adam makes rounding large where gradients are
# near zero: one element of 18,000 differed by 1.8e-4.
WEIGHT = 1e-3


def torchrun(*arguments, port):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    return subprocess.run(
        [*command, "--master_port", str(port), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )


def whole_matrices(*args, **kwargs):
    """What ZeRO-3 falls back to, in one process."""
    return RowPlan(plan(*args, **kwargs).ids, "modules_to_save")


@pytest.fixture
def trained(runs, losses, tmp_path, monkeypatch):
    """Losses and folder of every combination, and of one process on the same data."""
    references = {"full": ("full", False), "lora": ("lora", False)}
    references |= {"lora-zero3": ("lora", True), "lora-fsdp": ("lora", True)}
    expected = {}
    for name, (method, untied) in references.items():
        with monkeypatch.context() as patch:
            if name == "lora-zero3":
                patch.setattr(run, "plan", whole_matrices)
            path = runs(f"one-{name}", untied, method=method)
            expected[name] = losses(path), Path(load_recipe(path).output_dir) / "adapter"
    recipes = []
    for name in NAMES:
        method, engine = name.split("-")
        recipes.append(runs(name, name in UNTIED, method=method, **ENGINES[engine]))
    recipes.append(runs("refused-zero3", method="lora", deepspeed="zero3"))
    recipes.append(runs("refused-fsdp", method="lora", fsdp=True))
    out = tmp_path / "out.json"
    done = torchrun("tests/training/many.py", out, *recipes, "--break-at", 3, port=29431)
    assert done.returncode == 0, done.stderr[-3000:]
    return expected, json.loads(out.read_text()), {path.stem: path for path in recipes}


def test_every_engine_trains_what_one_process_trains(trained):
    expected, found, recipes = trained
    for name in NAMES:
        reference = name if name in expected else name.split("-")[0]
        losses, folder = expected[reference]
        for one, two in zip(losses, found[name], strict=True):
            assert one == pytest.approx(two, rel=LOSS), name
        adapter = Path(load_recipe(recipes[name]).output_dir) / "adapter"
        assert_same_weights(adapter, folder)
        assert_plain_libraries_load(adapter, name)
    for name in ("refused-zero3", "refused-fsdp"):
        assert found[name].startswith("training.method: ")
        assert found[name].endswith("embeddings.untie=true")
        assert not (Path(load_recipe(recipes[name]).output_dir) / "adapter").exists()


def assert_same_weights(adapter, reference):
    files = sorted(path.name for path in adapter.glob("*.safetensors"))
    assert files == sorted(path.name for path in reference.glob("*.safetensors"))
    for name in files:
        two, one = load_file(adapter / name), load_file(reference / name)
        assert set(one) == set(two)
        for key, tensor in one.items():
            assert tensor.numel()
            torch.testing.assert_close(two[key], tensor, rtol=0, atol=WEIGHT)


def assert_plain_libraries_load(adapter, name):
    """From the original base, which PEFT grows by itself where the tokenizer lies beside."""
    auto = AutoModelForCausalLM if name.startswith("full") else AutoPeftModelForCausalLM
    with torch.inference_mode():
        logits = auto.from_pretrained(adapter)(input_ids=torch.tensor([[5, 6, 401, 402]])).logits
    assert logits.isfinite().all()


def test_a_failure_before_training_ends_all_and_says_so_once(tiny_recipe, tmp_path):
    path = tiny_recipe(tokenizer={"min_frequency": 10_000})
    done = torchrun("scripts/train.py", path, port=29432)
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert said.count("no unit occurs 10000 times") == 1
    assert "1 of 2 processes wait until the main process has prepared corpus" in said
    assert not (tmp_path / "run" / "adapter").exists()
