"""The main job, end to end, on a tiny base: artifacts, resume, other processes, plain PEFT."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import adapt
from adapt.check import check
from adapt.errors import AdaptError
from adapt.evaluation.likelihood import halves
from adapt.evaluation.scores import sample
from adapt.pipeline import Pipeline
from adapt.recipe import load_recipe
from adapt.reporting.finished import read_summary
from adapt.reporting.html import write_report
from adapt.vocab import OUTPUT
from adapt.workspace import Workspace, digest
from tests.conftest import PHASES, encoder_recipe, write_recipe

ROOT = Path(__file__).parents[1]
STAGES = ["corpus", "vocab", "fertility", "embeddings", "training", "control"]
STAGES += ["evaluation-base", "evaluation-control", "evaluation-adapted", "speed"]


@pytest.fixture(scope="module")
def finished(tiny_base, tmp_path_factory):
    """A run that several tests look at, in their order."""
    recipe = load_recipe(write_recipe(tmp_path_factory.mktemp("finished"), tiny_base))
    return recipe, Pipeline(recipe).run()


def losses(run: Path, stage: str = "training"):
    phases = json.loads(Workspace(run).manifest(stage).read_text())["result"]["phases"]
    return [phase["losses"] for phase in phases]


def took(recipe, stage: str, seconds: float):
    """Writes into a finished training's result how long each of its phases took."""
    path = Workspace(Path(recipe.output_dir)).manifest(stage)
    record = json.loads(path.read_text())
    for phase in record["result"]["phases"]:
        phase["seconds"] = seconds
    path.write_text(json.dumps(record))


@pytest.fixture(scope="module")
def timed(tiny_base, tmp_path_factory):
    """Trained for half of the control's time, so that its control reads half of the text."""
    folder = tmp_path_factory.mktemp("timed")
    phases = [{**LONG, "max_steps": 8}, {**LONG, "name": "tasks", "objective": "sft"}]
    phases[1]["max_steps"] = 4
    sections = {"training": {"phases": phases}, "evaluation": {"control_time": True}}
    recipe = load_recipe(write_recipe(folder, tiny_base, **sections))
    first = Pipeline(recipe)
    first.prepared.all()
    first.tuned.control()
    took(recipe, "training", 1.0)
    took(recipe, "control", 2.0)
    return recipe, Pipeline(recipe).run()


def test_every_artifact_is_where_it_is_promised(finished):
    recipe, summary = finished
    run = Workspace(Path(recipe.output_dir))
    for path in (
        run.recipe,
        run.report,
        run.reports / "fertility.json",
        run.reports / "evaluation.json",
    ):
        assert path.stat().st_size
    for folder in (run.tokenizer, run.adapted_base, run.adapter, run.control):
        assert any(folder.iterdir())
    for stage in STAGES:
        assert json.loads(run.manifest(stage).read_text())["fingerprint"]
    assert load_recipe(run.recipe) == recipe
    assert not run.checkpoints.exists() or not any(run.checkpoints.iterdir())
    assert set(summary.scores) == {"base", "control", "adapted"}
    assert summary.verdict.choice in {"adopt", "adopt for speed", "no difference", "do not extend"}
    assert not [p for p in run.root.rglob(".*") if p.is_file()]
    predictions = (run.reports / "predictions" / "organ.adapted.jsonl").read_text().splitlines()
    assert {"prompt", "reference", "answer", "scores"} <= set(json.loads(predictions[0]))


def test_a_finished_run_is_read_back_as_it_was(finished):
    recipe, summary = finished
    run = Path(recipe.output_dir)
    assert read_summary(run) == summary
    page = Workspace(run).report
    written = page.read_bytes()
    page.unlink()
    write_report(read_summary(run), page)
    assert page.read_bytes() == written


def test_the_run_keeps_what_deserves_a_look_in_its_data_and_no_text_of_it(finished):
    recipe, summary = finished
    run = Workspace(Path(recipe.output_dir))
    assert {extent.path for extent in summary.audit.extents} == {
        *(source.path for source in (*recipe.corpus.sources, *recipe.corpus.general)),
        *(task.path for task in recipe.evaluation.tasks),
    }
    manifest = run.manifest("audit").read_text()
    record = json.loads(manifest)["result"]
    assert record == json.loads(json.dumps(summary.audit.to_json()))
    assert json.loads((run.reports / "evaluation.json").read_text())["audit"] == record
    assert any(
        finding.what.startswith("phase tasks: over 64") for finding in summary.audit.findings
    )
    for text in ("abnormality", "harbour", "patients"):
        assert text not in manifest


