"""Prepared runs: everything before training is done once, and copied for each."""

import shutil

import pytest
import torch
import yaml

from adapt.pipeline import Pipeline
from adapt.recipe import load_recipe

_PHASE = {
    "objective": "clm",
    "max_steps": 4,
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 2,
    "max_length": 64,
    "save_steps": 2,
    "logging_steps": 1,
}


@pytest.fixture(autouse=True)
def seeded():
    """First values of adapters are drawn: the same ones, whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def prepared():
    """Recipes whose stages before training are done, by whether the output layer is untied."""
    return {}


@pytest.fixture
def runs(prepared, tiny_recipe, tmp_path):
    """Writes recipes of two phases whose run folders are ready to train; returns their paths.

    Call it with a name, whether the output layer is untied, changes to both phases, and keys of
    the section `training`.
    """

    def make(name, untie=False, phase=None, **training):
        if untie not in prepared:
            path = tiny_recipe(
                output_dir=str(tmp_path / f"prepared-{untie}"),
                evaluation={"control": False, "tasks": []},
                embeddings={"untie": untie, "init": "mean"},
                training={"phases": [{"name": "first", **_PHASE}]},
            )
            Pipeline(load_recipe(path)).prepared.all()
            prepared[untie] = yaml.safe_load(path.read_text())
        phases = [{"name": n, **_PHASE, **(phase or {})} for n in ("first", "second")]
        record = {
            **prepared[untie],
            "output_dir": str(tmp_path / name),
            "training": {**prepared[untie]["training"], "phases": phases, **training},
        }
        shutil.copytree(prepared[untie]["output_dir"], record["output_dir"])
        target = tmp_path / f"{name}.yaml"
        target.write_text(yaml.safe_dump(record))
        return target

    return make


@pytest.fixture
def losses():
    """Trains a recipe, or goes on with it; returns the losses of each phase."""

    def train(path):
        trained = Pipeline(load_recipe(path)).tuned.adapter()
        return [[loss for _, loss in phase.losses] for phase in trained.phases]

    return train
