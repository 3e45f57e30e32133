"""A new tokenizer for the domain, of the base's family or of another (`tokenizer.mode: train`).

Special and other added tokens keep the base's id where the new vocabulary reaches that far, and
else come last, in order. So the ids in `config.json` and `generation_config.json` mostly stay
right, and since the model's own vocabulary holds them all, stock code finds the same ids, whatever
order it adds them in. The ids of the post-processor are written anew.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from typing import Any

from adapt.errors import VocabularyError
from adapt.vocab.correspondence import constituents, respelled, unknown_token
from adapt.vocab.delta import VocabDelta
from adapt.vocab.renumber import renumber, required
from adapt.vocab.spec import (
    BYTE_LEVEL,
    SENTENCEPIECE,
    SPACE,
    UNIGRAM,
    WORDPIECE,
    Spec,
    family,
    steps,
    text_of,
    vocabulary,
)
from adapt.vocab.spelling import BYTE_TOKENS
from adapt.vocab.trainers import LEARN, Goal, Kind
from adapt.vocab.words import count_words, cutter, split_words

_KINDS: dict[str, Kind] = {
    BYTE_LEVEL: "bpe",
    SENTENCEPIECE: "bpe",
    WORDPIECE: "wordpiece",
    UNIGRAM: "unigram",
}
_UNKNOWN = {WORDPIECE: "[UNK]", UNIGRAM: "<unk>"}  # where the base has none


def retrain(
    base: Spec,
    texts: Iterable[str],
    vocab_size: int,
    model: Kind | None = None,
    min_frequency: int = 2,
) -> Spec:
    """A new vocabulary, learned from text, in the pipeline of the base.

    With another kind of model than the base's, the pre-tokenizer and the decoder are those that
    the kind needs, and the normalizer keeps all but what spells spaces.

    Args:
        base: The base's `tokenizer.json`; not changed.
        texts: Read once. Memory grows with distinct words.
        vocab_size: Tokens in all: special ones, alphabet and what is learned. Where the text holds
            fewer, `len(vocabulary(result))` is less; ids are `0 ... len - 1` either way.
        model: The base's own kind where it is None.
        min_frequency: A pair is merged, and a character is a token, only if it occurs so often.

    Raises:
        VocabularyError: The base's family is not known, or `vocab_size` is smaller than the
            special tokens and the alphabet.
    """
    if family(base) not in _KINDS:
        raise VocabularyError(
            f"a tokenizer of the kind {family(base)} cannot be retrained",
            where="tokenizer.mode",
            fix="set tokenizer.mode=keep, or take a base with BPE, WordPiece or Unigram",
        )
    kind = model or _KINDS[family(base)]
    spec = base if kind == _KINDS[family(base)] else _PIPELINES[kind](base)
    spec, unknown = _with_unknown(spec, base)
    words = count_words(spec, texts)
    if family(spec) not in (BYTE_LEVEL, WORDPIECE):
        words = split_words(words, several_digits=_has_several_digits(base))
    reserved = _reserved(spec, base, unknown)
    spoken = {token["content"] for token in spec["added_tokens"] if not token["special"]}
    goal = Goal(
        spec,
        reserved,
        reserved.keys() - spoken,
        unknown,
        _plain_characters(spec),
        vocab_size,
        min_frequency,
    )
    learned = {**spec, "model": {**spec["model"], **LEARN[kind](goal, words)}}
    return renumber(learned, vocabulary({**learned, "added_tokens": []}))


def delta(base: Spec, new: Spec) -> VocabDelta:
    """What retraining changed.

    Tokens are the same that are spelled the same; across families, that stand for the same text,
    a leading space included ("\u0120renal" is "\u2581renal" and WordPiece's "renal"). Added tokens
    are the same if their content is.
    """
    made_of = constituents(base, new)
    return VocabDelta.between(
        respelled(base, new), vocabulary(new), made_of.__getitem__, text_of(new)
    )


# -- what must be in the vocabulary ---------------------------------------------------------


def _with_unknown(spec: Spec, base: Spec) -> tuple[Spec, str | None]:
    """The tokenizer with an unknown token where its family needs one: the base's, or a new one."""
    unknown = unknown_token(base)
    if family(spec) not in _UNKNOWN:
        return spec, spec["model"].get("unk_token")
    if unknown is None:
        unknown = _UNKNOWN[family(spec)]
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        token = {"id": -1, "content": unknown, **flags, "special": True}
        others = [one for one in spec["added_tokens"] if one["content"] != unknown]
        spec = {**spec, "added_tokens": [*others, token]}
    if family(spec) == WORDPIECE:
        spec = {**spec, "model": {**spec["model"], "unk_token": unknown}}
    return spec, unknown


def _reserved(spec: Spec, base: Spec, unknown: str | None) -> dict[str, int]:
    """Tokens that the vocabulary must hold, to the id that each has in the base, -1 for none."""
    tokens = [unknown] if unknown else []
    if spec["model"].get("byte_fallback"):
        tokens += BYTE_TOKENS
    tokens += sorted(required(base))
    tokens += [token["content"] for token in spec["added_tokens"]]
    ids = vocabulary(base)
    return {token: ids.get(token, -1) for token in tokens}


def _plain_characters(spec: Spec) -> frozenset[str]:
    """ASCII characters that the normalizer leaves alone.

    They belong to the alphabet even where the text lacks them: a domain without a "~" must not
    make every "~" unknown.
    """
    cut = cutter(spec)
    printable = string.digits + string.ascii_letters + string.punctuation
    return frozenset(c for c in printable if "".join(cut(c)).strip(SPACE) == c)


def _has_several_digits(base: Spec) -> bool:
    """Whether any token of the base holds two digits side by side."""
    own = vocabulary(base).keys() - {token["content"] for token in base["added_tokens"]}
    return any(re.search(r"\d\d", token) for token in own - set(BYTE_TOKENS))


# -- the pipeline of another kind -----------------------------------------------------------


def _as_bpe(base: Spec) -> Spec:
    """Byte-level, with what the base's pre-tokenizer splits, or GPT-2's pattern."""
    splits = [step for step in steps(base["pre_tokenizer"]) if _splits_only(step)]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": not any(step["type"] == "Split" for step in splits),
    }
    model: dict[str, Any] = {"type": "BPE", "vocab": {}, "merges": []}
    pre_tokenizer = {"type": "Sequence", "pretokenizers": [*splits, byte_level]}
    return _around(base, model, pre_tokenizer, byte_level)


