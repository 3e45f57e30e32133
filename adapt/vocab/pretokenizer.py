r"""Widening a pre-tokenizer, so that runs of words reach BPE together.

Byte-level BPE never merges across the pieces that its pre-tokenizer cuts, so a unit such as
" characterized by" needs wider pieces. Widening is safe when it changes nothing by itself: with
the base's own merges, the widened tokenizer must give the base's segmentation. For a pattern R
that cuts text into matches, the widened pattern is

    (?>R)(?:GLUE(?>R))*

GLUE looks at the characters on both sides of a cut and takes none. So, for any R:

1. every wide piece is a run of whole base pieces: an atomic group takes exactly what R alone
   would take at that place, and the next piece begins where it ended;
2. no base merge acts across a glued cut. GLUE allows only cuts where the merge table has no merge
   of a token that ends like the left side with one that begins like the right side. BPE is greedy
   by rank over neighbouring pairs, so pieces between which no merge exists cannot influence each
   other;
3. where the model looks whole pieces up before it merges (`ignore_merges`), a piece whose merges
   do not lead to its own token is never glued to another.

`adapt.vocab.audit` then compares both tokenizers on real and generated text.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from adapt.vocab.spec import BYTE_LEVEL, Spec, build, family, merges, steps, text_of

# What GPT-2 cuts by, and `ByteLevel(use_regex=true)` with it (tokenizers, byte_level.rs).
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Text between two words that units may cross where that is safe. The apostrophe is none: 's, 't
# and their like are cut specially. No digit: numbers keep the base's segmentation.
JOINTS = (" ", ", ", "; ", ": ", ". ", "-", "/", " (", ") ", "), ", ") (", " - ", " / ", "_", ".")

# A letter of each kind that patterns tell apart: lower, upper, title case, modifier, other.
_LETTERS = ("a", "A", "é", "Ж", "ǅ", "ʰ", "字", "ا", "ह")


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


@dataclass(frozen=True)
class _Cut:
    """A cut of the base inside a letter, a joint and a letter.

    Attributes:
        joint: Text between the letters.
        at: Characters of the joint before the cut.
    """

    joint: str
    at: int

    @property
    def sides(self) -> tuple[str, str]:
        """Kind of the characters before and after the cut."""
        text = f"a{self.joint}a"
        return _kind(text[self.at]), _kind(text[self.at + 1])


def widen(spec: Spec) -> Widened:
    """Widens the pre-tokenizer of a byte-level BPE `tokenizer.json` as far as is proven safe.

    Args:
        spec: The parsed `tokenizer.json`; not changed.
    """
    given = spec["pre_tokenizer"]
    if family(spec) != BYTE_LEVEL:
        return Widened(given, (), f"the model is {family(spec)}")
    sequence = copy.deepcopy(steps(given))
    place = _last_cut(sequence)
    pattern = _pattern(sequence[place]) if place is not None else None
    if place is None or pattern is None:
        return Widened(given, (), "its pre-tokenizer is not one known to be safe")
    if any(step.get("add_prefix_space") for step in sequence):
        return Widened(given, (), "its pre-tokenizer puts a space before each piece")
    text = text_of(spec)
    cuts = [cut for joint in JOINTS for cut in _cuts(pattern, joint)]
    safe = _safe(cuts, spec, text)
    crossed = {cut.joint for cut in cuts if cut not in safe}
    joints = tuple(joint for joint in JOINTS if joint not in crossed)
    if " " in crossed:
        return Widened(given, (), "its merges cross word boundaries")
    named = ", ".join(map(repr, sorted(crossed)))
    reason = f"merges of the base cross {named}" if named else None
    if not safe:  # the base's pieces cross what they can already: it was widened before
        return Widened(given, joints, reason)
    alone = _never_merged(spec, text) if spec["model"].get("ignore_merges") else []
    split = _split(_widened(pattern, safe, alone))
    if sequence[place]["type"] == "ByteLevel":
        sequence[place]["use_regex"] = False
        sequence.insert(place, split)
    else:
        sequence[place] = {**sequence[place], "pattern": split["pattern"]}
    return Widened({"type": "Sequence", "pretokenizers": sequence}, joints, reason)


def _last_cut(sequence: Sequence[dict[str, Any]]) -> int | None:
    """Index of the last step that cuts by a pattern, None where a later one would cut otherwise.

    Pieces of earlier steps stay apart, so only the last one is widened. Single digits may be cut
    off after it, for that depends on nothing but the character.
    """
    for place in reversed(range(len(sequence))):
        step = sequence[place]
        if step["type"] == "ByteLevel" and not step.get("use_regex", True):
            continue
        if step["type"] == "Digits":
            continue
        return place if _pattern(step) else None
    return None


def _pattern(step: dict[str, Any]) -> str | None:
    """The pattern whose matches a step makes pieces of."""
    if step["type"] == "ByteLevel":
        return GPT2_PATTERN
    if step["type"] != "Split":
        return None
    keeps = step["behavior"] == "Isolated" or (step["behavior"] == "Removed" and step["invert"])
    pattern: str | None = step["pattern"].get("Regex")
    return pattern if keeps else None


def _split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def _cuts(pattern: str, joint: str) -> Iterable[_Cut]:
    """Where the pattern cuts a letter, the joint and a letter, for letters of every kind."""
    scratch = build({**_EMPTY, "pre_tokenizer": _split(pattern)}).pre_tokenizer
    places = {
        offsets[0]
        for a in _LETTERS
        for b in _LETTERS
        for _, offsets in scratch.pre_tokenize_str(f"{a}{joint}{b}")
    }
    return [_Cut(joint, place - 1) for place in sorted(places) if 0 < place <= len(joint) + 1]


_EMPTY: Spec = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
    "model": {"type": "BPE", "vocab": {}, "merges": []},
}


def _safe(cuts: Sequence[_Cut], spec: Spec, text: Callable[[str], str]) -> list[_Cut]:
    """The cuts over which no base merge could act."""
    ends = {
        token: (_kind(spelled[0]), _kind(spelled[-1]))
        for token in spec["model"]["vocab"]
        if (spelled := text(token))
    }
    seen = {(ends[left][1], ends[right][0]) for left, right in merges(spec)}
    return [cut for cut in cuts if cut.sides not in seen]


def _kind(character: str) -> str:
    """`letter` for letters, else the character itself.

    U+FFFD stands for part of a character, which may be part of a letter: it counts as one, which
    errs to the safe side.
    """
    if character == "\N{REPLACEMENT CHARACTER}" or unicodedata.category(character).startswith("L"):
        return "letter"
    return character


def _never_merged(spec: Spec, text: Callable[[str], str]) -> list[str]:
    """Texts that a model which looks pieces up makes one token, but merging would not."""
    known = {token: id_ for token, id_ in spec["model"]["vocab"].items()}
    spelled = {text(token): id_ for token, id_ in known.items()}
    whole = [t for t in spelled if t and "\N{REPLACEMENT CHARACTER}" not in t]
    model = {**spec["model"], "ignore_merges": False}
    no_cut = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    merging = build({**_EMPTY, "model": model, "pre_tokenizer": {**no_cut, "trim_offsets": True}})
    encoded = merging.encode_batch_fast(whole, add_special_tokens=False)
    return [t for t, one in zip(whole, encoded, strict=True) if one.ids != [spelled[t]]]


def _widened(pattern: str, cuts: Sequence[_Cut], alone: Sequence[str]) -> str:
    """The pattern whose matches are runs of the given one's, glued at the cuts."""
    piece = rf"(?>{pattern})"
    glue = _glue(cuts)
    if not alone:
        return rf"{piece}(?:(?:{glue}){piece})*"
    # Whatever merely begins like such a text stays alone too; that is safe, and they are rare.
    never = rf"(?!{_any_of(alone)})"
    return rf"{never}{piece}(?:(?:{glue}){never}{piece})*|{piece}"


def _glue(cuts: Sequence[_Cut]) -> str:
    """The cuts as looks behind and ahead; those that begin alike share the look behind."""
    after: dict[str, list[str]] = {}
    for cut in cuts:
        after.setdefault(cut.joint[: cut.at], []).append(cut.joint[cut.at :])
    looks = []
    for before, rests in after.items():
        ahead = "|".join(map(_literal, dict.fromkeys(rests)))
        looks.append(rf"(?<=\p{{L}}{_literal(before)})(?=(?:{ahead})\p{{L}})")
    return "|".join(looks)


def _any_of(texts: Iterable[str]) -> str:
    """A pattern that matches a beginning that is one of the texts; a trie, so that it is fast."""
    branches: dict[str, list[str]] = {}
    for text in sorted(texts):
        if not text:
            return ""
        branches.setdefault(text[0], []).append(text[1:])
    parts = [_literal(first) + _any_of(rest) for first, rest in branches.items()]
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"


def _literal(text: str) -> str:
    """A pattern for the text itself."""
    return re.escape(text).replace("\\ ", " ").replace("\\-", "-").replace("\\/", "/")
