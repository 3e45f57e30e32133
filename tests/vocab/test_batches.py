"""Texts are encoded in batches that neither many texts nor long ones make large."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.vocab import learn
from adapt.vocab.learn import batches, count_segments, limits
from adapt.vocab.spec import spec_of
from tests.vocab.conftest import DOMAIN, tiny


@given(st.lists(st.text(max_size=20), max_size=60), st.integers(1, 9), st.integers(1, 40))
def test_a_batch_ends_with_its_texts_or_its_characters(texts, most, characters):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learn, "_BATCH", most)
        patch.setattr(learn, "_BATCH_CHARACTERS", characters)
        made = list(batches(iter(texts)))
    assert [text for batch in made for text in batch] == texts
    for number, batch in enumerate(made, 1):
        full = len(batch) == most or sum(map(len, batch)) >= characters
        assert full or number == len(made)
        assert 0 < len(batch) <= most
        assert sum(map(len, batch[:-1])) < characters


def test_long_documents_are_not_gathered():
    def texts():
        return (f"{number:07} " * 12_500 for number in range(200))  # 20 MB

    tracemalloc.start()
    try:
        sizes = [len(batch) for batch in batches(texts())]
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes == [10] * 20
    assert held < 3_000_000


def test_what_is_learned_does_not_hang_on_batches(monkeypatch):
    base = tiny("gpt2").backend_tokenizer
    limit = limits(spec_of(base), multiword=False)
    whole = count_segments(base, limit, DOMAIN)
    monkeypatch.setattr(learn, "_BATCH_CHARACTERS", 100)
    assert count_segments(base, limit, DOMAIN) == whole
    assert whole
