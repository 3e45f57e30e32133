"""Loops, terms and JSON in generated text, on constructed answers."""

import json
import socket
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
    pytest.importorskip("jsonschema", reason="the extra schema is not installed")
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


@pytest.fixture
def checker(tmp_path, monkeypatch):
    """`schema_checker` of a schema as it stands in Python; fetching anything fails the test."""
    pytest.importorskip("jsonschema", reason="the extra schema is not installed")

    def unreachable(*_, **__):
        pytest.fail("something is being fetched")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)

    def make(schema):
        (tmp_path / "schema.json").write_text(json.dumps(schema))
        return schema_checker(tmp_path / "schema.json")

    return make


def test_an_answer_nested_too_deep_is_not_valid(checker):
    check = checker({"type": "array", "items": {"$ref": "#"}})
    assert check("[[], [[]]]")
    assert not check("[1]")
    assert not check("[" * 300 + "]" * 300)
    for deep in ("[" * 2_000, "[" * 100_000, '{"a":' * 2_000):
        assert not check(deep)
        assert not is_json(deep)
    # A whole number that no float holds, where the schema has a float.
    assert checker({"multipleOf": 0.5})("1" * 400) is False


@pytest.mark.parametrize(
    ("schema", "got"),
    [
        ({"$ref": "defs.json"}, "defs.json"),
        ({"$ref": "#/$defs/missing"}, "#/$defs/missing"),
        ({"$ref": "https://example.com/schema.json"}, "https://example.com/schema.json"),
        ({"$id": "https://example.com/", "$ref": "b.json"}, "b.json"),
        ({"properties": {"a": {"items": {"anyOf": [{"$ref": "#none"}]}}}}, "#none"),
        ({"$defs": {"a": {"items": {"$ref": "#b"}}}, "$ref": "#/$defs/a"}, "#b"),
        ({"x": {"y": {"$ref": "#/z"}}, "$ref": "#/x/y"}, "#/z"),  # behind an unknown word
        ({"items": {"$dynamicRef": "#node"}}, "#node"),
        ({"title": "a", "$ref": "#/title"}, "#/title"),
        ({"title": "a", "$ref": "#/title/a"}, "#/title/a"),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "dependencies": {"a": ["b"], "b": {"$ref": "#/definitions/c"}},
            },
            "#/definitions/c",
        ),
    ],
)
def test_references_to_nothing_are_refused_at_once(checker, schema, got):
    with pytest.raises(DataError) as refused:
        checker(schema)
    assert "schema.json: $ref to no schema of this file" in str(refused.value)
    assert refused.value.got == got
    assert "under $defs" in refused.value.fix


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": {"type": "string"}}, "items": {"$ref": "#/$defs/a"}},
        {"$defs": {"a": {"type": "string", "$anchor": "b"}}, "items": {"$ref": "#b"}},
        {
            "$id": "https://example.com/root.json",
            "$defs": {"a": {"$id": "inner.json", "type": "string"}},
            "items": {"$ref": "inner.json"},
        },
        {
            "$id": "https://example.com/root.json",
            "$defs": {"a": {"type": "string"}},
            "items": {"$ref": "root.json#/$defs/a"},
        },
        {
            "$dynamicAnchor": "node",
            "items": {"anyOf": [{"type": "string"}, {"$dynamicRef": "#node"}]},
            "type": "array",
        },
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"a": {"$id": "#b", "type": "string"}},
            "items": {"$ref": "#b"},
        },
    ],
)
def test_references_that_lead_somewhere_are_followed(checker, schema):
    check = checker(schema)
    assert check('["a"]')
    assert not check("[1]")


def test_what_looks_like_a_reference_is_none(checker):
    check = checker({"properties": {"$ref": {"type": "string"}, "b": {"const": {"$ref": "#/no"}}}})
    assert check('{"$ref": "a", "b": {"$ref": "#/no"}}')
    assert not check('{"$ref": 1}')


def test_the_published_schemas_of_schemas_are_there(checker):
    check = checker({"$ref": "https://json-schema.org/draft/2020-12/schema"})
    assert check('{"type": "string"}')
    assert not check('{"type": 3}')


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ({"$ref": "#"}, "refers to itself without end"),
        ({"properties": {"a": {"type": "array"}}, "allOf": [{"$ref": "#"}]}, "without end"),
        (3, "not a JSON schema"),
        (None, "not a JSON schema"),
        ({"x": {"type": 3}, "$ref": "#/x"}, "not a JSON schema"),
    ],
)
def test_schemas_that_no_answer_could_be_checked_by(checker, schema, what):
    with pytest.raises(DataError, match=what):
        checker(schema)