def test_the_same_command_again_does_nothing(finished):
    recipe, first = finished
    run = Path(recipe.output_dir)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if "manifests" in p.parts}
    again = Pipeline(recipe).run()
    assert again.scores == first.scores
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*") if "manifests" in p.parts} == before


def test_a_changed_section_runs_its_stage_and_what_follows(finished):
    recipe, _ = finished
    run = Workspace(Path(recipe.output_dir))
    before = {stage: digest(run.manifest(stage)) for stage in STAGES}
    lora = recipe.training.lora.model_copy(update={"r": 3})
    training = recipe.training.model_copy(update={"lora": lora})
    Pipeline(recipe.model_copy(update={"training": training})).run()
    after = {stage: digest(run.manifest(stage)) for stage in STAGES}
    changed = {stage for stage in STAGES if before[stage] != after[stage]}
    assert changed == {"training", "control", "evaluation-control", "evaluation-adapted", "speed"}


def test_plain_peft_loads_the_adapter_from_the_original_base(finished, tiny_base, tmp_path):
    """In a fresh process without adapt: the logits are those of the adapted base with it."""
    recipe, _ = finished
    run = Workspace(Path(recipe.output_dir))
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]) == tiny_base.resolve()
    script = (
        "import sys, torch; from peft import AutoPeftModelForCausalLM as M;"
        "from transformers import AutoTokenizer as T; a = sys.argv[1];"
        "m = M.from_pretrained(a).eval(); t = T.from_pretrained(a);"
        "i = t('An abnormality of the renal pelvis characterized by', return_tensors='pt');"
        "o = m(input_ids=i['input_ids']).logits; torch.save((i['input_ids'], o), sys.argv[2]);"
        "assert 'adapt' not in sys.modules"
    )
    out = tmp_path / "logits.pt"
    subprocess.run([sys.executable, "-c", script, str(run.adapter), str(out)], check=True, cwd="/")
    ids, logits = torch.load(out, weights_only=True)
    from peft import PeftModel

    from adapt.training.model import load_merged, load_model

    assert int(ids.max()) >= 400, "the text must use new tokens"
    trained = PeftModel.from_pretrained(
        load_model(run.adapted_base, torch.float32), str(run.adapter)
    )
    with torch.inference_mode():
        torch.testing.assert_close(logits, trained.eval()(ids).logits)
        merged = load_merged(run.adapted_base, run.adapter, torch.float32)
        torch.testing.assert_close(merged(ids).logits, logits, rtol=1e-4, atol=1e-4)


def test_the_adapter_holds_rows_and_adapters_and_no_whole_matrix(finished):
    from safetensors.torch import load_file

    recipe, _ = finished
    tensors = load_file(str(Path(recipe.output_dir) / "adapter" / "adapter_model.safetensors"))
    assert all(tensor.numel() for tensor in tensors.values())
    rows = [t for name, t in tensors.items() if "token" in name]
    assert [tuple(t.shape) for t in rows] == [(20, 32)]
    assert not [name for name in tensors if "lora" not in name and "token" not in name]


def test_training_learns_and_leaves_the_base_alone(tiny_recipe, tiny_base):
    before = digest(tiny_base)
    phase = {"name": "domain", "objective": "clm", "max_steps": 60, "learning_rate": 2e-2}
    phase |= {"per_device_train_batch_size": 4, "max_length": 64, "logging_steps": 5}
    phase |= {"new_token_learning_rate": 2e-2}  # of rows that no one has made good before
    recipe = load_recipe(
        tiny_recipe(training={"phases": [phase]}, evaluation={"control": False, "tasks": []})
    )
    summary = Pipeline(recipe).run()
    curve = losses(Path(recipe.output_dir))[0]
    assert curve[-1][1] < 0.8 * curve[0][1]
    assert (
        summary.scores["adapted"].domain.interval.value
        < summary.scores["base"].domain.interval.value
    )
    assert digest(tiny_base) == before


