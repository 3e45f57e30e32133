"""Widening changes nothing by itself, and is left out where a merge could act across a joint."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from adapt.vocab.pretokenizer import widen

from .conftest import PROSE, spec_of, tiny
from .test_extend import NASTY, strings


@pytest.fixture(scope="module")
def widened(base) -> tuple[Tokenizer, Tokenizer]:
    spec = spec_of(base)
    wide = {**spec, "pre_tokenizer": widen(spec).pre_tokenizer}
    return base.backend_tokenizer, Tokenizer.from_str(json.dumps(wide))


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(strings, st.sampled_from(NASTY)))
def test_the_base_merges_give_the_base_segmentation(widened, text):
    plain, wide = widened
    assert wide.encode(text).ids == plain.encode(text).ids


def test_runs_of_words_reach_bpe_together(widened):
    _, wide = widened
    pieces = [
        piece
        for piece, _ in wide.pre_tokenizer.pre_tokenize_str("of the X-linked (rare) kind, too.")
    ]
    assert pieces == ["ofĠtheĠX-linkedĠ(rare)Ġkind,Ġtoo", "."]


@pytest.mark.parametrize(
    ("left", "right", "joints"),
    [("s", "Ġ", {" ", " ("}), (",", "Ġ", {", "}), ("-", "l", {"-"}), ("é", "Ġb", {" ", " ("})],
)
def test_a_joint_that_a_base_merge_crosses_is_left_out(left, right, joints):
    spec = spec_of(tiny("gpt2"))
    left = "Ã©" if left == "é" else left
    for token in (left, right, left + right):
        spec["model"]["vocab"].setdefault(token, len(spec["model"]["vocab"]))
    spec["model"]["merges"].append([left, right])
    widened = widen(spec)
    assert not joints & set(widened.joints)
    assert widened.joints
    assert all(repr(joint) in widened.reason for joint in joints)


def test_unknown_patterns_stay_as_they_are():
    spec = spec_of(tiny("gpt2"))
    spec["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": "\\w+"},
                "behavior": "Isolated",
                "invert": False,
            },
            {**spec["pre_tokenizer"], "use_regex": False},
        ],
    }
    widened = widen(spec)
    assert widened.pre_tokenizer == spec["pre_tokenizer"]
    assert widened.joints == ()
    assert "pattern" in widened.reason


def test_the_spec_is_not_changed():
    spec = spec_of(tiny("digits"))
    before = json.dumps(spec)
    widen(spec)
    assert json.dumps(spec) == before
    assert PROSE
