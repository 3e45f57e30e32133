"""Which tokens of two vocabularies stand for the same text, and what one makes of the other's.

A token's text begins with a space where the token marks one, and only there: no prefix that a
tokenizer puts before every text is in it. Bytes that are no character are surrogates in it.
"""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import Tokenizer, models

from adapt.vocab.spec import BYTE_LEVEL, SPACE, WORDPIECE, Spec, build, family, vocabulary
from adapt.vocab.spelling import BYTE_TOKENS, byte_level, sentencepiece_bytes, spelled_byte_level
from adapt.vocab.words import cutter


def constituents(base: Spec, new: Spec) -> dict[str, tuple[int, ...]]:
    """For each token of the new vocabulary, what the base makes of the text it stands for.

    At least one id each: what the base cannot read at all is its unknown token, or id 0 where it
    has none.

    Args:
        base: The base's `tokenizer.json`.
        new: The new one's, of any family that can be retrained.
    """
    say, read = meaning(new), _reader(base)
    unknown = (vocabulary(base).get(unknown_token(base) or "", 0),)
    return {token: tuple(read(say(token))) or unknown for token in vocabulary(new)}


def respelled(base: Spec, new: Spec) -> dict[str, int]:
    """The base's vocabulary, its tokens spelled as the new vocabulary spells the same text.

    Within a family a token keeps its spelling. Across families "\u0120renal" is "\u2581renal" and
    WordPiece's "renal"; added tokens are the same if their content is; a token without counterpart
    gets a spelling that no vocabulary has.
    """
    if family(base) == family(new):
        return vocabulary(base)
    mine, others = _by_meaning(base), _by_meaning(new)
    spelling = {mine[key]: token for key, token in others.items() if key in mine}
    return {spelling.get(token, f"\ud800{token}"): i for token, i in vocabulary(base).items()}


def meaning(spec: Spec) -> Callable[[str], str]:
    """A function from a token's spelling to its text."""
    kind = family(spec)
    added = {token["content"] for token in spec["added_tokens"]}
    if kind == WORDPIECE:
        prefix: str = spec["model"]["continuing_subword_prefix"]
        joins = joiner(spec)

        def of_word(token: str) -> str:
            continues = token.startswith(prefix) and token != prefix
            if token in added or (not continues and not joins(token)):
                return token
            return token.removeprefix(prefix) if continues else f" {token}"

        return of_word
    spell = byte_level if kind == BYTE_LEVEL else sentencepiece_bytes
    return lambda t: t if t in added else spell(t).decode("utf-8", "surrogateescape")


def joiner(spec: Spec) -> Callable[[str], bool]:
    """A function that says whether a text goes on with the word before it; punctuation does not."""
    cut = cutter(spec)
    return lambda text: cut(f"a{text}")[:1] != ["a"]


def unknown_token(spec: Spec) -> str | None:
    """What the model makes of text that it cannot read."""
    model = spec["model"]
    found: str | None = model.get("unk_token")
    if model.get("unk_id") is not None:
        found = model["vocab"][model["unk_id"]][0]
    return found


def _by_meaning(spec: Spec) -> dict[tuple[bool, str], str]:
    """Tokens by their text, and by whether they are special.

    Of two tokens of one text ("A" and "<0x41>") the one that spells it plainly.
    """
    say, ids = meaning(spec), vocabulary(spec)
    named = {token["content"] for token in spec["added_tokens"]} | {unknown_token(spec)}
    bytes_ = frozenset(BYTE_TOKENS)
    found: dict[tuple[bool, str], str] = {}
    for token in sorted(ids, key=lambda token: (token in bytes_, ids[token])):
        found.setdefault((token in named, say(token)), token)
    return found


# -- reading without a beginning ------------------------------------------------------------


def _reader(base: Spec) -> Callable[[str], list[int]]:
    """A function from a text to base ids, read as if in the middle of a longer text.

    The text is spelled as the base's model spells it, and given to the model alone: the rest of
    the tokenizer would put its prefix before it.
    """
    ids = vocabulary(base)
    without = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor"))
    model = build({**base, **without, "added_tokens": []})
    read_words = _word_reader(base) if family(base) == WORDPIECE else None

    def read(text: str) -> list[int]:
        bytes_ = text.encode("utf-8", "surrogateescape")
        if family(base) == BYTE_LEVEL:
            return model.encode(spelled_byte_level(bytes_)).ids
        if any(map(_is_stray, text)):
            return [ids[token] for b in bytes_ if (token := BYTE_TOKENS[b]) in ids]
        return read_words(text) if read_words else model.encode(text.replace(" ", SPACE)).ids

    return read


def _is_stray(character: str) -> bool:
    """Whether a character stands for a byte that is none."""
    return "\udc80" <= character <= "\udcff"


def _word_reader(base: Spec) -> Callable[[str], list[int]]:
    """The reader of WordPiece; a text without a leading space goes on with a word."""
    cut, model = cutter(base), base["model"]
    prefix, unknown = model["continuing_subword_prefix"], model["unk_token"]
    own: dict[str, int] = model["vocab"]
    inner = {t.removeprefix(prefix): i for t, i in own.items() if t.startswith(prefix)}
    # Pieces that go on with a word are read by a model that knows only those, without their mark.
    begin, go_on = (
        Tokenizer(
            models.WordPiece(
                {**vocab, unknown: own[unknown]},
                unk_token=unknown,
                max_input_chars_per_word=model["max_input_chars_per_word"],
                continuing_subword_prefix=mark,
            )
        )
        for vocab, mark in ((own, prefix), (inner, ""))
    )

    def read(text: str) -> list[int]:
        first, words = "", cut(text)
        if not text[:1].isspace():
            first, *words = cut(f"a{text}") or ["a"]
        found = go_on.encode(first[1:]).ids
        return found + [id_ for word in words for id_ in begin.encode(word).ids]

    return read