def launch(*arguments: str, prefix: tuple[str, ...] = (), **options):
    command = [sys.executable, *prefix, "tests/launched.py", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


LONG = {
    "name": "domain",
    "objective": "clm",
    "max_steps": 40,
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 2,
    "max_length": 64,
    "save_steps": 3,
    "logging_steps": 1,
}


def test_a_killed_run_goes_on_and_ends_with_the_same_losses(tiny_recipe, tmp_path):
    sections = {
        "training": {"phases": [LONG, {**LONG, "name": "again", "max_steps": 4}]},
        "evaluation": {"control": False, "tasks": []},
    }
    path = tiny_recipe(**sections)
    whole = Pipeline(load_recipe(path, [f"output_dir={tmp_path / 'whole'}"]))
    whole.prepared.build_tokenizer()
    whole.tuned.adapter()
    process = launch(str(path))
    run = Workspace(Path(load_recipe(path).output_dir))
    deadline = time.monotonic() + 120
    while not list(run.checkpoints.glob("*/domain/checkpoint-*/trainer_state.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not run.manifest("training").exists()
    assert not run.adapter.exists()
    Pipeline(load_recipe(path)).run()
    assert losses(run.root) == losses(whole_root := tmp_path / "whole")
    weights = [r / "adapter" / "adapter_model.safetensors" for r in (run.root, whole_root)]
    assert digest(weights[0]) == digest(weights[1])


def test_two_processes_see_the_same_data_and_write_one_set_of_artifacts(tiny_recipe, tmp_path):
    path = tiny_recipe(
        training={"phases": [{**LONG, "max_steps": 6}]},
        evaluation={"tasks": [], "control_time": True},
    )
    one = load_recipe(path, [f"output_dir={tmp_path / 'one'}"])
    Pipeline(one).run()
    torchrun = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29417")
    process = launch(str(path), prefix=torchrun, env={**os.environ, "OMP_NUM_THREADS": "1"})
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    assert "1 of 2 processes wait" in err  # else each would have done all of it
    assert out.count("report: ") == 1
    two = Workspace(Path(load_recipe(path).output_dir))
    for stage in ("training", "control"):
        first, second = (
            json.loads(Workspace(r).manifest(stage).read_text())["result"]["phases"][0]
            for r in (tmp_path / "one", two.root)
        )
        assert first["steps"] == second["steps"]
        assert (first["documents"], first["bytes_"]) == (second["documents"], second["bytes_"])
        for (_, a), (_, b) in zip(first["losses"], second["losses"], strict=True):
            assert a == pytest.approx(b, rel=1e-3)
    timed = {"control-time"}  # which is the control itself where the clock says so
    assert {p.name for p in two.root.iterdir()} - timed == {
        p.name for p in (tmp_path / "one").iterdir()
    } - timed
    assert "control-time" in read_summary(two.root).scores
    assert not any(two.checkpoints.iterdir()), "each process by a clock of its own"


def test_a_step_that_processes_cannot_share_is_refused(tiny_recipe, monkeypatch):
    from adapt.training.phases import shared_out

    phase = load_recipe(tiny_recipe()).training.phases[0]
    assert shared_out(phase, 1) == (2, 1)
    assert shared_out(phase, 2) == (1, 1)
    bigger = phase.model_copy(update={"gradient_accumulation_steps": 4})
    assert shared_out(bigger, 2) == (2, 2)
    assert shared_out(bigger, 8) == (1, 1)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(AdaptError, match="3 processes"):
        check(load_recipe(tiny_recipe()))


# -- the control of the same time ----------------------------------------------------------------


def test_half_of_the_time_is_half_of_the_text(timed):
    recipe, summary = timed
    control, half = (summary.trained[name] for name in ("control", "control-time"))
    for whole, part in zip(control.phases, half.phases, strict=True):
        longest = whole.bytes_ / whole.documents * 2
        assert whole.bytes_ / 2 - longest < part.bytes_ <= whole.bytes_ / 2
        assert part.steps == part.losses[-1][0] < whole.steps  # all of a schedule of its own
    run = Workspace(Path(recipe.output_dir))
    inputs = json.loads(run.manifest("control-time").read_text())["inputs"]
    assert inputs["text_bytes"] == [round(phase.bytes_ / 2) for phase in control.phases]
    assert half.folder == run.control_time
    assert digest(run.control_time) != digest(run.control)
    assert not any(run.checkpoints.iterdir()) if run.checkpoints.exists() else True
    model, tokenizer = adapt.load(run.control_time)
    assert len(tokenizer) == model.get_input_embeddings().weight.shape[0] == 400


def test_its_likelihood_is_measured_and_compared(timed):
    recipe, summary = timed
    scores = summary.scores
    assert list(scores) == ["base", "control", "control-time", "adapted"]
    one = scores["control-time"]
    assert (one.tasks, one.harness, one.speed) == ({}, {}, None)
    assert one.domain.data == scores["adapted"].domain.data
    assert one.general.data == scores["adapted"].general.data
    assert one.domain != scores["control"].domain
    figures = summary.comparisons["control-time"].figures
    assert {"bits per byte, domain text", "bits per byte, general text"} <= {
        figure.name for figure in figures if figure.difference
    }
    assert "; at equal time " in summary.verdict.sentence
    run = Workspace(Path(recipe.output_dir))
    for page in (run.report, run.adapter / "README.md"):
        assert "control, same time" in page.read_text()
    read = read_summary(run.root)
    assert read.scores == summary.scores
    assert read.trained == summary.trained


def test_recorded_times_decide_and_noise_redoes_nothing(timed, monkeypatch):
    recipe, first = timed
    run = Workspace(Path(recipe.output_dir))
    stages = [*STAGES, "control-time", "evaluation-control-time"]
    before = {stage: digest(run.manifest(stage)) for stage in stages}
    assert Pipeline(recipe).run().scores == first.scores
    assert {stage: digest(run.manifest(stage)) for stage in stages} == before
    took(recipe, "training", 3.0)
    before["training"] = digest(run.manifest("training"))
    more = Pipeline(recipe).run().trained
    after = {stage: digest(run.manifest(stage)) for stage in stages}
    changed = {stage for stage in stages if after[stage] != before[stage]}
    assert changed == {"control-time", "evaluation-control-time"}
    assert more["control-time"].bytes_ == pytest.approx(1.5 * more["control"].bytes_, rel=0.1)


def test_a_control_that_took_as_long_is_taken(timed):
    recipe, _ = timed
    run = Workspace(Path(recipe.output_dir))
    took(recipe, "training", 2.019)
    before = digest(run.manifest("control-time"))
    summary = Pipeline(recipe).run()
    assert digest(run.manifest("control-time")) == before, "nothing was trained"
    assert summary.trained["control-time"] == summary.trained["control"]
    one, control = summary.scores["control-time"], summary.scores["control"]
    assert (one.domain, one.general, one.tasks) == (control.domain, control.general, {})
    assert "control-time" not in summary.seconds
    assert "so the control is the one of the same time as well" in run.report.read_text()
    assert read_summary(run.root).scores == summary.scores


def test_interrupted_it_leaves_nothing_and_is_done_the_next_time(tiny_recipe, monkeypatch):
    phase = {**LONG, "max_steps": 4, "save_steps": 1}
    sections = {"control_time": True, "tasks": []}
    recipe = load_recipe(tiny_recipe(training={"phases": [phase]}, evaluation=sections))
    first = Pipeline(recipe)
    first.prepared.all()
    first.tuned.control()
    took(recipe, "training", 1.0)
    took(recipe, "control", 2.0)
    run = Workspace(Path(recipe.output_dir))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("adapt.training.run.save_trained", killed)
        with pytest.raises(KeyboardInterrupt):
            Pipeline(recipe).run()
    assert not run.manifest("control-time").exists()
    assert not run.control_time.exists()
    assert list(run.checkpoints.glob("control-time-*/domain-done"))
    assert run.manifest("control").exists()
    trained = Pipeline(recipe).tuned.control_time()
    assert trained.folder == run.control_time
    assert run.control_time.is_dir()
    assert not list(run.checkpoints.glob("control-time-*"))


def test_of_an_encoder_it_is_scored_on_the_heads_task(tiny_encoder, tmp_path):
    short = [{**phase, "max_steps": 2} for phase in PHASES]
    recipe = encoder_recipe(
        tmp_path,
        tiny_encoder,
        training={"phases": short},
        evaluation={"control_time": True},
    )
    summary = Pipeline(recipe).run()
    assert list(summary.scores) == ["control", "control-time", "adapted"]
    assert {one.tasks["organ"].kind for one in summary.scores.values()} == {"classification"}
    leading = summary.comparisons["control-time"].leading
    assert leading.name == "organ: macro-F1"
    assert "; at equal time " in summary.verdict.sentence
    report = Workspace(Path(recipe.output_dir)).report.read_text()
    assert "control, same time" in report
    assert "only the likelihood of text" not in report


def test_without_a_control_there_is_none_of_the_same_time(tiny_recipe):
    asked = {"control": False, "control_time": True}
    recipe = load_recipe(tiny_recipe(evaluation=asked))
    assert not recipe.evaluation.times_control
    assert Pipeline(recipe).tuned.controls() == {}
    assert load_recipe(tiny_recipe(evaluation={"control_time": True})).evaluation.times_control


def test_keep_mode_and_no_control(tiny_recipe):
    recipe = load_recipe(
        tiny_recipe(
            tokenizer={"mode": "keep"}, evaluation={"control": False}, corpus={"general": []}
        )
    )
    summary = Pipeline(recipe).run()
    assert summary.vocabulary.delta.added == ()
    assert set(summary.scores) == {"base", "adapted"}
    assert summary.scores["adapted"].general is None


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"mode": "replace", "new_tokens": 12},
        {"mode": "prune"},
        {"mode": "extend", "new_tokens": 12, "prune": True},
        {"mode": "train", "vocab_size": 300},
        {"mode": "extend", "new_tokens": "curve"},
    ],
    ids=lambda section: "-".join(map(str, section.values())),
)
def test_every_mode_runs_to_the_report(tiny_recipe, tokenizer):
    recipe = load_recipe(tiny_recipe(tokenizer=tokenizer, evaluation={"control": False}))
    pipeline = Pipeline(recipe)
    summary = pipeline.run()
    delta = pipeline.prepared.vocabulary().delta
    config = json.loads((pipeline.workspace.adapted_base / "config.json").read_text())
    rows = config["vocab_size"]
    assert rows >= delta.size
    assert all(tensor.rows_after == rows for tensor in pipeline.prepared.adapted_base().tensors)
    assert 0 < summary.scores["adapted"].domain.interval.value < 20
    adapter = json.loads((pipeline.workspace.adapter / "adapter_config.json").read_text())
    named = Path(adapter["base_model_name_or_path"])
    moved = pipeline.workspace.adapted_base
    assert named == (moved if delta.moves_ids else Path(recipe.model.base))


