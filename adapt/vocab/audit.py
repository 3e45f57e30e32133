"""The guarantees of an extended tokenizer, checked text by text."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from tokenizers import Tokenizer

from adapt.errors import VocabularyError
from adapt.vocab.bpe import batches


@dataclass(frozen=True)
class Audit:
    """What was checked, on how much text.

    Attributes:
        texts: Texts on which each promise was checked.
        widening_changed: Texts that the widened pre-tokenizer alone segments otherwise than the
            base; the widening is dropped when there is any.
        boundaries_added: Texts with a boundary that the base does not have; a guarantee: 0.
        longer: Texts that need more tokens than with the base; a guarantee: 0.
        decoded_otherwise: Texts that no longer decode to what the base decodes to; guarantee: 0.
    """

    texts: int
    widening_changed: int
    boundaries_added: int
    longer: int
    decoded_otherwise: int

    def raise_if_broken(self) -> None:
        """Raises `VocabularyError` when a guarantee does not hold."""
        if self.boundaries_added or self.longer or self.decoded_otherwise:
            raise VocabularyError(
                "the new tokenizer breaks a guarantee; this is a bug of adapt, please report it",
                got=f"{self}",
            )


def boundaries(tokenizer: Tokenizer, text: str) -> list[int]:
    """End of each token of `text`, counted in characters of the vocabulary's spelling."""
    tokens = tokenizer.encode(text, add_special_tokens=False).tokens
    return list(accumulate(map(len, tokens)))


def segments_alike(a: Tokenizer, b: Tokenizer, texts: Iterable[str]) -> Iterator[bool]:
    """For each text, whether both tokenizers give the same ids."""
    for batch in batches(texts):
        pairs = zip(
            a.encode_batch_fast(batch, add_special_tokens=False),
            b.encode_batch_fast(batch, add_special_tokens=False),
            strict=True,
        )
        for one, other in pairs:
            yield one.ids == other.ids


def audit(base: Tokenizer, new: Tokenizer, texts: Iterable[str], widening_changed: int) -> Audit:
    """Checks the promises of `extend` on texts: boundaries, length, decoding.

    Args:
        base: The base tokenizer.
        new: The extended one.
        texts: Any strings.
        widening_changed: What the check of the pre-tokenizer found, to be carried along.
    """
    checked = added = longer = otherwise = 0
    for batch in batches(texts):
        olds = base.encode_batch(batch, add_special_tokens=False)
        news = new.encode_batch(batch, add_special_tokens=False)
        for old, fresh in zip(olds, news, strict=True):
            checked += 1
            longer += len(fresh.ids) > len(old.ids)
            old_ends = set(accumulate(map(len, old.tokens)))
            added += not old_ends.issuperset(accumulate(map(len, fresh.tokens)))
            otherwise += base.decode(old.ids) != new.decode(fresh.ids)
    return Audit(checked, widening_changed, added, longer, otherwise)


def generated_texts(count: int, seed: int) -> Iterator[str]:
    """Strings that tokenizers stumble over: scripts, digits, blanks, emoji, contractions, mixed."""
    rng = random.Random(seed)
    words = [
        "a",
        "the",
        "Word",
        "naïve",
        "don't",
        "it's",
        "we'LL",
        "X-linked",
        "β-catenin",
        "0",
        "42",
    ]
    words += [
        "3.14",
        "mg/dL",
        "Привет",
        "мир",
        "日本語",
        "中文",
        "العربية",
        "हिन्दी",
        "한국어",
        "ไทย",
        "👩‍⚕️",
        "🫀",
    ]
    words += [
        "e\u0301",
        "\u00a0",
        "\u200b",
        "\u2028",
        "Ⅳ",
        "½",
        "٣",
        "_",
        "__init__",
        "http://x.y/z?q=1",
    ]
    blanks = ["", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u3000"]
    marks = [
        ".",
        ",",
        ";",
        ":",
        "-",
        "--",
        "/",
        "(",
        ")",
        " (",
        ") ",
        "'",
        "’s",
        '"',
        "!?",
        "…",
        "[",
        "}",
        "%",
        "$",
    ]
    kinds = (words, blanks, marks)
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 12)):
            if rng.random() < 0.1:
                parts.append(
                    chr(rng.choice([rng.randrange(1, 0xD800), rng.randrange(0xE000, 0x1F000)]))
                )
            else:
                parts.append(rng.choice(rng.choices(kinds, weights=(5, 4, 2))[0]))
        yield "".join(parts)
