"""A control trains on the documents that its pair trained on."""

import pytest

from adapt.corpus import build_corpus
from adapt.recipe import load_recipe
from adapt.training.phases import phase_data, prompts, sequences_a_step
from adapt.vocab import Material, adapt_vocabulary, load_tokenizer


@pytest.fixture
def setting(tiny_recipe, tiny_base, tmp_path):
    phases = [
        {"name": name, "objective": objective, "max_steps": 2, "max_length": 256}
        for name, objective in (("domain", "clm"), ("tasks", "sft"))
    ]
    recipe = load_recipe(tiny_recipe(training={"phases": phases}))
    corpus = build_corpus(recipe.corpus, recipe.evaluation.tasks, 0, tmp_path / "corpus")
    base = load_tokenizer(tiny_base)
    material = Material(lambda: corpus.documents("train"))
    adapt_vocabulary(recipe.tokenizer, base, material, tmp_path / "new")
    return recipe, corpus, base, load_tokenizer(tmp_path / "new")


def documents_of(data):
    """Ids of each document, whose parts begin with the last token of the part before."""
    found = {}
    for example, row in zip(data.examples, data.examples.rows, strict=True):
        place = 0
        for part in row:
            ids = example.input_ids[place : place + part.end - part.start]
            place += len(ids)
            found.setdefault(part.drawn, []).extend(ids[part.start > 0 :])
    return list(found.values())


@pytest.mark.parametrize("index", [0, 1])
def test_control_and_adapted_see_the_same_bytes_in_the_same_order(setting, index):
    recipe, corpus, base, adapted = setting
    phase, tasks = recipe.training.phases[index], recipe.evaluation.tasks
    first = phase_data(phase, adapted, corpus, tasks, 0, None)
    control = phase_data(phase, base, corpus, tasks, 0, first.documents)
    assert (control.documents, control.bytes_) == (first.documents, first.bytes_)
    texts = [
        [tokenizer.decode(document) for document in documents_of(data)]
        for tokenizer, data in ((adapted, first), (base, control))
    ]
    assert len(texts[0]) == first.documents
    assert texts[0] == texts[1]


@pytest.mark.parametrize("share", [0.01, 0.4, 0.8, 1.0, 1.7])
@pytest.mark.parametrize("index", [0, 1])
def test_a_control_of_the_same_time_reads_the_same_order_to_another_end(setting, index, share):
    recipe, corpus, base, _ = setting
    phase, tasks = recipe.training.phases[index], recipe.evaluation.tasks
    phase = phase.model_copy(update={"packing": index == 0})
    whole = phase_data(phase, base, corpus, tasks, 0, 60)
    room = round(share * whole.bytes_)
    part = phase_data(phase, base, corpus, tasks, 0, None, bytes_=room)
    more = phase_data(phase, base, corpus, tasks, 0, part.documents + 1)
    drawn = more.examples.drawn.tolist()
    assert part.examples.drawn.tolist() == drawn[:-1]
    both = min(len(drawn), 60)
    assert drawn[:both] == whole.examples.drawn.tolist()[:both]
    assert part.bytes_ <= room < more.bytes_ or part.documents == 1
    assert len(more.examples.drawn) == part.documents + 1
    if share == 1.0:
        assert (part.documents, part.bytes_) == (whole.documents, whole.bytes_)


def test_steps_are_filled_but_not_overfilled(setting):
    recipe, corpus, _, adapted = setting
    phase = recipe.training.phases[0]
    data = phase_data(phase, adapted, corpus, [], 0, None)
    assert len(data.examples) <= phase.max_steps * sequences_a_step(phase)
    assert sum(map(len, data.examples)) > 0.5 * phase.max_steps * 2 * phase.max_length


def test_a_small_corpus_goes_round_again(setting):
    recipe, corpus, _, adapted = setting
    phase = recipe.training.phases[0].model_copy(update={"max_steps": 400})
    data = phase_data(phase, adapted, corpus, [], 0, None)
    assert data.documents > len(list(corpus.documents("train")))


def test_nothing_of_the_test_side_is_trained_on(setting):
    recipe, corpus, _, adapted = setting
    phase = recipe.training.phases[0].model_copy(update={"max_steps": 50})
    data = phase_data(phase, adapted, corpus, [], 0, None)
    seen = adapted.decode([id_ for example in data.examples for id_ in example.input_ids])
    held_out = [*corpus.documents("test"), *corpus.documents("validation"), *corpus.general()]
    assert held_out
    assert not any(text in seen for text in held_out)


def test_prompts_are_filled_from_the_row(setting):
    recipe, corpus, _, _ = setting
    for task in recipe.evaluation.tasks:
        rows = list(corpus.rows(task.name, "train"))
        for (prompt, completion), row in zip(prompts(task, iter(rows)), rows, strict=True):
            shown, answer = (
                (row["definition"], row["organ"])
                if task.kind == "classification"
                else (row["term"], row["definition"])
            )
            assert shown in prompt
            assert completion == answer
            assert answer not in prompt or task.kind == "classification"
