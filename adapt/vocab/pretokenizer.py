r"""Widening a pre-tokenizer, so that runs of words reach BPE together.

Byte-level BPE never merges across the pieces that its pre-tokenizer cuts, so a unit such as
" characterized by" needs wider pieces. Widening is safe when it changes nothing by itself: with
the base's own merges, the widened tokenizer must give the base's segmentation. That holds when

1. every wide piece is a run of whole base pieces, which the pattern's form ensures: a word, then
   any number of (joint, word), where the base cuts a joint the same way in any surroundings; and
2. no base merge can act across a cut that lies inside a wide piece. BPE is greedy by rank over
   neighbouring pairs, so pieces between which no merge exists cannot influence each other.

The second is a finite check of the merge table, made here for each joint; joints that fail are
left out. `adapt.vocab.audit` then compares both tokenizers on real and generated text.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tokenizers.decoders import ByteLevel

# What GPT-2 cuts by, and `ByteLevel(use_regex=true)` with it (tokenizers, byte_level.rs).
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT2_WORD = r" ?\p{L}+"

# Text between two words, and the base pieces that the GPT-2 pattern makes of `a<joint>b`. The
# pattern's punctuation run is greedy, so a joint is cut in this way only when a letter follows,
# which the widened pattern demands. The apostrophe is no joint: 's, 't, ... are cut specially.
_GPT2_JOINTS: dict[str, tuple[str, ...]] = {
    " ": ("a", " b"),
    ", ": ("a", ",", " b"),
    "; ": ("a", ";", " b"),
    ": ": ("a", ":", " b"),
    "-": ("a", "-", "b"),
    "/": ("a", "/", "b"),
    " (": ("a", " (", "b"),
    ") ": ("a", ")", " b"),
}


@dataclass(frozen=True)
class Widened:
    """A pre-tokenizer whose pieces are runs of the base's pieces.

    Attributes:
        pre_tokenizer: As `tokenizer.json` spells it.
        joints: Text between words that pieces may now cross; empty when nothing was widened.
        reason: Why some or all joints were left out; None when none was.
    """

    pre_tokenizer: dict[str, Any]
    joints: tuple[str, ...]
    reason: str | None


def widen(spec: dict[str, Any]) -> Widened:
    """Widens the pre-tokenizer of a byte-level BPE `tokenizer.json` as far as is proven safe.

    Args:
        spec: The parsed `tokenizer.json`; not changed.
    """
    pre_tokenizer = spec["pre_tokenizer"]
    if spec["model"].get("ignore_merges"):
        # Such a model looks a whole piece up before it merges, so a word that no merge chain
        # reaches is one token alone and several inside a wider piece.
        return Widened(pre_tokenizer, (), "the model has ignore_merges")
    steps = _steps(pre_tokenizer)
    place = next((i for i, step in enumerate(steps) if _is_gpt2(step)), None)
    if place is None:
        return Widened(pre_tokenizer, (), "its pre-tokenizer pattern is not one known to be safe")
    if steps[place].get("add_prefix_space"):
        return Widened(pre_tokenizer, (), "its pre-tokenizer puts a space before each piece")
    unsafe = _unsafe_joints(spec["model"]["merges"])
    joints = tuple(joint for joint in _GPT2_JOINTS if joint not in unsafe)
    if not joints:
        return Widened(pre_tokenizer, (), "its merges cross word boundaries")
    split = {
        "type": "Split",
        "pattern": {"Regex": _widened_gpt2(joints)},
        "behavior": "Isolated",
        "invert": False,
    }
    plain = {**copy.deepcopy(steps[place]), "use_regex": False}
    sequence = [*steps[:place], split, plain, *steps[place + 1 :]]
    reason = f"merges of the base cross {', '.join(map(repr, sorted(unsafe)))}" if unsafe else None
    return Widened({"type": "Sequence", "pretokenizers": sequence}, joints, reason)


def _steps(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A pre-tokenizer as the list of its steps."""
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return list(pre_tokenizer["pretokenizers"])
    return [pre_tokenizer]


def is_byte_level(spec: dict[str, Any]) -> bool:
    """Whether a `tokenizer.json` is BPE over bytes spelled as characters."""
    steps = _steps(spec.get("pre_tokenizer"))
    return spec["model"]["type"] == "BPE" and any(step["type"] == "ByteLevel" for step in steps)


def _is_gpt2(step: dict[str, Any]) -> bool:
    return step["type"] == "ByteLevel" and bool(step.get("use_regex", True))


def _widened_gpt2(joints: Iterable[str]) -> str:
    """The GPT-2 pattern with its word alternative grown to runs of words."""
    between = "|".join(re.escape(joint).replace("\\ ", " ") for joint in joints)
    run = rf"{_GPT2_WORD}(?:(?:{between})\p{{L}}+)*"
    return GPT2_PATTERN.replace(_GPT2_WORD, run)


def _unsafe_joints(merges: Sequence[Sequence[str]]) -> set[str]:
    """Joints over which some base merge could act.

    A cut inside a wide piece lies between two characters, for example a letter and a space. A
    merge can act there only if its left side ends like the left piece and its right side begins
    like the right piece.
    """
    decode = ByteLevel().decode
    text = {token: decode([token]) for pair in merges for token in pair}
    seen = {(_kind(text[left][-1]), _kind(text[right][0])) for left, right in merges}
    return {
        joint
        for joint, pieces in _GPT2_JOINTS.items()
        if any((_kind(a[-1]), _kind(b[0])) in seen for a, b in pairwise(pieces))
    }


def _kind(character: str) -> str:
    """`letter` for letters, else the character itself.

    U+FFFD stands for part of a character, which may be part of a letter: it counts as one, which
    errs to the safe side.
    """
    return (
        "letter" if character.isalpha() or character == "\N{REPLACEMENT CHARACTER}" else character
    )
