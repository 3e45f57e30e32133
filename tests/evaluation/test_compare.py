"""The verdict's rule, on constructed outcomes."""

import pytest

from adapt.evaluation.bootstrap import ratio_interval
from adapt.evaluation.compare import compare, verdict
from adapt.evaluation.result import Likelihood, ModelScores
from adapt.evaluation.scores import sample

BYTES = tuple(100 + 7 * i for i in range(60))


def scores(bits_per_byte, spread=0.0):
    bits = tuple(n * (bits_per_byte + spread * (1 if i % 2 else -1)) for i, n in enumerate(BYTES))
    likelihood = Likelihood(bits, BYTES, ratio_interval(bits, BYTES, 0))
    return ModelScores(likelihood, None, {}, None)


@pytest.mark.parametrize(
    ("base", "control", "adapted", "spread", "saved", "choice"),
    [
        (1.2, 1.0, 0.9, 0.0, 0.2, "adopt"),
        (1.2, 1.0, 1.005, 0.0, 0.2, "adopt for speed"),
        (1.2, 1.0, 1.005, 0.0, 0.01, "do not extend"),
        (1.2, 1.0, 1.1, 0.0, 0.3, "do not extend"),
        (1.2, 1.0, 1.02, 0.5, 0.2, "no difference"),
        (0.9, 1.0, 0.95, 0.0, 0.3, "do not extend"),  # better than the control, not than the base
    ],
)
def test_verdicts(base, control, adapted, spread, saved, choice):
    models = {"base": scores(base), "control": scores(control), "adapted": scores(adapted, spread)}
    comparisons = {
        name: compare(models["adapted"], models[name], name, 0) for name in ("base", "control")
    }
    found = verdict(comparisons, models, saved)
    assert found.choice == choice
    assert found.sentence.startswith(choice.capitalize())
    value = models["adapted"].domain.interval.value
    assert f"{abs(value - control) / control:.1%}" in found.sentence


def test_without_a_control_the_base_is_compared_with():
    models = {"base": scores(1.0), "adapted": scores(0.8)}
    found = verdict({"base": compare(models["adapted"], models["base"], "base", 0)}, models, 0.2)
    assert found.choice == "adopt"
    assert "base 1.000" in found.sentence


def test_different_documents_are_not_compared():
    other = ModelScores(Likelihood((1.0, 2.0), (1, 2), ratio_interval([1], [1], 0)), None, {}, None)
    with pytest.raises(ValueError, match="same documents"):
        compare(scores(1.0), other, "base", 0)


def test_a_sample_keeps_to_its_limits_and_is_the_same_for_every_model():
    texts = [f"text {i}" * (i + 1) for i in range(50)]
    taken = sample(texts, 20, 500, 0)
    assert taken == sample(iter(texts), 20, 500, 0)
    assert 0 < sum(map(len, taken)) <= 500
    assert sample(texts, 20, 1, 0)  # never none
    assert len(sample(texts, 20, 10**9, 0)) == 20
