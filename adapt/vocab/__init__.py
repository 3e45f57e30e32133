"""The vocabulary: a base tokenizer and domain text in, an adapted tokenizer out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from adapt.errors import VocabularyError
from adapt.progress import watched
from adapt.recipe.schema import TokenizerSection
from adapt.vocab.audit import Audit, audit, generated_texts, segments_alike
from adapt.vocab.bpe import Merges, count_segments, learn
from adapt.vocab.delta import FILE_NAME, NewToken, VocabDelta
from adapt.vocab.pretokenizer import is_byte_level, widen
from adapt.vocab.terms import add_terms
from adapt.workspace import new_folder, write_json, write_text

__all__ = [
    "TOKENIZER_FILES",
    "NewToken",
    "VocabDelta",
    "Vocabulary",
    "adapt_vocabulary",
    "load_tokenizer",
    "refuse_other_families",
]

# What a tokenizer's folder may hold that belongs to the tokenizer.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    FILE_NAME,
)

# Texts that the audits read: enough to meet what proofs on paper forget, in a few seconds.
_AUDITED_DOCUMENTS = 5_000
_GENERATED = 20_000


@dataclass(frozen=True)
class Vocabulary:
    """Result of the stage.

    Attributes:
        folder: The tokenizer, as `AutoTokenizer` loads it, and `vocab_delta.json`.
        delta: What changed.
        joints: Text between words that units may cross.
        notes: What the user should know: why units stay inside words, terms that were refused.
        audit: The guarantees, checked.
    """

    folder: Path
    delta: VocabDelta
    joints: tuple[str, ...]
    notes: tuple[str, ...]
    audit: Audit

    def to_json(self) -> dict[str, Any]:
        """For the stage's manifest; the delta is a file of its own."""
        return {
            "added": len(self.delta.added),
            "joints": list(self.joints),
            "notes": list(self.notes),
            "audit": asdict(self.audit),
        }

    @classmethod
    def from_json(cls, folder: Path, record: dict[str, Any]) -> Vocabulary:
        """The result of a finished stage."""
        return cls(
            folder,
            VocabDelta.load(folder),
            tuple(record["joints"]),
            tuple(record["notes"]),
            Audit(**record["audit"]),
        )


