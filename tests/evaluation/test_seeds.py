"""Trainings of one recipe with several seeds: their mean, and how far it can be trusted."""

import json

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from adapt.errors import AdaptError
from adapt.evaluation.seeds import mean_test, over_seeds
from adapt.fertility import FertilityReport
from adapt.workspace import write_json
from tests.evaluation.test_measured import fertility, scores

CONTROL = (1.20, 1.22, 1.21)
ADAPTED = (1.10, 1.15, 1.12)


@pytest.fixture
def trained(tmp_path):
    """Writes what a finished run leaves, of its recipe and of its figures."""

    def trained(seed, adapted, control, tokens=1500, base=1.5, models=None, **recipe):
        folder = tmp_path / f"s{seed}-{len(list(tmp_path.iterdir()))}"
        values = {"base": base, "control": control, "adapted": adapted}
        by_name = {
            model: scores(value, data=f"split {seed}").to_json()
            for model, value in values.items()
            if value is not None
        }
        write_json(folder / "reports" / "evaluation.json", {"scores": by_name})
        report = FertilityReport((fertility(2000), fertility(tokens)), ())
        write_json(folder / "reports" / "fertility.json", report.to_json())
        record = {
            "name": f"run of {seed}",
            "output_dir": str(folder),
            "seed": seed,
            "training": {"phases": [{"max_steps": 8}], "method": "lora"},
            "publish": {"hub_model_id": f"org/model-{seed}"},
            **recipe,
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(record))
        return str(folder)

    return trained


def runs_of(trained, adapted=ADAPTED, control=CONTROL, **rest):
    return [trained(s, a, c, **rest) for s, (a, c) in enumerate(zip(adapted, control, strict=True))]


def test_the_mean_of_three_trainings(trained):
    found = over_seeds(runs_of(trained))
    (figure,) = found.together.comparison.figures
    wanted = ttest_rel(ADAPTED, CONTROL)
    limits = wanted.confidence_interval()
    assert found.seeds == (0, 1, 2)
    assert [one.comparison.leading.value for one in found.each] == pytest.approx(ADAPTED)
    assert (figure.value, figure.other) == pytest.approx((np.mean(ADAPTED), np.mean(CONTROL)))
    assert figure.difference.value == pytest.approx(np.mean(ADAPTED) - np.mean(CONTROL))
    assert (figure.difference.low, figure.difference.high) == pytest.approx(
        (limits.low, limits.high)
    )
    assert figure.p_value == pytest.approx(wanted.pvalue)
    assert found.together.comparison.domain == figure.difference
    verdict = found.together.verdict("adapted")
    assert verdict.choice == "adopt"
    assert "25.0% of tokens saved" in verdict.sentence


@pytest.mark.parametrize(
    ("adapted", "control", "base", "choice"),
    [
        ((1.10, 1.30, 1.20), (1.20, 1.20, 1.20), 1.5, "adopt for speed"),  # equal on the mean
        ((1.10, 1.40, 1.20), (1.20, 1.20, 1.20), 1.5, "no difference"),  # worse, or bad luck
        ((1.30, 1.32, 1.31), (1.20, 1.20, 1.20), 1.5, "do not extend"),
        ((1.10, 1.12, 1.11), (1.20, 1.20, 1.20), 1.0, "do not extend"),  # the base is better
    ],
)
def test_the_verdict_is_on_the_mean(trained, adapted, control, base, choice):
    found = over_seeds(runs_of(trained, adapted, control, base=base))
    verdict = found.together.verdict("adapted")
    assert verdict.choice == choice
    assert ("the base itself has 1.000" in verdict.sentence) == (base == 1.0)


values = st.lists(st.integers(-1000, 1000), min_size=2, max_size=8)


@given(values)
def test_interval_and_p_value_agree(given_):
    tested = mean_test(given_)
    assert tested.interval.low <= tested.interval.value <= tested.interval.high
    outside = tested.interval.low > 0 or tested.interval.high < 0
    assert outside == (tested.p_value < 0.05) or abs(tested.p_value - 0.05) < 1e-9


def test_the_interval_holds_the_truth_95_times_in_100():
    draw = np.random.default_rng(0)
    samples = draw.normal(0.3, 2.0, size=(2000, 3))
    held = [i.low <= 0.3 <= i.high for i in (mean_test(row).interval for row in samples)]
    assert 0.93 < np.mean(held) < 0.97


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"seed": 0}, "has the seed of"),
        ({"training": {"phases": [{"max_steps": 9}]}}, "training.method: None instead of lora"),
        (
            {"training": {"phases": [{"max_steps": 9}], "method": "lora"}},
            "training.phases.0.max_steps: 9 instead of 8",
        ),
        ({"control": None}, "no such model"),
    ],
)
def test_what_is_no_second_training_is_refused(trained, second, said):
    settings = {"seed": 1, "adapted": 1.1, "control": 1.2, **second}
    with pytest.raises(AdaptError, match=said) as caught:
        over_seeds([trained(0, 1.1, 1.2), trained(**settings)])
    assert len(str(caught.value).splitlines()) == 1


def test_the_command(adapt, trained, tmp_path):
    runs = runs_of(trained)
    out_file = tmp_path / "seeds.json"
    code, out, err = adapt("compare", "--seeds", *runs, "--output", out_file)
    assert code == 0, err
    assert "Adopt: adapted 1.123 bits per byte" in out.replace("\n", " ")
    assert "seed 1" in out
    assert "3 trainings" in out
    record = json.loads(out_file.read_text())
    assert [one["model"] for one in record["comparisons"]] == [*runs, "3 trainings"]
    assert record["comparisons"][-1]["verdict"]["choice"] == "adopt"


@pytest.mark.parametrize(
    ("second", "said"), [("nothing", "is no finished run"), ("s0-0", "has the seed of")]
)
def test_what_is_no_training_is_refused_in_one_line(adapt, trained, tmp_path, second, said):
    code, out, err = adapt("compare", "--seeds", trained(0, 1.1, 1.2), tmp_path / second)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
