"""A folder that vLLM serves as it is: the checkpoint, its configuration checked and said twice.

vLLM loads by its own code, from what it reads in `config.json`. What it would get wrong without a
word is refused here or written so that it does not:

- a `vocab_size` that is not the rows of the embeddings, or ids beyond them;
- an output matrix that `tie_word_embeddings` does not fit: with the flag false and no matrix
  stored, its weights would be whatever memory holds;
- `rope_theta` inside `rope_parameters` alone, as transformers 5 writes it: transformers 4, under
  which vLLM may run, takes 10,000 then (vllm-project/vllm issue 42624). So it stands beside it as
  well, with `rope_scaling`, and stock `AutoConfig` must read the same configuration as before;
- a tokenizer that `AutoTokenizer` reads otherwise than `tokenizers` reads its file;
- units that are only read, for vLLM does not read `suppress_tokens`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from adapt.embeddings.locate import find, parameters
from adapt.embeddings.shards import Stored, read_header, shard_files
from adapt.errors import ModelError, VocabularyError
from adapt.publish.export.files import GENERATION, IDLE, copy_beside, generation_settings, read_only
from adapt.publish.export.result import (
    TOKENIZED_TEXTS,
    ExportError,
    Options,
    Written,
    refuse_otherwise_cut,
    sample_texts,
)
from adapt.publish.load import CONFIG, Source
from adapt.vocab import load_tokenizer
from adapt.workspace import write_json

# What vLLM takes from generation_config.json: ends, and defaults of sampling.
_READ = {"bos_token_id", "eos_token_id", "pad_token_id"}
_READ |= {"repetition_penalty", "temperature", "top_k", "top_p", "min_p", "max_new_tokens"}


def refuse(source: Source, recipe: Path | None) -> None:
    """Refuses units that are only read.

    Raises:
        ModelError: They are.
    """
    if source.settings.units_read_only or read_only(source.checkpoint, source.tokenizer):
        raise ModelError(
            "has units that are read and never written, which takes suppress_tokens, and vLLM does "
            "not read that: it would write them",
            where="adapt export --format vllm",
            fix="make a run with embeddings.units=both and export that",
        )


def write(checkpoint: Path, folder: Path, options: Options) -> Written:
    """Writes the checkpoint with a configuration that old and new versions read alike.

    Raises:
        ModelError: The checkpoint contradicts itself.
        ExportError: What was written is read otherwise than the checkpoint.
    """
    copy_beside(checkpoint, folder, weights=True)
    trust = options.trust_remote_code
    config = json.loads((checkpoint / CONFIG).read_text(encoding="utf-8"))
    write_json(folder / CONFIG, config | _said_twice(config))
    checked = [
        _rows(folder, trust),
        _same_config(checkpoint, folder, trust),
        _same_tokens(folder, _text(config)["vocab_size"], trust),
    ]
    given = generation_settings(folder)
    if "eos_token_id" in given or "eos_token_id" in _text(config):
        checked.append(f"{GENERATION} or {CONFIG} says where text ends")
    lost = [f"{name} of {GENERATION}: vLLM does not read it" for name in _not_read(given)]
    if "max_position_embeddings" not in _text(config):
        lost.append("the longest context, which config.json does not say: give --max-model-len")
    nested = any(isinstance(v, dict) for v in (_text(config).get("rope_parameters") or {}).values())
    if nested:
        lost.append("rotary positions that differ by layer need a vLLM with transformers 5")
    unchecked = ("vLLM itself was not run",)
    return Written("vllm serve FOLDER, with this folder", tuple(checked), unchecked, tuple(lost))


def _text(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that is about text."""
    part: dict[str, Any] = config.get("text_config", config)
    return part


def _said_twice(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys as transformers 4 spells them."""
    twice: dict[str, Any] = {}
    if isinstance(config.get("dtype"), str):
        twice["torch_dtype"] = config["dtype"]
    rope = dict(config.get("rope_parameters") or {})
    if "rope_theta" in rope:
        twice["rope_theta"] = rope.pop("rope_theta")
        if rope.get("rope_type", "default") != "default":
            twice["rope_scaling"] = rope
    return twice


def _not_read(given: Mapping[str, Any]) -> list[str]:
    return sorted(k for k, v in given.items() if v is not None and k not in _READ | IDLE)


# -- checking ---------------------------------------------------------------------------------


def _rows(folder: Path, trust_remote_code: bool) -> str:
    """Rows, vocabulary size and ties, by the headers of the weights."""
    stored: dict[str, Stored] = {}
    for name in shard_files(folder):
        stored |= read_header(folder / name)[0]
    wanted = parameters(folder, trust_remote_code=trust_remote_code)
    if wanted.outputs and not any(name in stored for name in wanted.outputs):
        raise ModelError(
            "says that the output has its own matrix, and holds none: vLLM would take what memory "
            "holds",
            where=str(folder / CONFIG),
            got="tie_word_embeddings: false",
            fix="save the model again, with adapt merge or save_pretrained",
        )
    rows = find(wanted, stored, str(folder)).rows
    size = _text(json.loads((folder / CONFIG).read_text(encoding="utf-8")))["vocab_size"]
    if size != rows:
        raise ModelError(
            f"says vocab_size {size}, but the embeddings have {rows} rows",
            where=str(folder / CONFIG),
            fix="save the model again, with adapt merge or save_pretrained",
        )
    ties = "its own output matrix" if wanted.outputs else "a tied output"
    return f"vocab_size {size} is the rows of the embeddings; {ties}, as config.json says"


def _same_config(checkpoint: Path, folder: Path, trust_remote_code: bool) -> str:
    """Whether stock `transformers` still reads the same configuration."""
    from transformers import AutoConfig

    before, after = (
        AutoConfig.from_pretrained(str(place), trust_remote_code=trust_remote_code).to_dict()
        for place in (checkpoint, folder)
    )
    added = set(after) - set(before)
    after["_name_or_path"] = before["_name_or_path"]  # the folder, which differs
    changed = sorted(key for key in before if before[key] != after.get(key))
    if changed or added - {"rope_theta", "rope_scaling", "torch_dtype"}:
        raise ExportError(
            f"transformers reads another configuration, in {', '.join(changed or sorted(added))}",
            where=str(folder / CONFIG),
            fix="nothing was written; please report it with the config.json",
        )
    return "AutoConfig reads what it read before; rope_theta and torch_dtype for transformers 4 too"


def _same_tokens(folder: Path, rows: int, trust_remote_code: bool) -> str:
    """Whether `AutoTokenizer` gives the ids of the file, and none without a row."""
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise VocabularyError(
            f"has a token of id {largest}, and the model {rows} rows", where=str(folder)
        )
    texts = sample_texts(tokenizer)
    found = tokenizer(texts, add_special_tokens=False)["input_ids"]
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    own = [one.ids for one in backend.encode_batch(texts, add_special_tokens=False)]
    refuse_otherwise_cut(found, own, "AutoTokenizer", folder)
    return f"AutoTokenizer gives the ids of tokenizer.json on {TOKENIZED_TEXTS:,} texts"
