"""Short texts to learn new rows from, chosen by unit, under both segmentations."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from tokenizers import Encoding

from adapt.progress import watched
from adapt.vocab.offsets import batched, counting

Texts = Callable[[], Iterable[str]]

# Characters of a corpus that snippets are chosen from: enough to choose well, held in memory.
LARGEST_POOL = 5_000_000
NOWHERE = -1


@dataclass(frozen=True)
class Snippet:
    """A piece of text as the student and as the teacher read it, each from the start token on.

    Attributes:
        ids: The student's: new ids, those that open a document first.
        base_ids: The teacher's: base ids, likewise.
        ends: For each of `ids` the position in `base_ids` at which the same text ends; `NOWHERE`
            where there is none.
        first: Place of the first new token in `ids`; their number where there is none.
    """

    ids: tuple[int, ...]
    base_ids: tuple[int, ...]
    ends: tuple[int, ...]
    first: int


@dataclass(frozen=True)
class Chosen:
    """Snippets, and how far they are from the text they were chosen from.

    Attributes:
        snippets: In the order in which they were chosen.
        share: For each new token the share of its occurrences that is here, in units of the share
            of the text that is here: 1 where it is as frequent as in the text, more for the rare
            ones, which are sought out.
    """

    snippets: tuple[Snippet, ...]
    share: dict[int, float]


def aligned(base: Sequence[tuple[int, int]], new: Sequence[tuple[int, int]]) -> list[int]:
    """For each token of a segmentation the token of another that ends at the same character.

    Where several tokens end at one character (they share its bytes), the last of both belong
    together, and the others too if both segmentations have the same number of them.

    Args:
        base: Start and end of each token in characters, in order.
        new: The same of the other segmentation of the same text.

    Returns:
        An index into `base` for each of `new`, ascending; `NOWHERE` where no token ends there.
    """
    places: dict[int, list[int]] = {}
    for i, (_, end) in enumerate(base):
        places.setdefault(end, []).append(i)
    wanted: dict[int, list[int]] = {}
    for i, (_, end) in enumerate(new):
        wanted.setdefault(end, []).append(i)
    result = [NOWHERE] * len(new)
    for end, here in wanted.items():
        there = places.get(end, [])
        if len(there) == len(here):
            for i, j in zip(here, there, strict=True):
                result[i] = j
        elif there:
            result[here[-1]] = there[-1]
    return result


def snippets(
    texts: Texts,
    base: Any,  # noqa: ANN401 - transformers' tokenizers share no typed base
    new: Any,  # noqa: ANN401
    new_ids: Iterable[int],
    *,
    start: tuple[Sequence[int], Sequence[int]],
    max_length: int,
    tokens: int,
    seed: int,
    general: Texts | None = None,
    general_share: float = 0.0,
) -> Chosen:
    """Chooses snippets so that every unit is met as evenly as the text allows.

    In rounds: whatever holds a unit met less than once so far is taken, then less than twice,
    four times and so on, in an order that the seed gives, until there are `tokens` tokens.
    So the first snippets hold every unit at least once, whatever is cut off later. General text
    is spread evenly among them, with or without units.

    Args:
        texts: Training documents. Of a large corpus every n-th is looked at.
        base: The base's tokenizer.
        new: The adapted one.
        new_ids: Ids of new tokens.
        start: Ids that open a document, in the base and in the new vocabulary.
        max_length: Longest snippet; base tokens. Longer documents are cut into several.
        tokens: Base tokens to choose.
        seed: Of the order.
        general: Texts that are not of the domain.
        general_share: Of `tokens`, how many are of general text.
    """
    units = frozenset(new_ids)
    draw = random.Random(seed)

    def cut(source: Texts) -> list[Snippet]:
        found: list[Snippet] = []
        for batch in batched(watched(_sample(source), "Reading snippets")):
            encodings = [
                counting(tokenizer.backend_tokenizer).encode_batch(batch, add_special_tokens=False)
                for tokenizer in (base, new)
            ]
            for one, other in zip(*encodings, strict=True):
                found += _cut(one, other, units, start, max_length - len(start[0]))
        return found

    others = cut(general) if general and general_share else []
    others = _as_many(draw.sample(others, len(others)), round(general_share * tokens))
    pool = [snippet for snippet in cut(texts) if snippet.first < len(snippet.ids)]
    chosen = _evenly(pool, units, tokens - sum(len(s.base_ids) for s in others), draw)
    return Chosen(tuple(_mixed(chosen, others)), _shares(chosen, pool, units))


def _evenly(
    pool: Sequence[Snippet], units: frozenset[int], tokens: int, draw: random.Random
) -> list[Snippet]:
    order = draw.sample(range(len(pool)), len(pool))
    met: Counter[int] = Counter()
    chosen: dict[int, None] = {}
    target, most = 1, max((len(s.ids) for s in pool), default=0) * len(pool)
    while tokens > 0 and len(chosen) < len(pool) and target < 2 * most:
        for i in order:
            held = [id_ for id_ in pool[i].ids if id_ in units]
            if i not in chosen and any(met[id_] < target for id_ in held):
                chosen[i] = None
                met.update(held)
                tokens -= len(pool[i].base_ids)
                if tokens <= 0:
                    break
        target *= 2
    return [pool[i] for i in chosen]


def _as_many(snippets: Sequence[Snippet], tokens: int) -> list[Snippet]:
    """The first snippets, up to so many base tokens."""
    sizes = accumulate(len(s.base_ids) for s in snippets)
    return [s for s, size in zip(snippets, sizes, strict=True) if size <= tokens]


def _mixed(many: Sequence[Snippet], few: Sequence[Snippet]) -> Iterator[Snippet]:
    """All of both, the few spread evenly, so that a part of the whole has its part of them."""
    places = sorted(
        [
            ((i + 0.5) / len(group), kind, i)
            for kind, group in enumerate((many, few))
            for i in range(len(group))
        ]
    )
    return ((many, few)[kind][i] for _, kind, i in places)


def _shares(
    chosen: Sequence[Snippet], pool: Sequence[Snippet], units: frozenset[int]
) -> dict[int, float]:
    """See `Chosen.share`."""
    here, there = (Counter(id_ for s in some for id_ in s.ids) for some in (chosen, pool))
    text = sum(here.values()) / max(sum(there.values()), 1)
    return {id_: here[id_] / there[id_] / text for id_ in units if here[id_]}


def _sample(texts: Texts) -> Iterator[str]:
    """Every n-th document, so that about `LARGEST_POOL` characters are read."""
    every = 1 + sum(map(len, texts())) // LARGEST_POOL
    return (text for i, text in enumerate(texts()) if i % every == 0)


def _cut(
    base: Encoding,
    new: Encoding,
    units: frozenset[int],
    start: tuple[Sequence[int], Sequence[int]],
    room: int,
) -> Iterator[Snippet]:
    """Snippets of at most `room` base tokens, cut where both segmentations end a token."""
    ends = aligned(base.offsets, new.offsets)
    opening = len(start[0])
    begin = taken = 0  # student's and teacher's tokens before this snippet
    while begin < len(ends):
        stop = next((i for i in range(begin, len(ends)) if ends[i] >= taken + room), len(ends))
        while stop < len(ends) and stop > begin and ends[stop - 1] == NOWHERE:
            stop -= 1
        stop = max(stop, begin + 1)
        last = max((end for end in ends[begin:stop]), default=NOWHERE)
        last = max(last, taken)
        ids = new.ids[begin:stop]
        first = next((i for i, id_ in enumerate(ids) if id_ in units), len(ids))
        places = (NOWHERE if end < taken else end - taken + opening for end in ends[begin:stop])
        yield Snippet(
            (*start[1], *ids),
            (*start[0], *base.ids[taken : last + 1]),
            (*range(opening), *places),
            first + len(start[1]),
        )
        begin, taken = stop, last + 1
