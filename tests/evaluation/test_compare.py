"""The verdict's rule, on constructed outcomes."""

from dataclasses import replace

import pytest

from adapt.evaluation.bootstrap import Interval, mean_interval, ratio_interval
from adapt.evaluation.compare import Comparison, Figure, compare, same_documents
from adapt.evaluation.result import Likelihood, ModelScores, Rounds, SpeedScores, TaskScores
from adapt.evaluation.scores import sample
from adapt.evaluation.significance import mcnemar
from adapt.evaluation.verdict import decide, judge, verdict
from adapt.reporting.comparison import comparison_table

BYTES = tuple(100 + 7 * i for i in range(60))


def scores(bits_per_byte, spread=0.0):
    bits = tuple(n * (bits_per_byte + spread * (1 if i % 2 else -1)) for i, n in enumerate(BYTES))
    likelihood = Likelihood(bits, BYTES, ratio_interval(bits, BYTES, 0))
    return ModelScores(likelihood, None, {}, None)


@pytest.mark.parametrize(
    ("base", "control", "adapted", "spread", "saved", "choice"),
    [
        (1.2, 1.0, 0.9, 0.0, 0.2, "adopt"),
        (1.2, 1.0, 1.005, 0.0, 0.2, "adopt for speed"),
        (1.2, 1.0, 1.005, 0.0, 0.01, "do not extend"),
        (1.2, 1.0, 1.1, 0.0, 0.3, "do not extend"),
        (1.2, 1.0, 1.02, 0.5, 0.2, "no difference"),
        (0.9, 1.0, 0.95, 0.0, 0.3, "do not extend"),  # better than the control, not than the base
    ],
)
def test_verdicts(base, control, adapted, spread, saved, choice):
    models = {"base": scores(base), "control": scores(control), "adapted": scores(adapted, spread)}
    comparisons = {
        name: compare(models["adapted"], models[name], name, 0) for name in ("base", "control")
    }
    found = verdict(comparisons, saved)
    assert found.choice == choice
    assert found.sentence.startswith(choice.capitalize())
    value = models["adapted"].domain.interval.value
    assert f"{abs(value - control) / control:.1%}" in found.sentence


@pytest.mark.parametrize(
    ("same_time", "said"),
    [
        (1.25, "; at equal time 28.0% better (95 % interval -0.350 to -0.350)."),
        (0.8, "; at equal time 12.5% worse (95 % interval +0.100 to +0.100)."),
    ],
)
def test_what_equal_time_says_stands_beside_and_decides_nothing(same_time, said):
    values = {"base": 1.2, "control": 1.0, "control-time": same_time, "adapted": 0.9}
    models = {name: scores(value) for name, value in values.items()}
    comparisons = {name: compare(models["adapted"], models[name], name, 0) for name in values}
    del comparisons["adapted"]
    found = verdict(comparisons, 0.2)
    alone = verdict({m: c for m, c in comparisons.items() if m != "control-time"}, 0.2)
    assert found.choice == alone.choice == "adopt"
    assert found.sentence == alone.sentence[:-1] + said


def test_equal_time_is_said_of_a_heads_task_too():
    models = {
        name: ModelScores(None, None, {"organ": labelled([1.0] * right + [0.0] * (10 - right))})
        for name, right in (("control", 5), ("control-time", 8), ("adapted", 4))
    }
    comparisons = {
        name: compare(models["adapted"], models[name], name, 0)
        for name in ("control", "control-time")
    }
    found = verdict(comparisons, 0.0)
    assert "control 0.500: 20.0% worse" in found.sentence
    assert "; at equal time 50.0% worse" in found.sentence


def test_without_a_control_the_base_is_compared_with():
    models = {"base": scores(1.0), "adapted": scores(0.8)}
    found = verdict({"base": compare(models["adapted"], models["base"], "base", 0)}, 0.2)
    assert found.choice == "adopt"
    assert "base 1.000" in found.sentence


