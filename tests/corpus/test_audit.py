"""The data audit: hand-worked findings, its bounds, and that it never repeats a text."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from adapt.corpus.audit import DataAudit, audit
from adapt.corpus.findings import NEAR
from adapt.corpus.similarity import ShingleSets, shingle_sets
from adapt.corpus.split import similar_to
from adapt.recipe.evaluation import ClassificationTask, GenerationTask
from adapt.recipe.sources import CorpusSection
from adapt.recipe.training import Phase
from adapt.reporting.audit import audit_lines, audit_table

WORDS = (
    "an abnormality of the renal tubule with progressive loss of function in several patients "
    "after chronic exposure to solvents and other causes that nobody had looked for before"
).split()


def sentence(number: int) -> str:
    """Texts that share no three words in a row."""
    return " ".join(f"{word}{number}" for word in WORDS)


def looked(section, tasks=(), phases=(), **options) -> DataAudit:
    options = {"seed": 0, "count_tokens": lambda texts: [len(t.split()) for t in texts], **options}
    return audit(CorpusSection.model_validate(section), tasks, phases, **options)


def found(result, what):
    (finding,) = [one for one in result.findings if what in one.what]
    return finding


def shown(result) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(audit_table(result))
    return console.file.getvalue() + "\n".join(audit_lines(result))


@pytest.fixture
def corpus(write_rows):
    def corpus(*texts, name="corpus.jsonl"):
        return {"sources": [{"path": write_rows(name, [{"text": text} for text in texts])}]}

    return corpus


def labels(path, **fields):
    return ClassificationTask(
        name="organ", kind="classification", path=path, text="text", label="label", **fields
    )


def test_duplicates_and_sizes(corpus):
    section = corpus(
        sentence(1),
        sentence(2),
        sentence(1).upper(),
        sentence(2) + " today",
        "",
        "  ",
        "x" * 100_001,
    )
    result = looked(section)
    same = found(result, "exact duplicates")
    assert (same.count, same.of, same.where) == (1, 7, ("corpus.jsonl:3",))
    near = found(result, "near duplicates")
    assert (near.count, near.where) == (1, ("corpus.jsonl:4",))
    assert found(result, "empty").where == ("corpus.jsonl:5", "corpus.jsonl:6")
    assert found(result, "longer than").where == ("corpus.jsonl:7",)
    alike = found(result, "plain shuffle")
    assert alike.where == ("corpus.jsonl:2", "corpus.jsonl:4")
    assert not alike.warn


def test_the_split_lets_similar_texts_through_only_where_it_was_told_to(corpus):
    # Pairs that differ in their last words: similarity above 0.8, below 1.
    texts = [sentence(n) + end for n in range(40) for end in ("", " but not always")]
    section = corpus(*texts) | {"near_duplicate": None, "test_fraction": 0.4}
    assert found(looked(section), "held out and yet").count == 0
    loose = found(looked(section | {"leak_threshold": 1.0}), "held out and yet")
    assert 5 <= loose.count <= loose.of
    assert loose.warn


def test_similar_to_by_hand():
    texts = [sentence(1), sentence(1) + " again", sentence(2), sentence(3), sentence(3) + " so"]
    held_out = np.array([True, False, True, True, True])
    assert similar_to(shingle_sets(texts), held_out, ~held_out, NEAR).tolist() == [
        True,
        False,
        False,
        False,
        False,
    ]


# Shingles of a text, and its side. All share the first, so that they are a crowd.
A_TEXT = st.tuples(
    st.frozensets(st.integers(1, 6), max_size=5).map(lambda own: own | {0}),
    st.sampled_from(["train", "validation", "test"]),
)


@given(st.lists(A_TEXT, min_size=1, max_size=24))
@example([(frozenset({0, 1}), "test")] * 9 + [(frozenset({0, 1, 2}), "train")])
@example(
    [(frozenset({0, 1, 2, 3}), "train"), *[(frozenset({0}), "test")] * 9, (frozenset({0}), "train")]
)
def test_a_crowd_hides_no_leak(texts):
    own = [one for one, _ in texts]
    held_out, train = (np.array([s == side for _, s in texts]) for side in ("test", "train"))
    sets = ShingleSets(
        np.cumsum([0, *map(len, own)]), np.array([i for one in own for i in sorted(one)])
    )
    expected = [
        bool(held_out[i])
        and any(train[j] and len(a & b) / len(a | b) >= 0.5 for j, b in enumerate(own))
        for i, a in enumerate(own)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapt.corpus.similarity._CROWD", 3)
        assert similar_to(sets, held_out, train, NEAR).tolist() == expected


@pytest.mark.parametrize(
    ("held_out", "others", "leaks"), [(0, 1_000, 0), (1_000, 0, 0), (3, 997, 3), (997, 3, 997)]
)
def test_a_crowd_of_copies_is_not_compared_pair_by_pair(monkeypatch, held_out, others, leaks):
    """A thousand copies make half a million pairs."""
    from adapt.corpus import similarity

    possible, pairs = similarity._possible, []

    def counted(part, texts, one, other):
        pairs.append(len(one))
        return possible(part, texts, one, other)

    monkeypatch.setattr(similarity, "_possible", counted)
    page = " ".join(f"word{i}" for i in range(20))
    sets = shingle_sets([f"{page} copy {i}" for i in range(1_000)])
    side = np.arange(1_000) < held_out
    assert similar_to(sets, side, ~side, NEAR).sum() == leaks
    indexed = 20  # shingles of a text by which it meets others, at most
    assert sum(pairs) <= indexed * 1_000 * (1 + min(held_out, others))


def test_labels(corpus, write_rows):
    rows = [{"text": sentence(n), "label": "kidney"} for n in range(200)]
    rows += [{"text": sentence(n), "label": "heart"} for n in range(200, 204)]
    rows += [{"text": sentence(0), "label": "brain"}, {"text": "z", "label": None}]
    result = looked(corpus(sentence(900)), [labels(write_rows("rows.jsonl", rows))])
    counted = found(result, "rows each")
    assert (counted.count, counted.warn) == (3, True)
    assert "1 to 200 rows each" in counted.what
    assert found(result, "fewer than 10").count == 2
    assert found(result, "without a label").where == ("rows.jsonl:206",)
    assert found(result, "another label").where == ("rows.jsonl:1", "rows.jsonl:205")
    assert "kidney" not in shown(result)


def test_several_labels_a_row(corpus, write_rows):
    names = ["heart", "kidney", "brain", "liver", "lung", "skin"]
    rows = [
        {"text": sentence(n), "label": f"{names[n % 6]}; {names[(n + 1 + n // 6 % 5) % 6]}"}
        for n in range(90)
    ]
    rows += [{"text": sentence(n), "label": ("", None)[n % 2]} for n in range(90, 110)]
    rows += [{"text": sentence(200), "label": label} for label in ("lung; skin", "skin;lung")]
    rows += [{"text": sentence(201), "label": label} for label in ("lung", "lung; skin")]
    task = labels(write_rows("rows.jsonl", rows), label_separator=";")
    result = looked(corpus(sentence(900)), [task])
    assert found(result, "rows each").count == 6
    assert found(result, "fewer than 10").count == 0
    assert not [one for one in result.findings if "without a label" in one.what]
    assert found(result, "another label").where == ("rows.jsonl:113", "rows.jsonl:114")


def test_what_max_length_cuts_off(corpus, write_rows):
    rows = [{"text": "one two", "label": "a"}, {"text": "one two three four five", "label": "b"}]
    path = write_rows("rows.jsonl", rows)
    phases = [
        Phase(name="d", objective="clm", max_steps=1, max_length=4),
        Phase(name="t", objective="sft", max_steps=1, max_length=4),
        Phase(name="h", objective="classification", max_steps=1, max_length=5),
    ]
    task = labels(path, prompt="{text}:")
    generation = GenerationTask(
        name="g", kind="generation", path=path, prompt="{label} {other}", target="text"
    )
    result = looked(corpus("a b c d", "a b c d e"), [task, generation], phases)
    whole = found(result, "phase d")
    assert (whole.count, whole.of, whole.where, whole.warn) == (1, 2, ("corpus.jsonl:2",), False)
    cut = found(result, "phase t")
    assert (cut.count, cut.of, cut.warn) == (2, 4, True)
    assert found(result, "phase h").count == 0
    without = looked(corpus("a b"), [task], phases, count_tokens=None)
    assert not [one for one in without.findings if one.what.startswith("phase")]
    assert "max_length" in without.notes[0]


def test_an_audit_survives_the_manifest(corpus, write_rows):
    result = looked(corpus("empty is", "the next", "", "the next"))
    assert [finding.what for finding in result.warnings] == [
        finding.what for finding in result.findings if finding.warn
    ]
    assert result.warnings
    assert DataAudit.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_half_a_surrogate_pair_is_counted_and_stops_nothing(corpus):
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    phase = Phase(name="d", objective="clm", max_steps=1, max_length=4)
    result = looked(
        corpus("a \ud800 a", "a"),
        phases=[phase],
        count_tokens=lambda texts: [len(e) for e in backend.encode_batch(texts)],
    )
    assert found(result, "surrogate").where == ("corpus.jsonl:1",)


def test_scripts(corpus):
    result = looked(corpus("abc def", "ghi", "日本語の文", "12"))
    assert result.scripts[0] == ("Latin", pytest.approx(9 / 14))
    assert found(result, "another script than Latin").where == ("corpus.jsonl:3",)


def test_reading_is_bounded_and_says_so(corpus, write_rows):
    section = corpus(*(sentence(n) for n in range(100)))
    size = len(sentence(0).encode())
    result = looked(section, max_bytes=10 * size)
    (extent,) = result.extents
    assert not extent.whole
    assert 10 <= extent.items <= 11
    assert "the first" in shown(result)
    assert "all" in shown(looked(section))
    section["general"] = [{"dataset": "org/name"}]
    assert looked(section).notes == ("org/name: of the Hub, not audited",)


def test_a_broken_row_is_a_place_and_no_text(corpus, tmp_path):
    section = corpus("fine")
    with Path("corpus.jsonl").open("a") as file:
        file.write('{"text": "also fine"}\n{"secret": no json 555-123-4567\n')
    result = looked(section)
    assert result.notes == ("corpus.jsonl:3: cannot be read from here on",)
    assert "secret" not in shown(result)


# -- never the text ----------------------------------------------------------------------------

LETTERS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=6, max_size=12)
DIGITS = st.text("0123456789", min_size=4, max_size=4)
EMAILS = st.builds("{}.{}@{}.example.org".format, LETTERS, LETTERS, LETTERS)
PHONES = st.builds("555-{}-{}".format, st.text("23456789", min_size=3, max_size=3), DIGITS)
RECORDS = st.builds("MRN {}{}".format, DIGITS, DIGITS)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EMAILS, PHONES, RECORDS, st.sampled_from(["domain", "general", "row", "label"]))
def test_no_planted_secret_is_ever_printed(write_rows, email, phone, record, place):
    planted = f"seen by {email}, call {phone}, {record}."
    here = [{"text": "before"}, {"text": planted}, {"text": planted + " \ufffd"}]
    texts = {"domain": here, "general": here}.get(place, [{"text": "clean"}])
    rows = [{"text": "a", "label": "x", "note": ""}, {"text": "b", "label": "y", "note": ""}]
    rows += {"row": [{"text": "c", "label": "y", "note": planted}]}.get(place, [])
    rows += {"label": [{"text": "a", "label": planted, "note": ""}]}.get(place, [])
    section = {
        "sources": [
            {
                "path": write_rows(
                    "domain.jsonl", texts if place == "domain" else [{"text": "clean"}]
                )
            }
        ],
        "general": [
            {
                "path": write_rows(
                    "general.jsonl", texts if place == "general" else [{"text": "clean"}]
                )
            }
        ],
    }
    task = labels(write_rows("rows.jsonl", rows))
    result = looked(section, [task], [Phase(name="t", objective="sft", max_steps=1, max_length=2)])
    for what in ("e-mail", "telephone", "record or insurance"):
        one = found(result, what)
        assert one.count >= 1, what
        assert one.warn
        assert all(where.rpartition(":")[2].isdigit() for where in one.where)
    everything = shown(result) + repr(result) + json.dumps([f.what for f in result.findings])
    name, _, domain = email.partition("@")
    for secret in (email, name, domain, phone, record, record[4:]):
        assert secret not in everything
