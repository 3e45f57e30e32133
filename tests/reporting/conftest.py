"""Small summaries, made by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from adapt.corpus.audit import DataAudit, Extent
from adapt.corpus.findings import Finding
from adapt.corpus.result import CorpusStatistics, TextStatistics
from adapt.evaluation.bootstrap import Interval
from adapt.evaluation.compare import Comparison
from adapt.evaluation.result import (
    Bin,
    EdgeScores,
    Likelihood,
    ModelScores,
    Rounds,
    SpeedScores,
    TaskScores,
)
from adapt.evaluation.verdict import Verdict
from adapt.fertility import Fertility, FertilityReport, SplitWord
from adapt.reporting.summary import Summary
from adapt.training.result import PhaseResult, Trained
from adapt.vocab import Kept, NewToken, VocabDelta, Vocabulary
from adapt.vocab.audit import Audit
from adapt.vocab.budget import Point
from adapt.vocab.prune import Replaced

BEFORE = (
    SplitWord("abnormality", 40, ("ab", "normal", "ity")),
    SplitWord("心", 7, ("心", "")),
)
AFTER = (SplitWord("心", 7, ("心", "")), SplitWord("seizures", 3, ("seiz", "ures")))


def fertility(name: str, tokens: int, words: tuple[SplitWord, ...]) -> Fertility:
    return Fertility(
        name=name,
        documents=20,
        bytes_=6000,
        characters=5900,
        words=1000,
        tokens=tokens,
        tokens_per_word=tokens / 1000,
        bytes_per_token=6000 / tokens,
        tokens_per_character=tokens / 5900,
        continued_word_share=0.25,
        single_token_term_share=0.125,
        unknown_rate=0.0,
        most_split_words=words,
        renyi_efficiency=tokens / 5000,
        vocabulary=300,
        vocabulary_used=150,
        vocabulary_used_share=0.5,
        context=2048,
        words_in_context=2_048_000 / tokens,
        word_tokens=(750, 150, 60, 20, 10, 5, 3, 1, 0, 1),
        document_quantiles=tuple(tokens / 1000 * (0.8 + i / 50) for i in range(21)),
    )


# As of a base of 135 million parameters: the cheapest size is neither the first nor the last.
CURVE = tuple(
    Point(size, 10_000 - saved, saved / 10_000, (1 - saved / 10_000) * (1 + size / 60_000))
    for size, saved in [
        (0, 0), (125, 500), (177, 690), (250, 910), (354, 1130), (500, 1370), (707, 1600),
        (1000, 1830), (1414, 2070), (2000, 2300), (2828, 2520), (4000, 2730), (5657, 2920),
        (8000, 3080), (11314, 3200), (16000, 3300), (22627, 3370), (32000, 3400),
    ]
)  # fmt: skip


def likelihood(value: float) -> Likelihood:
    return Likelihood((value * 100,), (100,), Interval(value, value - 0.05, value + 0.05))


def edge(plain: float, healed: float, crossed: float) -> EdgeScores:
    def around(value: float) -> Interval:
        return Interval(value, value - 0.02, value + 0.02)

    return EdgeScores(
        64, 3000, 0.75, crossed, around(plain), around(healed), around(healed - plain)
    )


def scores(domain: float, general: float, accuracy: float, answer: str) -> ModelScores:
    classification = TaskScores(
        kind="classification",
        rows=50,
        metrics={"accuracy": accuracy, "macro_f1": accuracy - 0.1},
        main=Interval(accuracy, accuracy - 0.1, accuracy + 0.1),
        examples=(("Which system? A murmur", "heart", answer),) * 12,
        calibration=(Bin(0.3, accuracy - 0.1, 20), Bin(0.7, accuracy, 10), Bin(0.95, 1.0, 20)),
    )
    generation = TaskScores(
        kind="generation",
        rows=1500,
        metrics={"rouge_l": accuracy / 2, "chrf": accuracy * 50},
        main=Interval(accuracy / 2, accuracy / 2 - 0.01, accuracy / 2 + 0.01),
        examples=(("Define: seizure", "A sudden event", f"{answer} event"),),
    )
    tasks = {"organ": classification, "define": generation}
    return ModelScores(
        likelihood(domain),
        likelihood(general),
        tasks,
        edge(domain + 0.2, domain + 0.1 * accuracy + 0.15, 0.5 * (domain < 0.9)),
        speed(accuracy * 100),
    )


def speed(characters):
    """Three rounds around a speed."""
    rounds = [
        Rounds((x * characters, 0.9 * x * characters, 2 * x * characters)) for x in (9, 1, 0.2)
    ]
    return SpeedScores(*rounds, 100.0, 200.5, 300.0, 12, 4, 250_000_000, "weights and cache")


def trained(name: str, tokens: int, losses: tuple[tuple[int, float], ...]) -> Trained:
    bits_per_byte = tuple((step, loss / math.log(2) * tokens / 40_000) for step, loss in losses)
    phases = (
        PhaseResult("domain", 20, 80, 40_000, tokens, 10.0, losses, bits_per_byte=bits_per_byte),
        PhaseResult("tasks", 10, 40, 8_000, tokens // 4, 6.0, ()),
    )
    return Trained(Path(name), phases, 1_234_567, 4_900_000)


AUDIT = DataAudit(
    findings=(
        Finding("empty", 0, "texts", 1000),
        Finding("exact duplicates, dropped by the run", 3, "texts", 1000, ("a.jsonl:7",), True),
        Finding("organ: labels, 3 to 40 rows each", 5, "labels", warn=True),
        Finding("e-mail addresses", 25, "found", 0, tuple(f"a.jsonl:{i}" for i in range(9)), True),
        Finding("phase tasks: over 512 tokens, lose their end", 1, "texts", 150, ("b.csv:2",)),
    ),
    extents=(Extent("a.jsonl", 1000, 95_000, True), Extent("b.csv", 150, 20_000, False)),
    scripts=(("Latin", 0.99), ("Han", 0.01)),
    notes=("org/data: of the Hub, not audited",),
)


def make_summary() -> Summary:
    """A run with a control, general text, tasks and new tokens."""
    return Summary(
        name="medical",
        base="package:some-model",
        corpus=CorpusStatistics(
            splits={"train": TextStatistics(900, 90_000, 15_000)},
            dropped={"near duplicate": 31},
            tasks={"organ": {"train": 100, "test": 50}},
            provenance=[{"name": "Ontology", "licence": "https://example.org/licence"}],
            read={"domain": 1000},
        ),
        vocabulary=Vocabulary(
            Path("tokenizer"),
            VocabDelta(
                300,
                370,
                (Kept(0, 0, 300),),
                tuple(NewToken(300 + i, f"Ġt{i}", f" t {i}", (1, 2)) for i in range(70)),
            ),
            joints=(" ", ", "),
            notes=("units stay inside digits",),
            audit=Audit(25_000, {"more tokens than with the base": 0, "a new unknown token": 3}, 7),
            curve=CURVE,
            replaced=tuple(
                Replaced(i, f"old{i}", f" old {i}", i // 2, f"Ġt{i}", f" t {i}") for i in range(70)
            ),
        ),
        fertility=FertilityReport(
            (fertility("base", 2000, BEFORE), fertility("adapted", 1500, AFTER)),
            (fertility("base", 1600, BEFORE), fertility("adapted", 1520, AFTER)),
        ),
        trained={
            "adapted": trained("adapter", 9_000, ((5, 4.5), (10, 3.25), (20, 2.5))),
            "control": trained("control", 12_000, ((5, 3.5), (10, 3.0), (20, 2.25))),
        },
        scores={
            "base": scores(1.2, 1.0, 0.2, "base says"),
            "control": scores(0.9, 1.1, 0.5, "control says"),
            "adapted": scores(0.85, 1.05, 0.6, "adapted says"),
        },
        comparisons={
            "control": Comparison(
                "control", Interval(-0.05, -0.07, -0.03), Interval(-0.05, -0.1, 0.01)
            ),
            "base": Comparison("base", Interval(-0.35, -0.4, -0.3), Interval(0.05, 0.01, 0.1)),
        },
        verdict=Verdict("adopt", "Adopt: adapted 0.850 bits per byte, control 0.900."),
        recipe="name: medical\n",
        seconds={"corpus": 4.2, "training": 185.0},
        environment={"processor": "x86_64", "torch": "2"},
        audit=AUDIT,
    )


@pytest.fixture
def summary() -> Summary:
    """A run with a control, general text, tasks and new tokens."""
    return make_summary()


@pytest.fixture
def timed(summary) -> Summary:
    """The same with a control that trained for the adapted model's time."""
    return make_timed(summary)


