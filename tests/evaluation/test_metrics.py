import random
import re
import socket

import evaluate
import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sklearn.metrics import f1_score, matthews_corrcoef, precision_recall_fscore_support

from adapt.evaluation.bootstrap import statistic_interval
from adapt.evaluation.label_metrics import (
    Ece,
    Mcc,
    accuracy_each,
    calibration,
    class_scores,
    label_statistics,
    set_class_scores,
    set_statistics,
)
from adapt.evaluation.metrics import (
    KINDS,
    METRICS,
    SETS,
    Accuracy,
    ChrF,
    MacroF1,
    RougeL,
    combined,
)
from adapt.evaluation.text_metrics import (
    Bleu,
    chrf_each,
    rouge_l_each,
    rouge_reads,
    text_statistics,
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
    # MCC: 2 right of 3; predicted 1 heart, 2 eyes; present 1 each: (2*3 - 3) / sqrt((9-5)(9-3)).
    assert combined("classification").compute(**LABELS) == pytest.approx(
        {
            "accuracy": 2 / 3,
            "macro_f1": (1 + 2 / 3 + 0) / 3,
            "micro_f1": 2 / 3,
            "mcc": 3 / 24**0.5,
        }
    )


def test_generation_metrics_combine():
    scores = combined("generation").compute(**TEXTS)
    assert list(scores) == list(KINDS["generation"])
    # First pair: 4 words in 6 share "an abnormal heart" or "an abnormal rhythm", so 3 of each.
    precision, recall = 3 / 4, 3 / 6
    first = 2 * precision * recall / (precision + recall)
    assert scores["rouge_l"] == pytest.approx((first + 1 + 0) / 3)
    assert scores["chrf"] == CHRF().corpus_score(TEXTS["predictions"], [TEXTS["references"]]).score
    assert 1 < scores["chrf"] < 100
    assert scores["bleu"] == BLEU().corpus_score(TEXTS["predictions"], [TEXTS["references"]]).score
    assert 1 < scores["bleu"] < 100
    # First pair: 4 words, all in the 6 of the reference; 3 pairs, of which "an abnormal" is in 5.
    assert scores["rouge_1"] == pytest.approx((2 * 1 * (4 / 6) / (1 + 4 / 6) + 1 + 0) / 3)
    assert scores["rouge_2"] == pytest.approx((2 * (1 / 3) * (1 / 5) / (1 / 3 + 1 / 5) + 1) / 3)
    assert scores["exact_match"] == pytest.approx(1 / 3)
    assert scores["length_ratio"] == pytest.approx((24 + 15 + 0) / (31 + 15 + 11))
    # an abnormal heart rhythm loss of hearing: 7 words, 3 + 2 pairs, 2 + 1 triples, none twice.
    assert [scores[f"distinct_{n}"] for n in (1, 2, 3)] == [1.0, 1.0, 1.0]
    assert scores["looping"] == 0.0


def test_perfect_scores():
    references = TEXTS["references"]
    pair = {"predictions": references, "references": references}
    assert set(combined("classification").compute(**pair).values()) == {1.0}
    scores = combined("generation").compute(**pair)
    assert scores.pop("looping") == 0.0
    assert scores.pop("chrf") == 100.0
    assert scores.pop("bleu") == pytest.approx(100.0)
    scores.pop("distinct_1")  # "a" is in two of the references
    assert set(scores.values()) == {1.0}


def test_a_label_only_predicted_counts_as_a_class():
    score = MacroF1().compute(predictions=["a", "nonsense"], references=["a", "a"])
    assert score["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_combines_with_modules_of_others_and_adds_in_batches():
    metric = evaluate.combine([Accuracy(), MacroF1()])
    metric.add(prediction="heart", reference="heart")
    metric.add_batch(predictions=["eye", "eye"], references=["eye", "ear"])
    both = combined("classification").compute(**LABELS)
    assert metric.compute() == {name: both[name] for name in ("accuracy", "macro_f1")}


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


@pytest.mark.parametrize(
    ("texts", "reads"),
    [(["心脏", "ωχ é"], False), (["心脏", "Q"], True), (["2"], True), ([], False), (["ÄÖ"], False)],
)
def test_what_rouge_reads(texts, reads):
    assert rouge_reads(texts) == reads
    if texts:
        assert (rouge_l_each(texts, texts) > 0).any() == reads


def test_other_scripts_have_chrf_though_no_rouge():
    pair = {"predictions": ["心脏疾病"], "references": ["心脏疾病"]}
    scores = combined("generation").compute(**pair)
    assert (scores["rouge_l"], scores["chrf"]) == (0.0, 100.0)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_gives_its_own_key_and_says_its_range_and_source(name):
    metric = METRICS[name]()
    assert list(metric.compute(**LABELS)) == [name]
    assert re.search(r" (0 to |-1, 0 by chance, to 1)", metric.description)
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


# -- sets of labels, classes, calibration -------------------------------------------------------


def test_sets_of_labels_by_hand_and_as_scikit_learn_says():
    found = [["heart"], ["heart", "eye"], [], ["ear"]]
    right = [["heart"], ["eye"], [], ["eye", "ear"]]
    scores = {n: m().compute(predictions=found, references=right)[n] for n, m in SETS.items()}
    # heart: 1 right of 2 found, 1 present; eye: 1 of 1, 2 present; ear: 1 of 1, 1 present.
    by_hand = {
        "subset_accuracy": 2 / 4,
        "set_micro_f1": 2 * 3 / (4 + 4),
        "set_macro_f1": (2 / 3 + 2 / 3 + 1) / 3,
    }
    assert scores == pytest.approx(by_hand)
    coded = [[[x in row for x in ("ear", "eye", "heart")] for row in s] for s in (right, found)]
    for average in ("micro", "macro"):
        assert scores[f"set_{average}_f1"] == pytest.approx(f1_score(*coded, average=average))


SEVERAL = [
    ([["heart"], [], ["heart"], []], [["heart"], ["heart"], [], []]),  # one label
    ([["heart"], ["heart"]], [["heart"], ["heart"]]),  # one, and all right
    ([[], []], [["heart"], []]),  # never found
    ([["heart"], []], [[], []]),  # never there
    ([[], []], [[], []]),  # none at all
    ([["heart"], ["eye", "heart"], []], [["heart"], ["eye"], ["ear"]]),
]


@pytest.mark.parametrize(("found", "right"), SEVERAL)
def test_sets_of_few_labels_are_counted_as_those_of_many(found, right):
    """Two columns that no row has make scikit-learn count labels, and change none of the counts."""
    labels = sorted({label for row in (*found, *right) for label in row})
    coded = [
        np.array([[x in row for x in (*labels, "", " ")] for row in rows])
        for rows in (right, found)
    ]
    scores = {n: m().compute(predictions=found, references=right)[n] for n, m in SETS.items()}
    resampled = {n: f(np.arange(len(found))) for n, f in set_statistics(found, right).items()}
    expected = precision_recall_fscore_support(*coded, zero_division=0)
    if labels:
        assert scores["set_micro_f1"] == pytest.approx(f1_score(*coded, average="micro"))
        assert scores["set_macro_f1"] == pytest.approx(expected[2][: len(labels)].mean())
    else:  # nothing to find, and nothing found
        assert scores["set_micro_f1"] == scores["set_macro_f1"] == 1
    for name, value in resampled.items():
        assert scores[name] == value
    table = set_class_scores(found, right)
    assert [one.label for one in table] == labels
    for i, one in enumerate(table):
        figures = one.precision, one.recall, one.f1, one.rows
        assert figures == pytest.approx([column[i] for column in expected])


def test_calibration_error_by_hand():
    # Bin (12/15, 13/15]: 0.85 twice, one right: gap 0.35. Bin (14/15, 1]: 1.0 once, right: 0.
    # Bin [0, 1/15]: 0 once, wrong: 0.
    score = Ece().compute(
        predictions=["a", "a", "a", "a"],
        references=["a", "b", "a", "b"],
        confidences=[0.85, 0.85, 1.0, 0.0],
    )
    assert score["ece"] == pytest.approx(2 / 4 * 0.35)


def test_confidence_on_the_edge_of_a_bin_falls_below_it():
    # 3/15 is in (2/15, 3/15] with 0.15, not with 0.21: gaps |1 - 0.2 + 0 - 0.15| and |1 - 0.21|.
    score = Ece().compute(
        predictions=["a"] * 3, references=["a", "b", "a"], confidences=[3 / 15, 0.15, 0.21]
    )
    assert score["ece"] == pytest.approx((0.65 + 0.79) / 3)


def test_confidences_must_be_probabilities():
    with pytest.raises(ValueError, match="confidence"):
        Ece().compute(predictions=["a"], references=["a"], confidences=[1.5])


def test_bins_of_the_calibration_error_by_hand():
    bins = calibration([0.85, 0.85, 1.0, 0.0], accuracy_each(["a"] * 4, ["a", "b", "a", "b"]))
    assert [(one.confidence, one.accuracy, one.rows) for one in bins] == [
        (0.0, 0.0, 1),
        (pytest.approx(0.85), 0.5, 2),
        (1.0, 1.0, 1),
    ]
    with pytest.raises(ValueError, match="confidence"):
        calibration([0.5], accuracy_each(["a", "b"], ["a", "b"]))


def test_bins_sum_to_the_calibration_error():
    draw = np.random.default_rng(0)
    for rows in (1, 2, 7, 400):
        sure = np.where(
            draw.random(rows) < 0.2, draw.integers(16, size=rows) / 15, draw.random(rows)
        )
        found = ["a" if one else "b" for one in draw.random(rows) < 0.6]
        bins = calibration(sure.tolist(), accuracy_each(found, ["a"] * rows))
        ece = Ece().compute(predictions=found, references=["a"] * rows, confidences=sure.tolist())
        assert sum(one.rows for one in bins) == rows
        assert all(one.rows and 0 <= one.confidence <= 1 and 0 <= one.accuracy <= 1 for one in bins)
        assert [one.confidence for one in bins] == sorted(one.confidence for one in bins)
        gaps = [one.rows / rows * abs(one.accuracy - one.confidence) for one in bins]
        assert sum(gaps) == pytest.approx(ece["ece"])
        # Guo et al. 2017, row by row.
        edges = [(n / 15, (n + 1) / 15) for n in range(15)]
        direct = 0.0
        for low, high in edges:
            inside = [i for i in range(rows) if low < sure[i] <= high or (low == sure[i] == 0)]
            direct += abs(sum((found[i] == "a") - sure[i] for i in inside)) / rows
        assert ece["ece"] == pytest.approx(direct)


def test_each_class_and_the_confusion_matrix_by_hand():
    table, confusion = class_scores(**LABELS)
    assert [(c.label, c.precision, c.recall, c.f1, c.rows) for c in table] == [
        ("ear", 0.0, 0.0, 0.0, 1),
        ("eye", 0.5, 1.0, pytest.approx(2 / 3), 1),
        ("heart", 1.0, 1.0, 1.0, 1),
    ]
    assert set(confusion) == {("heart", "heart", 1), ("eye", "eye", 1), ("ear", "eye", 1)}


# -- resampled metrics ------------------------------------------------------------------------


def test_statistics_of_chosen_rows_are_the_metrics_of_those_rows():
    draw = random.Random(0)
    right = [draw.choice("abcd") for _ in range(60)]
    found = [draw.choice([r, "a", "e"]) for r in right]
    statistics = label_statistics(found, right)
    texts = [" ".join(draw.choices(["renal", "tubule", "of", "the"], k=9)) for _ in range(60)]
    wanted = [" ".join(draw.choices(["renal", "tubule", "of", "the"], k=9)) for _ in range(60)]
    sums = text_statistics(texts, wanted)
    for seed in range(5):
        rows = np.random.default_rng(seed).integers(60, size=60)
        f, r = [found[i] for i in rows], [right[i] for i in rows]
        assert statistics["macro_f1"](rows) == pytest.approx(f1_score(r, f, average="macro"))
        assert statistics["mcc"](rows) == pytest.approx(matthews_corrcoef(r, f))
        assert statistics["mcc"](rows) == pytest.approx(
            Mcc().compute(predictions=f, references=r)["mcc"]
        )
        t, w = [texts[i] for i in rows], [wanted[i] for i in rows]
        assert sums["chrf"](rows) == pytest.approx(
            ChrF().compute(predictions=t, references=w)["chrf"]
        )
        assert sums["bleu"](rows) == pytest.approx(
            Bleu().compute(predictions=t, references=w)["bleu"]
        )


def test_mcc_of_one_class_is_zero():
    statistic = label_statistics(["a", "a"], ["a", "a"])["mcc"]
    assert statistic(np.array([0, 1])) == 0.0


def test_interval_of_a_statistic_covers_a_known_truth():
    # Balanced classes, right 7 times in 10, else the other class: macro-F1 is 0.7.
    covered = 0
    for seed in range(100):
        draw = np.random.default_rng(seed)
        right = draw.integers(2, size=200)
        found = np.where(draw.random(200) < 0.7, right, 1 - right)
        statistic = label_statistics([str(x) for x in found], [str(x) for x in right])["macro_f1"]
        interval = statistic_interval(statistic, 200, seed, resamples=200)
        covered += interval.low <= 0.7 <= interval.high
    assert 88 <= covered <= 99
