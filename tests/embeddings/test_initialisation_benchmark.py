"""The benchmark of rows goes on where it was interrupted, and sums seeds up; nothing is timed."""

import json
import runpy
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "initialisation.py"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PATH.parent)  # as where it is run as a script
        return runpy.run_path(str(PATH))


@pytest.fixture
def run(benchmark, tmp_path, monkeypatch, capsys):
    """Runs the command with lines that are made up, up to a number of them."""
    measured = []

    class Made:
        def __init__(self, arguments, folder):
            self.arguments = arguments

        def measure(self, case, documents):
            if len(measured) >= run.most:
                raise KeyboardInterrupt
            measured.append((case, documents))
            value = {"base": 1.0, "mean": 2.0, "distill": 1.2 + case.seed / 10}
            row = {**asdict(case), "bits_per_byte": value[case.init or "base"], "general": 1.0}
            row |= {"new_tokens": 77} if case.rows != "base" else {}
            return row | {"probe": 0.5, "probe_documents": 40 + case.seed}

    monkeypatch.setitem(benchmark["main"].__globals__, "Bench", Made)

    def run(*options, most=1_000):
        run.most = most
        measured.clear()
        folder = ["--folder", str(tmp_path / "work"), "--json", str(tmp_path / "out.json")]
        monkeypatch.setattr(sys, "argv", ["initialisation.py", *folder, *options])
        try:
            benchmark["main"]()
        except KeyboardInterrupt:
            return list(measured), None
        return list(measured), capsys.readouterr().out

    return run


ASKED = ("--tokens", "50", "auto", "--tied", "tied", "--init", "mean", "distill", "--seeds", "0")


def test_an_interrupted_run_goes_on(run, tmp_path):
    whole = [case for case, _ in run(*ASKED)[0]]
    (tmp_path / "out.json").unlink()
    first, out = run(*ASKED, most=3)
    assert out is None
    second, _ = run(*ASKED)
    assert [case for case, _ in first + second] == whole
    assert run(*ASKED)[0] == []
    more, out = run(*ASKED, "1", "2")
    assert [(case.init, case.seed) for case, _ in more] == [("distill", 1), ("distill", 2)] * 2
    assert len(json.loads((tmp_path / "out.json").read_text())["rows"]) == len(whole) + 4


def test_seeds_are_summed_up_and_the_gap_is_the_base_s(run):
    _, out = run(*ASKED, "1", "2")
    lines = [line for line in out.splitlines() if "auto: 77" in line]
    assert len(lines) == 2
    # mean 2.0, base 1.0: 1.2, 1.3 and 1.4 close 80, 70 and 60 %.
    assert "1.300 (1.200 to 1.400)" in lines[1]
    assert "70% (60% to 80%)" in lines[1]


def test_a_probe_sees_the_documents_of_the_base_s_with_the_same_seed(run):
    measured, _ = run(*ASKED, "1", "--probe", "4")
    seen = {(case.rows, case.init, case.seed): documents for case, documents in measured}
    assert seen["tied", "mean", 0] == 40
    assert seen["tied", "mean", 1] == seen["tied", "distill", 1] == 41
    assert seen["base", "", 1] is None


def test_lines_of_another_setting_are_not_mixed_in(run):
    run(*ASKED)
    with pytest.raises(SystemExit, match="name another file"):
        run(*ASKED, "--steps", "7")
