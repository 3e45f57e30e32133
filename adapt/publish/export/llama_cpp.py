"""What llama.cpp knows of tokenizers: pre-tokenizers by name, and how it reads a GGUF's tokens.

Read in its src/llama-vocab.cpp, `llama_vocab::impl::load` for the flags that a name brings and
`llm_tokenizer_bpe` for the patterns, and run once (docs/exports.md has the figures). Names that are
not in `PRE_TOKENIZERS` are refused; add a row once its pattern and flags were compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from adapt.vocab.pretokenizer import GPT2_PATTERN
from adapt.vocab.spec import Spec, steps

_DIGIT = r"\p{N}"
_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_PATTERN = _LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


@dataclass(frozen=True)
class PreTokenizer:
    """One of llama.cpp's pre-tokenizers.

    Attributes:
        patterns: Cut by one after the other; matches and what lies between become pieces.
        ignore_merges: Whether a piece that is a token is that token, whatever the merges say.
        cleans_spaces: Whether its detokenizer drops spaces before punctuation.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    cleans_spaces: bool = False


PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "gpt-2": PreTokenizer((GPT2_PATTERN,), cleans_spaces=True),
    "smollm": PreTokenizer((_DIGIT, GPT2_PATTERN)),
    "llama-bpe": PreTokenizer((_LLAMA3_PATTERN,), ignore_merges=True, cleans_spaces=True),
    "qwen2": PreTokenizer((_QWEN2_PATTERN,)),
}


def patterns_of(spec: Spec) -> tuple[str, ...] | None:
    """The patterns that a byte-level BPE cuts by, in turn; None where it does anything else."""
    found: list[str] = []
    for step in steps(spec["pre_tokenizer"]):
        kind, pattern = step["type"], step.get("pattern", {})
        if kind == "ByteLevel" and not step["add_prefix_space"]:
            found += [GPT2_PATTERN] if step.get("use_regex", True) else []
        elif kind == "Digits" and step["individual_digits"]:
            found.append(_DIGIT)
        elif kind == "Split" and _isolates(step) and "Regex" in pattern:
            found.append(pattern["Regex"])
        else:
            return None
    return tuple(found)


def _isolates(step: Mapping[str, Any]) -> bool:
    behaviour = step["behavior"]
    return behaviour == "Isolated" or (behaviour == "Removed" and bool(step["invert"]))


def recognise(spec: Spec) -> tuple[str | None, bool]:
    """llama.cpp's name for the pre-tokenizer of a `tokenizer.json`, and whether it was widened.

    A pre-tokenizer widened for units across spaces (`adapt.vocab.pretokenizer`) holds the base's
    pattern as an atomic group; the name is that of the base's then. None where it has no name.
    """
    patterns, whole = patterns_of(spec), bool(spec["model"].get("ignore_merges"))
    for name, known in PRE_TOKENIZERS.items():
        *before, last = known.patterns
        if not patterns or whole != known.ignore_merges or [*patterns[:-1]] != before:
            continue
        if patterns[-1] == last:
            return name, False
        if f"(?>{last})" in patterns[-1]:
            return name, True
    return None, False


def rebuilt(
    tokens: Sequence[str], types: Sequence[int], merges: Sequence[str], pre: str
) -> Tokenizer:
    """The tokenizer that llama.cpp makes of a GGUF's fields, by its rules.

    Args:
        tokens: tokenizer.ggml.tokens.
        types: tokenizer.ggml.token_type.
        merges: tokenizer.ggml.merges, each two tokens with a space between.
        pre: tokenizer.ggml.pre, in `PRE_TOKENIZERS`.
    """
    known = PRE_TOKENIZERS[pre]
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    vocab = {token: id_ for id_, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocab, pairs, ignore_merges=known.ignore_merges))
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in known.patterns]
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([*cuts, spell])
    made.decoder = decoders.ByteLevel()
    typed = zip(tokens, types, strict=True)
    # Text is searched for these; control tokens are matched only where a caller asks for it.
    mine = [AddedToken(t, normalized=False) for t, type_ in typed if type_ == USER_DEFINED]
    made.add_tokens(mine)
    return made