def test_different_documents_are_not_compared():
    other = ModelScores(Likelihood((1.0, 2.0), (1, 2), ratio_interval([1], [1], 0)), None, {}, None)
    with pytest.raises(ValueError, match="same documents"):
        compare(scores(1.0), other, "base", 0)


def test_a_sample_keeps_to_its_limits_and_is_the_same_for_every_model():
    texts = [f"text {i}" * (i + 1) for i in range(50)]
    taken = sample(lambda: texts, 20, 500, 0)
    assert taken == sample(lambda: iter(texts), 20, 500, 0)
    assert 0 < sum(map(len, taken)) <= 500
    assert sample(lambda: texts, 20, 1, 0)  # never none
    assert len(sample(lambda: texts, 20, 10**9, 0)) == 20


# -- the rule ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "value", "high", "saved", "loses", "choice"),
    [
        (-0.10, -0.05, -0.01, 0.0, False, "adopt"),
        (-0.10, -0.05, -0.01, 0.3, True, "do not extend"),
        (-0.01, 0.009, 0.03, 0.03, False, "adopt for speed"),
        (0.005, 0.009, 0.012, 0.3, False, "adopt for speed"),
        (-0.01, 0.009, 0.03, 0.029, False, "no difference"),
        (0.005, 0.009, 0.012, 0.029, False, "do not extend"),
        (0.01, 0.02, 0.03, 0.3, False, "do not extend"),
        (-0.05, 0.02, 0.09, 0.3, False, "no difference"),
        (-0.05, -0.01, 0.0, -0.2, False, "no difference"),
    ],
)
def test_the_rule(low, value, high, saved, loses, choice):
    assert decide(Interval(value, low, high), 1.0, saved, loses_to_base=loses) == choice


# -- figures -----------------------------------------------------------------------------------


def labelled(each, kind="classification", data="d", metric="accuracy"):
    main = mean_interval(each, 0)
    return TaskScores(kind, len(each), {metric: main.value}, main, (), each=tuple(each), data=data)


def with_tasks(bits_per_byte, speed=None, **tasks):
    one = scores(bits_per_byte)
    rounds = Rounds((speed or 1.0,))
    timed = SpeedScores(rounds, rounds, rounds, 1.0, 1.0, 1.0, 1, 1, 1, "allocated")
    return ModelScores(
        replace(one.domain, data="d"), one.domain, tasks, speed=timed if speed else None
    )


def test_every_shared_figure_is_compared_with_its_own_test():
    right, wrong = [1.0] * 12 + [0.0] * 4, [1.0] * 4 + [0.0] * 12
    text = [0.2, 0.5, 0.9, 0.4]
    ours = with_tasks(
        0.9, 200.0, organ=labelled(right), say=labelled(text, "generation", metric="rouge_l")
    )
    theirs = with_tasks(
        1.0, 100.0, organ=labelled(wrong), say=labelled(text, "generation", metric="rouge_l")
    )
    found = compare(ours, theirs, "control", 0)
    figures = {figure.name: figure for figure in found.figures}
    domain, general, organ, say, speed, prompt = found.figures
    assert (domain.name, domain.data, domain.rows) == ("bits per byte, domain text", "d", 60)
    assert domain.difference == found.domain
    assert domain.p_value < 0.001
    assert general.difference == found.general
    assert organ.p_value == mcnemar(right, wrong).p_value
    assert organ.test == "McNemar, exact"
    assert organ.difference.value == pytest.approx(0.5)
    assert organ.difference.low > 0
    assert (say.difference.value, say.p_value, say.better) == (0, 1, "higher")
    assert "ROUGE-L" in say.name
    assert (speed.value, speed.other, speed.difference, speed.p_value) == (200, 100, None, None)
    assert (prompt.name, prompt.value, prompt.other) == ("prompt characters/s", 200, 100)
    assert len(figures) == 6
    assert found.notes == ()


