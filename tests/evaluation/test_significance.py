"""McNemar's exact test against its definition and hand-worked cases."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.evaluation.significance import McNemar, mcnemar


def test_hand_worked():
    # Five rows only the first has right, one only the second: 2 (C(6,0) + C(6,1)) / 2^6.
    first = [1, 1, 1, 1, 1, 0, 1, 0]
    second = [0, 0, 0, 0, 0, 1, 1, 0]
    assert mcnemar(first, second) == McNemar(5, 1, pytest.approx(14 / 64))
    assert mcnemar([1] * 8, [0] * 8).p_value == pytest.approx(2 / 256)
    assert mcnemar([1, 0], [1, 0]) == McNemar(0, 0, 1.0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_is_the_binomial_sum_and_symmetric(rows):
    first, second = ([float(x) for x in column] for column in zip(*rows, strict=True))
    found = mcnemar(first, second)
    differ, least = found.only_first + found.only_second, min(found.only_first, found.only_second)
    tail = sum(math.comb(differ, i) for i in range(least + 1)) / 2**differ
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(second, first).p_value == pytest.approx(found.p_value)


@pytest.mark.parametrize(("first", "second"), [([], []), ([1], [1, 0]), ([0.5], [1])])
def test_refuses_what_is_not_right_or_wrong(first, second):
    with pytest.raises(ValueError, match=r"rows|right or wrong"):
        mcnemar(first, second)
