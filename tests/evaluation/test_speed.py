"""Speed of several models: the same work for each, in turns, and figures that say what they are.

Nothing here compares times: on a busy machine no order of them is certain.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from adapt import estimate
from adapt.evaluation import speed
from adapt.evaluation.bootstrap import Interval
from adapt.evaluation.compare import Comparison, Figure
from adapt.evaluation.heads import longest_window
from adapt.evaluation.reading import ReadingLoad, measure_reading
from adapt.evaluation.result import Rounds, SpeedScores
from adapt.evaluation.speed import Candidate, Load, measure_speed
from adapt.evaluation.verdict import judge
from adapt.vocab import load_tokenizer
from tests.conftest import general

TEXTS = [general(seed) for seed in range(12)]
SMALL = Load(documents=3, new_tokens=5, requests=2, request_tokens=3, rounds=3)


@pytest.fixture
def watched(tiny_base):
    """Candidates by name, and every call of their models in order."""
    calls = []
    tokenizer = load_tokenizer(tiny_base)

    def candidate(name):
        def load():
            model = LlamaForCausalLM.from_pretrained(str(tiny_base)).eval()
            calls.append((name, "load"))
            plain = model.generate

            def generate(**named):
                output = plain(**named)
                shape = tuple(named["input_ids"].shape)
                calls.append((name, shape, tuple(output.sequences.shape), named, output))
                return output

            model.generate = generate
            return model

        return Candidate(load, tokenizer)

    return SimpleNamespace(candidate=candidate, calls=calls, tokenizer=tokenizer)


def of(watched, *names):
    return {name: watched.candidate(name) for name in names}


def test_every_model_does_the_same_work_in_turns(watched):
    names = ("base", "control", "adapted")
    scores = measure_speed(of(watched, *names), TEXTS, SMALL)
    assert tuple(scores) == names
    assert watched.calls[0] == ("base", "load")
    turns = [call[0] for call in watched.calls if call[1] != "load" and call[1][0] == 3]
    # The first turn of each model warms up.
    assert turns == ["base", "base", "control", "control", "adapted", "adapted", *names, *names]
    work = {
        name: [call[1:3] for call in watched.calls if call[0] == name and call[1] != "load"]
        for name in names
    }
    assert work["base"] == work["control"] == work["adapted"]
    for found in scores.values():
        assert len(found.prompt_characters_per_second.values) == SMALL.rounds
        assert found.requests == SMALL.rounds * SMALL.requests
        assert found.documents == 3


def test_an_end_of_text_ends_no_continuation_early(watched):
    candidate = watched.candidate("base")
    load = candidate.load

    def eager():
        model = load()
        bias = torch.zeros(model.config.vocab_size)
        bias[watched.tokenizer.eos_token_id] = 1e4
        model.lm_head.register_forward_hook(lambda *given: given[2] + bias)
        return model

    measure_speed({"eager": Candidate(eager, watched.tokenizer)}, TEXTS, SMALL)
    asked = []
    for _, before, after, named, output in (call for call in watched.calls if call[1] != "load"):
        asked.append(named["generation_config"].max_new_tokens)
        assert after[1] - before[1] == asked[-1]
        written = output.sequences[:, before[1] : -1]
        assert not (written == watched.tokenizer.eos_token_id).any()
    assert asked == [2, *[5, 3, 3] * SMALL.rounds]  # a short turn to warm up, then three


def test_figures_are_work_over_time(watched, monkeypatch):
    """A clock that moves one second a look makes every figure known."""
    ticks = iter(range(10_000))
    monkeypatch.setattr(speed, "now", lambda device: float(next(ticks)))
    scores = measure_speed(of(watched, "base"), TEXTS, SMALL)["base"]
    batches = [call for call in watched.calls if call[1] != "load" and call[1][0] == 3]
    _, shape, _, named, output = batches[-1]
    prompts = watched.tokenizer.batch_decode(named["input_ids"], skip_special_tokens=True)
    assert scores.prompt_characters_per_second.median == sum(map(len, prompts))
    rest = output.sequences[:, shape[1] + 1 :]
    text = watched.tokenizer.batch_decode(rest, skip_special_tokens=True)
    assert scores.decode_tokens_per_second.median == 3 * 4 / 4
    assert scores.decode_characters_per_second.median == sum(map(len, text)) / 4
    assert (scores.latency_p50_ms, scores.latency_p99_ms) == (3_000, 3_000)


def test_memory_of_a_cpu_is_weights_and_cache(watched):
    scores = measure_speed(of(watched, "base"), TEXTS, SMALL)["base"]
    model = watched.candidate("again").load()
    weights = sum(p.nbytes for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    longest = max(call[2][1] for call in watched.calls if call[1] != "load" and call[1][0] == 3)
    # Keys and values, two layers, two heads of eight numbers in float32; the last token is not in.
    cache = 2 * 2 * 3 * (longest - 1) * 2 * 8 * 4
    assert scores.memory == "weights and cache"
    assert scores.peak_memory_bytes == weights + cache


def test_models_that_do_not_fit_together_are_loaded_for_each_turn(watched, monkeypatch):
    monkeypatch.setattr(speed, "free_bytes", lambda device: 0)
    scores = measure_speed(of(watched, "base", "adapted"), TEXTS, SMALL)
    loads = [name for name, what, *_ in watched.calls if what == "load"]
    assert loads == ["base", "adapted"] * SMALL.rounds
    batches = [call for call in watched.calls if call[1] != "load" and call[1][0] == 3]
    assert len(batches) == 2 * 2 * SMALL.rounds  # each turn with its warm-up
    assert all(len(s.decode_tokens_per_second.values) == SMALL.rounds for s in scores.values())


def test_documents_are_drawn_by_the_seed_and_fit_every_model(watched):
    def prompts(**options):
        watched.calls.clear()
        measure_speed(of(watched, "base"), TEXTS, SMALL, **options)
        calls = [call for call in watched.calls if call[1] != "load" and call[1][0] == 3]
        return watched.tokenizer.batch_decode(calls[-1][3]["input_ids"], skip_special_tokens=True)

    assert prompts(seed=1) == prompts(seed=1) != prompts(seed=2)
    short = Load(documents=3, prompt_characters=20, new_tokens=5, requests=1, rounds=1)
    watched.calls.clear()
    measure_speed(of(watched, "base"), TEXTS, short)
    decoded = watched.tokenizer.batch_decode(
        watched.calls[-2][3]["input_ids"], skip_special_tokens=True
    )
    assert all(0 < len(text) <= 20 for text in decoded)
    assert measure_speed(of(watched, "base"), TEXTS, SMALL, max_length=8) == {}
    assert measure_speed(of(watched, "base"), ["s"], SMALL) == {}


def test_scores_survive_their_manifest(watched):
    scores = measure_speed(of(watched, "base"), TEXTS, SMALL)["base"]
    record = json.loads(json.dumps(scores.to_json()))
    assert SpeedScores.from_json(record) == scores
    rounds = Rounds((3.0, 1.0, 2.0))
    assert (rounds.median, rounds.low, rounds.high) == (2.0, 1.0, 3.0)


# -- models that write no text ------------------------------------------------------------------

ROWS = ReadingLoad(documents=5, characters=60, batch_size=2, requests=2, rounds=3)


@pytest.fixture
def readers(tiny_encoder):
    """Candidates with a head of classes, and every call of their models in order."""
    calls = []
    tokenizer = load_tokenizer(tiny_encoder)

    def candidate(name, kind=BertForSequenceClassification):
        def load():
            model = kind.from_pretrained(str(tiny_encoder)).eval()
            model.register_forward_pre_hook(
                lambda _, __, named: calls.append((name, named)), with_kwargs=True
            )
            return model

        return Candidate(load, tokenizer)

    return SimpleNamespace(candidate=candidate, calls=calls, tokenizer=tokenizer)


@pytest.mark.parametrize("kind", [BertForSequenceClassification, BertForMaskedLM])
def test_readers_read_the_same_texts_in_turns(readers, kind):
    models = {name: readers.candidate(name, kind) for name in ("control", "adapted")}
    scores = measure_reading(models, TEXTS, ROWS, max_length=128)
    names = [name for name, _ in readers.calls]
    # Three batches and two requests a turn; the first of each model has three batches more.
    turn = [*["control"] * 5, *["adapted"] * 5]
    assert names == [*["control"] * 8, *["adapted"] * 8, *turn, *turn]
    shapes = [tuple(named["input_ids"].shape) for _, named in readers.calls[-5:]]
    assert [rows for rows, _ in shapes] == [2, 2, 1, 1, 1]
    read = {
        name: [named["input_ids"].tolist() for who, named in readers.calls if who == name]
        for name in models
    }
    assert read["control"] == read["adapted"]
    for found in scores.values():
        assert list(found.rounds) == ["read characters/s", "read texts/s"]
        assert len(found.rows_per_second.values) == ROWS.rounds
        assert found.decode_characters_per_second is None
        assert (found.requests, found.documents) == (6, 5)


def test_figures_of_readers_are_work_over_time(readers, monkeypatch):
    ticks = iter(range(10_000))
    monkeypatch.setattr(speed, "now", lambda device: float(next(ticks)))
    texts = [general(seed)[: 20 + seed] for seed in range(5)]
    found = measure_reading({"a": readers.candidate("a")}, texts, ROWS, max_length=128)["a"]
    assert found.rows_per_second.median == 5
    assert found.prompt_characters_per_second.median == sum(map(len, texts))
    assert (found.latency_p50_ms, found.latency_p99_ms) == (1_000, 1_000)
    model = readers.candidate("b").load()
    tensors = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    assert (found.memory, found.peak_memory_bytes) == ("weights", sum(tensors.values()))
    assert SpeedScores.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_no_model_is_given_more_than_it_reads(readers):
    """What one tokenizer would cut off is shortened for all; nothing is left out for its length."""
    found = measure_reading({"a": readers.candidate("a")}, TEXTS, ROWS, max_length=9)["a"]
    assert found.documents == 5
    for _, named in readers.calls:
        ends = named["input_ids"] == readers.tokenizer.sep_token_id
        assert ends.any(1).all()
        assert named["input_ids"].shape[1] <= 9
    assert measure_reading({"a": readers.candidate("a")}, [" ", ""], ROWS, max_length=9) == {}


@pytest.mark.parametrize(("total", "texts"), [(1, 1), (120, 2), (10_000, 5)])
def test_a_turn_is_as_long_for_short_texts_as_for_long_ones(readers, total, texts):
    load = replace(ROWS, total=total)
    found = measure_reading({"a": readers.candidate("a")}, TEXTS, load, max_length=128)["a"]
    assert found.documents == texts


def test_a_text_is_cut_at_the_models_positions_where_the_tokenizer_names_none(readers):
    """Else it counts as read to its end, and more of it is cut off with shorter tokens."""
    readers.tokenizer.model_max_length = 10**30
    whole = "  " + " ".join(TEXTS)
    one = ReadingLoad(documents=1, characters=5_000, batch_size=1, requests=1, rounds=1)
    measure_reading({"a": readers.candidate("a")}, [whole], one, max_length=1_000)
    for _, named in readers.calls:
        assert named["input_ids"].shape[1] < 128, "a text that ends where it is cut is full"


@pytest.mark.parametrize(("padding", "longest"), [(None, 128), (0, 127), (1, 126)])
def test_positions_that_are_counted_from_the_paddings_are_fewer(readers, padding, longest):
    model = readers.candidate("a").load()
    model.get_submodule("bert.embeddings.position_embeddings").padding_idx = padding
    readers.tokenizer.model_max_length = 10**30
    assert longest_window(model, readers.tokenizer, 1_000) == longest
    assert longest_window(model, readers.tokenizer, 100) == 100


def test_a_decoder_without_padding_reads_one_text_at_a_time(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    shapes = []

    def load():
        model = LlamaForSequenceClassification.from_pretrained(str(tiny_base), pad_token_id=None)
        model.register_forward_pre_hook(
            lambda _, __, named: shapes.append(named["input_ids"].shape), with_kwargs=True
        )
        return model.eval()

    measure_reading({"a": Candidate(load, tokenizer)}, TEXTS, ROWS, max_length=64)
    assert {shape[0] for shape in shapes} == {1}


def test_a_check_reckons_with_the_timing_that_there_is():
    load = ReadingLoad()
    assert (load.rounds + 1) * load.total // 4 == estimate._TIMED_TOKENS
    assert load.rounds * load.requests == estimate._TIMED_TEXTS


def test_results_of_older_versions_are_read(watched):
    scores = measure_speed(of(watched, "base"), TEXTS, SMALL)["base"]
    record = {k: v for k, v in scores.to_json().items() if k != "rows_per_second"}
    assert SpeedScores.from_json(record) == scores
    assert list(scores.rounds)[0] == "generated characters/s"


def test_a_verdict_for_speed_cites_what_was_measured():
    same = Interval(0.001, -0.002, 0.003)
    macro = Figure("organ: macro-F1", "higher", 9, "", 0.7, 0.699, None, None, same, 0.5, "")
    read = Figure("read characters/s", "higher", 0, "", 1_200.0, 1_000.0)
    for figures, said in (
        ((macro, read), "1.20 times the read characters/s"),
        ((macro,), "saved."),
    ):
        found = judge(Comparison("control", None, None, figures), "adapted", 0.2)
        assert found.choice == "adopt for speed"
        assert said in found.sentence
