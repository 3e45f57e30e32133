"""The words of a text: what normalizer and pre-tokenizer hand to the model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

from tokenizers import Regex, pre_tokenizers

from adapt.vocab.spec import SPACE, Spec, build

_EMPTY = {"type": "BPE", "vocab": {}, "merges": []}
_SPLIT = rf"{SPACE}?[\p{{L}}\p{{M}}]+|{{digits}}|{SPACE}?[^{SPACE}\p{{L}}\p{{M}}\p{{N}}\r\n]+"
_SPLIT += rf"|[\r\n]+|{SPACE}+(?={SPACE})|{SPACE}"


def cutter(spec: Spec) -> Callable[[str], list[str]]:
    """A function from a text without added tokens to its words."""
    bare = build({**spec, "model": _EMPTY, "added_tokens": [], "post_processor": None})
    normalizer, pre_tokenizer = bare.normalizer, bare.pre_tokenizer

    def cut(text: str) -> list[str]:
        if normalizer:
            text = normalizer.normalize_str(text)
        if not pre_tokenizer:
            return [text]
        return [word for word, _ in pre_tokenizer.pre_tokenize_str(text)]

    return cut


def count_words(spec: Spec, texts: Iterable[str]) -> Counter[str]:
    """Counts words, added tokens left out; memory grows with distinct words."""
    cut = cutter(spec)
    added = any_of(t["content"] for t in spec["added_tokens"] if not t["single_word"])
    counts: Counter[str] = Counter()
    for text in texts:
        for part in filter(None, added.split(text)):
            counts.update(cut(part))
    return counts


def split_words(words: Counter[str], *, several_digits: bool) -> Counter[str]:
    """Cuts words as SentencePiece does: before a space, and between letters, digits and the rest.

    Its models have no pre-tokenizer that does it; what they never merged keeps text apart.

    Args:
        words: Words with their counts.
        several_digits: Whether digits side by side stay together.
    """
    digits = rf"{SPACE}?\p{{N}}+" if several_digits else r"\p{N}"
    split = pre_tokenizers.Split(Regex(_SPLIT.replace("{digits}", digits)), "isolated")
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for piece, _ in split.pre_tokenize_str(word):
            counts[piece] += count
    return counts


def any_of(contents: Iterable[str]) -> re.Pattern[str]:
    """A pattern for any of several strings, the longest first; for none, one that never matches."""
    return re.compile("|".join(map(re.escape, sorted(contents, key=len, reverse=True))) or "$^")
