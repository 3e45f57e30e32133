"""Which tokens a vocabulary can lose, and what is left when it does.

A set of tokens may go when any text that the tokenizer segments without them is segmented the same
afterwards, and every other text can still be spelled. What that takes depends on the family:

* BPE. Inside the span of a token that ends up in a segmentation, no merge ever crosses the span's
  edges, so the span went through exactly the merges that its text goes through alone. Each token
  is therefore always made by one and the same merge, the last one of its own text, whatever other
  merges have it as their result. So a token may go once each token that is *made of* it goes: a
  text that uses no removed token never had one as an intermediate step either, and the merges
  lost were never among those that it took. With `ignore_merges` a whole piece is looked up first;
  the lookup finds the same token as long as that token stays, and nothing where it found nothing.
* WordPiece takes the longest match, which stays the longest when others go. It fails at a
  character only where no piece covers it; so where all pieces can be spelled in characters,
  the same words are known before and after.
* Unigram takes the best path, which stays the best when others go. The score of the unknown token
  hangs on the lowest score of all, so a piece with that score stays.

Bytes, characters, added tokens and what the file names elsewhere always stay.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import chain

from tokenizers import Tokenizer

from adapt.errors import VocabularyError
from adapt.vocab.learn import batches
from adapt.vocab.renumber import renumber, required
from adapt.vocab.spec import (
    UNIGRAM,
    WORDPIECE,
    Spec,
    added_ids,
    build,
    family,
    merges,
    text_of,
    vocabulary,
)

_BYTE = re.compile("<0x[0-9A-F]{2}>")

# Where a token may stand: the pre-tokenizer can cut its text alone and not beside others.
_SURROUNDINGS = ("{0}", "a{0}a", "{0}{0}", " {0}", "\n{0}\n", "{0}s")


@dataclass(frozen=True)
class Replaced:
    """A token that gave its id to a new one.

    Attributes:
        id: The id, of the one before and of the other now.
        token: Spelling of the token that went.
        text: What it decoded to.
        count: How often the sample used it.
        new_token: Spelling of the token that came.
        new_text: What it decodes to.
    """

    id: int
    token: str
    text: str
    count: int
    new_token: str
    new_text: str


def usage(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[int]:
    """How often each id occurs in texts, without special tokens around them."""
    counts: Counter[int] = Counter()
    for batch in batches(texts):
        encodings = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        counts.update(chain.from_iterable(encoding.ids for encoding in encodings))
    return counts


def removable(
    spec: Spec, counts: Mapping[int, int], protected: AbstractSet[int] = frozenset()
) -> list[int]:
    """Ids that may go, the most useless first; every prefix of the list may go alone.

    Unreachable tokens come first, then by count; a token that others are made of counts as much as
    the most used of them, and comes after them. Ties: the higher id first.

    Args:
        spec: The tokenizer.
        counts: Uses of each id in a sample; 0 where missing.
        protected: Ids that stay in any case; added tokens, bytes and characters stay anyway.

    Raises:
        VocabularyError: The tokenizer's family is not handled.
    """
    return [id_ for id_, _ in _by_use(spec, counts, protected)]


def prune(spec: Spec, counts: Mapping[int, int], protected: AbstractSet[int] = frozenset()) -> Spec:
    """The tokenizer without the tokens that a sample has no use for, the ids dense, in old order.

    A text that the tokenizer segments without the removed tokens, as it does each text of the
    sample, keeps its tokens; every other text still decodes to what it did, and holds no new
    unknown token.

    Args:
        spec: The tokenizer.
        counts: Uses of each id in the sample.
        protected: Ids that stay in any case.

    Raises:
        VocabularyError: The tokenizer's family is not handled.
    """
    useless = {id_ for id_, use in _by_use(spec, counts, protected) if not use}
    kept = sorted((id_, token) for token, id_ in vocabulary(spec).items() if id_ not in useless)
    return renumber(spec, {token: new for new, (_, token) in enumerate(kept)})


def replace(
    base: Spec,
    extended: Spec,
    counts: Mapping[int, int],
    protected: AbstractSet[int] = frozenset(),
) -> tuple[Spec, tuple[Replaced, ...]]:
    """`extended` in the size of `base`: its new tokens take the ids of the least useful others.

    A text that `extended` segments without the replaced tokens keeps its tokens; every other text
    still decodes to what it did, and holds no new unknown token.

    Args:
        base: The tokenizer that was extended.
        extended: The same with new tokens at the end.
        counts: Uses of each id of `extended` in a sample of domain and general text.
        protected: Ids that stay in any case.

    Returns:
        The tokenizer, and what was replaced, the least useful first.

    Raises:
        VocabularyError: `extended` moves ids of `base`, fewer tokens can go than come, or the
            tokenizer's family is not handled.
    """
    old, ids = vocabulary(base), vocabulary(extended)
    if not old.items() <= ids.items():
        raise VocabularyError("the extended tokenizer does not keep the base's ids")
    new = sorted((id_, token) for token, id_ in ids.items() if token not in old)
    free = removable(extended, counts, protected | {id_ for id_, _ in new})
    if len(free) < len(new):
        raise VocabularyError(
            f"only {len(free)} tokens of the base can be replaced",
            where="tokenizer.new_tokens",
            got=len(new),
            fix=f"ask for {len(free)} at most, or set tokenizer.mode=extend",
        )
    text, spelling = text_of(extended), {id_: token for token, id_ in old.items()}
    replaced = tuple(
        Replaced(id_, spelling[id_], text(spelling[id_]), counts.get(id_, 0), token, text(token))
        for id_, (_, token) in zip(free, new, strict=False)
    )
    gone = {one.token for one in replaced}
    id_of = {token: id_ for token, id_ in old.items() if token not in gone}
    return renumber(extended, id_of | {one.new_token: one.id for one in replaced}), replaced


def _by_use(
    spec: Spec, counts: Mapping[int, int], protected: AbstractSet[int]
) -> list[tuple[int, int]]:
    """What `removable` gives, each id with its use: its count, or that of a token made of it."""
    known = vocabulary(spec)
    made = _made_of(spec)
    unreachable = _unreachable(spec, made)
    staying = protected | _staying(spec, unreachable)
    parts = {known[token]: (known[a], known[b]) for token, (a, b) in made.items()}
    waiting = Counter(chain.from_iterable(parts.values()))  # uses as a part, not yet gone
    # One more than the count, to tell unreachable from unused.
    weight = {id_: counts.get(id_, 0) + 1 for id_ in known.values()}
    weight.update((id_, 0) for id_ in unreachable if weight[id_] == 1)
    heap = [(weight[i], -i) for i in known.values() if i not in staying and not waiting[i]]
    heapify(heap)
    order = []
    while heap:
        heaviest, negative = heappop(heap)
        order.append((-negative, max(heaviest - 1, 0)))
        for part in parts.get(-negative, ()):
            weight[part] = max(weight[part], heaviest)
            waiting[part] -= 1
            if not waiting[part] and part not in staying:
                heappush(heap, (weight[part], -part))
    return order


def _made_of(spec: Spec) -> dict[str, tuple[str, str]]:
    """For each token that merges ever make, the one merge that makes it; empty but for BPE.

    Plain greedy BPE over the token's own text, in its spelling: the lowest rank first, and of
    equal ranks the leftmost.
    """
    if spec["model"]["type"] != "BPE":
        return {}
    pairs = merges(spec)
    never = len(pairs)
    rank = {pair: i for i, pair in enumerate(pairs)}  # a repeated pair has its last rank
    results = [left + right for left, right in pairs]
    made = {}
    for token in set(results):
        symbols = list(token)
        ranks = [rank.get(pair, never) for pair in zip(symbols, symbols[1:], strict=False)]
        best = never
        while ranks and (best := min(ranks)) < never:
            i = ranks.index(best)
            symbols[i : i + 2] = [results[best]]
            del ranks[i]
            if i:
                ranks[i - 1] = rank.get((symbols[i - 1], symbols[i]), never)
            if i < len(ranks):
                ranks[i] = rank.get((symbols[i], symbols[i + 1]), never)
        if len(symbols) == 1:
            made[token] = pairs[best]
    return made


def _unreachable(spec: Spec, made: Mapping[str, tuple[str, str]]) -> frozenset[int]:
    """Ids that no text is known to give: the model prefers others, or no piece can hold them.

    Bytes and characters aside, for they stay. Part of a character cannot be written alone, so
    only the model is asked about it.
    """
    text, kind = text_of(spec), family(spec)
    bpe = spec["model"]["type"] == "BPE"
    lost = _outscored(spec) if kind == UNIGRAM else frozenset()
    pieces = _pieces(spec)
    found = set()
    for token, id_ in vocabulary(spec).items():
        meant = text(token)
        spelled = meant if kind == WORDPIECE else token
        whole = bpe and token not in made  # never made by merges; but it may be looked up
        if len(spelled) < 2:
            continue
        if id_ in lost or (whole and not spec["model"].get("ignore_merges")):
            found.add(id_)
        elif "\ufffd" in meant:
            found.update([id_] if whole else [])
        elif not any(
            spelled == piece if whole else spelled in piece
            for context in _SURROUNDINGS
            for piece in pieces(context.format(meant))
        ):
            found.add(id_)
    return frozenset(found) - added_ids(spec)


def _pieces(spec: Spec) -> Callable[[str], list[str]]:
    """What the model is given of a text: normalized, and cut by the pre-tokenizer."""
    model = {"type": "WordLevel", "vocab": {"": 0}, "unk_token": ""}
    bare = build({**spec, "model": model, "added_tokens": [], "post_processor": None})
    normalizer, cutter = bare.normalizer, bare.pre_tokenizer

    def pieces(text: str) -> list[str]:
        text = normalizer.normalize_str(text) if normalizer else text
        return [piece for piece, _ in cutter.pre_tokenize_str(text)] if cutter else [text]

    return pieces


def _outscored(spec: Spec) -> frozenset[int]:
    """Ids of Unigram pieces that score less than their own text in other pieces."""
    alone = build(
        {**spec, "normalizer": None, "pre_tokenizer": None, "added_tokens": []}
        | {"post_processor": None}
    )
    ids = {token: id_ for id_, (token, _) in enumerate(spec["model"]["vocab"])}
    encodings = alone.encode_batch_fast(list(ids), add_special_tokens=False)
    return frozenset(
        id_ for id_, encoding in zip(ids.values(), encodings, strict=True) if encoding.ids != [id_]
    )


def _staying(spec: Spec, unreachable: AbstractSet[int]) -> frozenset[int]:
    """Ids that must stay whatever the counts say."""
    model, kind, known = spec["model"], family(spec), vocabulary(spec)
    if kind.endswith("affixes") or model["type"] not in ("BPE", WORDPIECE, UNIGRAM):
        raise VocabularyError(
            f"no token of {kind} can be removed safely",
            where="tokenizer.mode",
            fix="set tokenizer.mode=keep or extend, and tokenizer.prune=false",
        )
    prefix = model["continuing_subword_prefix"] if kind == WORDPIECE else None
    staying = {known[token] for token in required(spec)} | added_ids(spec)
    incomplete = set()
    for token, id_ in known.items():
        characters = _characters(token, prefix)
        if len(characters) < 2 or _BYTE.fullmatch(token):
            staying.add(id_)
        elif id_ not in unreachable and id_ not in staying and not known.keys() >= set(characters):
            incomplete.add(id_)
    if incomplete and model["type"] != "BPE" and not model.get("byte_fallback"):
        # A text that held such a piece may be cut elsewhere once others go, and then meet a
        # character that is unknown alone; so only what no text uses may go.
        incomplete = set(known.values()) - unreachable
    if kind == UNIGRAM:
        staying.add(min(range(len(model["vocab"])), key=lambda id_: model["vocab"][id_][1]))
    return frozenset(staying | incomplete)


def _characters(token: str, prefix: str | None) -> list[str]:
    """The tokens of one character that spell a token; `prefix` marks what continues a word."""
    if not prefix:
        return list(token)
    text = token.removeprefix(prefix)
    first = text[:1] if text == token else prefix + text[:1]
    return [first, *(prefix + character for character in text[1:])]
