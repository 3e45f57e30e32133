"""Text is encoded once: the second run reads what the first one wrote."""

import json

import numpy as np
import pytest

from adapt.corpus import Corpus, CorpusStatistics
from adapt.recipe.evaluation import GenerationTask
from adapt.recipe.training import Phase
from adapt.training import encoded
from adapt.training.encoded import Record, column, encode_once, tokenizer_mark
from adapt.training.phases import phase_data
from adapt.vocab import load_tokenizer
from tests.conftest import clinical


class Counting:
    """An encoder that counts what it encodes, and can fail."""

    def __init__(self, fails_at=None):
        self.calls, self.fails_at = 0, fails_at

    def __call__(self, item):
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("out of luck")
        return Record([ord(c) for c in item], [True] * len(item), len(item), 0, [3])


ITEMS = ["kidney", "", "heart"]


def stored(tmp_path, encode, key="key", items=ITEMS):
    return encode_once(
        lambda: items, encode, key=key, cache=tmp_path / "cache", size=9, label="Encoding"
    )


def test_the_second_call_encodes_nothing(tmp_path):
    first, second = Counting(), Counting()
    one, two = stored(tmp_path, first), stored(tmp_path, second)
    assert (first.calls, second.calls) == (3, 0)
    assert one[:] == two[:]
    assert bytes(two[0]["input_ids"]).decode() == "kidney"
    assert column(two, "tokens").tolist() == [6, 0, 5]
    assert two[2]["classes"] == [3]


def test_what_was_written_is_mapped_not_read(tmp_path):
    store = stored(tmp_path, Counting())
    files = [file["filename"] for file in store.cache_files]
    assert files
    assert all(str(tmp_path) in file for file in files)
    assert type(store.data).__name__ == "MemoryMappedTable"


def test_another_key_encodes_anew(tmp_path):
    stored(tmp_path, Counting())
    other = Counting()
    stored(tmp_path, other, key="another")
    assert other.calls == 3


def test_a_failure_leaves_nothing_that_looks_done(tmp_path):
    with pytest.raises(RuntimeError, match="out of luck"):
        stored(tmp_path, Counting(fails_at=2))
    assert not list((tmp_path / "cache").iterdir())
    again = Counting()
    assert len(stored(tmp_path, again)) == again.calls == 3


def test_memory_and_disk_hold_the_same(tmp_path):
    in_memory = encode_once(
        lambda: ITEMS, Counting(), key="key", cache=None, size=9, label="Encoding"
    )
    assert in_memory[:] == stored(tmp_path, Counting())[:]


def test_several_processes_give_the_same_in_the_same_order(tmp_path, monkeypatch):
    items = [f"text {i}" for i in range(40)]
    alone = stored(tmp_path, Counting(), "alone", items)
    monkeypatch.setattr(encoded, "_LARGE", 0)
    monkeypatch.setattr(encoded.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    together = stored(tmp_path, Counting(), "together", items)
    assert alone[:] == together[:]


def test_a_tokenizers_mark_is_its_content_and_nothing_else(tiny_base):
    one, two = load_tokenizer(tiny_base), load_tokenizer(tiny_base)
    two("some text", padding="max_length", truncation=True, max_length=9)
    assert tokenizer_mark(one) == tokenizer_mark(two)
    two.add_tokens(["kidney"])
    assert tokenizer_mark(one) != tokenizer_mark(two)
    three = load_tokenizer(tiny_base)
    three.chat_template = "{{ messages }}"
    assert tokenizer_mark(one) != tokenizer_mark(three)


TASK = GenerationTask(name="define", kind="generation", path="-", prompt="{term}", target="is")


@pytest.mark.parametrize("objective", ["clm", "sft"])
def test_a_phase_is_encoded_once_whatever_its_seed(tiny_base, tmp_path, objective, monkeypatch):
    rows = [clinical(seed) for seed in range(9)]
    texts = [json.dumps({"text": row["definition"], "origin": "-"}) for row in rows]
    tasks = [json.dumps({"term": row["term"], "is": row["organ"]}) for row in rows]
    (tmp_path / "train.jsonl").write_text("\n".join(texts))
    (tmp_path / "tasks" / "define").mkdir(parents=True)
    (tmp_path / "tasks" / "define" / "train.jsonl").write_text("\n".join(tasks))
    corpus = Corpus(tmp_path, CorpusStatistics({}, {}, {}, []))
    phase = Phase(name="p", objective=objective, max_steps=4, max_length=64)

    def data(seed, **changes):
        return phase_data(
            phase.model_copy(update=changes),
            load_tokenizer(tiny_base),
            corpus,
            [TASK],
            seed,
            None,
            cache=tmp_path / "cache",
        )

    first = data(0)
    written = []
    monkeypatch.setattr(encoded, "_write", lambda *a: written.append(a) or pytest.fail("encoded"))
    again, other = data(0), data(1, max_steps=2)
    assert not written
    assert list(again.examples) == list(first.examples)
    assert list(other.examples) != list(first.examples)[: len(other.examples)]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    in_memory = phase_data(phase, load_tokenizer(tiny_base), corpus, [TASK], 0, None)
    assert list(in_memory.examples) == list(first.examples)
    documents, bytes_, tokens = first.examples.seen()
    assert (documents, bytes_, tokens) == (first.documents, first.bytes_, first.tokens)
    assert tokens == sum(map(len, first.examples))
    assert np.diff([first.examples.seen(n)[0] for n in range(len(first.examples) + 1)]).min() >= 0
