"""Whole words hidden for masked language modelling, whatever pieces the tokenizer cuts.

Words are found in the text, not in the tokens: a run of letters, marks and digits, a single
ideograph, or a run of anything else. So a word is hidden whole by every tokenizer, and a unit that
spans several words is hidden with all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, pre_tokenizers

from adapt.training.batches import IGNORED

_WORDS = r"\p{Han}|[[\p{L}\p{M}\p{N}_]&&[^\p{Han}]]+|\s+"
_SPLIT = pre_tokenizers.Split(Regex(_WORDS), "isolated")

# Devlin et al. 2019, section 3.1: of the chosen tokens 80 % are hidden, 10 % replaced, 10 % kept.
_HIDDEN, _REPLACED = 0.8, 0.1


def word_starts(text: str, offsets: Sequence[tuple[int, int]]) -> list[bool]:
    """Which tokens begin a word that no token before them touches.

    Args:
        text: What was encoded.
        offsets: Start and end of each token, in characters.
    """
    piece = np.zeros(len(text), dtype=np.int64)  # which word each character belongs to
    for number, (_, (start, end)) in enumerate(_SPLIT.pre_tokenize_str(text)):
        piece[start:end] = number
    begins, last = [], -1
    for start, end in offsets:
        inner = text[start:end]
        first = start + len(inner) - len(inner.lstrip()) if inner.strip() else start
        stop = start + len(inner.rstrip()) if inner.strip() else end
        if stop > first:
            begins.append(bool(piece[first] > last))
            last = max(last, int(piece[stop - 1]))
        else:  # covers nothing, such as the later bytes of a character
            begins.append(not begins)
    return begins


def mask_words(
    ids: Sequence[int],
    starts: Sequence[bool],
    *,
    probability: float,
    mask: int,
    special: Collection[int],
    replacements: NDArray[np.int64],
    seed: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Hides whole words; at least one, where any may be hidden.

    Args:
        ids: Tokens of a text, without what frames it.
        starts: Which of them begin a word; the tokens up to the next are hidden together.
        probability: With which a word is chosen.
        mask: Id of the mask token.
        special: Ids that are never chosen, nor the words that hold them (an unknown character).
        replacements: Ids that may stand in for a token, none of them special.
        seed: The same seed hides the same words.

    Returns:
        The ids with words hidden; and for each position the id to predict, or `IGNORED`.
    """
    word = np.cumsum(np.asarray(starts, dtype=np.int64))  # of each token
    barred = {int(w) for w, id_ in zip(word, ids, strict=True) if id_ in special}
    free = np.array([w for w in np.unique(word) if int(w) not in barred], dtype=np.int64)
    rng = np.random.default_rng(list(seed))
    chosen = free[rng.random(len(free)) < probability]
    if len(free) and not len(chosen):
        chosen = rng.choice(free, 1)
    hidden, labels = list(ids), [IGNORED] * len(ids)
    for position in np.flatnonzero(np.isin(word, chosen)).tolist():
        labels[position] = ids[position]
        how = rng.random()
        if how < _HIDDEN:
            hidden[position] = mask
        elif how < _HIDDEN + _REPLACED:
            hidden[position] = int(rng.choice(replacements))
    return hidden, labels
