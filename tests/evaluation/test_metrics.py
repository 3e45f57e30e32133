import socket

import evaluate
import numpy as np
import pytest
from sacrebleu.metrics.chrf import CHRF

from adapt.evaluation.metrics import (
    KINDS,
    METRICS,
    Accuracy,
    ChrF,
    MacroF1,
    RougeL,
    accuracy_each,
    chrf_each,
    combined,
    rouge_l_each,
)

LABELS = {"predictions": ["heart", "eye", "eye"], "references": ["heart", "eye", "ear"]}
TEXTS = {
    "predictions": ["an abnormal heart rhythm", "loss of hearing", ""],
    "references": ["an abnormal rhythm of the heart", "loss of hearing", "a small eye"],
}


@pytest.fixture(autouse=True)
def offline_and_watched(monkeypatch, tmp_path):
    """No network, and a cache folder that must stay empty."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"network call {args}")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))
    yield
    assert not list(tmp_path.iterdir())


def test_classification_metrics_combine():
    # heart: F1 1; eye: precision 1/2, recall 1, F1 2/3; ear, never predicted: 0.
    assert combined("classification").compute(**LABELS) == pytest.approx(
        {"accuracy": 2 / 3, "macro_f1": (1 + 2 / 3 + 0) / 3}
    )


def test_generation_metrics_combine():
    scores = combined("generation").compute(**TEXTS)
    assert set(scores) == {"rouge_l", "chrf"}
    # First pair: 4 words in 6 share "an abnormal heart" or "an abnormal rhythm", so 3 of each.
    precision, recall = 3 / 4, 3 / 6
    first = 2 * precision * recall / (precision + recall)
    assert scores["rouge_l"] == pytest.approx((first + 1 + 0) / 3)
    assert scores["chrf"] == CHRF().corpus_score(TEXTS["predictions"], [TEXTS["references"]]).score
    assert 1 < scores["chrf"] < 100


def test_perfect_scores():
    references = TEXTS["references"]
    assert combined("classification").compute(predictions=references, references=references) == {
        "accuracy": 1.0,
        "macro_f1": 1.0,
    }
    assert combined("generation").compute(predictions=references, references=references) == {
        "rouge_l": 1.0,
        "chrf": 100.0,
    }


def test_a_label_only_predicted_counts_as_a_class():
    score = MacroF1().compute(predictions=["a", "nonsense"], references=["a", "a"])
    assert score["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_combines_with_modules_of_others_and_adds_in_batches():
    metric = evaluate.combine([Accuracy(), MacroF1()])
    metric.add(prediction="heart", reference="heart")
    metric.add_batch(predictions=["eye", "eye"], references=["eye", "ear"])
    assert metric.compute() == combined("classification").compute(**LABELS)


def test_computing_twice_starts_afresh():
    metric = combined("classification")
    first = metric.compute(**LABELS)
    metric.compute(predictions=["x"], references=["y"])
    assert metric.compute(**LABELS) == first


def test_instances_under_way_at_once_do_not_mix():
    one, other = Accuracy(), Accuracy()
    one.add_batch(predictions=["a"], references=["a"])
    other.add_batch(predictions=["a"], references=["b"])
    assert one.compute() == {"accuracy": 1.0}
    assert other.compute() == {"accuracy": 0.0}


def test_scores_of_examples_average_to_the_metric():
    accuracies = accuracy_each(**LABELS)
    assert accuracies.tolist() == [1.0, 1.0, 0.0]
    assert accuracies.mean() == pytest.approx(Accuracy().compute(**LABELS)["accuracy"])
    rouge = rouge_l_each(**TEXTS)
    assert rouge.shape == (3,)
    assert rouge.mean() == pytest.approx(RougeL().compute(**TEXTS)["rouge_l"])


def test_chrf_of_one_example_is_chrf_of_the_set_of_it():
    each = chrf_each(**TEXTS)
    assert each.dtype == np.float64
    assert each[1] == 100.0
    first = ChrF().compute(predictions=TEXTS["predictions"][:1], references=TEXTS["references"][:1])
    assert each[0] == pytest.approx(first["chrf"])


def test_other_scripts_have_chrf_though_no_rouge():
    pair = {"predictions": ["心脏疾病"], "references": ["心脏疾病"]}
    assert combined("generation").compute(**pair) == {"rouge_l": 0.0, "chrf": 100.0}


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_gives_its_own_key_and_says_its_range_and_source(name):
    metric = METRICS[name]()
    assert list(metric.compute(**LABELS)) == [name]
    assert " 0 to 1" in metric.description
    assert metric.citation


@pytest.mark.parametrize(
    ("predictions", "references"),
    [([], []), (["a"], ["a", "b"]), (["a", None], ["a", "b"]), ([1], ["a"])],
)
def test_refuses_what_cannot_be_scored(predictions, references):
    with pytest.raises(ValueError, match=r"no examples|number of|must be text|expected format"):
        Accuracy().compute(predictions=predictions, references=references)
    with pytest.raises(ValueError, match=r"no examples|predictions for|must be text"):
        rouge_l_each(predictions, references)


def test_unknown_kind_names_the_nearest():
    assert {name for names in KINDS.values() for name in names} == set(METRICS)
    with pytest.raises(ValueError, match="did you mean classification"):
        combined("clasification")
