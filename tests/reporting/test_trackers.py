"""Trackers get curves, scores, tables and the recipe, and none of them can end a run.

TensorBoard is the package itself. The others are stood in for by small ones that write what they
were told; `test_trackers_installed` takes the packages where they are there.
"""

import json
import logging
import sys
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerControl, TrainerState, TrainingArguments

from adapt.errors import DependencyError
from adapt.pipeline import Pipeline
from adapt.recipe import load_recipe
from adapt.reporting.html import write_report
from adapt.reporting.summary import table
from adapt.reporting.trackers import log_summary, scalars
from adapt.training.requirements import check_section
from adapt.training.tracking import Energy, Trackers, Tracking
from adapt.workspace import Workspace, write_json
from tests.conftest import write_recipe

PHASES = ["adapted-domain", "adapted-tasks", "control-domain", "control-tasks"]

STUBS = {
    "wandb": """
import json, pathlib, types
run = None
class Config(dict):
    def update(self, other, allow_val_change=False):
        dict.update(self, other)
class Run:
    def __init__(self, options):
        self.name, self.id, self.summary, self.told = options["name"], options["id"], {}, []
        self.options, self.artifacts = options, []
        self.folder = pathlib.Path(options["dir"]) / "wandb" / f"offline-run-1-{self.id}"
        self.folder.mkdir(parents=True, exist_ok=True)
    def log(self, what):
        self.told.append(what)
    def log_artifact(self, artifact):
        self.artifacts += artifact.files
    def _label(self, code):
        pass
def init(**options):
    global run, config
    assert run is None, "the run before was left open"
    run, config = Run(options), Config(options["config"])
    return run
def log(what):
    run.log(what)
def finish(exit_code=0):
    global run
    kept = dict(options=run.options, config=config, told=run.told, summary=run.summary,
                artifacts=run.artifacts, exit_code=exit_code)
    with (run.folder / "run.json").open("w") as file:
        json.dump(kept, file, default=lambda o: getattr(o, "__dict__", str(o)))
    run = None
def define_metric(*names, **options):
    pass
class Table:
    def __init__(self, columns, data):
        assert all(len(row) == len(columns) for row in data)
        self.columns, self.data = columns, data
class Artifact:
    def __init__(self, name, type, description):
        self.files = []
    def add_file(self, path):
        assert pathlib.Path(path).is_file()
        self.files.append(pathlib.Path(path).name)
""",
    "trackio": """
import types
told, configs, broken = [], {}, True
config = {}
nowhere = types.SimpleNamespace(get=lambda: None)
context_vars = types.SimpleNamespace(current_space_id=nowhere, current_project=nowhere)
class Config(dict):
    def update(self, other, allow_val_change=False):
        dict.update(self, other)
def init(project, name, resume, config=None, **options):
    if broken:
        raise ConnectionError("no route to host")
    globals()["config"] = configs[name] = Config(config or {})
def log(what):
    told.append(what)
def finish():
    pass
""",
    "codecarbon": """
import types
class OfflineEmissionsTracker:
    def __init__(self, *, country_iso_code, save_to_file, log_level, allow_multiple_runs):
        assert not save_to_file
    def start(self):
        pass
    def stop(self):
        self.final_emissions_data = types.SimpleNamespace(energy_consumed=0.25)
""",
}


