"""Patterns of the data audit: damage of encodings, probable private data, scripts."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import cache

Count = Callable[[str], int]

# -- damage -----------------------------------------------------------------------------------

# UTF-8 read as Latin-1 or Windows-1252 and written again: the lead byte of a character becomes
# one of these letters, what follows it a sign of the upper half of the code page.
_UPPER = "\x80-\xbf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
_UPPER += "\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178"
_MOJIBAKE = re.compile(rf"Ã[{_UPPER}]|Â[\xa0-\xbf]|â[{_UPPER}][{_UPPER}]|ï»¿|ðŸ[{_UPPER}]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_HALF = re.compile("[\ud800-\udfff]")


def _matches(pattern: re.Pattern[str]) -> Count:
    return lambda text: sum(1 for _ in pattern.finditer(text))


DAMAGE: dict[str, Count] = {
    "replacement characters (U+FFFD): text was lost": lambda text: text.count("\ufffd"),
    "UTF-8 read as another encoding (mojibake)": _matches(_MOJIBAKE),
    "control characters": _matches(_CONTROL),
    "halves of surrogate pairs": _matches(_HALF),
}

# -- private data -----------------------------------------------------------------------------

_EMAIL = re.compile(r"[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}")
_PHONE = re.compile(
    r"(?<![\w.,/-])(?<!\d:)(?:"
    r"\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"  # international
    # An area code in brackets, where a year would have pages behind it.
    r"|\((?!(?:19|20)\d\d\))\d{2,5}\)[ .-]?\d{3,4}[ .-]?\d{3,4}"
    r"|(?:1[ .-])?\d{3}[ .-]\d{3}[ .-]\d{4}"  # North America
    r"|0\d{2,4}[ -]\d{3,4}[ -]?\d{3,4}"  # a leading zero, as in Europe
    r"|0\d{1,4}[/-]\d{5,8}"
    # Pairs of digits, as in France, and no longer row of numbers.
    r"|(?<!\d )0[1-9](?:(?: \d{2}){4}(?! \d)|(?:\.\d{2}){4}(?!\.\d))"
    r")(?![\w-])"
)
_RECORD = re.compile(
    r"\b(?:MRN(?![^\W\d_])"  # and no mRNA
    r"|(?:record|patient|pt\.?|hospital|case|NHS|insurance)[ _-]?(?:(?:no|number|id)\b|#)"
    r"|(?:SSN|social security number)\b)"
    # Letters before the digits are glued to them, as in P-123, or capitals: no words.
    r"[\s.:#=-]{0,4}(?:is )?(?:[A-Z]{1,3}-?|(?-i:[A-Z]{1,3}) )?\d(?:[ -]?\d){2,14}"
    r"|\b\d{3}-\d{2}-\d{4}\b",
    re.IGNORECASE,
)


def _emails(text: str) -> int:
    return _matches(_EMAIL)(text) if "@" in text else 0


PRIVATE: dict[str, Count] = {
    "e-mail addresses, probable": _emails,
    "telephone numbers, probable": _matches(_PHONE),
    "record or insurance numbers, probable": _matches(_RECORD),
}

# -- scripts ----------------------------------------------------------------------------------

_NAMES = {"CJK": "Han", "HANGUL": "Hangul"}


@cache
def _script(character: str) -> str | None:
    """The script of a letter by the first word of its Unicode name; None of anything else."""
    if not character.isalpha():
        return None
    first = unicodedata.name(character, "OTHER").partition(" ")[0].partition("-")[0]
    return _NAMES.get(first, first.capitalize())


def scripts_of(text: str) -> Counter[str]:
    """Letters of a text by script. Scripts, not languages: English and French are both Latin."""
    found: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if script := _script(character):
            found[script] += count
    return found


def main_script(scripts: Counter[str]) -> str | None:
    """The script of more than half of the letters; None where there is none."""
    if not scripts:
        return None
    script, count = scripts.most_common(1)[0]
    return script if 2 * count > scripts.total() else None
