"""Classification by label likelihood and batched generation, against direct computation."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from adapt.evaluation.classification import answer_log_probabilities, classify
from adapt.evaluation.generation import generate
from adapt.evaluation.speed import decoding_speed
from adapt.generation import complete
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


@pytest.mark.parametrize("prompt", PROMPTS)
def test_answer_probabilities_are_those_of_a_direct_computation(pair, prompt):
    model, tokenizer = pair
    ids = prompt_ids(tokenizer, prompt)
    answers = [completion_ids(tokenizer, label) for label in LABELS]
    expected = torch.tensor([direct(model, ids, answer) for answer in answers])
    torch.testing.assert_close(
        answer_log_probabilities(model, ids, answers), expected, rtol=1e-4, atol=1e-4
    )


def test_the_chosen_label_is_always_of_the_set_and_the_likeliest(pair):
    model, tokenizer = pair
    chosen = classify(model, tokenizer, PROMPTS, LABELS, max_length=256, label="")
    for prompt, label in zip(PROMPTS, chosen, strict=True):
        ids = prompt_ids(tokenizer, prompt)
        scores = {x: direct(model, ids, completion_ids(tokenizer, x)) for x in LABELS}
        assert label == max(scores, key=scores.__getitem__)


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


def test_decoding_speed_counts_characters_of_answers_of_a_fixed_length(pair):
    model, tokenizer = pair
    options = {"new_tokens": 8, "batch_size": 2, "rounds": 2, "label": ""}
    texts = ["The old captain described two bicycles last winter. " * 3] * 3
    assert decoding_speed(model, tokenizer, texts, **options) >= 0
    assert decoding_speed(model, tokenizer, ["short"], **options) is None
