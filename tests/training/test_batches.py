"""Packing loses nothing, and no document sees another."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from adapt.training.batches import (
    IGNORED,
    collate,
    completion_ids,
    document,
    encode_documents,
    pack,
    prompt_ids,
    start_ids,
)
from adapt.training.records import Dialogue
from adapt.vocab import load_tokenizer

documents = st.lists(st.lists(st.integers(1, 99), min_size=2, max_size=30), max_size=12)


@given(documents, st.integers(2, 16))
def test_packing_predicts_every_token_but_the_first_once_and_in_order(texts, max_length):
    packed = list(pack(texts, max_length))
    assert all(1 < len(example) <= max_length for example in packed)
    learned = [label for example in packed for label in example.labels if label != IGNORED]
    assert learned == [id_ for text in texts for id_ in text[1:]]


@given(st.lists(st.lists(st.integers(), min_size=2, unique=True), max_size=8), st.integers(2, 9))
def test_every_token_is_predicted_from_the_one_before_it(texts, max_length):
    before = {(text[i - 1], text[i]) for text in texts for i in range(1, len(text))}
    for example in pack(texts, max_length):
        for i, label in enumerate(example.labels):
            if label != IGNORED:
                assert (example.input_ids[i - 1], label) in before


@given(documents, st.integers(4, 16))
def test_labels_are_the_ids_but_for_the_first_of_each_part(texts, max_length):
    for example in pack(texts, max_length):
        for id_, label, position in zip(
            example.input_ids, example.labels, example.position_ids, strict=True
        ):
            assert label == (IGNORED if position == 0 else id_)


@given(documents.filter(bool))
def test_collating_keeps_every_token_and_fills_with_what_is_ignored(texts):
    batch = collate([document(t, t) for t in texts], 40, pad=0)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["position_ids"].shape
    assert batch["input_ids"].shape[1] <= 40
    real = batch["labels"] != IGNORED
    assert int(real.sum()) == sum(len(t) - 1 for t in texts)
    assert sorted(batch["input_ids"][real].tolist()) == sorted(i for t in texts for i in t[1:])


def test_packed_documents_do_not_attend_to_each_other(tiny_base):
    model = AutoModelForCausalLM.from_pretrained(str(tiny_base)).eval()
    model.config.use_cache = False
    torch.manual_seed(0)
    texts = [torch.randint(3, 300, (n,)).tolist() for n in (9, 14, 5)]
    batch = collate([document(t, t) for t in texts], 64, pad=0)
    assert batch["input_ids"].shape[0] == 1
    with torch.inference_mode():
        packed = model(**batch)
        alone = [model(torch.tensor([t]), labels=torch.tensor([t])) for t in texts]
    by_length = sorted(zip(texts, alone, strict=True), key=lambda pair: len(pair[0]), reverse=True)
    start = 0
    for text, output in by_length:
        torch.testing.assert_close(packed.logits[:, start : start + len(text)], output.logits)
        start += len(text)
    total = sum(float(o.loss) * (len(t) - 1) for t, o in by_length)
    assert float(packed.loss) == pytest.approx(total / sum(len(t) - 1 for t in texts), rel=1e-5)


def test_only_the_completion_is_learned(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    record = Dialogue(tokenizer, None, 64)({"prompt": "Name the organ.", "completion": "kidney"})
    prompt, answer = prompt_ids(tokenizer, "Name the organ."), completion_ids(tokenizer, "kidney")
    assert record.input_ids == prompt + answer
    assert record.flags == [False] * len(prompt) + [True] * len(answer)
    assert answer[-1] == tokenizer.eos_token_id
    assert (record.bytes_, record.lost) == (21, 0)


def test_prompts_use_the_chat_template(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    text = tokenizer.decode(prompt_ids(tokenizer, "hello"))
    assert text == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("max_length", [2, 5, 12, 30])
def test_long_pairs_are_cut_to_length_and_keep_something_to_learn(tiny_base, max_length):
    tokenizer = load_tokenizer(tiny_base)
    pair = {"prompt": "a long question " * 9, "completion": "an answer " * 5}
    record = Dialogue(tokenizer, None, max_length)(pair)
    assert len(record.input_ids) == len(record.flags) <= max_length
    assert any(record.flags)
    whole = tokenizer.decode(Dialogue(tokenizer, None, 10_000)(pair).input_ids)
    kept = tokenizer.decode(record.input_ids)
    assert len(kept) + record.lost == len(whole.removesuffix(tokenizer.eos_token))


def test_documents_open_with_what_separated_them_in_pretraining(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    assert tokenizer.decode(start_ids(tokenizer)) == "<|endoftext|>"
    ids = next(encode_documents(tokenizer, ["the harbour"]))
    assert tokenizer.decode(ids) == "<|endoftext|>the harbour"
