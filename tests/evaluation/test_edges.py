"""The edge of a prompt: cuts, and bits against sums over all tokenizations of a tiny model."""

import math
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import WordPieceTrainer
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from adapt.evaluation.edges import cut_points, edge_scores
from adapt.generation import heal, pieces_of
from adapt.training.batches import start_ids

TEXTS = ["a b cc a b cc a", "cc a b a b", "b cc b cc a b cc b", "a", "", "cc  b\na"]
MERGES = [("Ġ", "a"), ("Ġ", "b"), ("c", "c"), ("Ġ", "cc"), ("Ġa", "Ġb"), ("ĠaĠb", "Ġcc")]
OPTIONS = {"cuts": 9, "max_bytes": 5, "batch_size": 4, "seed": 0, "label": ""}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small lose more to handing work between threads than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(merges):
    """Byte-level BPE over a few letters, whose last merges are units across spaces."""
    tokens = ["<|endoftext|>", "Ġ", "a", "b", "c", "Ċ", *(left + right for left, right in merges)]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


class Unigram:
    """A language model that draws each token by itself."""

    device = "cpu"

    def __init__(self, logits):
        self.log = torch.tensor(logits).log_softmax(0)
        self.rows = 0

    def named_modules(self):
        return ()

    def __call__(self, input_ids, use_cache):
        self.rows += len(input_ids)
        return SimpleNamespace(logits=self.log.expand(*input_ids.shape, -1))


def exact(tokenizer, model, prefix, after):
    """-log2 of the probability that the healed sampler writes `prefix + after`: every way of it."""
    pieces, p = pieces_of(tokenizer), model.log.exp().tolist()

    @cache
    def write(done):
        rest = (prefix + after)[done:]
        fits = set(range(len(p)))
        if done < len(prefix):
            fits = set(pieces.allowed(prefix[done:]))
        total = 0.0
        for i in fits:
            spelled = pieces.spelling[i]
            if spelled.startswith(rest):
                total += p[i]
            elif spelled and rest.startswith(spelled):
                total += p[i] * write(done + len(spelled))
        return total / sum(p[i] for i in fits)

    return -math.log2(write(0))


def bits(scores, way):
    return getattr(scores, way).value * scores.bytes_


LOGITS = st.lists(st.floats(-3, 3, width=32), min_size=12, max_size=12)


@settings(max_examples=25)
@given(logits=LOGITS, text=st.sampled_from(TEXTS[:3]), seed=st.integers(0, 5))
def test_bits_are_bounds_that_an_exact_sum_never_exceeds(logits, text, seed):
    tokenizer, model = tiny(MERGES), Unigram(logits)
    options = {**OPTIONS, "cuts": 1, "seed": seed}
    (cut,) = cut_points([text], 1, 5, seed)
    scores = edge_scores(model, tokenizer, [text], **options)
    prompt = start_ids(tokenizer) + tokenizer(cut.before)["input_ids"]
    after = cut.after.encode()
    assert bits(scores, "plain") >= exact(tokenizer, model, b"", after) - 1e-5
    left = heal(tokenizer, prompt)
    assert bits(scores, "healed") >= exact(tokenizer, model, left.prefix, after) - 1e-5
    assert scores.dropped_share == (1.0 if left.prefix else 0.0)


@settings(max_examples=15)
@given(logits=LOGITS, seed=st.integers(0, 5))
def test_one_cut_by_hand(logits, seed):
    """Before "a b cc": the prompt ends in " a", the unit is " a b cc"."""
    tokenizer, model = tiny(MERGES), Unigram(logits)
    text = "cc a b cc a"
    options = {**OPTIONS, "cuts": 4, "seed": seed}
    p = dict(zip(tokenizer.convert_ids_to_tokens(range(12)), model.log.exp().tolist(), strict=True))
    expected = {
        # " a b cc a" after "cc", which no token outgrows: the unit, and " a" or what begins so.
        " a b ": (p["ĠaĠbĠcc"], p["ĠaĠbĠcc"]),
        # " b cc" after "cc a": " b", then " cc"; or healed, one of units that begin with " a".
        " b cc": (
            p["Ġb"] * p["Ġcc"],
            (p["ĠaĠbĠcc"] + p["Ġa"] * p["Ġb"] * p["Ġcc"])
            / (p["Ġa"] + p["ĠaĠb"] + p["ĠaĠbĠcc"] + p["Ġ"]),
        ),
        # " cc a" after "cc a b", one token, the unit's beginning.
        " cc a": (
            p["Ġcc"] * (p["Ġa"] + p["ĠaĠb"] + p["ĠaĠbĠcc"]),
            (p["ĠaĠbĠcc"] + p["ĠaĠb"] * p["Ġcc"])
            * (p["Ġa"] + p["ĠaĠb"] + p["ĠaĠbĠcc"])
            / (p["ĠaĠb"] + p["ĠaĠbĠcc"] + p["Ġ"] + p["Ġa"]),
        ),
        # " a" at the end, with all that begins so; healed, after "…c" that cannot be outgrown.
        " a": (p["Ġa"] + p["ĠaĠb"] + p["ĠaĠbĠcc"],) * 2,
    }
    cuts = cut_points([text], 4, 5, seed)
    assert {cut.after for cut in cuts} == set(expected)
    scores = edge_scores(model, tokenizer, [text], **options)
    # " a b " ends inside the unit, so both its tokens that begin like it count.
    plain = sum(-math.log2(expected[cut.after][0]) for cut in cuts)
    healed = sum(-math.log2(expected[cut.after][1]) for cut in cuts)
    assert bits(scores, "plain") == pytest.approx(plain, rel=1e-4, abs=1e-4)
    assert bits(scores, "healed") == pytest.approx(healed, rel=1e-4, abs=1e-4)
    assert bits(scores, "difference") == pytest.approx(healed - plain, rel=1e-4, abs=1e-3)
    assert scores.crossed_share == 0.5
    assert scores.bytes_ == 17


