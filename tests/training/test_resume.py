"""Training that is killed, asked to stop or fails: what it leaves, and how it goes on."""

import errno
import json
import math
import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainerControl, TrainerState

from adapt.cli import main
from adapt.errors import TrainingError
from adapt.pipeline import Pipeline
from adapt.recipe import load_recipe
from adapt.stages import Stages
from adapt.training import callbacks
from adapt.training.batches import Part
from adapt.training.callbacks import COMPLETE, Checkpoints, last_checkpoint, seconds_until
from adapt.training.examples import Examples
from adapt.training.failures import Stopped, explained
from adapt.training.result import Trained
from adapt.workspace import Workspace, digest

METHODS = {"lora": {"lora": {"r": 2, "lora_dropout": 0.2}}, "full": {}}


def weights(path):
    adapter = Workspace(Path(load_recipe(path).output_dir)).adapter
    return [digest(file) for file in sorted(adapter.glob("*.safetensors"))]


def in_a_child(path, event, phase, step, number):
    """Runs the command in a process of its own, which gets a signal; returns its exit code.

    Args:
        event: The callback's, at whose begin the signal comes.
        phase: In which phase.
        step: At which step.
        number: Of the signal.
    """

    def work():
        plain = getattr(Checkpoints, event)

        def signalled(self, args, state, control, **kwargs):
            if (Path(args.output_dir).name, state.global_step) == (phase, step):
                os.kill(os.getpid(), number)
            return plain(self, args, state, control, **kwargs)

        setattr(Checkpoints, event, signalled)
        main(["run", str(path)])

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(120)
    return child.exitcode


def bits(path):
    """Bits per byte of each phase, as the finished run has them."""
    return [phase.bits_per_byte for phase in Pipeline(load_recipe(path)).tuned.adapter().phases]