def make_timed(summary: Summary) -> Summary:
    """With a control of the same time, whose likelihood alone was measured."""
    one = trained("control-time", 9_600, ((5, 3.6), (10, 3.1), (16, 2.4)))
    phases = tuple(
        replace(p, bytes_=p.bytes_ * 4 // 5, seconds=p.seconds * 0.75) for p in one.phases
    )
    measured = replace(scores(0.95, 1.08, 0.5, ""), tasks={}, speed=None)
    gained = Comparison("control-time", Interval(-0.1, -0.12, -0.08), Interval(-0.03, -0.08, 0.02))
    return replace(
        summary,
        trained={**summary.trained, "control-time": replace(one, phases=phases)},
        scores={**summary.scores, "control-time": measured},
        comparisons={**summary.comparisons, "control-time": gained},
    )


@pytest.fixture
def bare(summary) -> Summary:
    """A run in keep mode with no control, no general text and no tasks."""
    return make_bare(summary)


def make_bare(summary: Summary) -> Summary:
    """What is left of a run in keep mode with no control, no general text and no tasks."""
    words = fertility("base", 2000, ())
    alone = {
        m: replace(summary.scores[m], general=None, tasks={}, edge=None)
        for m in ("base", "adapted")
    }
    return replace(
        summary,
        corpus=CorpusStatistics(summary.corpus.splits, {}, {}, []),
        vocabulary=Vocabulary(
            Path("tokenizer"),
            VocabDelta(300, 300, (Kept(0, 0, 300),)),
            (),
            (),
            Audit(10, {}),
        ),
        fertility=FertilityReport((words, replace(words, name="adapted")), ()),
        trained={"adapted": summary.trained["adapted"]},
        scores=alone,
        comparisons={"base": replace(summary.comparisons["base"], general=None)},
        audit=None,
    )
