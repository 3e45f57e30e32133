"""SIGTERM under a launcher: all processes end at the same place, with one whole checkpoint.

Processes are started as `torchrun` starts them, by its agent, but forked: importing would take
longer than all the rest.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from adapt.errors import AdaptError
from adapt.pipeline import Pipeline
from adapt.processes import Processes
from adapt.recipe import load_recipe
from adapt.training.callbacks import COMPLETE, Checkpoints
from adapt.workspace import Workspace

pytestmark = pytest.mark.distributed
LOSS = 1e-5  # relative, as in test_distributed
PATIENCE = 20  # seconds; the agent looks up ten times in one


def launched(folder, path, asked=None, moment=None):
    """Trains in two processes, of which some are asked to stop; returns what each met.

    Args:
        folder: Where the processes write it down.
        path: The recipe, whose run folder is prepared.
        asked: Who gets SIGTERM: `process`, the last one alone; `launcher`, the agent, which passes
            it on; None.
        moment: When: a callback's event, a phase and a step.
    """
    folder.mkdir()

    def agent():
        meeting = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": folder.name}
        config = LaunchConfig(1, 1, 2, start_method="fork", max_restarts=0, **meeting)
        elastic_launch(config, work)(folder, path, asked, moment)

    child = multiprocessing.get_context("fork").Process(target=agent)
    child.start()
    child.join(120)
    assert child.exitcode is not None, "hangs"
    assert (child.exitcode == 0) == (asked is None)
    return [json.loads((folder / str(rank)).read_text()) for rank in range(2)]


def work(folder, path, asked, moment):
    """One process."""
    rank = int(os.environ["RANK"])
    AcceleratorState._reset_state(reset_partial_state=True)  # that of the tests, which were alone
    processes = Processes()
    if asked and rank == 1:
        stop_at(asked, *moment)
    try:
        trained = Pipeline(load_recipe(path)).tuned.adapter()
    except AdaptError as error:
        (folder / str(rank)).write_text(json.dumps(str(error)))
        sys.exit(error.exit_code)  # as the command line does it
    losses = [[loss for _, loss in phase.losses] for phase in trained.phases]
    (folder / str(rank)).write_text(json.dumps(losses))
    processes.leave()


def stop_at(asked, event, phase, step):
    """Sends the signal before the processes tell each other, and waits until it has come."""
    plain = getattr(Checkpoints, event)

    def signalled(self, args, state, control, **kwargs):
        if (Path(args.output_dir).name, state.global_step) == (phase, step):
            os.kill(os.getppid() if asked == "launcher" else os.getpid(), signal.SIGTERM)
            end = time.monotonic() + PATIENCE
            while not self.stop.asked and time.monotonic() < end:
                time.sleep(0.01)
        return plain(self, args, state, control, **kwargs)

    setattr(Checkpoints, event, signalled)


@pytest.mark.parametrize(
    ("asked", "engine"), [("process", {}), ("launcher", {}), ("launcher", {"fsdp": True})]
)
def test_all_stop_at_one_step_and_go_on_as_if_nothing_was(asked, engine, runs, losses, tmp_path):
    options = {"method": "full", "phase": {"save_steps": 50}}
    path = runs("stopped", **engine, **options)
    said = launched(tmp_path / "first", path, asked, ("on_step_end", "second", 3))
    for line in said:
        assert "stopped by SIGTERM at step 3 of 4, which is saved; run the same" in line
    run = Workspace(Path(load_recipe(path).output_dir))
    assert len(list(run.checkpoints.glob(f"*/second/checkpoint-3/{COMPLETE}"))) == 1
    assert not run.manifest("training").exists()

    expected = losses(runs("whole", **options))
    for found in launched(tmp_path / "second", path):
        for one, two in zip(expected, found, strict=True):
            assert one == pytest.approx(two, rel=LOSS)


def test_one_asked_after_the_last_step_does_not_leave_the_others_waiting(runs, tmp_path):
    path = runs("stopped", method="full")
    said = launched(tmp_path / "first", path, "process", ("on_train_end", "first", 4))
    for line in said:
        assert "stopped by SIGTERM when the phase was done and saved; run the same" in line