def test_macro_f1_is_compared_where_labels_are_known():
    references = ("a", "b") * 20
    answers = references, ("a",) * 40
    tasks = []
    for said, macro_f1 in zip(answers, (1.0, 1 / 3), strict=True):
        one = labelled([float(x == y) for x, y in zip(said, references, strict=True)])
        metrics = {**one.metrics, "macro_f1": macro_f1}
        tasks.append(replace(one, answers=said, references=references, metrics=metrics))
    found = compare(with_tasks(1.0, organ=tasks[0]), with_tasks(1.0, organ=tasks[1]), "control", 0)
    (figure,) = [one for one in found.figures if one.name == "organ: macro-F1"]
    assert figure.difference.value == pytest.approx(2 / 3)
    assert figure.difference.low > 0.5
    assert figure.p_value < 0.01


def test_the_slice_is_the_bases_and_read_off_the_same_bits():
    bits = [n * (2.0 if i < 10 else 1.0) for i, n in enumerate(BYTES)]
    base = Likelihood(tuple(bits), BYTES, ratio_interval(bits, BYTES, 0), "d", tuple(range(10)))
    ours = Likelihood(tuple(b / 2 for b in bits), BYTES, ratio_interval(bits, BYTES, 0), "d")
    found = compare(ModelScores(ours, None, {}, None), ModelScores(base, None, {}, None), "base", 0)
    cut = found.figures[1]
    assert cut.name == "bits per byte, fragmented text"
    assert (cut.rows, cut.value, cut.other) == (10, pytest.approx(1.0), pytest.approx(2.0))
    assert cut.difference.value == pytest.approx(-1.0)
    assert cut.p_value == 2**-9  # all that the signs of ten documents can show


def test_tasks_are_compared_on_their_fragmented_rows_too():
    right, wrong = labelled([1.0] * 20), labelled([1.0] * 15 + [0.0] * 5)
    labels = ("heart", "lung") * 10
    tasks = [
        replace(one, answers=answers, references=labels, metrics={**one.metrics, "macro_f1": macro})
        for one, answers, macro in (
            (right, labels, 1.0),
            (wrong, labels[:15] + ("kidney",) * 5, 0.5),
        )
    ]
    part = (0, 1, 14, 15, 16, 17, 18, 19)
    ours = with_tasks(1.0, organ=tasks[0])
    theirs = with_tasks(1.0, organ=replace(tasks[1], fragmented=part))
    found = {one.name: one for one in compare(ours, theirs, "control", 0).figures}
    cut = found["organ: accuracy, fragmented text"]
    assert (cut.rows, cut.value, cut.other) == (8, 1.0, 3 / 8)
    assert cut.difference.value == pytest.approx(5 / 8)
    assert cut.test == "McNemar, exact"
    assert cut.p_value == mcnemar([1.0] * 8, [1.0] * 3 + [0.0] * 5).p_value
    macro = found["organ: macro-F1, fragmented text"]
    # Of the heart two right, two missed; of the lung one right, three missed; kidney never right.
    expected = (2 * 2 / (2 + 4) + 2 * 1 / (1 + 4) + 0) / 3
    assert macro.value == 1.0
    assert macro.other == pytest.approx(expected)
    # The whole decides, not the part.
    heads = replace(ours, domain=None), replace(theirs, domain=None)
    assert compare(*heads, "control", 0).leading == found["organ: macro-F1"]


def test_a_slice_of_other_rows_gives_no_interval_of_its_own():
    """Two runs on the same rows, whose bases cut others most."""
    right = replace(labelled([1.0] * 8), answers=("heart", "lung") * 4, metrics={"macro_f1": 1.0})
    right = replace(right, references=right.answers, metrics={"accuracy": 1.0, "macro_f1": 1.0})
    on_fragmented = {"macro_f1": Interval(0.5, 0.4, 0.6)}
    ours = with_tasks(1.0, organ=replace(right, fragmented=(0, 1), on_fragmented=on_fragmented))
    theirs = with_tasks(1.0, organ=replace(right, fragmented=(2, 3)))
    found = {one.name: one for one in compare(ours, theirs, "control", 0).figures}
    cut = found["organ: macro-F1, fragmented text"]
    assert cut.interval.low <= cut.value <= cut.interval.high