@pytest.mark.parametrize("method", METHODS)
def test_killed_at_any_moment_it_ends_with_the_same_losses(method, runs, losses):
    """In a step, between a checkpoint and its mark, and in the first step of the next phase."""
    options = {"method": method, **METHODS[method]}
    whole = runs("whole", **options)
    expected = losses(whole)
    assert [len(phase) for phase in expected] == [4, 4]
    moments = [("on_step_end", "first", 3), ("on_step_end", "second", 1)]
    if method == "lora":
        moments.append(("on_save", "first", 4))
    for event, phase, step in moments:
        path = runs(f"{phase}-{event}", **options)
        code = in_a_child(path, event, phase, step, signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert not Workspace(Path(load_recipe(path).output_dir)).adapter.exists()
        assert losses(path) == expected
        assert bits(path) == bits(whole)
        assert weights(path) == weights(whole)


def test_losses_that_are_logged_rarely_are_not_split_by_a_kill(runs, losses):
    options = {"phase": {"logging_steps": 3, "save_steps": 2}}
    whole = runs("whole", **options)
    expected = losses(whole)
    path = runs("killed", **options)
    assert in_a_child(path, "on_step_end", "first", 3, signal.SIGKILL) == -signal.SIGKILL
    assert losses(path) == expected
    assert bits(path) == bits(whole)
    assert [[step for step, _ in phase] for phase in bits(whole)] == [[2, 3, 4]] * 2


def test_sigterm_saves_first_and_says_how_to_go_on(runs, losses, capfd):
    options = {"phase": {"save_steps": 50}}
    whole = runs("whole", **options)
    expected = losses(whole)
    path = runs("stopped", **options)
    assert in_a_child(path, "on_step_end", "second", 3, signal.SIGTERM) == 143
    assert (
        "stopped by SIGTERM at step 3 of 4, which is saved; run the same" in capfd.readouterr().err
    )
    run = Workspace(Path(load_recipe(path).output_dir))
    assert len(list(run.checkpoints.glob(f"*/second/checkpoint-3/{COMPLETE}"))) == 1
    assert not run.manifest("training").exists()
    assert losses(path) == expected
    assert weights(path) == weights(whole)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_clock_counts_what_was_before_the_checkpoint(runs, losses):
    path = runs("stopped", phase={"save_steps": 50})
    in_a_child(path, "on_step_end", "second", 3, signal.SIGTERM)
    run = Workspace(Path(load_recipe(path).output_dir))
    (mark,) = run.checkpoints.glob(f"*/second/checkpoint-3/{COMPLETE}")
    record = json.loads(mark.read_text())
    assert record["step"] == 3
    assert record["seconds"] > 0
    mark.write_text(json.dumps({**record, "seconds": 1000.0}))
    first, second = Pipeline(load_recipe(path)).tuned.adapter().phases
    assert 0 < first.seconds < 1000 < second.seconds < 2000


def test_a_kill_inside_a_mark_leaves_none(tmp_path, monkeypatch):
    """Half a mark would count, and nothing could read how long training took."""
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("adapt.workspace.os.replace", killed)
    arguments = SimpleNamespace(output_dir=tmp_path)
    state = TrainerState(global_step=3, is_world_process_zero=True)
    with pytest.raises(KeyboardInterrupt):
        Checkpoints(SimpleNamespace(asked=False)).on_save(arguments, state, TrainerControl())
    assert last_checkpoint(tmp_path) is None


def test_a_checkpoint_without_its_mark_does_not_count(tmp_path):
    for step, done in ((9, True), (10, True), (11, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if done:
            (folder / COMPLETE).write_text("{}")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert last_checkpoint(tmp_path / "none") is None
    assert seconds_until(last_checkpoint(tmp_path)) == 0  # as an earlier version marked it
    assert seconds_until(None) == 0


MEMORY = ["per_device_train_batch_size", "gradient_accumulation_steps", "max_length"]
MEMORY += ["gradient_checkpointing", "quantization"]


@pytest.mark.parametrize(
    ("failure", "knobs"),
    [
        (MemoryError(), MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MEMORY),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:75] . DefaultCPUAllocator: can't allocate memory"
            ),
            MEMORY,
        ),
        (OSError(errno.ENOSPC, "No space left on device"), ["save_steps", "output_dir"]),
        (RuntimeError("PytorchStreamWriter failed writing file data/1"), ["save_steps"]),
    ],
    ids=["memory", "cuda", "cpu-allocator", "disk", "torch-save"],
)
def test_a_failure_names_the_knob_in_one_line(failure, knobs):
    with pytest.raises(TrainingError) as caught, explained("training.phases: domain"):
        raise failure
    line = str(caught.value)
    assert line.startswith("training.phases: domain: ")
    assert "\n" not in line
    assert [knob for knob in knobs if knob not in line] == []


def test_other_failures_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), explained("x"):
        raise RuntimeError("shapes do not fit")
    with pytest.raises(Stopped), explained("x"):
        raise Stopped("asked")
    assert Stopped.exit_code == 143


def test_a_full_disk_while_saving_ends_the_run_and_leaves_a_way_on(runs, losses, monkeypatch):
    expected = losses(runs("whole"))
    path = runs("full-disk")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.Trainer._save_rng_state", full)
        with pytest.raises(TrainingError, match=r"training.phases: first: the disk is full; free"):
            losses(path)
    assert losses(path) == expected


