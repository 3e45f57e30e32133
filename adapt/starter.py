"""A first recipe for a model and its text (`adapt init`), sized by the text that is there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from adapt import bases
from adapt.corpus.read import read_documents, read_rows, string_of
from adapt.errors import DataError
from adapt.progress import watched

_LOOKED_AT = 200  # rows by which columns are told apart
_BYTES_PER_TOKEN = 4  # of general tokenizers on English
_FEW_STEPS = 20
_PSEUDO_BYTES = 20_000  # held-out text whose hidden words are scored one by one

# One optimizer step: sequences x tokens.
_BATCH = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
_MAX_LENGTH = {True: 512, False: 128}  # of models that write, and of encoders


@dataclass(frozen=True)
class Wish:
    """What a recipe is to be for.

    Attributes:
        name: Of the run.
        base: `model.base`.
        texts: Files of domain text.
        general: Files of general text.
        labels: A file of texts with labels; None where there is no such task.
        column: Of `texts`, that holds the text; None: it is found by its look.
    """

    name: str
    base: str
    texts: Sequence[Path]
    general: Sequence[Path] = ()
    labels: Path | None = None
    column: str | None = None


def first_recipe(wish: Wish) -> str:
    """A recipe as YAML, with comments; one pass over the text to size it.

    Raises:
        DataError: A file cannot be read, or no column of it can be the text or the label.
        ModelError: There is no such base.
    """
    writes = _writes_text(wish.base)
    sources = [_source(path, wish.column) for path in wish.texts]
    general = [_source(path) for path in wish.general]
    tasks = [_task(wish.labels)] if wish.labels else []
    size = sum(_bytes(source) for source in sources)
    parts = [
        _HEADER.format(name=wish.name),
        _yaml(
            {
                "name": wish.name,
                "output_dir": f"runs/{wish.name}",
                "seed": 0,
                "model": {"base": wish.base, "dtype": "auto"},
            }
        ),
        _CORPUS,
        _yaml({"corpus": {"sources": sources, "general": general, "test_fraction": 0.1}}),
        _TOKENIZER,
        _yaml({"tokenizer": {"mode": "extend", "new_tokens": "auto"}}),
        _EMBEDDINGS if writes else "",
        _yaml({"embeddings": {"init": "auto", "units": "both"}}) if writes else "",
        _TRAINING.format(megabytes=f"{size / 1e6:,.1f}"),
        _yaml({"training": _training(writes, size, sum(_bytes(task) for task in tasks))}),
        _EVALUATION,
        "" if writes or tasks else _PSEUDO,
        _yaml({"evaluation": _evaluation(writes, tasks)}),
        _yaml({"publish": {"push_to_hub": False, "hub_model_id": None}}),
    ]
    return "".join(parts)


def _yaml(section: dict[str, Any]) -> str:
    return yaml.safe_dump(
        section, sort_keys=False, allow_unicode=True, default_flow_style=None, width=1000
    )


def _source(path: Path, column: str | None = None) -> dict[str, str]:
    rows = _first_rows(path)
    if column:
        string_of(rows[0], column, f"{path}:1")
    return {"path": str(path), "text": column or _text_column(path, rows)}


def _first_rows(path: Path) -> list[dict[str, Any]]:
    rows = [row for _, row in islice(read_rows(path), _LOOKED_AT)]
    if not rows:
        raise DataError("holds no rows", where=str(path), fix="give a file that has some")
    return rows


def _strings(rows: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Columns of text, with what is in them."""
    columns: dict[str, list[str]] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, str) and value.strip():
                columns.setdefault(name, []).append(value)
    return columns


def _text_column(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """`text` where there is one, else the column of most text."""
    columns = _strings(rows)
    if not columns:
        raise DataError(
            "has no column of text",
            where=str(path),
            got=", ".join(map(str, rows[0])),
            fix="name one with --column",
        )
    return max(columns, key=lambda name: (name == "text", sum(map(len, columns[name]))))


def _label_column(path: Path, rows: Sequence[dict[str, Any]], text: str) -> str:
    """`label` where there is one, else the column of fewest different values."""
    columns = {k: v for k, v in _strings(rows).items() if k != text}
    if not columns:
        raise DataError(
            f"has no column of labels beside {text}",
            where=str(path),
            got=", ".join(map(str, rows[0])),
            fix="write labels as strings, in a column of their own",
        )
    return min(columns, key=lambda name: (name != "label", len(set(columns[name]))))


def _task(labels: Path) -> dict[str, str]:
    rows = _first_rows(labels)
    text = _text_column(labels, rows)
    columns = {"text": text, "label": _label_column(labels, rows, text)}
    return {"name": "labels", "kind": "classification", "path": str(labels), **columns}


def _bytes(source: dict[str, str]) -> int:
    documents: Iterator[Any] = read_documents(Path(source["path"]), source["text"])
    return sum(len(each.text.encode()) for each in watched(documents, f"Reading {source['path']}"))


def _writes_text(base: str) -> bool:
    bases.check(base)
    folder = bases.on_disk(base)
    if folder is None and not base.startswith("package:"):
        folder = bases.hub_file(base, "config.json").parent
    return folder is None or bases.writes_text(folder)  # packages that are converted first write


def _training(writes: bool, domain: int, labelled: int) -> dict[str, Any]:
    """Phases that see all text once; bytes of domain text and of labelled text."""
    phases = [_phase("domain", "clm" if writes else "mlm", writes, domain)]
    if labelled:
        phases.append(_phase("labels", "sft" if writes else "classification", writes, labelled))
    return {"method": "lora", "lora": {"r": 16, "lora_alpha": 32}, "phases": phases}


def _phase(name: str, objective: str, writes: bool, size: int) -> dict[str, Any]:
    length, sequences = _MAX_LENGTH[writes], math.prod(_BATCH.values())
    steps = max(_FEW_STEPS, round(size / _BYTES_PER_TOKEN / (sequences * length)))
    sizes = {"max_steps": steps, "learning_rate": 5e-4, **_BATCH, "max_length": length}
    return {"name": name, "objective": objective, **sizes}


def _evaluation(writes: bool, tasks: list[dict[str, str]]) -> dict[str, Any]:
    """What is measured; an encoder reads windows as long as it was trained on."""
    section: dict[str, Any] = {"control": True, "tasks": tasks}
    if writes:
        return section
    dear = {} if tasks else {"max_bytes": _PSEUDO_BYTES}
    return {**section, "max_length": _MAX_LENGTH[writes], **dear}


_HEADER = """\
# Made by `adapt init`: a start, to be read and changed. What every key means: `adapt schema`.
#   adapt check {name}.yaml --probe    what it takes, and whether the new vocabulary pays
#   adapt run {name}.yaml              or: accelerate launch scripts/train.py {name}.yaml
"""
_CORPUS = """
# Domain text, and general text that shows what the adaptation costs elsewhere. What is held out of
# one file is held out of all.
"""
_TOKENIZER = """
# auto tries numbers of units by short trainings and takes the one that pays, or none; a number
# saves that time.
"""
_EMBEDDINGS = """
# units: input keeps new units to what is read: for long prompts and short answers.
"""
_TRAINING = """
# max_steps: the {megabytes} MB of text once, by four bytes a token. Where memory is short, take
# smaller batches and accumulate more of them.
"""
_PSEUDO = """\
# Hidden words are scored one piece at a time, which is dear: some thousand bytes a minute on a CPU.
"""
_EVALUATION = """
# The control keeps the base's tokenizer and sees the same bytes: without it nothing is proven.
"""