def stub(folder: Path, patch: pytest.MonkeyPatch, *names: str) -> None:
    """Makes packages importable that are not."""
    for name in names:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(STUBS[name])
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            patch.delitem(sys.modules, module)
        patch.setitem(sys.modules, name, None)  # so that it is put back
        patch.delitem(sys.modules, name)
    if "wandb" in names:
        (folder / "wandb" / "sdk" / "lib").mkdir(parents=True)
        (folder / "wandb" / "sdk" / "lib" / "config_util.py").write_text(
            "class ConfigError(Exception): pass"
        )
    patch.syspath_prepend(str(folder))


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def run(tiny_base, tmp_path_factory, patch):
    """A run with all trackers, of which trackio fails; its folder, summary and warnings."""
    stub(tmp_path_factory.mktemp("stubs"), patch, *STUBS)
    patch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_PROJECT", "WANDB_DIR", "WANDB_RUN_GROUP", "TENSORBOARD_LOGGING_DIR"):
        patch.delenv(name, raising=False)
    warnings = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())
    logger = logging.getLogger("adapt")
    logger.addHandler(handler)
    folder = tmp_path_factory.mktemp("tracked")
    trackers = {"report_to": ["tensorboard", "wandb", "trackio"]}
    phases = [
        {"name": name, "objective": objective, "max_steps": 2, "logging_steps": 1}
        | {"per_device_train_batch_size": 2, "max_length": 64}
        for name, objective in (("domain", "clm"), ("tasks", "sft"))
    ]
    recipe = write_recipe(folder, tiny_base, training={**trackers, "phases": phases})
    try:
        summary = Pipeline(load_recipe(recipe)).run()
    finally:
        logger.removeHandler(handler)
    return Workspace(folder / "run"), summary, warnings


def accumulated(folder: Path) -> EventAccumulator:
    """All event files of a folder, as TensorBoard reads them."""
    assert list(folder.glob("events.out.tfevents.*"))
    return EventAccumulator(str(folder)).Reload()


