"""A `tokenizer.json` as plain data: what its parts are called, and which family it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, decoders

Spec = dict[str, Any]

BYTE_LEVEL = "byte-level BPE"
SENTENCEPIECE = "SentencePiece BPE"
WORDPIECE = "WordPiece"
UNIGRAM = "Unigram"

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece spells a space


def spec_of(tokenizer: Tokenizer) -> Spec:
    """The `tokenizer.json` of a tokenizer, without stored padding and truncation.

    Both are a habit of one model's pipeline, and would distort every count.
    """
    spec: Spec = json.loads(tokenizer.to_str())
    spec["padding"] = spec["truncation"] = None
    return spec


def build(spec: Spec) -> Tokenizer:
    """The tokenizer of a spec."""
    return Tokenizer.from_str(json.dumps(spec))


def family(spec: Spec) -> str:
    """One of the families above, or what the model calls itself where it is none of them."""
    kind: str = spec["model"]["type"]
    if kind == "BPE":
        affixes = ("continuing_subword_prefix", "end_of_word_suffix")
        if any(spec["model"].get(affix) for affix in affixes):
            return "BPE with word affixes"
        if any(step["type"] == "ByteLevel" for step in steps(spec["pre_tokenizer"])):
            return BYTE_LEVEL
        return SENTENCEPIECE if spec["model"].get("byte_fallback") else "BPE over characters"
    return kind


def steps(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A pre-tokenizer, normalizer or decoder as the list of its steps."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        names = ("pretokenizers", "normalizers", "decoders")
        nested = next(part[name] for name in names if name in part)
        return [step for one in nested for step in steps(one)]
    return [part]


def vocabulary(spec: Spec) -> dict[str, int]:
    """Spelling to id, of the model's own tokens and of the added ones, which may lie beyond."""
    model = spec["model"]
    if model["type"] == "Unigram":
        own = {token: id_ for id_, (token, _) in enumerate(model["vocab"])}
    else:
        own = dict(model["vocab"])
    return own | {token["content"]: token["id"] for token in spec["added_tokens"]}


def added_ids(spec: Spec) -> frozenset[int]:
    """Ids of special and other added tokens, which are matched before the model sees the text."""
    return frozenset(token["id"] for token in spec["added_tokens"])


def merges(spec: Spec) -> list[tuple[str, str]]:
    """Merges of a BPE model by rank; files of old versions spell a pair as one string."""
    pairs = spec["model"]["merges"]
    split = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in pairs]
    return [(left, right) for left, right in split]


def text_of(spec: Spec) -> Callable[[str], str]:
    """A function from a token's spelling to the text it stands for, its leading space included.

    U+FFFD stands for part of a character.
    """
    kind = family(spec)
    if kind == BYTE_LEVEL:
        decode = decoders.ByteLevel().decode
        return lambda token: decode([token])
    if kind == WORDPIECE:
        prefix: str = spec["model"]["continuing_subword_prefix"]
        return lambda token: token.removeprefix(prefix)
    fallback = decoders.ByteFallback().decode
    return lambda token: fallback([token]).replace(SPACE, " ")
