"""wandb, trackio and codecarbon themselves, where they are installed, on a run without a network.

What `test_trackers` asks of stand-ins for them is asked here of what they wrote to disk.

    pip install 'adapt-lm[wandb,trackio,energy]'
"""

import json
import logging
import sqlite3
import struct
import time
from importlib.util import find_spec

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from adapt.pipeline import Pipeline
from adapt.recipe import load_recipe
from adapt.reporting.trackers import scalars
from adapt.training.tracking import Trackers, Tracking
from adapt.workspace import Workspace
from tests.conftest import write_recipe

NAMES = [name for name in ("wandb", "trackio") if find_spec(name)]
PHASES = ["adapted-domain", "adapted-tasks", "control-domain", "control-tasks"]


def installed(name):
    """Marks what needs a package; a fixture would run before it could be skipped."""
    return pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed")


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """Nobody is asked, and nothing is written to the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        for name in ("WANDB_PROJECT", "WANDB_DIR", "WANDB_RUN_GROUP", "TRACKIO_PROJECT"):
            patch.delenv(name, raising=False)
        yield patch


@pytest.fixture(scope="module")
def run(tiny_base, tmp_path_factory, offline):
    """A run with all trackers that are installed; its folder, summary and warnings."""
    folder = tmp_path_factory.mktemp("tracked")
    phases = [
        {"name": name, "objective": objective, "max_steps": 2, "logging_steps": 1}
        | {"per_device_train_batch_size": 2, "max_length": 64}
        for name, objective in (("domain", "clm"), ("tasks", "sft"))
    ]
    recipe = write_recipe(folder, tiny_base, training={"report_to": NAMES, "phases": phases})
    warnings = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())
    logger = logging.getLogger("adapt")
    logger.addHandler(handler)
    try:
        summary = Pipeline(load_recipe(recipe)).run()
    finally:
        logger.removeHandler(handler)
    return Workspace(folder / "run"), summary, warnings


def losses(summary):
    """Of each phase, by the name that trackers have for it."""
    return {
        f"tiny-{stage}-{phase.name}": [loss for _, loss in phase.losses]
        for stage in ("adapted", "control")
        for phase in summary.trained[stage].phases
    }


# -- wandb -----------------------------------------------------------------------------------


def records(path):
    """What wandb wrote in one offline run; a process of its own may write on for a moment."""
    for _ in range(100):
        found = list(read(path))
        if any(kind == "exit" for kind, _ in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{path}: has no end")


def read(path):
    """LevelDB's log of protocol buffers.

    Seven bytes of wandb's own, then blocks of 32 KiB; a record is cut at their ends, and each piece
    has a checksum, a size and a kind (1 whole, 2 first, 3 middle, 4 last) before it.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, held = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        held += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(held)
            held = b""
            yield record.WhichOneof("record_type"), record


def wandb_runs(root):
    """By name: what each run was told."""
    found = {}
    for path in sorted(root.glob("wandb/offline-run-*/*.wandb")):
        told = {"config": {}, "summary": {}, "train/loss": [], "artifacts": {}, "tables": []}
        for kind, record in records(path):
            if kind == "run":
                told |= {"id": record.run.run_id, "group": record.run.run_group}
                name = record.run.display_name
                told["config"] |= {u.key: u.value_json for u in record.run.config.update}
            elif kind == "summary":
                told["summary"] |= {u.key: u.value_json for u in record.summary.update if u.key}
            elif kind == "history":
                row = {"/".join(i.nested_key): i.value_json for i in record.history.item}
                told["train/loss"] += [json.loads(row[key]) for key in row if key == "train/loss"]
                told["tables"] += sorted(
                    {key.split("/")[0] for key in row} & {"scores", "fertility"}
                )
            elif kind == "artifact":
                files = [entry.path for entry in record.artifact.manifest.contents]
                told["artifacts"][record.artifact.type] = sorted(files)
            elif kind == "exit":
                told["exit_code"] = record.exit.exit_code
        found[name] = told
    return found


