import numpy as np
import pytest

from adapt.evaluation.bootstrap import (
    Interval,
    jackknife_interval,
    mean_interval,
    paired_ratio_difference,
    paired_statistic_test,
    paired_test,
    ratio_interval,
    statistic_interval,
)

GENERATOR = np.random.default_rng(7)
BYTES = GENERATOR.integers(50, 500, size=80)
BITS_A = BYTES * GENERATOR.normal(1.0, 0.2, size=80)
BITS_B = BITS_A + BYTES * GENERATOR.normal(0.05, 0.02, size=80)


def plain_ratio(top, bottom, seed, resamples):
    """The definition, one draw after the other."""
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(resamples):
        rows = generator.integers(len(top), size=len(top))
        draws.append(top[rows].sum() / bottom[rows].sum())
    return np.percentile(draws, 2.5), np.percentile(draws, 97.5)


def test_ratio_is_of_sums_and_matches_the_definition():
    interval = ratio_interval(BITS_A, BYTES, seed=3, resamples=500)
    assert interval.value == pytest.approx(BITS_A.sum() / BYTES.sum())
    assert (interval.low, interval.high) == pytest.approx(plain_ratio(BITS_A, BYTES, 3, 500))
    assert interval.low < interval.value < interval.high


def test_mean_is_the_ratio_with_ones_below():
    right = (BITS_A > BYTES).astype(float)
    mean, ratio = mean_interval(right, seed=1), ratio_interval(right, np.ones(80), seed=1)
    assert (mean.value, mean.low, mean.high) == pytest.approx((ratio.value, ratio.low, ratio.high))
    assert 0 <= mean.low <= mean.value <= mean.high <= 1


def test_blocks_of_draws_do_not_change_the_result(monkeypatch):
    whole = ratio_interval(BITS_A, BYTES, seed=0)
    monkeypatch.setattr("adapt.evaluation.bootstrap.CELLS", 1000)
    assert ratio_interval(BITS_A, BYTES, seed=0) == whole


def test_seed_decides():
    assert ratio_interval(BITS_A, BYTES, seed=5) == ratio_interval(BITS_A, BYTES, seed=5)
    assert ratio_interval(BITS_A, BYTES, seed=5) != ratio_interval(BITS_A, BYTES, seed=6)


def test_pairing_finds_a_small_constant_difference():
    difference = paired_ratio_difference(BITS_A, BITS_B, BYTES, seed=0)
    a, b = ratio_interval(BITS_A, BYTES, seed=0), ratio_interval(BITS_B, BYTES, seed=0)
    assert difference.value == pytest.approx(a.value - b.value)
    assert difference.low < difference.value < difference.high < 0
    assert a.high > b.low, "apart, the two would not be told from each other"
    assert difference.high - difference.low < (a.high - a.low) / 3


def test_a_difference_turned_round_changes_sign():
    forth = paired_ratio_difference(BITS_A, BITS_B, BYTES, seed=0)
    back = paired_ratio_difference(BITS_B, BITS_A, BYTES, seed=0)
    assert (back.value, back.low, back.high) == pytest.approx(
        (-forth.value, -forth.high, -forth.low)
    )


def test_the_same_system_twice_differs_by_nothing():
    assert paired_ratio_difference(BITS_A, BITS_A, BYTES, seed=0) == Interval(0.0, 0.0, 0.0)


def test_single_document_has_no_width():
    assert ratio_interval([30], [10], seed=0) == Interval(3.0, 3.0, 3.0)


def test_covers_a_known_truth_about_95_times_in_100():
    # 400 samples of 60 documents; the share's own standard error is 0.011, and the percentile
    # interval is known to fall a little short of 95 % at this size: 0.91 to 0.98 is allowed.
    generator = np.random.default_rng(11)
    truth, hits, samples = 0.8, 0, 400
    for sample in range(samples):
        bytes_ = generator.integers(100, 1000, size=60)
        bits = bytes_ * generator.gamma(shape=4.0, scale=truth / 4.0, size=60)
        interval = ratio_interval(bits, bytes_, seed=sample, resamples=400)
        hits += interval.low <= truth <= interval.high
    assert 0.91 <= hits / samples <= 0.98


def test_a_paired_interval_covers_a_known_difference_about_95_times_in_100():
    # The models share what makes a document hard; the true difference is 0.05 bits per byte.
    generator = np.random.default_rng(23)
    truth, hits, samples = 0.05, 0, 400
    for sample in range(samples):
        bytes_ = generator.integers(100, 1000, size=60)
        hard = generator.gamma(shape=4.0, scale=0.25, size=60)
        a = bytes_ * (hard + truth + generator.normal(0, 0.05, size=60))
        b = bytes_ * (hard + generator.normal(0, 0.05, size=60))
        found = paired_ratio_difference(a, b, bytes_, seed=sample, resamples=400)
        hits += found.low <= truth <= found.high
    assert 0.91 <= hits / samples <= 0.98


