"""Documents are drawn as they were when all were held at once, and no others are held."""

import random
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from adapt.evaluation.scores import _at, _order, sample

SEED = st.integers(0, 5)


def shuffled(items, seed):
    """All in a list, as it was done first: scores that were published hang on this order."""
    everything = list(items)
    return random.Random(seed).sample(everything, len(everything))


def sample_of_a_list(texts, documents, max_bytes, seed):
    taken, room = [], max_bytes
    for text in shuffled(texts, seed)[:documents]:
        room -= len(text.encode())
        if room < 0 and taken:
            break
        taken.append(text)
    return taken


@given(st.lists(st.text(max_size=30), max_size=60), st.integers(1, 70), st.integers(1, 900), SEED)
def test_draws_what_a_list_gave(texts, documents, max_bytes, seed):
    limits = documents, max_bytes, seed
    assert sample(lambda: iter(texts), *limits) == sample_of_a_list(texts, *limits)


@given(st.integers(0, 200), st.integers(0, 250), SEED)
def test_rows_come_in_the_order_that_a_list_gave(count, first, seed):
    rows = [{"row": number} for number in range(count)]
    drawn = _order(count, seed)[:first]
    assert _at(drawn, iter(rows)) == shuffled(rows, seed)[:first]


def test_nothing_is_read_behind_the_last_that_was_drawn():
    read = []
    items = (read.append(i) or i for i in range(100))
    assert _at([7, 2], items) == [7, 2]
    assert read == list(range(8))


def test_holds_only_what_is_drawn():
    def texts():
        return (f"{number:06} " * 1_000 for number in range(1_000))

    tracemalloc.start()
    try:
        drawn = sample(texts, 900, 70_000, 0)  # of 7 MB
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(drawn) == 10
    assert held < 400_000
