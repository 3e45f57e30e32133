"""A phase that trains the new rows alone, before phases that train all."""

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapt.errors import RecipeErrors, TrainingError
from adapt.pipeline import Pipeline
from adapt.recipe import load_recipe
from adapt.training import run as running
from adapt.training.engines import Engine
from adapt.training.loop import at_rest, check_rows_apart
from adapt.training.precision import ROWS
from adapt.training.saving import STATE
from adapt.workspace import Workspace
from tests.training.test_resume import in_a_child, weights


@pytest.fixture
def warmed(runs):
    """Recipes whose first phase trains rows, as `runs` makes them."""

    def make(name, untie=False, second="all", **training):
        path = runs(name, untie, **training)
        text = path.read_text().replace("name: first", "name: first\n    trains: rows")
        path.write_text(text.replace("name: second", f"name: second\n    trains: {second}"))
        assert [p.trains for p in load_recipe(path).training.phases] == ["rows", second]
        return path

    return make


@pytest.fixture
def states(monkeypatch):
    """Everything that trains, before the first phase and after each."""
    found = []
    plain = running.run_phase

    def watched(phase, model, data, validation, arguments, done, *rest, **named):
        if not found:
            found.append({n: p.detach().clone() for n, p in model.named_parameters()})
        result = plain(phase, model, data, validation, arguments, done, *rest, **named)
        found.append(load_file(str(done / STATE)))
        return result

    monkeypatch.setattr(running, "run_phase", watched)
    return found


METHODS = {"lora": {"lora": {"r": 2, "lora_dropout": 0.2}}, "ia3": {}, "prompt": {}}


@pytest.mark.parametrize(
    ("method", "untie"), [("lora", False), ("lora", True), ("ia3", False), ("prompt", False)]
)
def test_rows_move_alone_and_then_all_goes_on_from_them(method, untie, warmed, states):
    trained = Pipeline(load_recipe(warmed("warm", untie, method=method, **METHODS[method])))
    result = trained.tuned.adapter()
    start, warm, after = states
    assert set(warm) == set(after)
    for name, tensor in warm.items():
        moved = not torch.equal(tensor, start[name])
        assert moved == (ROWS in name), name
    assert any(ROWS not in name for name in warm)
    still = [name for name in warm if torch.equal(warm[name], after[name])]
    assert not still
    assert result.trainable == sum(tensor.numel() for tensor in after.values())


@pytest.mark.parametrize("moment", [("first", 3), ("second", 1)])
def test_killed_in_either_phase_it_ends_with_the_same_weights(moment, warmed, losses):
    options = METHODS["lora"]
    whole = warmed("whole", **options)
    expected = losses(whole)
    path = warmed("killed", **options)
    assert in_a_child(path, "on_step_end", *moment, signal.SIGKILL) == -signal.SIGKILL
    assert losses(path) == expected
    assert weights(path) == weights(whole)


def test_a_control_has_no_rows_and_trains_what_it_has_on_the_same_text(warmed):
    tuned = Pipeline(load_recipe(warmed("both", **METHODS["lora"]))).tuned
    adapter, control = tuned.adapter(), tuned.control()
    assert [p.bytes_ for p in control.phases] == [p.bytes_ for p in adapter.phases]
    folder = Workspace(Path(tuned.workspace.root)).control
    trained = load_file(str(folder / "adapter_model.safetensors"))
    assert all(tensor.abs().sum() > 0 for name, tensor in trained.items() if "lora_B" in name)
    plain = torch.nn.Linear(2, 2)
    assert at_rest(plain) == []
    assert all(p.requires_grad for p in plain.parameters())


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"training": {"method": "full"}}, "method full does not hold apart"),
        ({"training": {"method": "edges"}}, "method edges does not hold apart"),
        ({"training": {"fsdp": True}}, "does not go with FSDP and ZeRO-3"),
        ({"training": {"deepspeed": "zero3"}}, "does not go with FSDP and ZeRO-3"),
        ({"tokenizer": {"mode": "keep"}}, "mode keep there are no new ones"),
        ({"tokenizer": {"mode": "prune"}}, "mode prune there are no new ones"),
    ],
)
def test_where_there_are_no_rows_apart_it_is_refused(keys, why, tiny_recipe):
    phase = {"name": "warm", "objective": "clm", "max_steps": 2, "trains": "rows"}
    keys = {**keys, "training": {**keys.get("training", {}), "phases": [phase]}}
    with pytest.raises(RecipeErrors, match=f"warm trains rows.*{why}"):
        load_recipe(tiny_recipe(**keys))


def test_rows_within_a_matrix_are_refused_before_any_phase(warmed):
    section = load_recipe(warmed("within")).training
    model = torch.nn.Linear(2, 2)
    with pytest.raises(TrainingError, match="first: trains: the new rows train within a whole"):
        check_rows_apart(model, section, [7], Engine())
    model.register_parameter(ROWS, torch.nn.Parameter(torch.zeros(2)))
    check_rows_apart(model, section, [7], Engine())
    with pytest.raises(TrainingError, match="or one that is cut"):
        check_rows_apart(model, section, [7], Engine(fsdp=True))
    check_rows_apart(model, section, [], Engine(fsdp=True))
