"""Learning that is ended at any point goes on, and ends with the rows of a run that was not."""

import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from adapt.embeddings import checkpoint as module
from adapt.embeddings import distill as learning
from adapt.embeddings.build import Lesson, make_adapted_base
from adapt.embeddings.checkpoint import Checkpoint, remove
from adapt.recipe.vocabulary import DistillSection, EmbeddingsSection, TokenizerSection
from adapt.vocab import Material, adapt_vocabulary, load_tokenizer
from adapt.workspace import digest
from tests.conftest import clinical

TEXTS = [clinical(seed)["definition"] for seed in range(80)]
STEPS = 14
QUICK = {
    "steps": STEPS,
    "seconds": 3_600,
    "snippet_tokens": 2_000,
    "tokens_per_step": 256,
    "learning_rate": 1e-2,
    "patience": 99,
    "save_seconds": 0.0,
}


class Killed(BaseException):
    """What no handler of errors catches."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Operations this small take longer in two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def vocabulary(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary") / "tokenizer"
    material = Material(texts=lambda: TEXTS)
    return adapt_vocabulary(
        TokenizerSection(new_tokens=20), load_tokenizer(tiny_base), material, folder
    )


@pytest.fixture(scope="module")
def bases(tiny_base, tmp_path_factory):
    made = {True: tiny_base}

    def base(tied):
        if tied not in made:
            made[tied] = tmp_path_factory.mktemp("untied")
            sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
            config = LlamaConfig(
                vocab_size=400, intermediate_size=32, tie_word_embeddings=False, **sizes
            )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                LlamaForCausalLM(config).save_pretrained(str(made[tied]))
            load_tokenizer(tiny_base).save_pretrained(str(made[tied]))
        return made[tied]

    return base


@pytest.fixture
def run(bases, vocabulary, tmp_path, monkeypatch):
    """Makes an adapted base; tells how many steps it took here."""

    def run(name="run", *, tied=True, until=None, seed=0, texts=TEXTS, section=None, **changes):
        taken = []

        def watched(items, description):
            for item in items:
                if description == "Distilling rows":
                    if until is not None and item > until:
                        raise Killed
                    taken.append(item)
                yield item

        monkeypatch.setattr(learning, "watched", watched)
        distill = DistillSection(**{**QUICK, **changes})
        section = EmbeddingsSection(init="distill", distill=distill)
        lesson = Lesson(lambda: texts, (0,))
        folder = tmp_path / name / "adapted-base"
        arguments = section, bases(tied), vocabulary, folder
        try:
            result = make_adapted_base(*arguments, lesson=lesson, seed=seed)
        except Killed:
            return None, taken
        return result, taken

    return run


def rows(result):
    files = result.folder.glob("*.safetensors")
    return {k: v for p in files for k, v in load_file(str(p)).items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


def left(result_or_folder):
    return [p.name for p in result_or_folder.iterdir()]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("until", [1, 5, 13])
def test_an_ended_run_goes_on_to_the_same_rows(until, tied, run, tmp_path):
    whole, _ = run("whole", tied=tied)
    ended, taken = run(tied=tied, until=until)
    assert ended is None
    assert taken == list(range(1, until + 1))
    assert left(tmp_path / "run") == [".adapted-base.distilling"]
    finished, taken = run(tied=tied)
    assert taken == list(range(until + 1, STEPS + 1))
    assert same(rows(finished), rows(whole))
    assert finished.distilled.steps == STEPS
    for figure in ("hidden_loss", "next_token_loss", "calibration", "untouched", "tokens"):
        assert getattr(finished.distilled, figure) == getattr(whole.distilled, figure)
    assert left(tmp_path / "run") == ["adapted-base"]


def test_it_may_end_again_and_again_and_inside_a_step(run, monkeypatch):
    whole, _ = run("whole")
    steps = []
    for until in (3, 4, 9):
        steps += run(until=until)[1]
    step = learning.Student.loss

    def broken(self, *given):
        step(self, *given)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(learning.Student, "loss", broken)
        assert run() == (None, [10])
    finished, taken = run()
    assert steps + taken == list(range(1, STEPS + 1))
    assert same(rows(finished), rows(whole))


def test_a_process_that_is_killed_goes_on(run, tmp_path, monkeypatch):
    whole, _ = run("whole")
    saved, replace = [], os.replace

    def dies_while_saving(source, target):
        if str(target).endswith(".distilling"):
            if len(saved) == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            saved.append(target)
        replace(source, target)

    child = os.fork()
    if not child:
        try:
            monkeypatch.setattr(module.os, "replace", dies_while_saving)
            run()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    found = left(tmp_path / "run")
    assert "adapted-base" not in found
    assert sum(name.startswith(".adapted-base.distilling.") for name in found) == 1  # half a save
    finished, taken = run()
    assert taken[0] == 7
    assert same(rows(finished), rows(whole))
    assert not [name for name in left(tmp_path / "run") if "distilling" in name]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"texts": TEXTS[:60]},
        {"learning_rate": 2e-2},
        {"next_token_weight": 0.5},
        {"steps": STEPS + 1},
        {"init_from": "last"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_checkpoint_of_other_work_is_not_taken_up(changes, run):
    run(until=5)
    after, taken = run(**changes)
    assert taken[0] == 1
    fresh, _ = run("fresh", **changes)
    assert same(rows(after), rows(fresh))


def test_a_checkpoint_of_another_base_is_not_taken_up(run, bases):
    run(until=5)
    base = bases(True)
    digest_before = digest(base)
    stamp = (base / "model.safetensors").stat()
    try:
        os.utime(base / "model.safetensors")  # written anew
        assert run()[1][0] == 1
    finally:
        os.utime(base / "model.safetensors", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert digest(base) == digest_before


def test_what_early_stopping_has_seen_is_kept(run):
    """Steps so long that nothing gets better: it ends after so many looks, one a step here."""
    hopeless = {"learning_rate": 50.0, "patience": 6}
    whole, taken = run("whole", **hopeless)
    assert len(taken) == whole.distilled.steps == 6
    assert same(rows(whole), rows(run("none", steps=1, learning_rate=1e-30)[0]))  # as they were
    assert run(until=4, **hopeless)[0] is None
    finished, taken = run(**hopeless)
    assert taken == [5, 6]
    assert same(rows(finished), rows(whole))


def test_how_often_it_saves_does_not_matter(run):
    whole, _ = run("whole", save_seconds=3_600.0)
    run(until=5)
    finished, taken = run(save_seconds=1_000.0)
    assert taken[0] == 6
    assert same(rows(finished), rows(whole))


def test_it_saves_only_when_it_is_time(run, tmp_path):
    assert run(until=5, save_seconds=3_600.0)[0] is None
    assert left(tmp_path / "run") == []
    assert run()[1][0] == 1


@pytest.mark.parametrize("spoilt", [b"", b"nothing that torch reads", "half"], ids=str)
def test_a_file_that_cannot_be_read_is_as_none(spoilt, run, tmp_path):
    whole, _ = run("whole")
    run(until=5)
    path = tmp_path / "run" / ".adapted-base.distilling"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if spoilt == "half" else spoilt)
    finished, taken = run()
    assert taken[0] == 1
    assert same(rows(finished), rows(whole))


def test_the_seconds_of_an_ended_run_count(run, monkeypatch):
    """A budget of time is spent once, however often the run is ended."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(learning.time, "perf_counter", lambda: float(next(ticks)))
    budget = {"seconds": 100.0, "steps": 10_000}
    whole, taken_whole = run("whole", **budget)
    ended, first = run(until=len(taken_whole) // 2, **budget)
    assert ended is None
    finished, second = run(**budget)
    assert abs(len(first) + len(second) - len(taken_whole)) <= 2
    assert finished.distilled.seconds == pytest.approx(whole.distilled.seconds, abs=5)


# -- the file ------------------------------------------------------------------------------------


def test_a_save_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / ".state"
    kept = Checkpoint(path, "mark")
    kept.save({"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            kept.save({"step": 2})
    assert left(tmp_path) == [".state"]
    assert kept.load() == {"step": 1}
    assert Checkpoint(path, "another").load() is None
    assert Checkpoint(None).load() is None
    remove(path)
    remove(path)
    assert left(tmp_path) == []