def load_tokenizer(folder: Path | str, *, trust_remote_code: bool = False) -> Any:  # noqa: ANN401
    """A `transformers` tokenizer with a fast backend, as users of the model get it.

    Raises:
        VocabularyError: There is none, or it is not a fast one.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise VocabularyError(
            f"no tokenizer could be loaded, {str(error).splitlines()[0]}", where=str(folder)
        ) from None
    if not getattr(tokenizer, "is_fast", False):
        raise VocabularyError(
            f"{type(tokenizer).__name__} is not a fast tokenizer",
            where=str(folder),
            fix="adapt needs one with a tokenizer.json",
        )
    return tokenizer


def adapt_vocabulary(
    section: TokenizerSection,
    base: Any,  # noqa: ANN401 - transformers' tokenizers share no typed base
    texts: Callable[[], Iterable[str]],
    folder: Path,
) -> Vocabulary:
    """The stage: learns units from domain text and writes the adapted tokenizer.

    Args:
        section: `tokenizer` of the recipe.
        base: The base's tokenizer, from `load_tokenizer`.
        texts: Gives the training documents, each time it is called.
        folder: Written whole or not at all.

    Raises:
        VocabularyError: The tokenizer's family is not handled, a term cannot be made, or the
            text holds nothing to learn.
    """
    spec = json.loads(base.backend_tokenizer.to_str())
    # Padding and truncation are a habit of one model's pipeline, and would distort every count.
    spec["padding"] = spec["truncation"] = None
    plain = Tokenizer.from_str(json.dumps(spec))
    merges = Merges.over(spec)
    joints: tuple[str, ...] = ()
    notes: list[str] = []
    changed = 0
    if section.mode == "extend":
        refuse_other_families(base)
        if section.multiword:
            spec, joints, reason, changed = _widen_where_proven(spec, plain, texts)
            notes += [f"units stay inside words where needed: {reason}"] if reason else []
        _extend(merges, spec, section, texts)
        notes += _shortfall(merges, section)
        spec = merges.apply(spec)
    new = Tokenizer.from_str(json.dumps(spec))
    sample = chain(islice(texts(), _AUDITED_DOCUMENTS), generated_texts(_GENERATED, seed=1))
    checked = audit(plain, new, watched(sample, "Checking the guarantees"), changed)
    checked.raise_if_broken()
    delta = merges.delta()
    with new_folder(folder) as unfinished:
        write_tokenizer(base, new, unfinished)
        delta.save(unfinished)
        _agree_with_stock(new, unfinished, list(islice(texts(), 200)))
    return Vocabulary(folder, delta, joints, tuple(notes), checked)


def write_tokenizer(base: Any, backend: Tokenizer, folder: Path) -> None:  # noqa: ANN401
    """Writes `backend` with everything else of `base`: special tokens, chat template, sides.

    transformers 5 rebuilds the pipeline of some classes from vocabulary and merges, and so drops
    a changed pre-tokenizer without a word; `PreTrainedTokenizerFast` takes the file as it is.
    """
    base.save_pretrained(str(folder))
    write_text(folder / "tokenizer.json", backend.to_str(pretty=False))
    config_path = folder / "tokenizer_config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    # Where the base was read from is nobody's business, least of all a Hub repository's.
    for key in ("is_local", "local_files_only", "name_or_path", "backend"):
        config.pop(key, None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(config_path, config)
    for legacy in ("vocab.json", "merges.txt", "vocab.txt", "added_tokens.json"):
        (folder / legacy).unlink(missing_ok=True)


def refuse_other_families(base: Any) -> None:  # noqa: ANN401
    """Refuses, by its name, a tokenizer that cannot be extended.

    Args:
        base: From `load_tokenizer`.

    Raises:
        VocabularyError: It is not byte-level BPE, for which alone the guarantee is proven.
    """
    spec = json.loads(base.backend_tokenizer.to_str())
    if not is_byte_level(spec):
        raise VocabularyError(
            f"{type(base).__name__} is {spec['model']['type']} without a byte-level step, which "
            "cannot be extended yet",
            where="tokenizer.mode",
            fix="set tokenizer.mode=keep, or take a base with byte-level BPE",
        )


def _widen_where_proven(
    spec: dict[str, Any], plain: Tokenizer, texts: Callable[[], Iterable[str]]
) -> tuple[dict[str, Any], tuple[str, ...], str | None, int]:
    """The spec with a widened pre-tokenizer, or as it was, with the reason."""
    widened = widen(spec)
    if not widened.joints:
        return spec, (), widened.reason, 0
    candidate = {**spec, "pre_tokenizer": widened.pre_tokenizer}
    other = Tokenizer.from_str(json.dumps(candidate))
    sample = chain(islice(texts(), _AUDITED_DOCUMENTS), generated_texts(_GENERATED, seed=0))
    changed = sum(not alike for alike in segments_alike(plain, other, sample))
    if changed:
        return spec, (), f"the widened pattern changed {changed} texts", changed
    return candidate, widened.joints, widened.reason, 0


def _extend(
    merges: Merges,
    spec: dict[str, Any],
    section: TokenizerSection,
    texts: Callable[[], Iterable[str]],
) -> None:
    """Terms first, for they must hold whatever the corpus says; then what the corpus teaches."""
    refused = add_terms(merges, spec, section.terms)
    if refused:
        term, why = next(iter(refused.items()))
        more = f" ({len(refused) - 1} more)" if len(refused) > 1 else ""
        raise VocabularyError(
            f"a term cannot be one token, {why}{more}", where="tokenizer.terms", got=term
        )
    if merges.new_tokens > section.new_tokens:
        raise VocabularyError(
            f"the terms alone need {merges.new_tokens} tokens",
            where="tokenizer.new_tokens",
            got=section.new_tokens,
        )
    with_terms = Tokenizer.from_str(json.dumps(merges.apply(spec)))
    counts = count_segments(with_terms, watched(texts(), "Reading segments"))
    learn(merges, counts, section.new_tokens, section.min_frequency)
    if not merges.new_tokens:
        raise VocabularyError(
            f"no unit occurs {section.min_frequency} times in the training text",
            where="tokenizer.min_frequency",
            fix="give more text, or lower min_frequency",
        )


def _shortfall(merges: Merges, section: TokenizerSection) -> Sequence[str]:
    """Says so when the text had fewer units than were asked for."""
    if merges.new_tokens == section.new_tokens:
        return []
    return [
        f"the text holds {merges.new_tokens} units that occur {section.min_frequency} times; "
        f"{section.new_tokens} were asked for"
    ]


def _agree_with_stock(new: Tokenizer, folder: Path, texts: Sequence[str]) -> None:
    """What was written must be what `AutoTokenizer` gives back, id for id."""
    stock = load_tokenizer(folder)
    ids = stock(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    if ids != [e.ids for e in new.encode_batch(list(texts), add_special_tokens=False)]:
        raise VocabularyError(
            "transformers reads the written tokenizer otherwise than tokenizers does; this is a "
            "bug of adapt, please report it"
        )
