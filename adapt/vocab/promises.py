"""Units that break a promise: found on words, blamed, dropped, until no word is left that breaks.

For the families whose new pieces compete with the base's own (WordPiece, Unigram). BPE needs none
of this: its new merges rank last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

from tokenizers import Encoding, Tokenizer
from tokenizers.decoders import Decoder

Units = Mapping[str, Sequence[int]]
T = TypeVar("T")

_BATCH = 10_000


def blamed(
    units: Units,
    words: Mapping[str, int],
    tokenizer: Callable[[Units], Tokenizer],
    measure: Callable[[Encoding], T],
    worse: Callable[[T, T], bool],
    tokens: Callable[[str, Encoding, Units], Sequence[str]],
) -> frozenset[str]:
    """The units to drop so that on none of the words the rest does worse than no units.

    Of the units used in a word that breaks a promise, the one that saves least on all words goes
    (the later in `units` where several save the same). Dropping changes only the words that used
    what was dropped, so only those are looked at again. Ends because each round drops a unit.

    Args:
        units: Spelling to base ids, the most useful first.
        words: Word to how often it counts; 0 for one that is only there to be checked.
        tokenizer: The tokenizer with some of the units.
        measure: What of an encoding a promise is about.
        worse: Whether a promise is broken, from the measures without and with units.
        tokens: What a word was cut into with some of the units; an encoding may not say.
    """
    kept, rank = dict(units), {unit: i for i, unit in enumerate(units)}
    before = {word: measure(encoding) for word, encoding in _encoded(tokenizer({}), words)}
    users: defaultdict[str, set[str]] = defaultdict(set)
    pending: Collection[str] = words
    while pending:
        offences: list[list[str]] = []
        for word, encoding in _encoded(tokenizer(kept), pending):
            used = [token for token in tokens(word, encoding, kept) if token in kept]
            for unit in used:
                users[unit].add(word)
            # What no unit did, dropping units cannot mend.
            if used and worse(before[word], measure(encoding)):
                offences.append(used)
        saved = {
            unit: (len(units[unit]) - 1) * sum(words[word] for word in users[unit])
            for unit in {unit for used in offences for unit in used}
        }
        drop = {min(used, key=lambda unit: (saved[unit], -rank[unit])) for used in offences}
        for unit in drop:
            del kept[unit]
        pending = sorted({word for unit in drop for word in users.pop(unit)})
    return frozenset(units.keys() - kept.keys())


def decoded_otherwise(decoder: Decoder | None, units: Mapping[str, list[str]]) -> frozenset[str]:
    """Units that decode to another text than their base tokens do, at the start or further on.

    Decoders work token by token, or on the tokens glued together; in both cases these two
    places stand for all. A tokenizer without decoder puts spaces between tokens, so decoding
    never was the identity and there is nothing to keep.

    Args:
        decoder: The base's.
        units: Spelling to the spellings of its base tokens.
    """
    if decoder is None:
        return frozenset()
    return frozenset(
        unit
        for unit, pieces in units.items()
        if any(
            decoder.decode([*start, unit]) != decoder.decode([*start, *pieces])
            for start in ([], ["a"])
        )
    )


def _encoded(tokenizer: Tokenizer, words: Iterable[str]) -> Iterator[tuple[str, Encoding]]:
    """Each word with its encoding, a batch at a time: encodings are large."""
    stream = iter(words)
    while batch := list(islice(stream, _BATCH)):
        yield from zip(batch, tokenizer.encode_batch(batch, add_special_tokens=False), strict=True)
