"""Cleaning: what is dropped is counted, what is kept is untouched unless the recipe says so."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.corpus.clean import NORMALIZERS, clean, filters, fold
from adapt.corpus.read import Document


def cleaned(texts, normalize="none", min_characters=1):
    dropped = Counter()
    documents = [Document(text, f"here:{i}") for i, text in enumerate(texts)]
    kept = list(clean(documents, NORMALIZERS[normalize], filters(min_characters), dropped))
    return kept, dropped


def test_reasons():
    kept, dropped = cleaned(
        ["Long enough", " \n", "ab", "long   ENOUGH ", "\ud800 broken"], "none", 3
    )
    assert [document.text for document in kept] == ["Long enough"]
    assert dropped == {
        "empty": 1,
        "shorter than min_characters": 1,
        "exact duplicate": 1,
        "not valid Unicode": 1,
    }


def test_prefix_marks_the_kind_of_text():
    dropped = Counter()
    list(clean([Document("", "x:1")], NORMALIZERS["none"], filters(1), dropped, "general: "))
    assert dropped == {"general: empty": 1}


@given(st.lists(st.text(max_size=4)), st.integers(1, 4))
def test_read_is_kept_plus_dropped(texts, min_characters):
    kept, dropped = cleaned(texts, "none", min_characters)
    assert len(texts) == len(kept) + dropped.total()
    assert len({fold(document.text) for document in kept}) == len(kept)
    assert all(texts[int(d.origin.removeprefix("here:"))] == d.text for d in kept)


@pytest.mark.parametrize(
    ("form", "expected"), [("none", "e\u0301 ﬁ"), ("nfc", "\u00e9 ﬁ"), ("nfkc", "\u00e9 fi")]
)
def test_normalisation(form, expected):
    kept, _ = cleaned(["e\u0301 ﬁ"], form)
    assert kept[0].text == expected


def test_texts_equal_after_normalisation_are_one():
    kept, dropped = cleaned(["e\u0301", "\u00e9"], "nfc")
    assert len(kept) == 1
    assert dropped == {"exact duplicate": 1}