@pytest.mark.parametrize(
    ("documents", "choice"), [(1, "no difference"), (5, "no difference"), (6, "adopt")]
)
def test_a_handful_of_documents_decides_nothing(documents, choice):
    bytes_ = BYTES[:documents]

    def one(rate):
        bits = tuple(rate * n for n in bytes_)
        return ModelScores(Likelihood(bits, bytes_, ratio_interval(bits, bytes_, 0)), None, {})

    found = compare(one(0.8), one(1.0), "control", 0)
    assert found.figures[0].p_value == 2.0 ** (1 - documents)
    told = judge(found, "adapted", 0.1)
    assert told.choice == choice
    assert ("too few" in told.sentence) == (documents < 6)


def test_equal_models_are_equal_and_nothing_has_no_shares():
    one = with_tasks(1.0)
    told = judge(compare(one, one, "control", 0), "a", 0.1).sentence
    assert "control 1.000: equal (" in told
    none, whole = (ModelScores(None, None, {"organ": labelled([x] * 9)}) for x in (0.0, 1.0))
    told = judge(compare(whole, none, "control", 0), "a", 0.1).sentence
    assert "control 0.000: better (difference +1.000" in told


def test_what_is_of_other_data_is_not_compared_and_says_so():
    ours = with_tasks(0.9, a=labelled([1.0, 0.0]), b=labelled([1.0, 0.0]), c=labelled([1.0]))
    theirs = with_tasks(0.9, a=labelled([1.0, 0.0], data="other"), c=labelled([1.0, 0.0]))
    found = compare(ours, replace(theirs, general=scores(1.0).domain), "control", 0)
    assert [figure.name for figure in found.figures] == [
        "bits per byte, domain text",
        "bits per byte, general text",
    ]
    assert found.notes == (
        "task a: other rows, not compared",
        "task b: the other has no such task, not compared",
        "task c: other rows, not compared",
    )


def test_a_fragmented_document_of_which_nothing_is_scored_has_no_figure():
    """All its words may be unknown to one tokenizer, as those of another script are."""
    measured = {"bits": (1.0, 0.0), "bytes_": (4, 0), "interval": Interval(0.25, 0.2, 0.3)}
    for rows, names in (((1,), 1), ((0, 1), 2)):
        one = ModelScores(Likelihood(**measured, fragmented=rows), None, {})
        assert len(compare(one, one, "control", 0).figures) == names


def test_speeds_are_shown_in_whole_characters():
    for name, digits in (("read characters/s", 0), ("bits per byte, domain text", 3)):
        figure = Figure(name, "higher", 0, "", 202_969.09, 201_324.814)
        assert figure.digits == digits
        table = comparison_table(Comparison("control", None, None, (figure,)), "adapted", "")
        assert ("201,324.814" in list(table.columns[1].cells)) == bool(digits)


def test_what_is_measured_otherwise_is_not_the_same():
    """Pseudo bits per byte are no bits per byte, though nothing was left out of the documents."""
    one = Likelihood((1.0, 2.0), (4, 5), Interval(0.3, 0.2, 0.4))
    assert same_documents(one, one)
    assert not same_documents(one, replace(one, measure="pseudo bits per byte"))


def test_documents_are_the_same_by_hash_or_else_by_every_length():
    one = scores(1.0).domain
    assert same_documents(one, one)
    assert not same_documents(replace(one, data="a"), replace(one, data="b"))
    assert same_documents(one, replace(one, data="b"))
    assert not same_documents(one, replace(one, bytes_=BYTES[::-1]))
    a, b = (ModelScores(replace(one, data=data), None, {}, None) for data in "ab")
    with pytest.raises(ValueError, match="same documents"):
        compare(a, b, "base", 0)
