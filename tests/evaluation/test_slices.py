"""Hashes of held-out data, and the slice of fragmented documents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from adapt.evaluation.bootstrap import Interval
from adapt.evaluation.result import Likelihood
from adapt.evaluation.slices import fragmented, on_slice, text_hash


@given(st.lists(st.text()), st.lists(st.text()))
def test_hashes_differ_where_texts_do(a, b):
    assert (text_hash(a) == text_hash(b)) == (a == b)


def test_the_hash_is_that_of_a_jsonl_file_and_of_rows():
    import hashlib

    assert text_hash(["é", "b"]) == hashlib.sha256(b'"\\u00e9"\n"b"\n').hexdigest()
    assert text_hash([{"b": 1, "a": "x"}]) == text_hash([{"a": "x", "b": 1}])
    assert text_hash(["a", "b"]) != text_hash(["b", "a"])


@pytest.fixture
def tokenizer():
    return _tokenizer()


def _tokenizer():
    """Knows `cat` and `dog` whole, all else letter by letter."""
    vocabulary = {c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz")}
    vocabulary |= {"ca": 26, "cat": 27, "do": 28, "dog": 29}
    merges = [("c", "a"), ("ca", "t"), ("d", "o"), ("do", "g")]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


def test_the_fifth_with_the_highest_share_of_split_words(tokenizer):
    texts = ["cat dog cat dog"] * 8 + ["cat owl dog cat", "owl"]  # shares 0, 1/4 and 1
    assert fragmented(tokenizer, texts) == (8, 9)
    assert fragmented(tokenizer, texts, share=0.1) == (9,)
    # A share, not a count: a long text with more split words comes after.
    assert fragmented(tokenizer, ["owl cat " * 50, "owl", "cat", "dog", "cat"]) == (1,)


def test_of_equal_shares_most_tokens_a_byte_come_first(tokenizer):
    # Each is one split word, as every text without spaces is: 4 of 6, 2 of 4 and 5 of 5 bytes.
    texts = ["catowl", "cato", "hippo", "cat", "dog"]
    assert fragmented(tokenizer, texts) == (2,)
    assert fragmented(tokenizer, texts, share=0.4) == (0, 2)
    # The share of split words still comes first.
    assert fragmented(tokenizer, ["hippo cat", "cato"], share=0.5) == (1,)


def test_text_without_spaces_is_told_apart():
    # Knows one pair of characters; the rest is bytes, as with a base that hardly saw the script.
    from tokenizers import decoders

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(["心脏"])
    texts = ["心脏心脏", "心脏肾脏", "肾脏肾脏", "肾心脏脏", "心脏心脏"]
    assert fragmented(backend, texts) == (2,)


@given(st.lists(st.sampled_from(["owl", "cato", "cat dog", "cat owl"]), min_size=1, max_size=8))
def test_no_document_outside_the_slice_is_more_fragmented(texts):
    # By hand: share of split words, then tokens a byte.
    rank = {"owl": (1, 1), "cato": (1, 2 / 4), "cat owl": (0.5, 4 / 7), "cat dog": (0, 2 / 7)}
    chosen = fragmented(_tokenizer(), texts, share=0.5)
    if chosen:
        order = sorted(range(len(texts)), key=lambda i: (*(-x for x in rank[texts[i]]), i))
        assert chosen == tuple(sorted(order[: len(chosen)]))


def test_equals_come_in_order_and_no_split_word_is_no_slice(tokenizer):
    assert fragmented(tokenizer, ["owl", "owl", "owl"]) == (0,)
    assert fragmented(tokenizer, ["cat", "dog"]) == ()
    assert fragmented(tokenizer, []) == ()


def test_bits_of_a_slice_are_those_of_its_documents():
    likelihood = Likelihood((10.0, 40.0, 5.0, 0.0), (10, 20, 10, 0), Interval(1, 1, 1))
    assert on_slice(likelihood, (1, 2)).value == pytest.approx(45 / 30)
    assert on_slice(likelihood, (1, 3)) == Interval(2.0, 2.0, 2.0)  # nothing of it was scored
    assert on_slice(likelihood, ()) is None
