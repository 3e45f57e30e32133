"""Every error of a user is one line that says where, what, what was got and what to do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt import errors
from adapt.errors import AdaptError, DependencyError, RecipeErrors, TrainingError, nearest

PART = st.none() | st.text(max_size=20)


def test_parts_in_their_order():
    error = AdaptError("not a number", where="seed", got="x", fix="write a whole number")
    assert str(error) == "seed: not a number, got 'x'; write a whole number"
    assert str(AdaptError("not a number", got=3)) == "not a number, got 3"
    assert str(AdaptError("not a number")) == "not a number"


@given(st.text(max_size=20), PART, PART | st.lists(st.text(max_size=5)), PART)
def test_one_line_whatever_the_parts_hold(what, where, got, fix):
    assert len(str(AdaptError(what, where=where, got=got, fix=fix)).splitlines()) <= 1


def test_line_breaks_become_blanks():
    error = AdaptError("a\nb", where="c\r\nd", got="e\nf", fix="g\n\n h")
    assert str(error) == r"c d: a b, got 'e\nf'; g h"


def test_many_problems_are_a_line_each():
    problems = [AdaptError("a\nb", where="x"), AdaptError("c", got="d\ne")]
    error = RecipeErrors(problems)
    assert str(error).splitlines() == ["x: a b", r"c, got 'd\ne'"]
    assert error.problems == tuple(problems)


def test_all_are_adapt_errors_and_wrong_input_exits_with_2():
    classes = [c for c in vars(errors).values() if getattr(c, "__module__", "") == errors.__name__]
    classes = [c for c in classes if isinstance(c, type)]
    assert len(classes) >= 8
    for one in classes:
        assert issubclass(one, AdaptError)
        assert one.__doc__
        assert one.exit_code == (1 if one is TrainingError else 2)


def test_missing_extra_is_named_with_the_command_that_installs_it():
    error = DependencyError("zstandard", "zst", where="a.jsonl.zst")
    assert str(error) == "a.jsonl.zst: needs the package zstandard; pip install 'adapt-lm[zst]'"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("new_tokns", "did you mean new_tokens?"),
        ("zzz", "known: min_frequency, new_tokens"),
        ("", "known: min_frequency, new_tokens"),
    ],
)
def test_nearest(word, hint):
    assert nearest(word, ["new_tokens", "min_frequency"]) == hint
