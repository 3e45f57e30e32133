"""Text larger than memory: what encoding and reading hold does not grow with it.

Encoded text lies in Arrow files that are mapped, so there is no `streaming` to switch on. Memory
here is what Python and Arrow allocate; pages of mapped files are the system's to take back.
"""

import gc
import tracemalloc

import numpy as np
import pyarrow
import pytest

from adapt.training.batches import plan_rows
from adapt.training.encoded import Record, column, encode_once
from adapt.training.examples import Examples, causal

DOCUMENT = 5_000  # bytes, and tokens
FEW, MANY = 150, 600  # documents

POOL = pyarrow.system_memory_pool()
KEPT = []


def texts(count):
    return (f"{number:0{DOCUMENT}d}" for number in range(count))


def encode(text):
    return Record(list(text.encode()), [True] * len(text), len(text))


def stored(folder, count):
    return encode_once(
        lambda: texts(count),
        encode,
        key=count,
        cache=folder,
        size=count * DOCUMENT,
        label="Encoding",
    )


def read(store):
    """Every third example of a phase that takes each document once, one after the other."""
    lengths = column(store, "tokens")
    rows = list(plan_rows(lengths.tolist(), 4_096))
    examples = Examples(rows, np.arange(len(store)), store, causal)
    return sum(len(examples[number]) for number in range(0, len(examples), 3))


def peak(work, *arguments):
    """The most bytes that Python and Arrow hold during the work."""
    gc.collect()
    usual, own = pyarrow.default_memory_pool(), pyarrow.proxy_memory_pool(POOL)
    KEPT.append(own)  # buffers may outlive the measurement
    pyarrow.set_memory_pool(own)
    tracemalloc.start()
    try:
        work(*arguments)
        python = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pyarrow.set_memory_pool(usual)
    return python + own.max_memory()


@pytest.fixture(autouse=True)
def warm(tmp_path):
    """What is imported and kept at first use is not counted."""
    read(stored(tmp_path / "warm", 2))


def test_encoding_holds_a_batch_of_documents_however_many_there_are(tmp_path):
    few, many = (peak(stored, tmp_path / "cache", count) for count in (FEW, MANY))
    assert FEW * DOCUMENT < few  # a token takes more than a byte, so something was measured
    assert many < 1.2 * few


def test_reading_holds_where_documents_lie_but_not_their_text(tmp_path):
    few, many = (peak(read, stored(tmp_path / "cache", count)) for count in (FEW, MANY))
    assert many - few < 0.2 * (MANY - FEW) * DOCUMENT
