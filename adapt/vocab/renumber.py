"""The same tokenizer with fewer tokens or other ids: the one place where ids are rewritten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adapt.errors import VocabularyError
from adapt.vocab.spec import Spec, vocabulary


def renumber(spec: Spec, id_of: Mapping[str, int]) -> Spec:
    """The tokenizer with only the tokens of `id_of`, at these ids.

    Merges that mention a missing token go; added tokens, the post-processor's tokens, padding and
    the unknown token follow their spelling. `spec` is not changed, and shares with the result what
    both have.

    Args:
        spec: Any `tokenizer.json`.
        id_of: Spelling to new id, of all tokens to keep, added ones included.

    Raises:
        VocabularyError: `id_of` gives two tokens one id, lacks a token that the tokenizer cannot
            do without, has one that it does not know, or leaves a hole where the format has none
            (Unigram).
    """
    _check(spec, id_of)
    added = [t | {"id": id_of[t["content"]]} for t in spec["added_tokens"] if t["content"] in id_of]
    new = spec | {
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "model": _model(spec, id_of),
        "post_processor": _post_processor(spec.get("post_processor"), id_of),
    }
    if padding := spec.get("padding"):
        new["padding"] = padding | {"pad_id": id_of.get(padding["pad_token"], padding["pad_id"])}
    return new


def required(spec: Spec) -> frozenset[str]:
    """Tokens that the file names outside its vocabulary, so that it does not load without them."""
    model = spec["model"]
    named = {token for token, _ in _special_tokens(spec.get("post_processor"))}
    named.add(model.get("unk_token"))
    if model["type"] == "Unigram" and model["unk_id"] is not None:
        named.add(model["vocab"][model["unk_id"]][0])
    if padding := spec.get("padding"):
        named.add(padding["pad_token"])
    return frozenset(named & vocabulary(spec).keys())


def _check(spec: Spec, id_of: Mapping[str, int]) -> None:
    """Refuses what would give a file that does not load, or loads as another tokenizer."""
    if len(set(id_of.values())) < len(id_of):
        raise VocabularyError("two tokens cannot have one id", got=len(id_of))
    if unknown := id_of.keys() - vocabulary(spec).keys():
        raise VocabularyError("the tokenizer has no such token", got=min(unknown))
    if missing := required(spec) - id_of.keys():
        raise VocabularyError(
            "the tokenizer cannot do without a token", got=min(missing), fix="keep it"
        )


def _model(spec: Spec, id_of: Mapping[str, int]) -> dict[str, Any]:
    """The model with the tokens of `id_of`."""
    model = spec["model"]
    kind = model["type"]
    pieces = model["vocab"]
    own = {token for token, _ in pieces} if kind == "Unigram" else pieces.keys()
    new = {token: id_of[token] for token in own if token in id_of}
    # Added tokens that the model does not list get the ids after its own, in order, when the file
    # is loaded; where that would be other ids, the model lists them too.
    loose = {t["content"] for t in spec["added_tokens"]} & id_of.keys() - new.keys()
    if sorted(id_of[token] for token in loose) != list(range(len(new), len(new) + len(loose))):
        new |= {token: id_of[token] for token in loose}
    new = dict(sorted(new.items(), key=lambda item: item[1]))
    if kind == "Unigram":
        if list(new.values()) != list(range(len(new))):
            raise VocabularyError("the ids of a Unigram vocabulary must be dense")
        scores = dict(pieces)
        unknown = model["unk_id"] if model["unk_id"] is None else id_of[pieces[model["unk_id"]][0]]
        vocab = [[token, scores.get(token, 0.0)] for token in new]
        return {**model, "vocab": vocab, "unk_id": unknown}
    if kind == "BPE":
        return {**model, "vocab": new, "merges": _merges(model, new)}
    return {**model, "vocab": new}


def _merges(model: dict[str, Any], vocab: Mapping[str, int]) -> list[Any]:
    """Merges whose parts and result `vocab` has, spelled as the file spells them."""
    skip = len(model.get("continuing_subword_prefix") or "")
    kept = []
    for merge in model["merges"]:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        if left in vocab and right in vocab and left + right[skip:] in vocab:
            kept.append(merge)
    return kept


def _special_tokens(processor: dict[str, Any] | None) -> Iterator[tuple[str, int]]:
    """Spelling and id of each token that a post-processor adds."""
    if processor is None:
        return
    for nested in processor.get("processors", ()):
        yield from _special_tokens(nested)
    if processor["type"] == "TemplateProcessing":
        for special in processor["special_tokens"].values():
            yield from zip(special["tokens"], special["ids"], strict=True)
    for role in ("sep", "cls"):
        if role in processor:
            yield tuple(processor[role])


def _post_processor(
    processor: dict[str, Any] | None, id_of: Mapping[str, int]
) -> dict[str, Any] | None:
    """A post-processor that adds the same tokens at their new ids."""
    if processor is None:
        return None
    new = dict(processor)
    if "processors" in processor:
        new["processors"] = [_post_processor(nested, id_of) for nested in processor["processors"]]
    if processor["type"] == "TemplateProcessing":
        new["special_tokens"] = {
            name: {**special, "ids": [id_of[token] for token in special["tokens"]]}
            for name, special in processor["special_tokens"].items()
        }
    for role in ("sep", "cls"):
        if role in processor:
            new[role] = [processor[role][0], id_of[processor[role][0]]]
    return new