def test_p_values_are_about_uniform_where_there_is_no_difference():
    generator = np.random.default_rng(29)
    found = []
    for sample in range(400):
        bytes_ = generator.integers(100, 1000, size=60)
        a, b = (bytes_ * generator.gamma(shape=4.0, scale=0.25, size=60) for _ in range(2))
        found.append(paired_test(a, b, bytes_, seed=sample, resamples=400).p_value)
    for level, tolerance in ((0.05, 0.035), (0.25, 0.06), (0.5, 0.07), (0.75, 0.06)):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=tolerance)


def test_a_real_difference_has_a_small_p_value_and_none_has_one():
    assert paired_test(BITS_A, BITS_B, BYTES, seed=0).p_value == pytest.approx(2 / 10_001)
    assert paired_test(BITS_A, BITS_A, BYTES, seed=0).p_value == 1


def test_p_value_and_interval_do_not_contradict_each_other():
    generator = np.random.default_rng(31)
    clear = 0
    for sample in range(200):
        a, b = BYTES * generator.normal((1.0, 1.04), 0.15, size=(80, 2)).T
        found = paired_test(a, b, BYTES, seed=sample, resamples=1000)
        outside = found.interval.low > 0 or found.interval.high < 0
        if abs(found.p_value - 0.05) > 0.005:  # up to the draws about the percentile
            assert outside == (found.p_value < 0.05)
            clear += 1
    assert clear > 150


def test_a_statistic_that_is_a_mean_gives_what_the_means_give():
    a, b = BITS_A / BYTES, BITS_B / BYTES
    means = (lambda rows: a[rows].mean(), lambda rows: b[rows].mean())
    found = paired_statistic_test(*means, 80, seed=4, resamples=300)
    expected = paired_test(a, b, np.ones(80), seed=4, resamples=300)
    assert found.p_value == expected.p_value
    assert found.interval.value == pytest.approx(expected.interval.value)
    assert found.interval.low == pytest.approx(expected.interval.low)


def test_p_value_matches_its_definition():
    generator = np.random.default_rng(5)
    a, b = BYTES * generator.normal((1.0, 1.02), 0.15, size=(80, 2)).T
    draws = np.random.default_rng(9)
    below = above = 0
    for _ in range(300):
        rows = draws.integers(80, size=80)
        change = a[rows].sum() - b[rows].sum()
        below, above = below + (change <= 0), above + (change >= 0)
    expected = min(1, 2 * (min(below, above) + 1) / 301)
    assert paired_test(a, b, BYTES, seed=9, resamples=300).p_value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("top", "bottom", "message"),
    [
        ([], [], "no documents"),
        ([1.0, 2.0], [1.0], "shapes"),
        ([[1.0]], [[1.0]], "shapes"),
        ([1.0, float("nan")], [1.0, 1.0], "finite"),
        ([1.0, 1.0], [1.0, 0.0], "positive"),
    ],
)
def test_refuses_what_has_no_interval(top, bottom, message):
    with pytest.raises(ValueError, match=message):
        ratio_interval(top, bottom, seed=0)


def test_refuses_to_draw_nothing():
    with pytest.raises(ValueError, match="resamples"):
        mean_interval([1.0], seed=0, resamples=0)


def test_of_a_mean_the_jackknife_gives_the_standard_error_of_the_textbook():
    values = GENERATOR.random(50)
    found = jackknife_interval(lambda rows: float(values[rows].mean()), 50)
    error = values.std(ddof=1) / np.sqrt(50)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(
        (found.value - 1.96 * error, found.value + 1.96 * error)
    )


def test_the_jackknife_covers_the_share_of_different_words_where_draws_do_not():
    generator = np.random.default_rng(11)
    chances = 1 / np.arange(1, 301)

    def share():
        drawn = generator.choice(300, size=(40, 10), p=chances / chances.sum())
        return lambda rows: len(np.unique(drawn[rows])) / drawn[rows].size

    everything = np.arange(40)
    truth = np.mean([share()(everything) for _ in range(400)])
    intervals = [jackknife_interval(share(), 40) for _ in range(300)]
    covered = np.mean([one.low <= truth <= one.high for one in intervals])
    assert 0.92 <= covered <= 1
    assert statistic_interval(share(), 40, seed=0, resamples=200).high < truth


def test_the_jackknife_leaves_out_groups_of_many_documents_and_stays_between_0_and_1():
    calls = []

    def share(rows):
        calls.append(len(rows))
        return float((rows < 1).mean())

    found = jackknife_interval(share, 1001, groups=10)
    assert calls == [1001, 900, *[901] * 9]
    assert found.low == 0 < found.value < found.high
    assert jackknife_interval(lambda rows: 1.0, 1) == Interval(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="a document and two groups"):
        jackknife_interval(share, 0)
