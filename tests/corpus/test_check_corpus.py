"""`adapt check` names every bad file and column at once, from first rows alone."""

import pytest

from adapt.corpus import check_corpus
from adapt.recipe.evaluation import ClassificationTask, GenerationTask
from adapt.recipe.sources import CorpusSection


def check(section: dict, *tasks):
    return [str(problem) for problem in check_corpus(CorpusSection.model_validate(section), tasks)]


def generation(prompt: str, path: str = "rows.jsonl") -> GenerationTask:
    return GenerationTask(name="g", kind="generation", path=path, prompt=prompt, target="answer")


@pytest.fixture(autouse=True)
def _files(write_rows):
    write_rows("good.jsonl", [{"text": "a"}, {"txt": "not looked at"}])
    write_rows("rows.jsonl", [{"term": "t", "answer": "a", "body": "b", "label": "l", "n": 1}])
    write_rows("empty.jsonl", [])


def test_nothing_wrong():
    label = ClassificationTask(name="c", kind="classification", path="rows.jsonl", text="body")
    section = {"sources": [{"path": "good.jsonl"}], "general": [{"path": "good.jsonl"}]}
    assert check(section, label, generation("{term} {n}")) == []


def test_all_problems_at_once():
    problems = check(
        {
            "sources": [{"path": "none.jsonl"}, {"path": "good.jsonl", "text": "txet"}],
            "general": [{"path": "empty.jsonl"}],
        },
        ClassificationTask(name="c", kind="classification", path="rows.jsonl", label="n"),
        generation("{term} {trem}"),
        generation("{term}", "empty.jsonl"),
    )
    assert problems == [
        "none.jsonl: no such file; check the path; it is relative to where the command is run",
        "good.jsonl:1: has no column txet; did you mean text?",
        "empty.jsonl: holds no documents; give a source that has text",
        "rows.jsonl:1: has no column text; known: answer, body, label, n, term",
        "rows.jsonl:1: column n holds int, not text; "
        "name a column of strings, or write the value as a string",
        "rows.jsonl:1: has no column trem; did you mean term?",
        "empty.jsonl: holds no rows; give task g some",
    ]


def test_columns_of_a_classification_prompt():
    task = ClassificationTask(
        name="c", kind="classification", path="rows.jsonl", text="body", prompt="{text} ({site}):"
    )
    problems = check({"sources": [{"path": "good.jsonl"}]}, task)
    assert len(problems) == 1
    assert problems[0].startswith("rows.jsonl:1: has no column site; ")


def test_prompt_that_is_no_template():
    # A generation task refuses such a prompt by itself.
    task = ClassificationTask(
        name="c", kind="classification", path="rows.jsonl", text="body", prompt="{}"
    )
    problems = check({"sources": [{"path": "good.jsonl"}]}, task)
    assert len(problems) == 1
    assert problems[0].startswith("task c: prompt: ")