@pytest.mark.parametrize("tokenizer", [{}, {"mode": "replace"}, {"prune": True}], ids=str)
def test_distilled_rows_in_a_run(tiny_recipe, tokenizer):
    embeddings = {"init": "distill", "distill": {"steps": 3, "snippet_tokens": 2_000}}
    recipe = load_recipe(
        tiny_recipe(
            tokenizer={"new_tokens": 12, **tokenizer},
            embeddings=embeddings,
            training={"phases": [{**LONG, "max_steps": 2}]},
            evaluation={"control": False, "tasks": []},
        )
    )
    pipeline = Pipeline(recipe)
    pipeline.run()
    assert pipeline.prepared.adapted_base().distilled.steps <= 3
    again = Pipeline(recipe).run()
    assert (
        again.seconds["embeddings"] == pipeline.stages.seconds["embeddings"]
    )  # read, not learned anew


def test_units_that_are_only_read_in_a_run(tiny_recipe):
    distill = {"steps": 3, "snippet_tokens": 2_000, "tokens_per_step": 256}
    embeddings = {"units": "input", "init": "distill", "distill": distill}
    recipe = load_recipe(tiny_recipe(embeddings=embeddings))
    pipeline = Pipeline(recipe)
    summary = pipeline.run()
    delta = pipeline.prepared.vocabulary().delta
    assert delta.read_only
    new = delta.added_ids
    limits = recipe.evaluation.max_documents, recipe.evaluation.max_bytes, recipe.seed
    corpus = pipeline.prepared.corpus()
    held = sample(lambda: corpus.documents("test"), *limits)
    scored = sum(len(halves(text)[1].encode()) for text in held)
    assert {sum(s.domain.bytes_) for s in summary.scores.values()} == {scored}
    assert all(math.isfinite(s.domain.interval.value) for s in summary.scores.values())
    model, tokenizer = adapt.load(recipe.output_dir)
    ids = torch.tensor([tokenizer(held[0])["input_ids"][:20]])
    assert set(ids[0].tolist()) & set(new)
    written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12)
    assert not set(written[0, ids.shape[1] :].tolist()) & set(new)
    assert (pipeline.workspace.adapter / OUTPUT / "tokenizer.json").is_file()


@pytest.mark.parametrize(("mode", "init"), [("extend", "distill"), ("train", "mean")])
def test_rows_are_learned_by_default_where_they_can_be(mode, init, tiny_recipe):
    tokenizer = {"mode": mode, **({"vocab_size": 300} if mode == "train" else {})}
    rows = {"init": "auto", "distill": {"steps": 2, "snippet_tokens": 1_000}}
    pipeline = Pipeline(load_recipe(tiny_recipe(tokenizer=tokenizer, embeddings=rows)))
    assert pipeline.prepared.adapted_base().init == init