def events(folder: Path) -> dict[str, list[float]]:
    """Scalars by name, in the order of steps."""
    read = accumulated(folder)
    return {tag: [e.value for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def wandb_runs(run: Workspace) -> dict[str, dict]:
    found = [json.loads(path.read_text()) for path in run.root.glob("wandb/*/run.json")]
    return {one["options"]["name"]: one for one in found}


def test_tensorboard_keeps_every_phase_in_the_run_folder(run):
    workspace, summary, _ = run
    assert not workspace.checkpoints.exists() or not any(workspace.checkpoints.iterdir())
    names = {path.name for path in workspace.tensorboard.iterdir()}
    assert names == {*PHASES, "summary"}
    for name in PHASES:
        stage, phase = name.split("-")
        did = next(p for p in summary.trained[stage].phases if p.name == phase)
        found = events(workspace.tensorboard / name)
        assert found["train/loss"] == pytest.approx([loss for _, loss in did.losses], rel=1e-6)
        assert found["train/bytes_per_second"]
        steps = [e.step for e in accumulated(workspace.tensorboard / name).Scalars("train/loss")]
        assert steps == [step for step, _ in did.losses]


def test_tensorboard_has_the_final_scores(run):
    workspace, summary, _ = run
    found = {name: value for name, [value] in events(workspace.tensorboard / "summary").items()}
    assert found == pytest.approx(scalars(summary), rel=1e-6)
    row = next(row for row in table(summary) if row.measure == "bits per byte, domain text")
    for model in ("base", "control", "adapted"):
        assert found[f"{row.measure}/{model}"] == pytest.approx(row.values[model])
    assert {"fertility, domain text: tokens/base", "training, bytes per second/adapted"} <= set(
        found
    )


def test_tensorboard_has_tables_the_verdict_and_the_recipe(run):
    workspace, summary, _ = run
    read = accumulated(workspace.tensorboard / "summary")
    texts = {
        tag.removesuffix("/text_summary"): read.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in read.Tags()["tensors"]
    }
    assert set(texts) == {"scores", "fertility", "verdict", "recipe"}
    assert texts["verdict"] == summary.verdict.sentence
    assert texts["scores"].startswith("| measure | better | base | control | adapted |")
    recipe = load_recipe(workspace.recipe).model_dump(mode="json")
    assert yaml.safe_load(texts["recipe"]) == recipe


def test_wandb_tells_phases_apart_and_groups_them(run):
    workspace, _, _ = run
    runs = wandb_runs(workspace)
    assert set(runs) == {f"tiny-{phase}" for phase in PHASES} | {"tiny-summary"}
    assert {one["options"]["group"] for one in runs.values()} == {"tiny"}
    assert len({one["options"]["id"] for one in runs.values()}) == 5
    assert {one["exit_code"] for one in runs.values()} == {0}
    for phase in PHASES:
        assert any("train/loss" in line for line in runs[f"tiny-{phase}"]["told"])


def test_wandb_has_scores_tables_reports_and_the_recipe(run):
    workspace, summary, _ = run
    runs = wandb_runs(workspace)
    final = runs["tiny-summary"]
    assert final["summary"]["verdict"] == summary.verdict.sentence
    for name, value in scalars(summary).items():
        assert final["summary"][name] == pytest.approx(value)
    tables = {name: one for line in final["told"] for name, one in line.items()}
    assert set(tables) == {"scores", "fertility"}
    assert tables["scores"]["columns"] == ["measure", "better", "base", "control", "adapted"]
    assert final["artifacts"] == ["report.html", "evaluation.json", "fertility.json"]
    recipe = load_recipe(workspace.recipe).model_dump(mode="json")
    for one in runs.values():
        assert one["config"]["recipe"] == recipe


def test_a_failing_tracker_costs_one_warning_a_phase_and_not_the_run(run):
    _, summary, warnings = run
    assert summary is not None
    failed = [line for line in warnings if "trackio" in line]
    assert len(failed) == len(PHASES) + 1
    assert all("ConnectionError: no route to host" in line for line in failed)
    assert "run the same command again" in failed[-1]
    assert not [line for line in warnings if "wandb" in line or "tensorboard" in line]


def test_energy_is_in_the_results_the_card_and_the_report(run):
    workspace, summary, _ = run
    assert summary.trained["adapted"].energy_kwh == 0.5
    manifest = json.loads(workspace.manifest("control").read_text())
    assert [phase["energy_kwh"] for phase in manifest["result"]["phases"]] == [0.25, 0.25]
    card = (workspace.adapter / "README.md").read_text()
    assert "kWh, estimated by codecarbon" in card
    assert "0.25" in card
    assert "0.5 kWh" in workspace.report.read_text()


def test_a_secret_in_the_recipe_goes_nowhere(run, tmp_path, caplog):
    workspace, summary, _ = run
    recipe = load_recipe(workspace.recipe)
    held = {"path": "https://user:password@example.org/text.jsonl"}
    source = recipe.corpus.sources[0].model_copy(update=held)
    corpus = recipe.corpus.model_copy(update={"sources": [source]})
    pipeline = Pipeline(recipe.model_copy(update={"corpus": corpus}))
    before = {path: path.stat().st_mtime_ns for path in workspace.tensorboard.rglob("*")}
    with caplog.at_level(logging.WARNING, "adapt"):
        pipeline.track(summary)
        told = pipeline.tuned.tracking("training")
    assert "holds a password in an address" in caplog.text
    assert "password@" not in caplog.text
    assert not told.config
    assert {p: p.stat().st_mtime_ns for p in workspace.tensorboard.rglob("*")} == before


# -- without a run ---------------------------------------------------------------------------


@pytest.fixture
def finished(summary, tmp_path):
    """The folder of a made-up run, with its reports."""
    root = tmp_path / "made-up"
    write_report(summary, Workspace(root).report)
    for name in ("evaluation", "fertility"):
        write_json(Workspace(root).reports / f"{name}.json", {})
    return root


def test_trackio_gets_figures_and_texts(run, summary, finished, monkeypatch):
    import trackio

    monkeypatch.setattr(trackio, "broken", False)
    assert log_summary(summary, ["trackio"], finished, {"name": "medical"}) == ()
    assert trackio.told[-1] == scalars(summary)
    config = trackio.configs["medical-summary"]
    assert config["recipe"] == {"name": "medical"}
    assert config["verdict"] == summary.verdict.sentence
    assert config["scores"].startswith("| measure | better | base | control | adapted |")


def test_trackio_gets_curves(run, tmp_path, monkeypatch):
    import trackio

    monkeypatch.setattr(trackio, "broken", False)
    monkeypatch.setattr(trackio, "told", [])
    phase_of(tmp_path, tmp_path / "phase", names=["trackio"])
    assert [line["train/loss"] for line in trackio.told] == [1, 2, 3, 4, 5]
    assert trackio.configs["tiny-adapted-domain"]["recipe"] == {"name": "tiny"}


def test_scores_again_replace_those_before(run, summary, finished):
    for _ in range(2):
        assert log_summary(summary, ["tensorboard", "wandb"], finished, {}) == ()
    assert len(list((finished / "tensorboard" / "summary").iterdir())) == 1
    assert len(list((finished / "wandb").glob("*run-*"))) == 1


def test_others_go_on_when_one_fails(run, summary, finished, caplog):
    failed = log_summary(summary, ["trackio", "tensorboard"], finished, {})
    assert failed == ("trackio",)
    assert events(finished / "tensorboard" / "summary")
    assert str(finished / "report.html") in caplog.text


def phase_of(run, checkpoints, *, from_step=0, interrupted=False, names=("tensorboard", "wandb")):
    """What `Trainer` calls, for a phase of five steps more."""
    trackers = Trackers(names, Tracking(run, "tiny", "adapted", {"name": "tiny"}), "domain")
    arguments = TrainingArguments(output_dir=str(checkpoints), report_to=[])
    state, control = TrainerState(global_step=from_step), TrainerControl()
    with trackers:
        trackers.on_train_begin(arguments, state, control)
        for step in range(from_step + 1, from_step + 6):
            state.global_step = step
            trackers.on_log(arguments, state, control, logs={"loss": float(step)})
        if interrupted:
            raise KeyboardInterrupt
        trackers.on_train_end(arguments, state, control)


def test_a_resumed_phase_goes_on_where_it_stopped(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        phase_of(tmp_path, tmp_path / "phase", interrupted=True)
    phase_of(tmp_path, tmp_path / "phase", from_step=5)
    found = events(tmp_path / "tensorboard" / "adapted-domain")
    assert found["train/loss"] == [float(step) for step in range(1, 11)]
    assert len(list((tmp_path / "wandb").glob("*run-*"))) == 1  # the same id


def test_a_phase_from_the_start_replaces_the_curves_of_an_older_one(run, tmp_path):
    for _ in range(2):
        phase_of(tmp_path, tmp_path / "phase")
    assert len(events(tmp_path / "tensorboard" / "adapted-domain")["train/loss"]) == 5
    assert len(list((tmp_path / "wandb").glob("*run-*"))) == 2


def test_a_tracker_that_fails_midway_is_left_out(run, tmp_path, caplog):
    trackers = Trackers(["tensorboard"], Tracking(tmp_path, "tiny", "adapted"), "domain")
    arguments = TrainingArguments(output_dir=str(tmp_path / "phase"), report_to=[])
    state, control = TrainerState(), TrainerControl()
    with trackers:
        trackers.on_train_begin(arguments, state, control)
        trackers.live["tensorboard"].tb_writer.close()
        trackers.live["tensorboard"].on_log = None  # a disk that is gone, say
        for _ in range(3):
            trackers.on_log(arguments, state, control, logs={"loss": 1.0})
    assert caplog.text.count("tensorboard failed in phase domain") == 1


def test_a_meter_that_fails_gives_no_energy(run, monkeypatch, caplog):
    import codecarbon

    def broken(self):
        raise OSError("no sensor")

    monkeypatch.setattr(codecarbon.OfflineEmissionsTracker, "stop", broken)
    with Energy() as energy:
        pass
    assert energy.kwh is None
    assert "no energy is reported" in caplog.text


def test_without_codecarbon_there_is_no_energy(monkeypatch):
    monkeypatch.setattr("adapt.training.tracking.find_spec", lambda name: None)
    with Energy() as energy:
        pass
    assert energy.kwh is None


def test_a_tracker_that_is_not_installed_is_refused_first(tiny_recipe, monkeypatch):
    monkeypatch.setattr("adapt.training.requirements.find_spec", lambda name: None)
    section = load_recipe(tiny_recipe(training={"report_to": ["trackio"]})).training
    with pytest.raises(DependencyError, match="trackio"):
        check_section(section)
