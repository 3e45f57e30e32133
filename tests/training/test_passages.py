"""Long documents come in passages: phases are as long as asked, and controls read the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.corpus import Corpus, CorpusStatistics
from adapt.recipe.training import Phase
from adapt.training.passages import passages
from adapt.training.phases import phase_data
from adapt.vocab import load_tokenizer
from tests.conftest import general


@given(st.text(max_size=300) | st.text("ab .\n。", max_size=300), st.integers(8, 64))
def test_passages_are_the_text_and_never_too_long(text, size):
    found = list(passages(text, size))
    assert "".join(found) == text
    assert all(len(part.encode()) <= size for part in found)
    assert all(found) or found == [""]
    assert (len(found) == 1) == (len(text.encode()) <= size)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One line here.\nAnother one. And more.", "One line here.\n"),
        ("Some words. Others follow them.", "Some words."),
        ("word " * 9, "word word word word"),
        ("x" * 40, "x" * 20),
        ("ж" * 40, "ж" * 10),
    ],
)
def test_a_passage_ends_where_something_ends(text, first):
    assert next(passages(text, 20)) == first


def corpus_of(folder, texts):
    folder.mkdir()
    lines = [json.dumps({"text": text, "origin": "-"}) for text in texts]
    (folder / "train.jsonl").write_text("\n".join(lines))
    (folder / "validation.jsonl").write_text("\n".join(lines))
    return Corpus(folder, CorpusStatistics({}, {}, {}, []))


def book(seed):
    """Some 60 kB of sentences."""
    return " ".join(general(seed * 1000 + n) for n in range(500))


@pytest.fixture
def tokenizer(tiny_base):
    return load_tokenizer(tiny_base)


SIZE = {"objective": "clm", "max_steps": 40, "per_device_train_batch_size": 2, "max_length": 64}
CORPORA = {
    "first-long": [book(0)],
    "second-long": [general(9), book(0)],
    "mixed": [general(9), book(0), general(8), book(1)],
}


@pytest.mark.parametrize("kind", CORPORA)
@pytest.mark.parametrize("packing", [True, False])
def test_long_documents_fill_the_steps_and_no_more(kind, packing, tokenizer, tmp_path):
    corpus = corpus_of(tmp_path / "c", CORPORA[kind])
    phase = Phase(name="p", packing=packing, **SIZE)
    data = phase_data(phase, tokenizer, corpus, [], 0, None)
    assert 0.8 * 80 <= len(data.examples) <= 80
    assert data.examples.seen() == (data.documents, data.bytes_, data.tokens)
    whole = sum(len(text.encode()) for text in CORPORA[kind])
    assert 0 < data.bytes_ < whole


def test_a_control_reads_the_same_passages(tokenizer, tmp_path):
    """By their number, and by their bytes."""
    corpus = corpus_of(tmp_path / "c", CORPORA["mixed"])
    phase = Phase(name="p", **SIZE)
    adapted = load_tokenizer(tokenizer.name_or_path)
    adapted.add_tokens(["bicycles", "harbour", "wooden bridge"])
    first = phase_data(phase, adapted, corpus, [], 0, None)
    for given_ in ({"documents": first.documents}, {"documents": None, "bytes_": first.bytes_}):
        control = phase_data(phase, tokenizer, corpus, [], 0, **given_)
        assert (control.documents, control.bytes_) == (first.documents, first.bytes_)
        assert control.examples.drawn.tolist() == first.examples.drawn.tolist()
        assert control.tokens != first.tokens
        texts = [
            [t.decode(d.examples.store[int(n)]["input_ids"][1:]) for n in d.examples.drawn]
            for t, d in ((tokenizer, control), (adapted, first))
        ]
        assert texts[0] == texts[1]


def test_short_documents_stay_whole_and_validation_reads_whole_ones(tokenizer, tmp_path):
    short = corpus_of(tmp_path / "short", [general(n) for n in range(50)])
    phase = Phase(name="p", **SIZE)
    store = phase_data(phase, tokenizer, short, [], 0, None).examples.store
    assert [tokenizer.decode(row["input_ids"][1:]) for row in store] == list(
        short.documents("train")
    )
    mixed = corpus_of(tmp_path / "mixed", CORPORA["mixed"])
    assert phase_data(phase, tokenizer, mixed, [], 0, None, split="validation").documents == 4


def test_steps_that_text_does_not_fill_are_said(tokenizer, tmp_path, caplog):
    caplog.set_level("INFO", "adapt")
    """A script of a token a byte, of which one passage is more than both sequences."""
    strange = corpus_of(tmp_path / "strange", ["ꙮ" * 4_000])
    phase = Phase(name="p", **{**SIZE, "max_steps": 1})
    found = len(phase_data(phase, tokenizer, strange, [], 0, None).examples)
    assert 2 < found <= 6
    assert f"phase p: text fills {found} sequences where max_steps 1 takes 2" in caplog.text
    caplog.clear()
    corpus = corpus_of(tmp_path / "c", CORPORA["first-long"])
    phase_data(Phase(name="p", **{**SIZE, "max_steps": 300}), tokenizer, corpus, [], 0, None)
    assert "text fills" not in caplog.text


@pytest.mark.parametrize(
    ("packing", "said"),
    [(True, "several documents to each, packed"), (False, "those of a step of like length")],
)
def test_how_text_is_laid_out_is_said_once(packing, said, tokenizer, tmp_path, caplog):
    caplog.set_level("INFO", "adapt")
    corpus = corpus_of(tmp_path / "c", CORPORA["mixed"])
    phase = Phase(name="p", packing=packing, **SIZE)
    phase_data(phase, tokenizer, corpus, [], 0, None)
    phase_data(phase, tokenizer, corpus, [], 0, None, split="validation")
    assert caplog.text.count(said) == 1