def _as_wordpiece(base: Spec) -> Spec:
    model = {
        "type": "WordPiece",
        "vocab": {},
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }
    decoder = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    return _around(base, model, {"type": "BertPreTokenizer"}, decoder)


def _as_unigram(base: Spec) -> Spec:
    """With byte fallback, and a space before the text where the base puts one there."""
    scheme = "first" if _puts_prefix(base) else "never"
    marks = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": True}
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, marks]}
    model: dict[str, Any] = {"type": "Unigram", "unk_id": None, "vocab": [], "byte_fallback": True}
    return _around(base, model, marks, decoder)


_PIPELINES = {"bpe": _as_bpe, "wordpiece": _as_wordpiece, "unigram": _as_unigram}


def _around(
    base: Spec, model: dict[str, Any], pre_tokenizer: dict[str, Any], decoder: dict[str, Any]
) -> Spec:
    """The base's added tokens, post-processor and normalizer around other parts."""
    kept = [
        step
        for step in steps(base["normalizer"])
        if step["type"] != "Prepend" and SPACE not in str(step.get("content"))
    ]
    return {
        **base,
        "normalizer": {"type": "Sequence", "normalizers": kept} if kept else None,
        "pre_tokenizer": pre_tokenizer,
        "decoder": decoder,
        "model": model,
    }


def _splits_only(step: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer's step cuts text without losing or respelling any of it."""
    if step["type"] == "Split":
        return not (step["behavior"] == "Removed" or SPACE in str(step["pattern"]))
    return bool(step["type"] == "Digits")


def _puts_prefix(base: Spec) -> bool:
    """Whether the base reads a text as if a space came before it."""
    parts = [*steps(base["normalizer"]), *steps(base["pre_tokenizer"])]
    return family(base) == WORDPIECE or any(
        step["type"] == "Prepend"
        or step.get("add_prefix_space", False)
        or step.get("prepend_scheme", "never") != "never"
        for step in parts
    )
