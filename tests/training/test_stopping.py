"""Validation losses decide which weights a phase keeps and when it ends, however it is cut up."""

import math
import os
import signal
from pathlib import Path

import pytest
from transformers import Trainer

from adapt.pipeline import Pipeline
from adapt.recipe import load_recipe
from adapt.training.callbacks import COMPLETE
from adapt.training.failures import Stopped
from adapt.training.stopping import looks_since_best
from adapt.workspace import Workspace

FALLS_THEN_RISES = {2: 3.0, 4: 1.0, 6: 2.0, 8: 5.0, 10: 7.0, 12: 9.0}
LOOKS = {"max_steps": 12, "eval_steps": 2, "learning_rate": 1e-3}


class Killed(BaseException):
    """As if the process had been."""


@pytest.fixture
def looks(monkeypatch):
    """Gives validation losses by step; `at` is called at each, with the step."""

    def give(losses, at=lambda step: None):
        own = Trainer.evaluation_loop

        def loop(self, *args, **kwargs):
            found = own(self, *args, **kwargs)
            found.metrics["eval_loss"] = losses[self.state.global_step]
            at(self.state.global_step)
            return found

        monkeypatch.setattr(Trainer, "evaluation_loop", loop)

    return give


@pytest.fixture
def gone_back_to(monkeypatch):
    """The names of checkpoints that phases went back to."""
    found, own = [], Trainer._load_best_model

    def load(self):
        found.append(Path(self.state.best_model_checkpoint).name)
        return own(self)

    monkeypatch.setattr(Trainer, "_load_best_model", load)
    return found


def trained(path):
    return Pipeline(load_recipe(path)).tuned.adapter()


def killed_in_step(path, number, monkeypatch):
    """Trains up to the middle of the so-manieth step of a process."""
    own, count = Trainer.training_step, []

    def step(self, *args, **kwargs):
        count.append(1)
        if len(count) == number:
            raise Killed
        return own(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", step)
        with pytest.raises(Killed):
            trained(path)


@pytest.mark.parametrize("save_steps", [6, 5, 50])
def test_the_best_weights_are_kept_whenever_checkpoints_are_made(
    save_steps, runs, looks, gone_back_to
):
    looks(FALLS_THEN_RISES)
    best = {**LOOKS, "load_best_model_at_end": True, "save_steps": save_steps}
    trained(runs("best", phase=best))
    assert gone_back_to == ["checkpoint-4"] * 2


def test_a_kill_changes_neither_the_best_nor_the_losses(
    runs, looks, gone_back_to, monkeypatch, losses
):
    """Killed after the best: it is still there, and no logged loss is split."""
    looks(FALLS_THEN_RISES)
    best = {**LOOKS, "load_best_model_at_end": True, "save_steps": 3, "logging_steps": 5}
    expected = losses(runs("whole", phase=best))
    path = runs("killed", phase=best)
    killed_in_step(path, 9, monkeypatch)
    run = Workspace(Path(load_recipe(path).output_dir))
    left = {mark.parent.name for mark in run.checkpoints.glob(f"*/first/*/{COMPLETE}")}
    assert left == {"checkpoint-4", "checkpoint-6"}
    assert losses(path) == expected
    assert gone_back_to == ["checkpoint-4"] * 4


def test_losses_that_are_no_numbers_choose_nothing_and_that_is_said(
    runs, looks, gone_back_to, caplog
):
    looks({2: math.nan, 4: math.nan})
    caplog.set_level("WARNING", "adapt")
    phase = {"eval_steps": 2, "load_best_model_at_end": True, "save_steps": 50}
    trained(runs("none", phase=phase))
    assert "first: no validation loss is a number, so the last weights are kept" in caplog.text
    assert not gone_back_to


@pytest.mark.parametrize("save_steps", [1, 3])
@pytest.mark.parametrize("best", [False, True])
def test_patience_is_not_forgotten_by_a_kill(runs, looks, monkeypatch, save_steps, best):
    looks({step: float(step) for step in range(2, 14, 2)})
    phase = {**LOOKS, "save_steps": save_steps, "early_stopping_patience": 2}
    phase["load_best_model_at_end"] = best
    assert [one.steps for one in trained(runs("whole", phase=phase)).phases] == [6, 6]
    path = runs("killed", phase=phase)
    killed_in_step(path, 6, monkeypatch)
    assert [one.steps for one in trained(path).phases] == [6, 6]


def test_a_kill_between_the_last_look_and_the_end_of_the_phase(runs, looks, monkeypatch):
    """The step that ends a phase leaves no checkpoint, from which one more step would be taken."""
    looks({step: float(step) for step in range(2, 14, 2)})
    phase = {**LOOKS, "save_steps": 2, "early_stopping_patience": 2}
    path = runs("killed", phase=phase)

    def killed(model):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("adapt.training.loop.gathered", killed)
        with pytest.raises(Killed):
            trained(path)
    assert [one.steps for one in trained(path).phases] == [6, 6]


def test_sigterm_in_the_look_that_ends_a_phase(runs, looks):
    """It did not stop the phase, so nothing says that it did, nor of a step that is not saved."""
    ends = {2: 1.0, 4: 2.0, 6: 3.0}
    asked = []

    def once(step):
        if step == 6 and not asked:
            asked.append(step)
            os.kill(os.getpid(), signal.SIGTERM)

    looks(ends, once)
    path = runs("asked", phase={**LOOKS, "save_steps": 5, "early_stopping_patience": 2})
    with pytest.raises(Stopped, match="first: stopped by SIGTERM when the phase was done"):
        trained(path)
    assert [one.steps for one in trained(path).phases] == [6, 6]


def test_looks_since_the_best():
    assert looks_since_best([]) == 0
    assert looks_since_best([3.0, 1.0, 2.0, 1.0]) == 2
    assert looks_since_best([math.nan]) == 1
    assert looks_since_best([2.0, math.nan, 1.0]) == 0