@installed("wandb")
def test_wandb_has_each_phase_and_the_results(run):
    workspace, summary, warnings = run
    runs = wandb_runs(workspace.root)
    assert set(runs) == {f"tiny-{phase}" for phase in PHASES} | {"tiny-summary"}
    assert len({one["id"] for one in runs.values()}) == len(runs)
    recipe = load_recipe(workspace.recipe).model_dump(mode="json")
    for one in runs.values():
        assert (one["group"], one["exit_code"]) == ("tiny", 0)
        assert json.loads(one["config"]["recipe"]) == recipe
    for name, expected in losses(summary).items():
        assert runs[name]["train/loss"] == pytest.approx(expected)
    final = runs["tiny-summary"]
    assert json.loads(final["summary"]["verdict"]) == summary.verdict.sentence
    for name, value in scalars(summary).items():
        assert json.loads(final["summary"][name]) == pytest.approx(value)
    assert final["tables"] == ["scores", "fertility"]
    assert final["artifacts"]["report"] == ["evaluation.json", "fertility.json", "report.html"]
    assert not warnings


@installed("wandb")
def test_wandb_goes_on_under_the_same_id(offline, tmp_path):
    """Offline it starts another folder, which `wandb sync` puts into the same run."""
    for steps, interrupted in ((range(1, 4), True), (range(4, 6), False)):
        trackers = Trackers(["wandb"], Tracking(tmp_path, "tiny", "adapted"), "domain")
        arguments = TrainingArguments(output_dir=str(tmp_path / "phase"), report_to=[])
        state, control = TrainerState(global_step=steps[0] - 1), TrainerControl()
        try:
            with trackers:
                trackers.on_train_begin(arguments, state, control)
                for step in steps:
                    state.global_step = step
                    trackers.on_log(arguments, state, control, logs={"loss": float(step)})
                if interrupted:
                    raise KeyboardInterrupt
                trackers.on_train_end(arguments, state, control)
        except KeyboardInterrupt:
            assert interrupted
    told = [dict(records(path)) for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))]
    assert len({one["run"].run.run_id for one in told}) == 1
    assert sorted(one["exit"].exit.exit_code for one in told) == [0, 1]


# -- trackio and codecarbon ------------------------------------------------------------------


@installed("trackio")
def test_trackio_has_each_phase_and_the_results(run):
    import trackio

    workspace, summary, warnings = run
    file = trackio.utils.TRACKIO_DIR / "adapt.db"
    with sqlite3.connect(file) as database:
        lines = database.execute("select run_name, metrics from metrics order by id").fetchall()
        configs = database.execute("select run_name, config from configs").fetchall()
    configs = {name: json.loads(config) for name, config in configs}
    names = {f"tiny-{phase}" for phase in PHASES}
    assert set(configs) == names | {"tiny-summary"}
    recipe = load_recipe(workspace.recipe).model_dump(mode="json")
    assert all(config["recipe"] == recipe for config in configs.values())
    told = [(name, json.loads(metrics)) for name, metrics in lines]
    for name, expected in losses(summary).items():
        found = [line["train/loss"] for of, line in told if of == name and "train/loss" in line]
        assert found == pytest.approx(expected)
    [final] = [line for name, line in told if name == "tiny-summary"]
    assert final == pytest.approx(scalars(summary))
    assert configs["tiny-summary"]["verdict"] == summary.verdict.sentence
    assert not warnings


@installed("codecarbon")
def test_codecarbon_measures_each_phase(run):
    workspace, summary, warnings = run
    for stage in ("adapted", "control"):
        assert all(phase.energy_kwh > 0 for phase in summary.trained[stage].phases)
    assert "kWh, estimated by codecarbon" in (workspace.adapter / "README.md").read_text()
    assert not list(workspace.root.rglob("emissions*.csv"))
    assert not warnings
