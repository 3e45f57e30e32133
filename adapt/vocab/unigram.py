"""Units for Unigram: pieces whose score lets them win over their own segmentation, and no more.

Unigram takes the segmentation with the highest sum of scores (Viterbi). A unit of the base tokens
c1 ... ck gets

    score(unit) = score(c1) + ... + score(ck) + EPSILON * (k - 1)

so a segmentation with units scores what its base tokens score, plus EPSILON for each token that it
saves. Of all ways to glue one base segmentation, the one with fewest tokens wins, and a long unit
wins over any two shorter ones in its place (one EPSILON a unit would let the two win).

Proven, for every string on which the base's best segmentation leads each other one by more than
EPSILON times the tokens that units save on the other: the new segmentation glues tokens of the
base's best. So boundaries are a subset, there are never more tokens, the same characters are
unknown, and decoding is the base's (`harmful` compares each unit with its constituents).

How large EPSILON = 2**-32 must be, and may be:

- SentencePiece stores scores as 32-bit floats, so sums of scores between 2 and 16 are multiples of
  2**-22: two segmentations tie exactly or differ by 1,024 EPSILON or more. Of these vocabularies
  only exact ties are left out of the proof, and stretches that save over 1,000 tokens without
  falling into step once.
- Sums are 64-bit floats. Up to a total of 2**20 (some 100,000 tokens in one piece of text) adding
  a score rounds by at most 2**-34. A unit saves j - 1 tokens over any j in its place, at the risk
  of j + 1 roundings, so it wins: EPSILON is above three of them. It is also far above the last
  digit that `tokenizers` may lose when it reads a score from JSON. Beyond that total a unit may
  lose to its own constituents, which is the base's segmentation.

On exact ties base and units may choose differently; `harmful` checks the words that it is given.

An unknown character costs the lowest score of the vocabulary minus 10. A unit may lower that. It is
one cost more on every segmentation alike as long as each character of a piece is a piece, as in
vocabularies that were trained; where one is not, `harmful` names the units below the lowest score.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from tokenizers import Encoding, Tokenizer

from adapt.errors import VocabularyError
from adapt.vocab.promises import Units, blamed, decoded_otherwise
from adapt.vocab.spec import SPACE, Spec, added_ids, build, steps, vocabulary

EPSILON = 2.0**-32

# Strips what the Metaspace decoder strips, but keeps the marks inside the first token.
_STRIP_ONE: Spec = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}


def with_units(spec: Spec, units: Mapping[str, Sequence[int]]) -> Spec:
    """Appends units to a Unigram vocabulary, in order, from the highest taken id + 1.

    The id of a piece is its place in the list. On loading, `tokenizers` gives an added token that
    is not in the list the next id behind it, which would move; such tokens are therefore listed
    too, at the id they have, as T5 and XLM-R list theirs. They are cut out of the text before the
    model sees it. Where the model meets the spelling all the same (matched as whole words only, or
    made by normalisation), its score keeps it from winning. Only a token with unknown characters
    cannot be kept from that: text that normalisation turns into its spelling is read as the token.

    Args:
        spec: The base; not changed.
        units: Spelling to the base ids it is made of, two or more.

    Raises:
        VocabularyError: A spelling is taken, or is not what its constituents spell, or holds a
            special or unknown token; or added tokens leave gaps behind the vocabulary; or one that
            is not in the vocabulary is matched as a whole word only and has unknown characters.
    """
    model, taken = spec["model"], vocabulary(spec)
    base: list[list[Any]] = model["vocab"]
    _check(spec, units, taken)
    vocab = [*base, *_listed(spec)]
    for unit, ids in units.items():
        score = math.fsum(base[id_][1] for id_ in ids)
        vocab.append([unit, score + EPSILON * (len(ids) - 1)])
    return {**spec, "model": {**model, "vocab": vocab}}


def widen(spec: Spec) -> tuple[Spec, str | None]:
    """Lets units cross spaces, where the base's segmentation is proven to stay the same.

    With `split: false`, Metaspace hands the model the whole text. If no base piece has the mark of
    a space but at its start, every segmentation has a boundary before each mark, so the best one
    is made of the best ones between marks, which is what `split: true` finds. The mark itself must
    be a piece: unknown characters that follow one another become one token, which must not happen
    across a mark. Sums of scores are exact up to rounding, which can only decide between ties.

    The Metaspace decoder drops every mark of the first token, and with it the spaces inside a unit;
    it is replaced by steps that drop one, the same for all base pieces.

    Args:
        spec: The base; not changed.

    Returns:
        The spec to learn and apply units with, and the reason why units stay between spaces, None
        where they may cross them.
    """
    parts = steps(spec["pre_tokenizer"])
    metaspace = parts[0] if parts and parts[0]["type"] == "Metaspace" else None
    if other := next((p["type"] for p in parts if p is not metaspace), None):
        return spec, f"the pre-tokenizer's step {other} cuts the text"
    cuts = metaspace is not None and metaspace["split"]
    decoder = spec["decoder"] or {"type": None}
    strips = decoder["type"] == "Metaspace" and decoder["prepend_scheme"] != "never"
    if not cuts and not strips:
        return spec, None
    marks = {part["replacement"] for part in (metaspace, decoder) if part and "replacement" in part}
    pieces = [piece for piece, _ in spec["model"]["vocab"]]
    if marks != {SPACE} or SPACE not in pieces:
        return spec, f"the mark of a space, {min(marks)!r}, is not a piece itself"
    if inside := next((p for p in pieces if SPACE in p[1:] or " " in p), None):
        return spec, f"the base's piece {inside!r} has a space inside"
    if any(token["content"][:1] == " " or SPACE in token["content"] for token in _added(spec)):
        return spec, "an added token holds a space"
    widened = dict(spec)
    if metaspace:
        widened["pre_tokenizer"] = {**metaspace, "split": False}
    if strips:
        widened["decoder"] = _STRIP_ONE
    return widened, None


def harmful(base: Spec, units: Mapping[str, Sequence[int]], words: Iterable[str]) -> frozenset[str]:
    """Units to drop so that the rest breaks no promise; checked on `words` where not proven.

    Named are units that decode otherwise than their constituents, units that would change what an
    unknown character costs where that matters, and units used in a word that, because segmentations
    tie, gets more tokens or a boundary that the base does not have.

    Args:
        base: The base, widened or not; not changed.
        units: Spelling to the base ids it is made of, the most useful first.
        words: Words or texts of the domain; one that occurs more often makes the units it uses
            worth more.
    """
    vocab = base["model"]["vocab"]
    constituents = {unit: [vocab[id_][0] for id_ in ids] for unit, ids in units.items()}
    dropped = decoded_otherwise(build(base).decoder, constituents)
    if _has_orphans(base):
        lowest = min(score for _, score in vocab)
        scored = with_units(base, units)["model"]["vocab"]
        dropped |= {unit for unit, score in scored[len(scored) - len(units) :] if score < lowest}
    rest = {unit: ids for unit, ids in units.items() if unit not in dropped}

    def worse(old: frozenset[int], new: frozenset[int]) -> bool:
        return not new <= old

    def tokens(_word: str, encoding: Encoding, _kept: Units) -> Sequence[str]:
        return encoding.tokens

    def tokenizer(kept: Units) -> Tokenizer:
        return build(with_units(base, kept))

    return dropped | blamed(rest, Counter(words), tokenizer, _ends, worse, tokens)


def _ends(encoding: Encoding) -> frozenset[int]:
    """Where tokens end, in characters of their spelling; unknown ones are spelled as the text."""
    return frozenset(accumulate(map(len, encoding.tokens)))


def _has_orphans(spec: Spec) -> bool:
    """Whether a character of a piece is none itself, special and byte pieces (score 0) aside."""
    pieces = {piece for piece, _ in spec["model"]["vocab"]}
    ordinary = (piece for piece, score in spec["model"]["vocab"] if score < 0)
    return not {char for piece in ordinary for char in piece} <= pieces


def _added(spec: Spec) -> list[dict[str, Any]]:
    """Added tokens by id."""
    return sorted(spec["added_tokens"], key=lambda token: int(token["id"]))


def _listed(spec: Spec) -> list[list[Any]]:
    """Pieces for the added tokens that lie behind the vocabulary, in their places."""
    vocab = spec["model"]["vocab"]
    beyond = [token for token in _added(spec) if token["id"] >= len(vocab)]
    if [token["id"] for token in beyond] != list(range(len(vocab), len(vocab) + len(beyond))):
        raise VocabularyError(
            "added tokens leave gaps behind the vocabulary",
            where="tokenizer.json",
            got=[token["id"] for token in beyond],
            fix="load and save the tokenizer once, which numbers them",
        )
    if not beyond:
        return []
    lowest, orphans = min(score for _, score in vocab), _has_orphans(spec)
    model = build(spec).model
    pieces = []
    for token in beyond:
        own = [piece.id for piece in model.tokenize(token["content"])]
        score = math.fsum(vocab[id_][1] for id_ in own) - 1.0
        hidden = spec["model"]["unk_id"] not in own and (score >= lowest or not orphans)
        if token["single_word"] and not hidden:
            raise VocabularyError(
                "an added token that is matched as a whole word only and has unknown characters "
                "must be in the model's own vocabulary for units to be added",
                where="tokenizer.json",
                got=token["content"],
                fix="give it single_word: false",
            )
        pieces.append([token["content"], score if hidden else lowest])
    return pieces


def _check(spec: Spec, units: Units, taken: Mapping[str, int]) -> None:
    """Raises where a unit is not a new spelling of ordinary pieces glued."""
    vocab = spec["model"]["vocab"]
    barred = added_ids(spec) | {spec["model"]["unk_id"]}
    for unit, ids in units.items():
        ordinary = len(ids) > 1 and all(0 <= i < len(vocab) and i not in barred for i in ids)
        if unit in taken or not ordinary or unit != "".join(vocab[i][0] for i in ids):
            raise VocabularyError(
                "a unit must be a new spelling of two or more pieces that are not special",
                where="tokenizer.json",
                got=f"{unit!r} of ids {list(ids)}",
                fix="leave the unit out",
            )
