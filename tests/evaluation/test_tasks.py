"""Classification in every way and batched generation, against direct computation."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
)

from adapt.errors import ModelError
from adapt.evaluation.baselines import majority, tf_idf, tf_idf_sets
from adapt.evaluation.classification import (
    METHODS,
    NEUTRAL,
    Options,
    few_shot_examples,
    few_shot_prompt,
    predict,
)
from adapt.evaluation.constrained import constrained, continuations
from adapt.evaluation.generation import adoption, answers, decoding, generate
from adapt.evaluation.heads import class_logits, decoder_window, several
from adapt.evaluation.labels import answer_log_probabilities, trees
from adapt.evaluation.similarity import similarity
from adapt.generation import Completion, complete
from adapt.training.batches import completion_ids, prompt_ids
from adapt.vocab import load_tokenizer

LABELS = ["heart", "kidney", "the kidney and the heart", "brain"]
PROMPTS = ["Which organ?", "Name the part that a farmer sold before the rain.", "x"]


@pytest.fixture(scope="module")
def pair(tiny_base):
    return AutoModelForCausalLM.from_pretrained(str(tiny_base)).eval(), load_tokenizer(tiny_base)


def direct(model, prompt, answer):
    with torch.inference_mode():
        log = torch.log_softmax(model(torch.tensor([prompt + answer])).logits[0], -1)
    return sum(float(log[len(prompt) + i - 1, id_]) for i, id_ in enumerate(answer))


# -- likelihood -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_answer_probabilities_are_those_of_a_direct_computation(pair, batch_size, caplog):
    model, tokenizer = pair
    prompts = [prompt_ids(tokenizer, prompt) for prompt in PROMPTS]
    labels = [completion_ids(tokenizer, label) for label in LABELS]
    expected = [[direct(model, prompt, ids) for ids in labels] for prompt in prompts]
    options = {"batch_size": batch_size, "label": ""}
    found = answer_log_probabilities(model, prompts, labels, **options)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert "one prompt at a time" not in caplog.text


def sharp(config_class, model_class, **options):
    """An untrained model whose predictions depend much on what it reads."""
    config = config_class(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        **options,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_class(config).eval()


@pytest.fixture(scope="module")
def llama():
    return sharp(LlamaConfig, LlamaForCausalLM)


IDS = st.lists(st.integers(0, 59), min_size=1, max_size=8)
FEW = st.lists(st.integers(0, 3), min_size=1, max_size=6)  # so that labels share beginnings


@settings(max_examples=12)
@given(
    start=st.lists(st.integers(0, 59), max_size=3),
    ends=st.lists(IDS, min_size=1, max_size=5),
    labels=st.lists(FEW, min_size=1, max_size=6),
    batch_size=st.integers(1, 5),
)
def test_the_batch_size_changes_no_score(llama, start, ends, labels, batch_size):
    prompts = [start + end for end in ends]
    found = answer_log_probabilities(llama, prompts, labels, batch_size=batch_size, label="")
    expected = [[direct(llama, prompt, ids) for ids in labels] for prompt in prompts]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_a_model_that_ignores_masks_of_others_is_read_one_prompt_at_a_time(caplog):
    model = sharp(MistralConfig, MistralForCausalLM, sliding_window=4)
    draw = random.Random(0)
    prompts = [[draw.randrange(60) for _ in range(n)] for n in (3, 9, 14)]
    labels = [[1, 2], [1, 3, 4], [5]]
    found = answer_log_probabilities(model, prompts, labels, batch_size=2, label="")
    expected = [[direct(model, prompt, ids) for ids in labels] for prompt in prompts]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert "one prompt at a time" in caplog.text


def test_a_tree_holds_each_beginning_once_and_large_sets_are_cut():
    labels = [[1, 2, 9], [1, 2, 3, 9], [1, 9], [4, 9]]
    (tree,) = trees(labels)
    assert tree.ids == [1, 2, 3, 4]
    assert sorted(tree.answers) == [0, 1, 2, 3]
    assert len(tree.steps) == sum(map(len, labels))
    cut = list(trees(labels, limit=2))
    assert len(cut) > 1
    assert sorted(i for tree in cut for i in tree.answers) == [0, 1, 2, 3]


def test_more_labels_than_one_tree_holds(llama, monkeypatch):
    labels = [[a, b] for a in range(6) for b in range(6)]
    whole = answer_log_probabilities(llama, [[7, 8], [9]], labels, batch_size=2, label="")
    monkeypatch.setattr("adapt.evaluation.labels.trees.__defaults__", (3,))
    cut = answer_log_probabilities(llama, [[7, 8], [9]], labels, batch_size=2, label="")
    np.testing.assert_allclose(cut, whole, rtol=0, atol=1e-4)


def test_the_chosen_label_is_always_of_the_set_and_the_likeliest(pair):
    model, tokenizer = pair
    chosen = predict(model, tokenizer, PROMPTS, LABELS, Options(256)).answers
    for prompt, label in zip(PROMPTS, chosen, strict=True):
        ids = prompt_ids(tokenizer, prompt)
        scores = {x: direct(model, ids, completion_ids(tokenizer, x)) for x in LABELS}
        assert label == max(scores, key=scores.__getitem__)


@pytest.mark.parametrize("normalize", ["none", "tokens", "bytes"])
@pytest.mark.parametrize("neutral", [None, f"Which {NEUTRAL}?"])
def test_normalisation_and_calibration_by_hand(pair, normalize, neutral):
    model, tokenizer = pair
    options = Options(256, 2, normalize=normalize, neutral=neutral)
    found = predict(model, tokenizer, PROMPTS, LABELS, options)

    def scores(prompt):
        ids = [completion_ids(tokenizer, label) for label in LABELS]
        logs = [direct(model, prompt_ids(tokenizer, prompt), one) for one in ids]
        sizes = {
            "none": [1] * len(LABELS),
            "tokens": [len(one) for one in ids],
            "bytes": [len(label) for label in LABELS],
        }[normalize]
        return np.array(logs) / sizes

    for row, prompt in zip(found.probabilities, PROMPTS, strict=True):
        expected = softmax(scores(prompt))
        if neutral:
            expected /= softmax(scores(neutral))
            expected /= expected.sum()
        np.testing.assert_allclose(row, expected, atol=1e-4)
    np.testing.assert_allclose(found.probabilities.sum(-1), 1)
    np.testing.assert_allclose(found.confidence, found.probabilities.max(-1))


def test_calibration_leaves_no_preference_where_nothing_is_asked(pair):
    model, tokenizer = pair
    options = Options(256, neutral=PROMPTS[0])
    found = predict(model, tokenizer, PROMPTS[:1], LABELS, options)
    np.testing.assert_allclose(found.probabilities, 1 / len(LABELS), atol=1e-5)


# -- constrained ------------------------------------------------------------------------------

WORDS = st.sampled_from(["heart", "kid", "ney", "kidney", " ", "the", "x", "é", "12"])
LABEL_SETS = st.lists(
    st.lists(WORDS, min_size=1, max_size=4).map("".join), min_size=1, max_size=6, unique=True
)


@settings(max_examples=15)
@given(labels=LABEL_SETS, beams=st.integers(1, 3), prompts=st.lists(WORDS, min_size=1, max_size=3))
def test_constrained_generation_writes_nothing_but_labels(pair, labels, beams, prompts):
    model, tokenizer = pair
    options = Options(256, 2, num_beams=beams)
    found = predict(model, tokenizer, prompts, labels, options, "constrained")
    assert len(found.answers) == len(prompts)
    assert set(found.answers) <= set(labels)
    assert ((found.confidence > 0) & (found.confidence <= 1 + 1e-6)).all()


@settings(max_examples=8)
@given(labels=LABEL_SETS)
def test_as_many_beams_as_labels_find_the_likeliest(pair, labels):
    model, tokenizer = pair
    likeliest = predict(model, tokenizer, PROMPTS, labels, Options(256))
    options = Options(256, 2, num_beams=len(labels))
    found = predict(model, tokenizer, PROMPTS, labels, options, "constrained")
    place = {label: i for i, label in enumerate(labels)}
    for row, answer in zip(likeliest.probabilities, found.answers, strict=True):
        assert row[place[answer]] == pytest.approx(row.max(), abs=1e-4)  # or as good as it


def test_greedy_constrained_generation_by_hand(pair):
    model, tokenizer = pair
    labels = [completion_ids(tokenizer, label) for label in LABELS]
    following = continuations(labels)
    for prompt in PROMPTS:
        ids = prompt_ids(tokenizer, prompt)
        path, sure = [], 1.0
        while nexts := following.get(tuple(path)):
            with torch.inference_mode():
                logits = model(torch.tensor([ids + path])).logits[0, -1, nexts]
            sure *= float(logits.softmax(-1).max())
            path.append(nexts[int(logits.argmax())])
        ((chosen,), (confidence,)) = constrained(
            model, tokenizer, [ids], labels, num_beams=1, batch_size=1, label=""
        )
        assert labels[chosen] == path
        assert confidence == pytest.approx(sure, abs=1e-5)


def test_labels_that_hold_the_end_token_are_still_labels(pair):
    model, tokenizer = pair
    labels = ["<|im_end|>x", "<|im_end|>y"]
    for method in ("constrained", "likelihood"):
        found = predict(model, tokenizer, PROMPTS, labels, Options(256), method)
        assert set(found.answers) <= set(labels)


def test_without_an_end_token_there_is_no_constrained_generation(pair):
    class Endless:
        eos_token_id = None

    options = {"num_beams": 1, "batch_size": 1, "label": ""}
    with pytest.raises(ModelError, match="score the task by likelihood"):
        constrained(pair[0], Endless(), [[1]], [[2]], **options)


# -- few shots, heads, baselines ----------------------------------------------------------------


def test_examples_come_from_the_rows_given_and_stand_before_the_prompt(pair):
    rows = [(f"text {i}", "heart") for i in range(9)]
    shown = few_shot_examples(rows, 3, seed=1)
    assert shown == few_shot_examples(rows, 3, seed=1)
    assert len(set(shown)) == 3
    assert set(shown) < set(rows)
    assert few_shot_prompt(shown[:2], "Which?") == (
        f"{shown[0][0]}\nheart\n\n{shown[1][0]}\nheart\n\nWhich?"
    )
    model, tokenizer = pair
    options = Options(256, examples=shown)
    found = predict(model, tokenizer, ["Which?"], LABELS, options, "few_shot")
    alone = predict(model, tokenizer, [few_shot_prompt(shown, "Which?")], LABELS, options)
    np.testing.assert_allclose(found.probabilities, alone.probabilities, atol=1e-6)


@pytest.fixture(scope="module")
def head():
    names = dict(enumerate(["kidney", "heart", "brain"]))
    return sharp(
        LlamaConfig, LlamaForSequenceClassification, id2label=names, num_labels=3, pad_token_id=0
    )


def test_a_head_gives_the_softmax_of_its_own_labels(head, pair):
    texts = [[5, 6, 7], [8], [9, 10, 11, 12]]
    options = {"pad": 0, "batch_size": 2, "label": ""}
    logits = class_logits(head, texts, **options)
    with torch.inference_mode():
        alone = [head(torch.tensor([ids])).logits[0].tolist() for ids in texts]
    np.testing.assert_allclose(logits, alone, atol=1e-5)

    class Tokenizer:
        pad_token_id, model_max_length = 0, 512

        def __call__(self, given, **options):
            return {"input_ids": [texts[int(one)] for one in given]}

    labels = ["heart", "brain", "lung"]
    found = predict(head, Tokenizer(), ["0", "1", "2"], labels, Options(8), "head")
    assert found.labels == ("kidney", "heart", "brain", "lung")
    np.testing.assert_allclose(found.probabilities[:, :3], softmax(alone, axis=-1), atol=1e-5)
    assert (found.probabilities[:, 3] == 0).all()


def test_a_model_without_a_head_is_refused(pair):
    with pytest.raises(ModelError, match="has no classification head"):
        class_logits(pair[0], [[1, 2]], pad=0, batch_size=1, label="")


def test_several_labels_are_those_above_the_threshold():
    chosen, probabilities = several(np.array([[0.0, -1.0], [3.0, 2.0], [-9.0, -9.0]]), ["a", "b"])
    assert chosen == [["a"], ["a", "b"], []]
    np.testing.assert_allclose(probabilities[0], [0.5, 1 / (1 + np.e)])


def test_baselines_learn_what_words_tell():
    draw = random.Random(0)
    words = {"heart": ["valve", "atrium"], "kidney": ["renal", "tubule"]}
    rows = [(draw.choice(words[x]) + f" case {i}", x) for i in range(60) for x in words]
    rows += [("valve case", "heart")] * 5
    texts, labels = zip(*rows, strict=True)
    asked = ["an atrium", "a tubule", "renal things"]
    found = tf_idf(texts, labels, asked, 0)
    assert found.answers == ["heart", "kidney", "kidney"]
    np.testing.assert_allclose(found.probabilities.sum(-1), 1)
    most = majority(texts, labels, asked, 0)
    assert most.answers == ["heart"] * 3
    np.testing.assert_allclose(most.confidence, 65 / 125)


@pytest.mark.parametrize("texts", [["心", "肾", "心", "肾"], ["a", "b", "a", "b"]])
def test_tf_idf_of_texts_without_words(texts):
    assert tf_idf(texts, ["x", "y", "x", "y"], texts[:2], 0).answers == ["x", "y"]


def test_tf_idf_of_one_label():
    assert tf_idf(["some words"], ["x"], ["others", "words"], 0).answers == ["x", "x"]


def test_tf_idf_of_sets_of_one_label_and_of_none():
    texts = ["the heart beats", "the sky", "a heart and a vein", "a sky of stars"]
    one = [["heart"], [], ["heart"], []]
    assert tf_idf_sets(texts, one, ["my heart", "stars"], 0) == [["heart"], []]
    assert tf_idf_sets(texts, [[]] * 4, ["my heart", "stars"], 0) == [[], []]
    assert tf_idf_sets(texts, [["heart"]] * 4, ["my heart"], 0) == [["heart"]]


def _decoder(config_class, model_class, positions):
    config = config_class(
        vocab_size=32,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=positions,
    )
    return model_class(config).eval()


def test_the_window_of_a_decoder_is_as_long_as_its_table_of_positions():
    learned = _decoder(GPT2Config, GPT2LMHeadModel, 16)
    assert decoder_window(learned, 12) == 12
    assert decoder_window(learned, 64) == 16
    assert decoder_window(learned, 12, after=6) == 10
    learned(torch.zeros(1, decoder_window(learned, 64), dtype=torch.long))  # fits
    with pytest.raises(ModelError, match=r"has 16 positions.* up to 16 tokens'; lower max_new"):
        decoder_window(learned, 12, after=16)


def test_rotary_positions_go_on():
    rotary = _decoder(LlamaConfig, LlamaForCausalLM, 16)
    assert decoder_window(rotary, 64, after=32) == 64
    rotary(torch.zeros(1, 64, dtype=torch.long))


def test_unknown_methods_and_bad_label_sets(pair):
    with pytest.raises(ValueError, match="did you mean likelihood"):
        predict(*pair, PROMPTS, LABELS, Options(8), "likelyhood")
    for labels in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="label set"):
            predict(*pair, PROMPTS, labels, Options(8))
    for method in set(METHODS) - {"head"}:
        assert predict(*pair, PROMPTS, ["only"], Options(64), method).answers == ["only"] * 3


# -- generation -------------------------------------------------------------------------------


def test_batches_of_padded_prompts_give_what_each_prompt_gives_alone(pair):
    model, tokenizer = pair
    settings = {"max_new_tokens": 12, "max_length": 256, "label": ""}
    together = generate(model, tokenizer, PROMPTS, batch_size=3, **settings)
    alone = [generate(model, tokenizer, [p], batch_size=1, **settings)[0] for p in PROMPTS]
    assert together == alone


def test_prompts_end_where_training_ended_them_unless_healed(pair):
    model, tokenizer = pair
    settings = {"max_length": 256, "batch_size": 1, "label": ""}
    plain = generate(model, tokenizer, PROMPTS[:1], max_new_tokens=4, **settings)
    healed = generate(model, tokenizer, PROMPTS[:1], max_new_tokens=4, heal=True, **settings)
    prompt = prompt_ids(tokenizer, PROMPTS[0])
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    stock = model.generate(ids, pad_token_id=tokenizer.pad_token_id, **options)[0, len(prompt) :]
    assert plain == [tokenizer.decode(stock, skip_special_tokens=True).strip()]
    anew = complete(
        model, tokenizer, [prompt], heal=True, batch_size=1, max_new_tokens=4, do_sample=False
    )
    assert healed == [anew[0].text.strip()]


def test_sampling_is_seeded_and_leaves_the_generator_alone(pair):
    model, tokenizer = pair
    config = decoding(tokenizer, max_new_tokens=12, do_sample=True, top_p=0.9, temperature=2.0)
    options = {"config": config, "max_length": 256, "batch_size": 2, "label": ""}
    before = torch.random.get_rng_state()
    first = [one.ids for one in answers(model, tokenizer, PROMPTS, seed=1, **options)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert first == [one.ids for one in answers(model, tokenizer, PROMPTS, seed=1, **options)]
    assert first != [one.ids for one in answers(model, tokenizer, PROMPTS, seed=2, **options)]


def test_decoding_does_not_depend_on_the_generation_config_of_the_base(pair):
    model, tokenizer = pair
    settings = {"max_new_tokens": 12, "max_length": 256, "batch_size": 3, "label": ""}
    greedy = generate(model, tokenizer, PROMPTS, **settings)
    theirs = model.generation_config.repetition_penalty
    model.generation_config.repetition_penalty = 5.0
    try:
        assert generate(model, tokenizer, PROMPTS, **settings) == greedy
    finally:
        model.generation_config.repetition_penalty = theirs


def test_adoption_counts_units_written_where_the_text_has_them(pair):
    _, tokenizer = pair
    text = "The old captain described two bicycles."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    unit = max(set(ids), key=lambda i: len(tokenizer.decode([i])))
    bytes_ = [i for c in tokenizer.decode([unit]).encode() for i in _byte(tokenizer, c)]
    apart = [j for i in ids for j in (bytes_ if i == unit else [i])]
    assert tokenizer.decode(apart) == text
    done = [Completion(ids, text), Completion(apart, text), Completion([], "")]
    taken, chances = adoption(tokenizer, done, [unit])
    assert taken.tolist() == [1, 0, 0]
    assert chances.tolist() == [1, 1, 0]


def _byte(tokenizer, code):
    from tokenizers.pre_tokenizers import ByteLevel

    (piece,) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(chr(code))
    return [tokenizer.convert_tokens_to_ids(piece[0])]


def test_similar_texts_are_near(pair):
    found = similarity(
        ["an abnormal heartbeat", "an abnormal heartbeat", ""],
        ["an irregular rhythm of the heart", "the price of two bicycles", "a word"],
        batch_size=2,
        label="",
    )
    assert found[0] > 0.5 > found[1]
    assert (np.abs(found) <= 1 + 1e-6).all()