def test_a_model_that_writes_units_only_gains_by_healing():
    tokenizer = tiny(MERGES)
    model = Unigram(
        [5.0 if "ĠaĠb" in t else 0.0 for t in tokenizer.convert_ids_to_tokens(range(12))]
    )
    scores = edge_scores(model, tokenizer, ["b a b cc"] * 3, **OPTIONS)
    assert scores.difference.high < 0
    base = edge_scores(model, tiny(MERGES[:4] + [("a", "a"), ("b", "b")]), ["b a b cc"], **OPTIONS)
    assert base.crossed_share == 0.0


def test_cuts_in_fragmented_documents_have_figures_that_these_would_have_alone():
    tokenizer = tiny(MERGES)
    model = Unigram([0.3 * i for i in range(12)])
    options = {**OPTIONS, "cuts": 99}
    whole = edge_scores(model, tokenizer, TEXTS, **options, part=[1, 2, 4])
    alone = edge_scores(model, tokenizer, [TEXTS[1], TEXTS[2]], **options)
    assert {*whole.on_fragmented} == {"plain", "healed", "difference"}
    for name, found in whole.on_fragmented.items():
        assert found.value == pytest.approx(getattr(alone, name).value), name
        assert found.value != pytest.approx(getattr(whole, name).value), name
        assert found.low <= found.value <= found.high
    assert edge_scores(model, tokenizer, TEXTS, **options, part=[3, 4]).on_fragmented == {}


def test_against_the_logits_of_a_transformer(tiny_base):
    """One document, one cut, plain: token by token and without batches."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(tiny_base)).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_base))
    text = "The old captain described two bicycles last winter."
    (cut,) = cut_points([text], 1, 12, seed=3)
    scores = edge_scores(
        model, tokenizer, [text], **{**OPTIONS, "cuts": 1, "max_bytes": 12, "seed": 3}
    )
    pieces = pieces_of(tokenizer)
    ids = start_ids(tokenizer) + tokenizer(cut.before)["input_ids"]
    rest, expected = cut.after.encode(), 0.0
    for id_ in tokenizer(cut.after + cut.beyond)["input_ids"]:
        with torch.inference_mode():
            p = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
        if len(pieces.spelling[id_]) >= len(rest):
            both = [i for i, s in enumerate(pieces.spelling) if s.startswith(rest)]
            expected -= math.log2(float(p[both].sum()))
            break
        expected -= math.log2(float(p[id_]))
        ids.append(id_)
        rest = rest[len(pieces.spelling[id_]) :]
    assert bits(scores, "plain") == pytest.approx(expected, rel=1e-4)
    many = [text, "The mayor sold a wooden bridge on Monday, before the rain."]
    one, three = (
        edge_scores(model, tokenizer, many, **{**OPTIONS, "batch_size": b}) for b in (1, 3)
    )
    assert one.healed.value == pytest.approx(three.healed.value, rel=1e-4)


def test_a_row_that_several_questions_read_is_read_once():
    tokenizer, model = tiny(MERGES[:4]), Unigram([0.0] * 10)
    scores = edge_scores(model, tokenizer, ["cc b a b"], **OPTIONS)
    assert scores.cuts == 3
    assert scores.healed == scores.plain
    assert model.rows == 1  # "cc b a" is what is read for each of the cuts


# -- cuts -----------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.lists(st.text("aé心 \n", max_size=30), max_size=4), st.integers(1, 9), st.integers(0, 3))
def test_cuts_are_places_of_their_texts(texts, max_bytes, seed):
    cuts = cut_points(texts, 6, max_bytes, seed)
    assert cuts == cut_points(texts, 6, max_bytes, seed)
    assert len(cuts) <= 6
    for cut in cuts:
        assert cut.before + cut.after + cut.beyond in texts[cut.document]
        assert not cut.before[-1].isspace()
        assert cut.after[0] == " "
        assert not (cut.after + cut.beyond + "x")[1].isspace()
        assert len(cut.after.encode()) <= max_bytes


def test_every_text_is_cut_before_any_is_cut_again():
    texts = [f"{name} x x x x" for name in "abc"]
    first = cut_points(texts, 3, 4, seed=1)
    assert sorted(cut.before[0] for cut in first) == ["a", "b", "c"]
    assert cut_points(texts, 5, 4, seed=1)[:3] == first
    assert len(cut_points(texts, 99, 4, seed=1)) == 12
    assert {tuple(cut_points(texts, 3, 4, seed)) for seed in range(5)} != {tuple(first)}


def test_nothing_to_cut_or_to_spell_is_no_measure():
    assert edge_scores(Unigram([0.0] * 12), tiny(MERGES), ["a", ""], **OPTIONS) is None
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    trainer = WordPieceTrainer(special_tokens=["[UNK]"], show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    wordpiece = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert edge_scores(Unigram([0.0] * 12), wordpiece, TEXTS, **OPTIONS) is None


def test_a_space_before_every_text_costs_nothing():
    """As in Llama 2, whose tokens of a continuation alone begin with a space of their own."""
    from tests.test_generation import sentencepiece

    tokenizer = sentencepiece()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    text = "A disease of the kidney characterized by cysts"
    scores = edge_scores(LlamaForCausalLM(config).eval(), tokenizer, [text], **OPTIONS)
    assert scores.cuts == 7
    assert scores.bytes_ == 7 * 5
