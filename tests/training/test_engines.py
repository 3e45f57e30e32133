"""What shares the model out: configurations, refusals before any work, and what is shipped."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from adapt.errors import AdaptError, DependencyError, RecipeError, TrainingError
from adapt.recipe.training import TrainingSection
from adapt.training import engines
from adapt.training.engines import ZERO, check_engine, check_launcher, engine_of, gathered, zero
from adapt.training.rows import engine
from adapt.training.saving import load_state, write_state

ROOT = Path(__file__).parents[2]
PHASE = {"name": "one", "objective": "clm", "max_steps": 1}


def section(**options):
    return TrainingSection(**{"phases": [PHASE], **options})


@pytest.mark.parametrize("name", ZERO)
def test_the_files_of_recipes_are_what_the_names_mean(name):
    assert json.loads((ROOT / "recipes" / "deepspeed" / f"{name}.json").read_text()) == zero(name)
    stage, offloaded = int(name[4]), name.endswith("offload")
    config = zero(name)["zero_optimization"]
    assert config["stage"] == stage
    assert ("offload_optimizer" in config) == offloaded
    assert ("offload_param" in config) == (offloaded and stage == 3)
    assert config.get("stage3_gather_16bit_weights_on_model_save", False) == (stage == 3)


def test_every_shipped_file_is_of_a_name():
    shipped = {path.stem for path in (ROOT / "recipes" / "deepspeed").iterdir()}
    assert shipped == set(ZERO)


def test_launcher_files_name_only_what_exists():
    for path in (ROOT / "recipes" / "accelerate").glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        file = config.get("deepspeed_config", {}).get("deepspeed_config_file")
        assert file is None or (ROOT / file).is_file()
        first = path.read_text().splitlines()[:4]
        assert any(f"recipes/accelerate/{path.name}" in line for line in first)


def test_names_files_and_launchers_lead_to_one_engine(tmp_path, monkeypatch):
    assert engine(section()) == (0, False)
    assert engine(section(deepspeed="zero2-offload")) == (2, False)
    assert engine(section(fsdp=True)) == (0, True)
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    assert engine(section(deepspeed=str(own))) == (3, False)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert engine() == engine(section()) == (0, True)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(own))
    assert engine() == (3, False)


def test_fsdp_cuts_after_each_layer_or_keeps():
    def reshards(value):
        return engine_of(section(fsdp=value)).arguments["fsdp_config"]["reshard_after_forward"]

    assert [reshards(v) for v in (True, "full_shard", "shard_grad_op")] == [True, True, False]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zero4", "no such configuration, got 'zero4'; did you mean zero"),
        ("nowhere.json", "cannot be read"),
    ],
)
def test_a_configuration_that_is_not_there_is_named(name, message):
    with pytest.raises(RecipeError, match=f"training.deepspeed: {message}"):
        check_engine(section(deepspeed=name))


def test_a_configuration_that_holds_no_mapping_is_refused(tmp_path):
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(RecipeError, match="holds no mapping"):
        engine_of(section(deepspeed=str(tmp_path / "list.json")))


def test_without_deepspeed_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"training.deepspeed.*adapt-lm\[deepspeed\]"):
        check_engine(section(deepspeed="zero2"))


def test_without_a_launcher_it_is_checked_but_not_started(monkeypatch):
    for options in ({"deepspeed": "zero2"}, {"fsdp": True}):
        check_engine(section(**options))
    check_launcher(section())
    with pytest.raises(TrainingError, match="training.deepspeed: needs a launcher; start with tor"):
        check_launcher(section(deepspeed="zero2"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_launcher(section(deepspeed="zero2"))
    with pytest.raises(TrainingError, match="training.fsdp: needs a launcher and two processes"):
        check_launcher(section(fsdp=True))


def test_both_engines_at_once_are_refused():
    with pytest.raises(ValueError, match="not both"):
        section(deepspeed="zero2", fsdp=True)


BEST = {**PHASE, "eval_steps": 5, "load_best_model_at_end": True}


@pytest.mark.parametrize("cutting", [{"deepspeed": "zero3"}, {"fsdp": True}], ids=["zero3", "fsdp"])
@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"method": "ia3"}, "training.method"),
        ({"method": "prompt"}, "training.method"),
        ({"method": "edges"}, "training.method"),
        ({"lora": {"init_lora_weights": "pissa"}}, "init_lora_weights"),
        ({"phases": [BEST]}, "load_best_model_at_end"),
    ],
    ids=["ia3", "prompt", "edges", "pissa", "best"],
)
def test_what_needs_whole_parameters_is_refused(cutting, options, where):
    check_engine(section(**options))
    check_engine(section(**options, deepspeed="zero2"))
    with pytest.raises(AdaptError, match=where):
        check_engine(section(**options, **cutting))


def test_the_state_of_a_phase_goes_into_a_model_with_another_head(tmp_path):
    first = torch.nn.ModuleDict({"body": torch.nn.Linear(3, 3), "head": torch.nn.Linear(3, 5)})
    other = torch.nn.ModuleDict({"body": torch.nn.Linear(3, 3), "head": torch.nn.Linear(3, 2)})
    first["body"].bias.requires_grad_(False)
    trained = gathered(first)
    assert set(trained) == {"body.weight", "head.weight", "head.bias"}
    write_state(trained, tmp_path)
    head, bias = other["head"].weight.clone(), other["body"].bias.clone()
    load_state(other, tmp_path, only_known=True)
    assert torch.equal(other["body"].weight, first["body"].weight)
    assert torch.equal(other["body"].bias, bias)
    assert torch.equal(other["head"].weight, head)
