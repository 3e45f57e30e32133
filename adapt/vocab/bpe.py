"""Extending BPE: new merges after the base's last, so new tokens only glue base tokens.

BPE applies the lowest-ranked merge that it can. New merges rank above all of the base's, so they
act on the base's finished segmentation, and what they make is in no base merge. Hence, for every
string, the new boundaries are a subset of the base's, and there are never more tokens.
"""

from __future__ import annotations

from adapt.vocab.spec import Spec, merges
from adapt.vocab.units import Units


def with_units(spec: Spec, units: Units) -> Spec:
    """The `tokenizer.json` with these tokens and merges; the given one is left as it is.

    Added tokens enter the model's own vocabulary: `tokenizers` gives those that are not in it new
    ids as it loads, counted from the vocabulary's length, and so would give them a unit's id.
    """
    model = spec["model"]
    added = {token["content"]: token["id"] for token in spec["added_tokens"]}
    vocab = model["vocab"] | added | {units.spelling[id_]: id_ for id_ in units.constituents}
    pairs = merges(spec) + [(units.spelling[a], units.spelling[b]) for a, b in units.pairs]
    return {**spec, "model": {**model, "vocab": vocab, "merges": [list(pair) for pair in pairs]}}
