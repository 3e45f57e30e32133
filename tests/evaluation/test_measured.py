"""Runs and evaluations read from their folders, and one judged against another."""

import json
from dataclasses import replace

import pytest

from adapt.errors import DataError, WorkspaceError
from adapt.evaluation.bootstrap import ratio_interval
from adapt.evaluation.measured import against, open_measured
from adapt.evaluation.result import Likelihood, ModelScores, Rounds, SpeedScores
from adapt.fertility import Fertility, FertilityReport
from adapt.workspace import write_json

BYTES = tuple(100 + 7 * i for i in range(60))


def scores(bits_per_byte, data="same"):
    bits = tuple(n * bits_per_byte for n in BYTES)
    return ModelScores(
        Likelihood(bits, BYTES, ratio_interval(bits, BYTES, 0), data), None, {}, None
    )


def fertility(tokens, words=1000):
    ratio = tokens / words
    return Fertility("t", 60, 6000, 6000, words, tokens, ratio, 6000 / tokens, 1, 0, None, 0, ())


@pytest.fixture
def run(tmp_path):
    """Writes what a finished run leaves of its figures."""

    def run(name, adapted, tokens, base=1.5, control=1.2, data="same"):
        folder = tmp_path / name
        values = {"base": base, "control": control, "adapted": adapted}
        by_name = {model: scores(value, data).to_json() for model, value in values.items()}
        write_json(folder / "reports" / "evaluation.json", {"scores": by_name})
        report = FertilityReport((fertility(2000), fertility(tokens)), ())
        write_json(folder / "reports" / "fertility.json", report.to_json())
        return str(folder)

    return run


@pytest.mark.parametrize(
    ("adapted", "tokens", "base", "choice"),
    [
        (0.9, 1500, 1.5, "adopt"),
        (1.005, 1500, 1.5, "adopt for speed"),
        (1.1, 1500, 1.5, "do not extend"),
        (0.9, 1500, 0.8, "do not extend"),  # its own base is better
        (1.0, 1600, 1.5, "no difference"),
    ],
)
def test_one_run_against_another(run, adapted, tokens, base, choice):
    a = open_measured(run("a", 1.0, 1600))
    b = open_measured(run("b", adapted, tokens, base=base))
    comparison, found = against(b, a)
    assert found.choice == choice
    assert comparison.against == a.name
    assert f"{1 - tokens / 1600:.1%} of tokens saved" in found.sentence
    assert ("the base itself has 0.800" in found.sentence) == (base == 0.8)


def test_a_model_of_a_run_by_its_name(run):
    folder = run("a", 1.0, 1600)
    control = open_measured(f"{folder}@control")
    assert control.scores.domain.interval.value == pytest.approx(1.2)
    assert control.fertility.tokens == 2000
    assert control.base is None
    assert open_measured(folder).base.domain.interval.value == pytest.approx(1.5)
    with pytest.raises(DataError, match="did you mean control"):
        open_measured(f"{folder}@controll")


def test_other_held_out_documents_are_refused(run):
    a, b = open_measured(run("a", 1.0, 1600)), open_measured(run("b", 0.9, 1600, data="other"))
    with pytest.raises(DataError, match="other held-out documents") as caught:
        against(b, a)
    assert "SHA-256" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_tokens_counted_on_other_text_save_nothing(run):
    a, b = open_measured(run("a", 1.0, 1600)), open_measured(run("b", 1.005, 1500))
    _, found = against(replace(b, fertility=fertility(1500, words=900)), a)
    assert found.choice == "do not extend"
    assert "not counted on the same text" in found.sentence


def timed(model, speed):
    rounds = Rounds((speed,) * 3)
    return replace(
        model, speed=SpeedScores(rounds, rounds, rounds, 1.0, 1.0, 1.0, 1, 1, 1, "allocated")
    )


def test_speeds_of_two_runs_are_not_compared(run):
    a, b = (open_measured(run(n, bits, 1500)) for n, bits in (("a", 1.0), ("b", 1.005)))
    a = replace(a, scores=timed(a.scores, 10.0), fertility=fertility(1600))
    b = replace(b, scores=timed(b.scores, 500.0))
    comparison, found = against(b, a)
    assert found.choice == "adopt for speed"
    assert "50.00 times" not in found.sentence
    assert comparison.notes == ("speed: not timed in turns, not compared",)
    assert not [figure for figure in comparison.figures if figure.name.endswith("characters/s")]


def test_speeds_of_one_run_are(run):
    folder = run("a", 1.205, 1500)
    adapted, control = open_measured(folder), open_measured(f"{folder}@control")
    adapted = replace(adapted, scores=timed(adapted.scores, 500.0))
    control = replace(control, scores=timed(control.scores, 10.0))
    comparison, found = against(adapted, control)
    assert "50.00 times" in found.sentence
    assert not comparison.notes


def test_what_is_no_finished_run_is_refused(tmp_path, run):
    with pytest.raises(WorkspaceError, match="no finished evaluation"):
        open_measured(str(tmp_path / "nothing"))
    folder = run("old", 1.0, 1600)
    path = tmp_path / "old" / "reports" / "evaluation.json"
    record = json.loads(path.read_text())
    del record["scores"]["adapted"]["domain"]
    for broken in (json.dumps(record), "{", "[]"):
        path.write_text(broken)
        with pytest.raises(WorkspaceError, match="cannot be read"):
            open_measured(folder)
