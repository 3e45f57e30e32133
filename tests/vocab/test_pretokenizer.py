"""Widening changes nothing by itself, and is left out where a merge could act across a joint."""

import json
from functools import cache
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from adapt.vocab.pretokenizer import widen
from adapt.vocab.spec import build

from .conftest import PROSE, spec_of, tiny
from .test_extend import NASTY, strings


@pytest.fixture(scope="module")
def widened(byte_level_base) -> tuple[Tokenizer, Tokenizer]:
    spec = spec_of(byte_level_base)
    wide = {**spec, "pre_tokenizer": widen(spec).pre_tokenizer}
    return byte_level_base.backend_tokenizer, Tokenizer.from_str(json.dumps(wide))


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(strings, st.sampled_from(NASTY)))
def test_the_base_merges_give_the_base_segmentation(widened, text):
    plain, wide = widened
    assert wide.encode(text).ids == plain.encode(text).ids


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [text[start:end] for _, (start, end) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def test_runs_of_words_reach_bpe_together(widened):
    _, wide = widened
    assert pieces(wide, "of the X-linked, rare kind") == ["of the X-linked, rare kind"]


def test_numbers_stay_as_the_base_cuts_them(widened):
    plain, wide = widened
    text = "in 2024 and 31 December"
    assert [p for p in pieces(wide, text) if any(c.isdigit() for c in p)] == [
        p for p in pieces(plain, text) if any(c.isdigit() for c in p)
    ]


@pytest.mark.parametrize(
    ("left", "right", "joints"),
    [(",", "Ġ", {", "}), ("-", "l", {"-"}), ("(", "a", {" (", ") ("})],
)
def test_a_joint_that_a_base_merge_crosses_is_left_out(left, right, joints):
    spec = crossed("gpt2", left, right)
    widened = widen(spec)
    assert not joints & set(widened.joints)
    assert widened.joints
    assert all(repr(joint) in widened.reason for joint in joints)


@pytest.mark.parametrize(("left", "right"), [("s", "Ġ"), ("Ã©", "Ġb")])
def test_nothing_is_widened_where_base_merges_cross_a_space(left, right):
    spec = crossed("gpt2", left, right)
    widened = widen(spec)
    assert widened.pre_tokenizer == spec["pre_tokenizer"]
    assert widened.joints == ()
    assert "word boundaries" in widened.reason


def crossed(kind: str, left: str, right: str) -> dict:
    """A base with one more merge."""
    spec = spec_of(tiny(kind))
    for token in (left, right, left + right):
        spec["model"]["vocab"].setdefault(token, len(spec["model"]["vocab"]))
    spec["model"]["merges"].append([left, right])
    return spec


def split(pattern: str, behavior: str = "Isolated") -> dict:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": behavior,
        "invert": False,
    }


@pytest.mark.parametrize(
    "step", [split(r"\w+", "MergedWithNext"), {"type": "Metaspace"}, {"type": "Whitespace"}]
)
def test_other_pre_tokenizers_stay_as_they_are(step):
    spec = spec_of(tiny("gpt2"))
    plain = {**spec["pre_tokenizer"], "use_regex": False}
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [step, plain]}
    widened = widen(spec)
    assert widened.pre_tokenizer == spec["pre_tokenizer"]
    assert widened.joints == ()
    assert widened.reason


@settings(max_examples=100, deadline=None)
@given(text=st.one_of(strings, st.sampled_from(NASTY)))
def test_any_pattern_can_be_widened(text):
    spec = spec_of(tiny_with_own_pattern())
    wide = build({**spec, "pre_tokenizer": widen(spec).pre_tokenizer})
    assert pieces(wide, "characterized by") == ["charact", "erized by"]
    assert wide.encode(text).ids == build(spec).encode(text).ids


@cache
def tiny_with_own_pattern():
    """Cuts no tokenizer makes: words in twos, anything else alone."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    own = pre_tokenizers.Split(Regex(r" ?\p{L}{1,7}|[\s\S]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([own, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(PROSE, trainer)
    return SimpleNamespace(backend_tokenizer=tokenizer)


def test_a_piece_that_is_looked_up_and_never_merged_is_never_glued():
    spec = spec_of(tiny("llama3"))
    # Two tokens that no merge makes: only looking the whole piece up gives them.
    for token in ("Ġdysplasia", "Ġby"):
        merges = spec["model"]["merges"]
        spec["model"]["merges"] = [pair for pair in merges if "".join(pair) != token]
        spec["model"]["vocab"].setdefault(token, 900 + len(token))
    widened = widen(spec)
    plain, wide = build(spec), build({**spec, "pre_tokenizer": widened.pre_tokenizer})
    assert plain.encode(" dysplasia").tokens == ["Ġdysplasia"]
    for text in (" is characterized by dysplasia of", "dysplasias by the kidney", *PROSE):
        assert wide.encode(text).ids == plain.encode(text).ids
    assert pieces(wide, "the renal dysplasia of it") == ["the renal", " dysplasia", " of it"]


def test_the_spec_is_not_changed():
    spec = spec_of(tiny("digits"))
    before = json.dumps(spec)
    widen(spec)
    assert json.dumps(spec) == before
    assert PROSE
