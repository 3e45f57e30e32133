"""The user's own terms: each becomes one token, whatever the corpus says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from adapt.vocab.bpe import Merges, pieces


def add_terms(merges: Merges, spec: dict[str, Any], terms: Sequence[str]) -> dict[str, str]:
    """Adds merge chains that make each term one token, after a space and without.

    Earlier chains rank first, so a later term never breaks an earlier one.

    Args:
        merges: Extended in place.
        spec: The base's `tokenizer.json`, with the pre-tokenizer that will cut the terms.
        terms: Terms as they are written in running text.

    Returns:
        Terms that cannot be one token, with the reason.
    """
    refused: dict[str, str] = {}
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    for term in terms:
        if not term.strip() or term != term.strip() or "\n" in term:
            refused[term] = "it is empty, holds a line break, or begins or ends in a space"
            continue
        for form in (f" {term}", term):
            encoding = tokenizer.encode(form, add_special_tokens=False)
            cut = list(pieces(encoding.ids, encoding.word_ids))
            if len(cut) != 1:
                refused[term] = f"the pre-tokenizer cuts it into {len(cut)} pieces"
                break
            while len(ids := merges.segment(cut[0])) > 1:
                merges.add(ids[0], ids[1])
    return refused
