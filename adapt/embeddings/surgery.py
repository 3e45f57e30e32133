"""Writes the adapted base: the base's checkpoint with its rows moved, and rows for new tokens.

No model is loaded and nothing is resized. A shard with an embedding in it is copied by byte
ranges, old rows among them; every other shard is hard-linked. What is in memory is the new rows.

The base's embedding does not stay behind in a linked shard under an index that names a new file:
`transformers` 5 reads every tensor of every file that the index names, whatever file the index
names for it (the last file wins, by name), and other loaders stop at the old shape.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors import safe_open
from torch import Tensor

from adapt.embeddings.initialize import LOOK_AT_ALL, STRATEGIES, Context, mean_row
from adapt.embeddings.locate import Embeddings, Parameters, find, parameters
from adapt.embeddings.result import AdaptedBase, EditedTensor
from adapt.embeddings.settings import write_settings
from adapt.embeddings.shards import (
    INDEX,
    Replacement,
    Rows,
    Stored,
    has_index,
    link,
    read_header,
    read_rows,
    rewrite,
    shard_files,
)
from adapt.errors import ModelError
from adapt.vocab.delta import VocabDelta
from adapt.workspace import write_json


def write_adapted_base(
    base: Path,
    tokenizer: Path,
    delta: VocabDelta,
    init: str,
    folder: Path,
    *,
    init_output: str | None = None,
    seed: int = 0,
    pad_to_multiple_of: int | None = None,
    untie: bool = False,
    trust_remote_code: bool = False,
) -> AdaptedBase:
    """Fills `folder` with an ordinary checkpoint that `from_pretrained` loads.

    Args:
        base: Checkpoint folder of the base, in safetensors; only read.
        tokenizer: Folder of the adapted tokenizer, copied in.
        delta: What changed in the vocabulary.
        init: Name of a strategy in `adapt.embeddings.initialize.STRATEGIES`, for input rows and
            tied ones.
        folder: An empty folder.
        init_output: Name of a strategy for the rows (and bias) of an output layer of its own;
            None for the same.
        seed: Of strategies that draw.
        pad_to_multiple_of: See `rows_needed`.
        untie: Gives a tied base an output matrix of its own: the input's, with new rows that
            `init_output` makes. Of a base that is not tied nothing changes.
        trust_remote_code: As in `transformers`.

    Raises:
        ModelError: The base has no safetensors, the delta is of another vocabulary, or
            `init_output` is given and the base has no output rows of its own.
    """
    shards = {name: read_header(base / name)[0] for name in shard_files(base)}
    tensors = {name: stored for held in shards.values() for name, stored in held.items()}
    wanted = parameters(base, trust_remote_code=trust_remote_code)
    found = find(wanted, tensors, str(base))
    copies: dict[str, str] = {}
    if untie and not found.outputs:
        found, copies = _untied(base, found, trust_remote_code)
    _refuse_misfits(found, delta, init_output)
    rows = rows_needed(delta, found.rows, pad_to_multiple_of)
    layout = row_sources(delta, found.rows, rows)
    edited, replacements = _edits(
        found, layout, delta, (init, init_output or init), seed, wanted, copies
    )
    if rows == found.rows and not delta.added and not delta.moves_ids and not copies:
        edited, replacements = [], {}

    sizes = {"written": 0, "linked": 0, "copied": 0}
    for name, held in shards.items():
        beside = {key: origin for key, origin in copies.items() if origin in held}
        here = {k: make for k, make in replacements.items() if k in held or k in beside}
        if here:
            made = {key: make() for key, make in here.items()}
            sizes["written"] += rewrite(base / name, folder / name, made, beside)
        else:
            linked = link(base / name, folder / name)
            sizes["linked" if linked else "copied"] += (folder / name).stat().st_size
    _write_index(base, folder, edited, copies)
    split = untie and bool(found.outputs)
    notes = write_settings(base, tokenizer, folder, delta, rows, untie=split)
    return AdaptedBase(
        folder,
        init,
        tuple(edited),
        kept=sum(run.count for run in delta.kept),
        removed=len(delta.removed),
        added=len(delta.added),
        filled=int((layout == found.rows + len(delta.added)).sum()),
        bytes_written=sizes["written"],
        bytes_linked=sizes["linked"],
        bytes_copied=sizes["copied"],
        notes=notes,
        parameters_added=_parameters(folder) - _parameters(base),
        untied=bool(copies),
    )


def _untied(
    base: Path, found: Embeddings, trust_remote_code: bool
) -> tuple[Embeddings, dict[str, str]]:
    """A tied base's embeddings as they are once it is not tied, and what must be copied for it.

    Raises:
        ModelError: The model has no output layer that could be its own.
    """
    wanted = parameters(base, untie=True, trust_remote_code=trust_remote_code)
    names = wanted.outputs
    if not names:
        raise ModelError(
            "the model cannot have output rows of its own",
            where="embeddings.untie",
            fix="set embeddings.untie=false",
        )
    inputs, bias, copies = dict(found.inputs), dict(found.bias), {}
    # The bias may have another name once it is not tied (BERT: that of the decoder).
    if bias and wanted.bias and not bias.keys() & set(wanted.bias):
        origin = next(iter(bias))
        copies[wanted.bias[0]], bias[wanted.bias[0]] = origin, bias[origin]
    stored = [key for key in list(inputs)[1:] if key in names]
    if stored:  # a tied output that the checkpoint stores all the same
        outputs = {key: inputs.pop(key) for key in stored}
        return replace(found, inputs=inputs, outputs=outputs, bias=bias), copies
    origin = next(iter(inputs))
    outputs = {names[0]: inputs[origin]}
    return replace(found, outputs=outputs, bias=bias), {**copies, names[0]: origin}


def _parameters(folder: Path) -> int:
    """Numbers that a checkpoint holds."""
    files = [read_header(folder / name)[0].values() for name in shard_files(folder)]
    return sum(math.prod(stored.shape) for held in files for stored in held)


def rows_needed(delta: VocabDelta, base_rows: int, multiple: int | None = None) -> int:
    """Rows of the matrix after the edit.

    New ids use the base's padding rows (Qwen2.5: 151,936 rows, 151,665 tokens) before the matrix
    grows. A vocabulary smaller than the base's drops that padding: it was made for another size.

    Args:
        delta: What changed.
        base_rows: Rows of the base's matrix.
        multiple: The result is rounded up to a multiple of it, where hardware wants that.
    """
    least = delta.size if delta.size < delta.base_size else max(delta.size, base_rows)
    return -(-least // multiple) * multiple if multiple else least


def row_sources(delta: VocabDelta, base_rows: int, rows: int) -> np.ndarray:
    """For each row of the result where it comes from.

    A kept token's row comes from its row in the base. A row that stands for no token in both
    (padding, holes) stays as it is. A row that stands for no token, and did in the base or was
    not there, is filled.

    Args:
        delta: What changed.
        base_rows: Rows of the base's matrix.
        rows: Rows of the result.

    Returns:
        (rows,) int64: a row of the base; `base_rows + i` for the i-th new token;
        `base_rows + len(delta.added)` for a row that is filled.
    """
    filled = base_rows + len(delta.added)
    base_ids, new_ids = (np.array(ids, dtype=np.int64) for ids in delta.kept_ids)
    before = np.arange(base_rows)
    before[base_ids] = filled
    before[list(delta.removed)] = filled
    sources = np.full(rows, filled, dtype=np.int64)
    both = min(rows, base_rows)
    sources[:both] = before[:both]
    sources[new_ids] = base_ids
    sources[delta.added_ids] = np.arange(base_rows, filled)
    return sources


def _refuse_misfits(found: Embeddings, delta: VocabDelta, init_output: str | None) -> None:
    if found.rows < delta.base_size:
        raise ModelError(
            f"the tokenizer has ids up to {delta.base_size - 1}, the model only {found.rows} rows",
            where="model.base",
            fix="take the tokenizer that belongs to the model",
        )
    if init_output and not found.outputs:
        raise ModelError(
            "the base has no output rows of its own: they are the input's, or it has none",
            where="embeddings.init_output",
            got=init_output,
            fix="leave it out",
        )


@dataclass(frozen=True)
class _Edit:
    """How one tensor's replacement is made, once its shard's turn comes.

    Filled in is the mean of the base's rows: as output it takes at most one token's share of
    probability at any position (see `global_`), where zeros would take nearly all of it from a
    model whose logits are far below zero, as those of GPT-2 are.
    """

    stored: Stored
    name: str
    layout: np.ndarray
    delta: VocabDelta
    init: str
    context: Context

    def __call__(self) -> Replacement:
        base_rows, new = self.stored.shape[0], self.new_rows()
        fill = new[:0]
        if (self.layout == base_rows + len(new)).any():
            fill = mean_row(self.known()).to(new.dtype)[None]
        return Replacement(len(self.layout), tuple(_pieces(self.layout, base_rows, new, fill)))

    def new_rows(self) -> Tensor:
        """Rows of the new tokens, (added, columns)."""
        constituents = [token.constituents for token in self.delta.added]
        if not constituents:
            return read_rows(self.stored, [])
        if self.init in LOOK_AT_ALL:
            return STRATEGIES[self.init](self.known(), constituents, self.context)
        # Only rows that are looked at are read, and ids are their places among those.
        ids = sorted({id_ for made_of in constituents for id_ in made_of})
        place = {id_: i for i, id_ in enumerate(ids)}
        places = [[place[id_] for id_ in made_of] for made_of in constituents]
        return STRATEGIES[self.init](read_rows(self.stored, ids), places, self.context)

    def known(self) -> Tensor:
        """Rows of the base without its padding, (base size, columns), mapped from the file."""
        with safe_open(str(self.stored.file), framework="pt") as file:
            matrix: Tensor = file.get_tensor(self.name)
        return matrix.view(self.stored.shape[0], -1)[: self.delta.base_size]


def _edits(
    found: Embeddings,
    layout: np.ndarray,
    delta: VocabDelta,
    inits: tuple[str, str],
    seed: int,
    wanted: Parameters,
    copies: Mapping[str, str],
) -> tuple[list[EditedTensor], dict[str, _Edit]]:
    """What is to be done with each tensor."""
    edited: list[EditedTensor] = []
    edits: dict[str, _Edit] = {}
    for role, tensors in (
        ("input", found.inputs),
        ("output", found.outputs),
        ("bias", found.bias),
    ):
        init = inits[role != "input"]
        context = Context(seed, wanted.initializer_range, role != "input")
        for name, stored in tensors.items():
            edits[name] = _Edit(stored, copies.get(name, name), layout, delta, init, context)
            edited.append(EditedTensor(name, role, init, found.rows, len(layout)))
    return edited, edits


def _pieces(layout: np.ndarray, base_rows: int, new: Tensor, fill: Tensor) -> list[Rows | Tensor]:
    """Neighbours of one source in one piece."""
    kind = (layout >= base_rows).astype(np.int8) + (layout == base_rows + len(new))
    breaks = np.flatnonzero((np.diff(kind) != 0) | ((np.diff(layout) != 1) & (kind[1:] != 2)))
    bounds = [0, *(breaks + 1).tolist(), len(layout)]
    pieces: list[Rows | Tensor] = []
    for start, end in pairwise(bounds):
        first, count = int(layout[start]), end - start
        if kind[start] == 0:
            pieces.append(Rows(first, count))
        elif kind[start] == 1:
            pieces.append(new[first - base_rows : first - base_rows + count])
        else:
            pieces.append(fill.expand(count, -1))
    return pieces


def _write_index(
    base: Path,
    folder: Path,
    edited: list[EditedTensor],
    copies: Mapping[str, str],
) -> None:
    """The base's index with the new sizes; tensors stay in files of the same names."""
    if not has_index(base):
        return
    if not edited:
        shutil.copyfile(base / INDEX, folder / INDEX)
        return
    index = json.loads((base / INDEX).read_text(encoding="utf-8"))
    weights = index["weight_map"]
    weights |= {name: weights[origin] for name, origin in copies.items()}
    files = {name: read_header(folder / name)[0] for name in set(weights.values())}
    stored = [tensor for held in files.values() for tensor in held.values()]
    metadata = index.setdefault("metadata", {})
    metadata["total_size"] = sum(tensor.bytes_ for tensor in stored)
    if "total_parameters" in metadata:
        metadata["total_parameters"] = sum(math.prod(tensor.shape) for tensor in stored)
    write_json(folder / INDEX, index)
