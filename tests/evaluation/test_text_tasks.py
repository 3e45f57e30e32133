"""Generation tasks as a whole: what is said of figures that mean nothing."""

import pytest
from transformers import AutoModelForCausalLM

from adapt.evaluation.tasks import Subject
from adapt.evaluation.text_tasks import score_texts
from adapt.recipe.evaluation import EvaluationSection, GenerationTask
from adapt.vocab import load_tokenizer


@pytest.fixture(scope="module")
def subject(tiny_base):
    model = AutoModelForCausalLM.from_pretrained(tiny_base).eval()
    return Subject(model, load_tokenizer(tiny_base), "base")


@pytest.mark.parametrize(
    ("answers", "noted"), [(["心脏", "肾脏"], True), (["心脏", "the heart"], False)]
)
def test_rouge_that_can_read_no_reference_is_noted(subject, tmp_path, answers, noted):
    told = {"name": "t", "path": "t.jsonl", "prompt": "{q}", "target": "a", "max_new_tokens": 2}
    task = GenerationTask(kind="generation", **told)
    rows = [{"q": "?", "a": answer} for answer in answers]
    found = score_texts(EvaluationSection(tasks=[task]), task, rows, subject, 0, tmp_path)
    assert any("ROUGE reads Latin letters" in note for note in found.notes) == noted
