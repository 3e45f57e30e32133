"""One way to learn a vocabulary from counted words for each kind of model.

The Rust trainer of BPE learns from the counts in sorted order, because `WordPieceTrainer` and
`UnigramTrainer` break ties by hash order: two runs on one text differ. WordPiece is BPE whose
letters inside a word are letters of their own. Unigram takes more BPE pieces than it needs and
drops those whose loss costs the likelihood least (Kudo 2018, Subword Regularization,
https://arxiv.org/abs/1804.10959, section 3.2, with counts of the best segmentation in place of
expected counts).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from adapt.errors import VocabularyError
from adapt.vocab.correspondence import joiner
from adapt.vocab.spec import BYTE_LEVEL, SPACE, Spec, family
from adapt.vocab.spelling import BYTE_CHARACTERS
from adapt.vocab.words import any_of

Kind = Literal["bpe", "wordpiece", "unigram"]

_DELIMITER = "\uffff"  # no character, so in no text that means anything
_CONTINUED = 0x100000  # where the letters inside a word lie while WordPiece learns
_MAX_PIECE = 16  # characters of a Unigram piece, as SentencePiece has it


@dataclass(frozen=True)
class Goal:
    """What is to be learned.

    Attributes:
        spec: The tokenizer that the vocabulary is for; of its model only the settings count.
        reserved: Tokens that the vocabulary must hold, to the id that each should have, -1 for any.
        silent: Those of them that text never turns into.
        unknown: The unknown token, among the reserved; None where there is none.
        plain: Characters that the alphabet holds even where the text lacks them.
        vocab_size: Tokens in all.
        min_frequency: A pair is merged, and a character is a token, only if it occurs so often.
    """

    spec: Spec
    reserved: Mapping[str, int]
    silent: AbstractSet[str]
    unknown: str | None
    plain: AbstractSet[str]
    vocab_size: int
    min_frequency: int

    def alphabet(self, words: Counter[str]) -> set[str]:
        """Characters that occur often enough, and those that are wanted anyway."""
        counts: Counter[str] = Counter()
        for word, count in words.items():
            for character in word:
                counts[character] += count
        return {*self.plain, *(c for c, count in counts.items() if count >= self.min_frequency)}

    def first_tokens(self, alphabet: Iterable[str]) -> dict[str, None]:
        """The reserved tokens and the alphabet, which no vocabulary can do without.

        Raises:
            VocabularyError: They are more than `vocab_size`.
        """
        tokens = dict.fromkeys([*self.reserved, *alphabet])
        if len(tokens) > self.vocab_size:
            raise VocabularyError(
                "the alphabet and the special tokens alone need more tokens",
                where="tokenizer.vocab_size",
                got=self.vocab_size,
                fix=f"set at least {len(tokens)}, or raise min_frequency",
            )
        return tokens

    def placed(self, tokens: Iterable[str]) -> dict[str, int]:
        """Tokens to ids, ascending: the reserved where they want to be, the others around them."""
        anywhere = [token for token, id_ in self.reserved.items() if id_ < 0]
        anywhere += [token for token in tokens if token not in self.reserved]
        wanted = sorted((id_, token) for token, id_ in self.reserved.items() if id_ >= 0)
        size = len(anywhere) + len(wanted)
        fixed = {id_: token for id_, token in wanted if id_ < size}
        order = iter(anywhere + [token for id_, token in wanted if id_ >= size])
        return {fixed[i] if i in fixed else next(order): i for i in range(size)}


def learn_bpe(goal: Goal, words: Counter[str]) -> dict[str, Any]:
    """Merges, until the vocabulary is full."""
    byte_level = family(goal.spec) == BYTE_LEVEL
    alphabet = set(BYTE_CHARACTERS) if byte_level else goal.alphabet(words) | {SPACE}
    tokens, merges = goal.first_tokens(sorted(alphabet)), []
    for pair in _merges(_readable(words, alphabet, goal), alphabet, goal):
        token = "".join(pair)
        if token not in tokens and len(tokens) == goal.vocab_size:
            break
        tokens[token] = None
        merges.append(list(pair))
    return {"vocab": goal.placed(tokens), "merges": merges}


def learn_wordpiece(goal: Goal, words: Counter[str]) -> dict[str, Any]:
    """BPE over letters that know whether they begin a word.

    Every character of the alphabet is a token in both forms, unless it is a word of its own: so
    no word of known characters is unknown.
    """
    model = goal.spec["model"]
    prefix, longest = model["continuing_subword_prefix"], model["max_input_chars_per_word"]
    begins = goal.alphabet(words)
    continued = [prefix + character for character in sorted(filter(joiner(goal.spec), begins))]
    tokens = goal.first_tokens([*sorted(begins), *continued])
    code_of = {character: chr(_CONTINUED + i) for i, character in enumerate(sorted(begins))}
    original = {code: character for character, code in code_of.items()}
    coded: Counter[str] = Counter()
    for word, count in words.items():
        if len(word) <= longest and begins.issuperset(word):
            coded[word[0] + "".join(code_of[c] for c in word[1:])] += count
    for pair in _merges(coded, begins | original.keys(), goal):
        codes = "".join(pair)
        text = "".join(original.get(code, code) for code in codes)
        token = prefix + text if codes[0] in original else text
        if token not in tokens and len(tokens) == goal.vocab_size:
            break
        tokens[token] = None
    return {"vocab": goal.placed(tokens)}


def learn_unigram(goal: Goal, words: Counter[str]) -> dict[str, Any]:
    """Pieces of BPE, pruned by what each adds to the likelihood, with their log probabilities."""
    alphabet = goal.alphabet(words) | {SPACE}
    tokens = goal.first_tokens(sorted(alphabet))
    room = goal.vocab_size - len(tokens)
    words = _readable(words, alphabet, goal)
    pairs = _merges(words, alphabet, goal, times=2, max_length=_MAX_PIECE)
    spoken = {token for token in goal.reserved if alphabet.issuperset(token)} - goal.silent
    always = sorted(alphabet | spoken)
    pieces = dict.fromkeys("".join(pair) for pair in pairs)
    longer = [piece for piece in pieces if piece not in tokens]
    scores = dict.fromkeys(always + longer, -1.0)
    while True:
        for _ in range(2):
            counts = _count_pieces(scores, words)
            total = sum(counts.values()) or 1
            scores = {piece: math.log((counts[piece] or 0.5) / total) for piece in scores}
        if len(longer) <= room:
            break
        worth = {p: counts[p] * (scores[p] - _best_split(p, scores)) for p in longer}
        longer.sort(key=lambda piece: (-worth[piece], piece))
        longer = longer[: max(room, len(longer) * 3 // 4)]
        scores = {piece: scores[piece] for piece in always + longer}
    ids = goal.placed(sorted(scores, key=lambda piece: (-scores[piece], piece)))
    # Below any spelling of their characters, lest a text that looks like one becomes one.
    least = min(scores.values()) * (max(map(len, goal.reserved)) + 1) - 1
    vocab = [[token, scores.get(token, least)] for token in ids]
    return {"unk_id": ids[goal.unknown] if goal.unknown else None, "vocab": vocab}


LEARN: dict[Kind, Callable[[Goal, Counter[str]], dict[str, Any]]] = {
    "bpe": learn_bpe,
    "wordpiece": learn_wordpiece,
    "unigram": learn_unigram,
}


def _readable(words: Counter[str], alphabet: AbstractSet[str], goal: Goal) -> Counter[str]:
    """Words cut at characters outside of the alphabet, without those that hold a silent token.

    The trainer would drop such a character and count its neighbours as a pair.
    """
    silent = any_of(goal.silent)
    counts: Counter[str] = Counter()
    for word, count in words.items():
        known = "".join(c if c in alphabet else _DELIMITER for c in word)
        for part in filter(None, known.split(_DELIMITER)):
            if not silent.search(part):
                counts[part] += count
    return counts


def _merges(
    words: Counter[str],
    alphabet: AbstractSet[str],
    goal: Goal,
    times: int = 1,
    max_length: int | None = None,
) -> list[tuple[str, str]]:
    """What the Rust trainer merges, in order; ties go to the earlier characters and merges.

    Enough to fill the vocabulary `times`, though some merges make reserved tokens.
    """
    trainer = BpeTrainer(
        vocab_size=len(alphabet) + times * goal.vocab_size,
        min_frequency=goal.min_frequency,
        initial_alphabet=sorted(alphabet),
        max_token_length=max_length,
        show_progress=False,
    )
    scratch = Tokenizer(models.BPE())
    scratch.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(_DELIMITER)
    scratch.train_from_iterator(_repeated(words), trainer)
    return [(left, right) for left, right in json.loads(scratch.to_str())["model"]["merges"]]


def _repeated(words: Counter[str]) -> Iterator[str]:
    """Every word as often as it was counted, many to a string, which Rust cuts faster."""
    for word, count in sorted(words.items()):
        for start in range(0, count, 500):
            yield (word + _DELIMITER) * min(count - start, 500)


def _count_pieces(scores: Mapping[str, float], words: Counter[str]) -> Counter[str]:
    """How often each piece is in the best segmentation of the words."""
    # The model wants an unknown token; no word needs it.
    model = Tokenizer(models.Unigram([(_DELIMITER, -1e6), *scores.items()], unk_id=0))
    counts: Counter[str] = Counter()
    distinct = list(words)
    for start in range(0, len(distinct), 10_000):
        batch = distinct[start : start + 10_000]
        for word, encoding in zip(batch, model.encode_batch(batch), strict=True):
            for token in encoding.tokens:
                counts[token] += words[word]
    return counts


def _best_split(piece: str, scores: Mapping[str, float]) -> float:
    """Log probability of the best segmentation of a piece into others."""
    best = [0.0] + [-math.inf] * len(piece)
    for end in range(1, len(piece) + 1):
        for start in range(end):
            score = scores.get(piece[start:end])
            if score is not None and end - start < len(piece):
                best[end] = max(best[end], best[start] + score)
    return best[-1]