@pytest.mark.parametrize(
    ("work", "failure", "said"),
    [
        ("phase_data", OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free"),
        ("_load", MemoryError(), "out of memory; lower per_device"),
        ("save_trained", OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    ],
    ids=["encoding", "loading", "writing"],
)
def test_what_fails_outside_the_steps_is_one_line_too(work, failure, said, runs, monkeypatch):
    def fails(*args, **kwargs):
        raise failure

    monkeypatch.setattr(f"adapt.training.run.{work}", fails)
    where = "training" if work == "save_trained" else "training.phases: first"
    with pytest.raises(TrainingError, match=f"^{where}: {said}"):
        Pipeline(load_recipe(runs("failing"))).tuned.adapter()


def test_a_stage_that_fills_the_disk_says_so_and_runs_again(tmp_path):
    stages = Stages(Workspace(tmp_path))
    full = OSError(errno.ENOSPC, "No space left on device")

    def work():
        if stages.marks and not stages.results:
            stages.results["tried",] = True
            raise full
        return 7

    def run():
        return stages.run("embeddings", "inputs", work, lambda x: x, lambda x: x)

    with pytest.raises(TrainingError, match="^embeddings: the disk is full; free some space"):
        run()
    assert run() == 7
    with pytest.raises(TrainingError, match="^corpus: out of memory; run it on a machine"):
        stages.run("corpus", "inputs", lambda: (_ for _ in ()).throw(MemoryError()), str, str)


def test_a_loss_that_is_not_a_number_ends_the_run(runs, losses, monkeypatch):
    from transformers import LlamaForCausalLM

    plain = LlamaForCausalLM.forward

    def broken(self, *args, **kwargs):
        out = plain(self, *args, **kwargs)
        if self.training and out.loss is not None:
            out.loss = out.loss * float("nan")
        return out

    monkeypatch.setattr(LlamaForCausalLM, "forward", broken)
    path = runs("nan")
    with pytest.raises(TrainingError, match=r"not a number at step 1.*lower learning_rate"):
        losses(path)
    assert not Workspace(Path(load_recipe(path).output_dir)).adapter.exists()


def test_each_log_line_says_what_the_steps_read(runs, monkeypatch):
    seen, said = [], callbacks.line
    counts, count = [], callbacks.read_by
    monkeypatch.setattr(callbacks, "line", lambda *given: seen.append(given) or said(*given))
    monkeypatch.setattr(callbacks, "read_by", lambda e: counts.append(count(e)) or counts[-1])
    trained = Pipeline(load_recipe(runs("logged"))).tuned.adapter()
    assert [given[:3] for given in seen] == [
        (phase, step, 4) for phase in ("first", "second") for step in range(1, 5)
    ]
    names = {"tokens_per_second", "bytes_per_second", "learning_rate", "grad_norm"}
    assert all(names <= set(logs) for *_, logs in seen)
    assert seen[3][3]["new_rows_norm_drift"] != 0
    first, read = trained.phases[0], counts[0]
    assert (read[-1][0], read[-1][2]) == (first.tokens, first.bytes_)
    for (_, step, _, logs), (_, loss) in zip(seen[:4], first.losses, strict=True):
        _, predicted, bytes_ = read[2 * step] - read[2 * (step - 1)]
        assert logs["bits_per_byte"] == pytest.approx(loss / math.log(2) * predicted / bytes_)
    assert [phase.bits_per_byte for phase in trained.phases] == [
        tuple((step, logs["bits_per_byte"]) for phase, step, _, logs in seen if phase == name)
        for name in ("first", "second")
    ], "the run's result has what was logged"
    record = json.loads(json.dumps(trained.to_json()))
    assert Trained.from_json(trained.folder, record) == trained
    for phase in record["phases"]:
        del phase["bits_per_byte"]
    older = Trained.from_json(trained.folder, record)
    assert [phase.bits_per_byte for phase in older.phases] == [(), ()]


def test_a_line_is_one_line_of_what_there_is():
    assert callbacks.line("domain", 3, 9, {"loss": 2.0, "bits_per_byte": 1.25}) == (
        "domain 3/9: loss per token 2.0000, bits per byte 1.2500"
    )


def test_a_document_counts_its_bytes_once_and_no_first_token():
    """Two documents of 10 and 20 bytes; the second is cut in two."""
    store = Dataset.from_dict({"bytes_": [10, 20]})
    rows = [(Part(0, 0, 5), Part(1, 0, 3)), (Part(1, 3, 9),)]
    examples = Examples(rows, np.array([0, 1]), store, lambda number, parts: None)
    assert callbacks.read_by(examples).tolist() == [[0, 0, 0], [8, 6, 30], [14, 11, 30]]
