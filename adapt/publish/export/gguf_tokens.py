"""A vocabulary as a GGUF has it: tokens, types, merges, special ids, chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.errors import VocabularyError
from adapt.publish.export.llama_cpp import (
    CONTROL,
    NORMAL,
    PRE_TOKENIZERS,
    UNUSED,
    USER_DEFINED,
    recognise,
)
from adapt.vocab.spec import merges, spec_of, vocabulary


@dataclass(frozen=True)
class Tokens:
    """What goes into the fields `tokenizer.*`.

    Attributes:
        tokens: Spelling of each id; ids that no token has get a name of their own.
        types: NORMAL, CONTROL (special), USER_DEFINED (other added ones), UNUSED.
        merges: By rank, each two tokens with a space between.
        pre: llama.cpp's name of the pre-tokenizer.
        special: Ids by role, `bos`, `eos`, `unk`, `pad`; only those that there are.
        adds: Whether `bos` and `eos` are put around a text.
        chat_template: Templates as `transformers` has them; None for none.
        lost: What of the tokenizer the fields do not say.
    """

    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre: str
    special: dict[str, int]
    adds: dict[str, bool]
    chat_template: str | list[dict[str, str]] | None
    lost: tuple[str, ...]

    def add_to(self, writer: Any) -> None:  # noqa: ANN401
        """Adds the fields to a `gguf.GGUFWriter`."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        for role, id_ in self.special.items():
            getattr(writer, f"add_{role}_token_id")(id_)
        writer.add_add_bos_token(self.adds["bos"])
        writer.add_add_eos_token(self.adds["eos"])
        writer.add_add_space_prefix(False)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def tokens_of(tokenizer: Any, rows: int) -> Tokens:  # noqa: ANN401
    """The fields of a tokenizer that `recognise` knows, not widened.

    Args:
        tokenizer: Byte-level BPE, as `transformers` loads it.
        rows: Rows of the model's embeddings; there are as many tokens.

    Raises:
        VocabularyError: It has no end of text, or a token without row.
    """
    spec = spec_of(tokenizer.backend_tokenizer)
    pre, _ = recognise(spec)
    known, added = vocabulary(spec), {token["id"]: token for token in spec["added_tokens"]}
    beyond = max(known.values()) + 1 - rows
    if beyond > 0:
        raise VocabularyError(f"has {beyond} ids beyond the model's rows", where="tokenizer.json")
    roles = {"bos": "bos", "eos": "eos", "unk": "unk", "pad": "pad"}
    ids = {role: getattr(tokenizer, f"{name}_token_id") for role, name in roles.items()}
    special = {role: id_ for role, id_ in ids.items() if id_ is not None}
    if "eos" not in special:
        fix = "set eos_token in tokenizer_config.json; llama.cpp would take id 11"
        raise VocabularyError("has no end of text", where="tokenizer.json", fix=fix)
    spelled, types = _spelled(known, added, rows)
    adds, lost = _put_around(tokenizer, special)
    lost += _lost(spec, pre or "")
    if "bos" not in special:
        special["bos"] = special["eos"]
        lost.append("that there is no start of text: the end stands for it, and is not put before")
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    joined = [" ".join(pair) for pair in merges(spec)]
    return Tokens(spelled, types, joined, pre or "", special, adds, template, tuple(lost))


def _spelled(
    known: dict[str, int], added: dict[int, dict[str, Any]], rows: int
) -> tuple[list[str], list[int]]:
    """Spelling and type of each id; llama.cpp wants no two alike, and none empty."""
    by_id = {id_: token for token, id_ in known.items()}
    tokens, types = [], []
    for id_ in range(rows):
        if id_ not in by_id:
            name = f"[UNUSED_{id_}]"
            while name in known:
                name += "_"
            tokens.append(name)
            types.append(UNUSED)
            continue
        tokens.append(by_id[id_])
        kind = (CONTROL if added[id_]["special"] else USER_DEFINED) if id_ in added else NORMAL
        types.append(kind)
    return tokens, types


def _put_around(tokenizer: Any, special: dict[str, int]) -> tuple[dict[str, bool], list[str]]:  # noqa: ANN401
    """Whether start and end are put around a text, and what else is, which cannot be said."""
    plain: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    for bos in (False, True):
        for eos in (False, True):
            before = [special.get("bos")] if bos else []
            after = [special.get("eos")] if eos else []
            if whole == [*before, *plain, *after]:
                return {"bos": bos, "eos": eos}, []
    return {"bos": False, "eos": False}, ["what is put around a text, other than start and end"]


def _lost(spec: dict[str, Any], pre: str) -> list[str]:
    lost = []
    if spec["normalizer"] is not None:
        lost.append("NFC: llama.cpp does not normalise text, so give it composed characters")
    flags = ("single_word", "lstrip", "rstrip")
    marked = [t["content"] for t in spec["added_tokens"] if any(t[flag] for flag in flags)]
    if marked:
        lost.append(f"how added tokens take blanks around them: {', '.join(marked)}")
    if PRE_TOKENIZERS[pre].cleans_spaces:
        lost.append(
            f"spaces before punctuation in what is written: with {pre}, llama.cpp's detokenizer "
            "may drop them"
        )
    return lost


def cut_by_llama_cpp(path: Path, texts: Sequence[str]) -> list[list[int]] | None:
    """Ids of texts by llama-cpp-python, nothing put around them; None where it is not installed."""
    try:
        from llama_cpp import Llama  # type: ignore[import-not-found]
    except ImportError:
        return None
    model = Llama(model_path=str(path), vocab_only=True, verbose=False)
    return [model.tokenize(text.encode(), add_bos=False, special=False) for text in texts]
