"""Units for WordPiece: whole pieces beside the base's, under greedy longest match.

WordPiece takes the longest piece that fits, then goes on behind it; `##` marks a piece that
continues a word. A unit is therefore taken wherever it fits, whatever follows: with `cardi` added
to `car`, `##diac`, the word "cardiac" becomes `cardi` and an `ac` that the base never needed.
Below, u is a unit of the base tokens c1 ... ck, and a *straddle* of u is a base piece that begins
where one of c2 ... ck begins in u, agrees with u to its end, and goes on by a rest r.

Proven, for every string (added tokens beyond the model's vocabulary aside, see `with_units`):

- Base ids stay, and decoding gives what the base's tokens gave (`harmful` compares each unit with
  its constituents; the WordPiece decoder looks at one token at a time).
- A word whose first character is a piece and whose others are `##` pieces is never unknown, with
  any units: greedy can always go on by one character. New unknowns are possible only in words
  with a character that is known solely as part of longer pieces.
- With units of which none is in `unproven`: boundaries are a subset of the base's, never more
  tokens, and exactly the base's words are unknown. By induction over a word: both stand at the
  same place. If the longest match is a base piece, the base takes it too. If it is u, then no
  longer piece or unit fits; every straddle whose rest has u + (a beginning of r) as a piece or unit
  is thus not in the text, all others do not exist, so the base takes c1, then c2 ... ck, and both
  stand behind u. Where nothing fits the base, no unit fits, as c1 would.
  The condition is exact for units that begin a word: the word u + r itself breaks the first
  promise where there is a straddle that nothing covers.

Checked only, by `harmful`, as it costs far less of the saving: never more tokens and no new
unknown on every word given (as the model sees it: normalised and pre-tokenized) and, for each unit,
on the words u + r of its straddles. When u shifts the boundaries, the tokens that c1 ... ck would
have cost are a credit, which a shifted segmentation uses up only on words that chain several rare
pieces without falling into step; such words exist (`unproven` tells whether any can).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce

from tokenizers import Encoding, Tokenizer

from adapt.errors import VocabularyError
from adapt.vocab.promises import Units, blamed, decoded_otherwise
from adapt.vocab.spec import Spec, added_ids, build, vocabulary

REASON = "WordPiece cuts at every space"

# Straddles checked for one ending: endings such as `##s` have thousands, mostly harmless.
_STRADDLES = 64


def join(left: str, right: str, prefix: str = "##") -> str:
    """The spelling of two pieces glued: `car` and `##dio` make `cardio`."""
    return left + right.removeprefix(prefix)


def with_units(spec: Spec, units: Mapping[str, Sequence[int]]) -> Spec:
    """Appends units to a WordPiece vocabulary, in order, from the highest taken id + 1.

    On loading, `tokenizers` gives an added token that the model does not list the next id behind
    the model's vocabulary, which would move when units are appended; such tokens are therefore
    listed in the model too, under the id they have. They are cut out of the text before the model
    sees it; the model meets one only where normalisation makes its spelling out of another.

    Args:
        spec: The base; not changed.
        units: Spelling to the base ids it is made of, two or more.

    Raises:
        VocabularyError: A spelling is taken, or is not what its constituents spell, or holds a
            special token; or an added token matched as a whole word only is not in the model's
            vocabulary.
    """
    model = spec["model"]
    taken = vocabulary(spec)
    _check(spec, units, taken)
    vocab: dict[str, int] = dict(model["vocab"])
    for token in spec["added_tokens"]:
        if token["content"] not in vocab and token["single_word"]:
            raise VocabularyError(
                "an added token that is matched as a whole word only must be in the model's own "
                "vocabulary for units to be added",
                where="tokenizer.json",
                got=token["content"],
                fix="give it single_word: false",
            )
        vocab[token["content"]] = token["id"]
    first = max(taken.values(), default=-1) + 1
    vocab |= {unit: first + i for i, unit in enumerate(units)}
    return {**spec, "model": {**model, "vocab": vocab}}


def harmful(base: Spec, units: Mapping[str, Sequence[int]], words: Iterable[str]) -> frozenset[str]:
    """Units to drop so that the rest breaks no promise on any word that is checked.

    The promises: never more tokens than the base, no unknown that the base does not have, and
    decoding as the base's. Checked words: those given, and each unit followed by what a base
    piece straddling its end would go on with.

    Args:
        base: The base; not changed.
        units: Spelling to the base ids it is made of, the most useful first.
        words: Words or texts of the domain; one that occurs more often makes the units it uses
            worth more. They go through the base's normalizer and pre-tokenizer.
    """
    pieces = _pieces(base)
    constituents = {unit: [pieces[id_] for id_ in ids] for unit, ids in units.items()}
    garbled = decoded_otherwise(build(base).decoder, constituents)
    rest = {unit: ids for unit, ids in units.items() if unit not in garbled}
    seen = Counter(_model_words(build(base), words))
    checked = {word: 0 for word in _straddled(base, rest)} | seen
    unknown: str = base["model"]["unk_token"]

    def measure(encoding: Encoding) -> tuple[int, bool]:
        return len(encoding), unknown in encoding.tokens

    def worse(old: tuple[int, bool], new: tuple[int, bool]) -> bool:
        return new[0] > old[0] or new[1] > old[1]

    def tokens(word: str, encoding: Encoding, kept: Units) -> Sequence[str]:
        return _tried(base, word, kept) if unknown in encoding.tokens else encoding.tokens

    return garbled | blamed(
        rest, checked, lambda kept: _model_of(base, kept), measure, worse, tokens
    )


def unproven(base: Spec, units: Mapping[str, Sequence[int]]) -> frozenset[str]:
    """Units to drop so that all promises are proven for every string; see the module's proof.

    The rest is the largest set that the proof covers. On a vocabulary of 30,000 pieces it is
    about a third of the units that are learned, as short endings (`##s`) have many straddles.

    Args:
        base: The base; not changed.
        units: Spelling to the base ids it is made of.
    """
    encodings = _model_of(base, {}).encode_batch(list(units))
    kept = {
        unit: ids
        for (unit, ids), encoding in zip(units.items(), encodings, strict=True)
        if encoding.ids == list(ids)
    }
    endings, rests = _endings(base, kept), _Rests(base)
    while True:
        known = base["model"]["vocab"].keys() | kept.keys()
        bare = [
            unit
            for unit in kept
            if not all(
                any(unit + rest[: i + 1] in known for i in range(len(rest)))
                for ending in endings[unit]
                for rest in rests(ending)
            )
        ]
        if not bare:
            return frozenset(units.keys() - kept.keys())
        for unit in bare:
            del kept[unit]


class _Rests:
    """What base pieces go on with behind an ending: `##st` and `##ses` give `t`, `es` for `##s`."""

    def __init__(self, base: Spec) -> None:
        self._sorted = sorted(base["model"]["vocab"])
        self._found: dict[str, list[str]] = {}

    def __call__(self, ending: str) -> list[str]:
        if ending not in self._found:
            first = last = bisect_right(self._sorted, ending)
            while last < len(self._sorted) and self._sorted[last].startswith(ending):
                last += 1
            self._found[ending] = [piece[len(ending) :] for piece in self._sorted[first:last]]
        return self._found[ending]


def _straddled(base: Spec, units: Units) -> Iterator[str]:
    """For each unit, the words unit + rest; where there are many, the rests of most tokens.

    A unit that continues a word is checked under its own spelling: the model finds `##dio` at the
    start of the word "##diopathy" as it would inside one.
    """
    prefix: str = base["model"]["continuing_subword_prefix"]
    endings, rests = _endings(base, units), _Rests(base)
    every = sorted({ending for of_unit in endings.values() for ending in of_unit})
    known = sorted({rest for ending in every for rest in rests(ending)})
    encodings = _model_of(base, {}).encode_batch([prefix + rest for rest in known])
    tokens = dict(zip(known, map(len, encodings), strict=True))
    costly = {
        ending: sorted(rests(ending), key=lambda rest: (-tokens[rest], rest))[:_STRADDLES]
        for ending in every
    }
    for unit, of_unit in endings.items():
        for ending in of_unit:
            yield from (unit + rest for rest in costly[ending])


def _tried(base: Spec, word: str, units: Units) -> list[str]:
    """The pieces that greedy took of a word before it got stuck and called the word unknown."""
    vocab, prefix = base["model"]["vocab"], base["model"]["continuing_subword_prefix"]
    taken: list[str] = []
    if len(word) > base["model"]["max_input_chars_per_word"]:
        return taken
    start = 0
    while start < len(word):
        lead = prefix if start else ""
        fits = (
            (end, lead + word[start:end])
            for end in range(len(word), start, -1)
            if lead + word[start:end] in vocab or lead + word[start:end] in units
        )
        start, piece = next(fits, (len(word), ""))
        taken.append(piece)
    return taken


def _endings(base: Spec, units: Units) -> dict[str, list[str]]:
    """For each unit, the spellings of c2 ... ck, c3 ... ck, down to ck."""
    pieces, prefix = _pieces(base), base["model"]["continuing_subword_prefix"]
    return {
        unit: [
            reduce(lambda left, right: join(left, right, prefix), [pieces[i] for i in ids[start:]])
            for start in range(1, len(ids))
        ]
        for unit, ids in units.items()
    }


def _pieces(base: Spec) -> dict[int, str]:
    """Spelling by id of what the model can make."""
    return {id_: piece for piece, id_ in base["model"]["vocab"].items()}


def _model_of(base: Spec, units: Units) -> Tokenizer:
    """The model alone: each string that it is given is one word."""
    bare = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return build({**with_units(base, units), **bare, "added_tokens": []})


def _model_words(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[str]:
    """The words that the model gets to see of texts: lower-cased, say, and cut."""
    normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    for text in texts:
        normal = normalizer.normalize_str(text) if normalizer else text
        if pre_tokenizer:
            yield from (word for word, _ in pre_tokenizer.pre_tokenize_str(normal))
        else:
            yield normal


def _check(spec: Spec, units: Units, taken: Mapping[str, int]) -> None:
    """Raises where a unit is not a new spelling of ordinary pieces glued."""
    pieces, prefix = _pieces(spec), spec["model"]["continuing_subword_prefix"]
    barred = added_ids(spec) | {taken.get(spec["model"]["unk_token"], -1)}
    for unit, ids in units.items():
        glued = None
        if len(ids) > 1 and barred.isdisjoint(ids) and pieces.keys() >= set(ids):
            glued = reduce(lambda a, b: join(a, b, prefix), [pieces[i] for i in ids])
        if unit in taken or unit != glued:
            raise VocabularyError(
                "a unit must be a new spelling of two or more pieces that are not special",
                where="tokenizer.json",
                got=f"{unit!r} of ids {list(ids)}",
                fix="leave the unit out",
            )
