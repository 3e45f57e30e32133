"""The guarantees of an adapted tokenizer, checked text by text."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from tokenizers import Encoding, Tokenizer

from adapt.errors import VocabularyError
from adapt.vocab.learn import batches

# What must not happen to a text, by the words that the report uses.
ADDED_BOUNDARY = "a boundary that the base does not have"
LONGER = "more tokens than with the base"
DECODED_OTHERWISE = "decodes to something else than with the base"
UNKNOWN = "a new unknown token"
SEGMENTED_OTHERWISE = "segmented otherwise although it uses no removed token"


@dataclass(frozen=True)
class Audit:
    """What was checked, on how much text.

    Attributes:
        texts: Texts on which each promise was checked.
        broken: By promise, the texts that break it; a guarantee: 0.
        widening_changed: Texts that the widened pre-tokenizer alone segments otherwise than the
            base; the widening is dropped when there is any.
    """

    texts: int
    broken: dict[str, int]
    widening_changed: int = 0

    def raise_if_broken(self) -> None:
        """Raises `VocabularyError` when a guarantee does not hold."""
        if any(self.broken.values()):
            raise VocabularyError(
                "the new tokenizer breaks a guarantee; this is a bug of adapt, please report it",
                got=", ".join(f"{count} x {what}" for what, count in self.broken.items() if count),
            )


Check = Callable[[Encoding, Encoding], bool]


def audit(base: Tokenizer, new: Tokenizer, texts: Iterable[str], checks: dict[str, Check]) -> Audit:
    """Checks promises text by text.

    Args:
        base: The base tokenizer.
        new: The adapted one.
        texts: Any strings.
        checks: By promise, whether a text breaks it, from what both tokenizers make of it.
    """
    count = 0
    broken = dict.fromkeys(checks, 0)
    for batch in batches(texts):
        count += len(batch)
        olds = base.encode_batch(batch, add_special_tokens=False)
        news = new.encode_batch(batch, add_special_tokens=False)
        for old, fresh in zip(olds, news, strict=True):
            for promise, breaks in checks.items():
                broken[promise] += breaks(old, fresh)
    return Audit(count, broken)


def never_longer(base: Tokenizer, new: Tokenizer) -> dict[str, Check]:
    """What `extend` promises of every text."""
    prefix = getattr(base.model, "continuing_subword_prefix", None) or ""
    unknown = unknown_id(base)

    def added(old: Encoding, fresh: Encoding) -> bool:
        # An unknown token spells nothing, so that there is nothing to compare.
        if unknown in old.ids:
            return False
        return not set(ends(old, prefix)).issuperset(ends(fresh, prefix))

    # WordPiece takes the longest piece first, so a longer one may shift those that follow it.
    boundaries = {} if prefix else {ADDED_BOUNDARY: added}
    return boundaries | {
        LONGER: lambda old, fresh: len(fresh.ids) > len(old.ids),
        **faithful(base, new),
    }


def faithful(base: Tokenizer, new: Tokenizer) -> dict[str, Check]:
    """What every mode promises: nothing is lost that the base keeps."""
    unknown, fresh_unknown = unknown_id(base), unknown_id(new)
    return {
        DECODED_OTHERWISE: lambda old, fresh: (
            unknown not in old.ids and base.decode(old.ids) != new.decode(fresh.ids)
        ),
        UNKNOWN: lambda old, fresh: (
            fresh.ids.count(fresh_unknown) > old.ids.count(unknown)
            if fresh_unknown is not None
            else False
        ),
    }


def unless_removed(removed: frozenset[int], check: Check) -> Check:
    """A check of texts that use none of the base tokens that are no longer there."""
    return lambda old, fresh: removed.isdisjoint(old.ids) and check(old, fresh)


def same_tokens(old: Encoding, fresh: Encoding) -> bool:
    """Whether two encodings differ in the spelling of their tokens."""
    return old.tokens != fresh.tokens


def ends(encoding: Encoding, prefix: str = "") -> Iterator[int]:
    """End of each token, counted in characters of the vocabulary's spelling."""
    return accumulate(len(token.removeprefix(prefix)) for token in encoding.tokens)


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """The id that stands for what the model does not know, None where it knows every byte."""
    model = tokenizer.model
    if hasattr(model, "unk_token"):
        return None if model.unk_token is None else tokenizer.token_to_id(model.unk_token)
    # Unigram keeps a number instead and shows it nowhere but in its JSON.
    found: int | None = json.loads(tokenizer.to_str())["model"].get("unk_id")
    return found


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


_WORDS = (
    "a the Word naïve don't it's we'LL X-linked β-catenin 0 42 3.14 mg/dL Привет мир 日本語 中文 "
    "العربية हिन्दी 한국어 ไทย 👩‍⚕️ 🫀 e\u0301 \u200b Ⅳ ½ ٣ _ __init__ snake_case camelCase XMLHttp "
    "http://x.y/z?q=1 ǅungla nhanh o.a. A.B"
).split(" ")
_BLANKS = ["", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u3000", "\u00a0", "\u2028"]
_MARKS = [*". , ; : - -- / ( ) ' ’s \" !? … [ } % $ _ ▁ ), ##".split(), " (", ") ", ") (", ". "]


def generated_texts(count: int, seed: int) -> Iterator[str]:
    """Strings that tokenizers stumble over: scripts, digits, blanks, emoji, contractions, mixed."""
    rng = random.Random(seed)
    kinds = (_WORDS, _BLANKS, _MARKS)
    for _ in range(count):
        parts = []
        for kind in rng.choices((0, 1, 2, 3), weights=(45, 36, 18, 11), k=rng.randint(1, 12)):
            parts.append(rng.choice(kinds[kind]) if kind < 3 else _any_character(rng))
        yield "".join(parts)


def _any_character(rng: random.Random) -> str:
    """Any character below U+1F000 that is no surrogate."""
    place = rng.randrange(1, 0x1F000 - 0x800)
    return chr(place if place < 0xD800 else place + 0x800)
