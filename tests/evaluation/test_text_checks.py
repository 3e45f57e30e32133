"""Loops, terms and JSON in generated text, on constructed answers."""

import sys

import pytest

from adapt.errors import DataError, DependencyError
from adapt.evaluation.text_checks import is_json, loops, schema_checker, term_recall


@pytest.mark.parametrize(
    "text",
    [
        "of the of the of the of the",
        "A cyst of the kidney of the kidney of the kidney of the kidney of the kidn",  # cut off
        "start a b c a b c a b c a b c a",
        "no no no no",
        "心脏心脏心脏心脏心脏心脏心脏心脏",
    ],
)
def test_loops(text):
    assert loops(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "word",
        "0000",
        "no no no",
        "of the of the of the kidney",
        "the heart and the lung and the liver and the kidney",
        "very very very very rare it was",
    ],
)
def test_what_does_not_end_in_a_loop(text):
    assert not loops(text)


def test_recall_of_terms_counts_whole_words_once_a_reference():
    found, wanted = term_recall(
        ["Renal tubules and a RENAL PELVIS.", "the heart", "nothing"],
        ["The renal pelvis, renal pelvis and nephron.", "a heartbeat", "the heart"],
        ["renal pelvis", "nephron", "heart", " "],
    )
    assert found.tolist() == [1, 0, 0]
    assert wanted.tolist() == [2, 0, 1]


def test_json_and_its_schema(tmp_path, monkeypatch):
    assert is_json('{"a": 1}')
    assert not is_json("{'a': 1}")
    schema = tmp_path / "schema.json"
    schema.write_text("{")
    with pytest.raises(DataError, match=r"schema\.json: no readable JSON schema"):
        schema_checker(schema)
    schema.write_text('{"type": "object", "required": ["code"]}')
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(DependencyError, match=r"pip install 'adapt-lm\[schema\]'"):
        schema_checker(schema)


def test_answers_against_a_schema(tmp_path):
    pytest.importorskip("jsonschema")
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "required": ["code"]}')
    check = schema_checker(schema)
    assert check('{"code": 1}')
    assert not check('{"cod": 1}')
    assert not check("[1]")
    assert not check('{"code": 1')
    schema.write_text('{"type": 3}')
    with pytest.raises(DataError, match="not a JSON schema"):
        schema_checker(schema)
