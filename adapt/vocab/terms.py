"""The user's own terms: each becomes one token, whatever the corpus says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tokenizers import Tokenizer

from adapt.vocab.learn import Limits, pieces
from adapt.vocab.units import Units

# How a term is written in running text, by the names that `tokenizer.term_forms` takes.
FORMS: dict[str, Callable[[str], str]] = {
    "as_is": lambda term: term,
    "leading_space": lambda term: f" {term}",
    "capitalised": lambda term: f" {term[:1].upper()}{term[1:]}",
}


def add_terms(
    units: Units,
    tokenizer: Tokenizer,
    limit: Limits,
    terms: Sequence[str],
    forms: Iterable[str],
) -> tuple[list[int], dict[str, str]]:
    """Adds merge chains that make each form of each term one token.

    Earlier chains rank first, so a later term never breaks an earlier one.

    Args:
        units: Extended in place.
        tokenizer: The base, with the pre-tokenizer that will cut the terms.
        limit: What no unit may hold.
        terms: Terms as they are written in running text.
        forms: Names of `FORMS`.

    Returns:
        Ids of the terms that are new tokens, and the terms that cannot be one token, with the
        reason.
    """
    made: dict[int, None] = {}
    refused: dict[str, str] = {}
    for term in terms:
        if not term.strip() or term != term.strip() or "\n" in term:
            refused[term] = "it is empty, holds a line break, or begins or ends in a space"
            continue
        for text in dict.fromkeys(FORMS[form](term) for form in forms):
            id_, why = _one_token(units, tokenizer, limit, text)
            if why:
                refused[term] = why
                break
            if id_ >= units.first_id:
                made[id_] = None
    return list(made), refused


def _one_token(
    units: Units, tokenizer: Tokenizer, limit: Limits, text: str
) -> tuple[int, str | None]:
    """The id that stands for a text, its chain added; or why there can be none."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    cut = list(pieces(encoding.ids, encoding.word_ids))
    if len(cut) != 1:
        return -1, f"the pre-tokenizer cuts it into {len(cut)} pieces"
    if any(limit.never[id_] for id_ in cut[0]):
        return -1, "it holds a token that can be in no unit"
    while len(ids := units.segment(cut[0])) > 1:
        units.add(ids[0], ids[1])
    return ids[0], None
