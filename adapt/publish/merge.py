"""Merges an adapter into a stand-alone checkpoint, and has a fresh process read it.

What must agree, in units of the spread of the logits (`adapt.publish.agreement`):

1. the merged weights with the adapter beside its base, both in float32: every logit, to `EXACT`.
   So the merge is right;
2. what the fresh process reads from the folder, in float32, with the merged weights rounded to
   the type they are stored in: every logit, to `EXACT`. So what lies there is the merge, with its
   vocabulary size, ties, settings and tokenizer;
3. the fresh process with the adapter beside its base: the largest difference of a logit, as the
   median of all positions, to `ROUNDING` of the type stored. The median, for single positions
   can be ill-conditioned: with bfloat16 one text of SmolLM2-135M differs by 5.5 spreads
   somewhere, and the three others by 0.05 to 0.08 at most.

20 greedy continuations must be the adapter model's, too. Where one differs, the two tokens must
be a near tie where they first differ: the fresh model's logits of them no further apart than twice
the third tolerance, as much as two logits that are each off by it can be. What follows is then
another text.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor

from adapt.errors import AdaptError, ModelError
from adapt.evaluation.heads import has_head
from adapt.evaluation.masked import fills_masks
from adapt.publish import stock
from adapt.publish.agreement import EXACT, ROUNDING, differences, spread
from adapt.publish.kinds import kind_of
from adapt.publish.load import CONFIG, Source, load_weights, locate, refuse_dtype
from adapt.publish.target import inside, refuse_existing
from adapt.vocab import OUTPUT, TOKENIZER_FILES, VocabDelta, load_tokenizer
from adapt.vocab.delta import FILE_NAME
from adapt.workspace import new_folder

GENERATIONS, NEW_TOKENS = 20, 20

# Prompts to compare on; half give way to units of the adapter.
_PLAIN = (
    "The mayor repaired the bridge before the",
    "In 1987, two of",
    "Water boils at",
    "A list of things to do:\n1.",
    "She said that it",
    "def add(a, b):",
    "It is not known whether",
    "The results show",
    "Dear Sir or Madam,",
    "Once upon a time",
    "Define: fever",
    "The patient was",
    "Les enfants jouent",
    "According to the report",
    "Is it true that",
    "The most common cause of",
    "for i in range(10):",
    "These findings suggest that",
    "My favourite colour is",
    "An abnormality of the",
)


class MergeError(AdaptError):
    """A merged checkpoint that is not what was merged."""

    exit_code = 1


@dataclass(frozen=True)
class Merged:
    """A merged checkpoint, read back and compared.

    Attributes:
        folder: The checkpoint.
        dtype: Of its weights.
        bytes_: Of its weights on disk.
        files: Files of weights.
        vocabulary: Rows of its embeddings.
        difference: Largest difference of a logit to the adapter model's, in spreads; median of
            all positions.
        tolerance: Largest one allowed.
        near_ties: Continuations that went another way at a near tie.
        continuations: How many were compared; none of a model that writes no text.
    """

    folder: Path
    dtype: str
    bytes_: int
    files: int
    vocabulary: int
    difference: float
    tolerance: float
    near_ties: int
    continuations: int


@dataclass(frozen=True)
class _Answers:
    """What a model gives: ids and logits, (tokens, vocabulary), of texts, and continuations.

    A model with a head of classes gives (1, classes), and none that reads alone continuations.
    """

    ids: list[list[int]]
    logits: list[Tensor]
    generated: list[list[int]]


def merge(
    reference: str | Path,
    output: Path | None = None,
    *,
    dtype: str = "auto",
    max_shard_size: str = "5GB",
    force: bool = False,
    base: str | None = None,
    trust_remote_code: bool = False,
) -> Merged:
    """Writes a checkpoint that stock `transformers` loads, or nothing.

    The adapter is merged in float32 into weights read for it, and rounded once.

    Args:
        reference: As for `adapt.load`; a run, or an adapter.
        output: Folder to write; None for `merged` in the run.
        dtype: Of the weights written; auto: what the base is stored in.
        max_shard_size: Weights are split into files of at most this, such as 5GB.
        force: Replaces a checkpoint that is in `output`; it stays until the new one is right.
        base: As for `adapt.load`.
        trust_remote_code: As in `transformers`.

    Raises:
        WorkspaceError: `output` exists, or none is given for what is no run.
        ModelError: There is nothing to merge.
        MergeError: The checkpoint is not what was merged; it is gone then.
    """
    refuse_dtype(dtype)
    target = output or inside(Path(reference), "merged")
    refuse_existing(target, force, "a checkpoint", CONFIG)
    source = locate(reference, base=base, trust_remote_code=trust_remote_code)
    if source.adapter is None:
        raise ModelError("has no adapter to merge, it is a whole checkpoint", where=str(reference))
    stored = _stored_dtype(source.checkpoint) if dtype == "auto" else dtype
    tokenizer = load_tokenizer(source.tokenizer, trust_remote_code=trust_remote_code)
    prompts = _prompts(source.adapter)
    expected = _answers(_whole(source, False, trust_remote_code), tokenizer, prompts)
    model = _whole(source, True, trust_remote_code)
    if isinstance(model, PeftModel):
        raise ModelError("has virtual tokens, which cannot be merged", where=str(reference))
    merged = _logits(model, tokenizer, prompts)
    _refuse_difference(merged, expected.logits, "merging changed the model")
    with new_folder(target) as unfinished:
        _save(model, stored, max_shard_size, source, unfinished)
        _cast(model, torch.float32)
        rounded = merged if stored == "float32" else _logits(model, tokenizer, prompts)
        vocabulary = model.config.get_text_config().vocab_size
        del model  # the fresh process needs the memory
        fresh, gaps = _fresh_process(unfinished, prompts, expected, trust_remote_code)
        difference, near_ties = _judge(fresh, gaps, rounded, expected, ROUNDING[stored])
    files = sorted(target.glob("*.safetensors"))
    bytes_ = sum(file.stat().st_size for file in files)
    return Merged(
        target,
        stored,
        bytes_,
        len(files),
        vocabulary,
        difference,
        ROUNDING[stored],
        near_ties,
        len(expected.generated),
    )


def _stored_dtype(checkpoint: Path) -> str:
    """The type of most of a checkpoint's weights, as its configuration says."""
    config = json.loads((checkpoint / CONFIG).read_text(encoding="utf-8"))
    named = config.get("dtype") or config.get("torch_dtype")
    return named if named in ROUNDING else "float32"


def _whole(source: Source, merged: bool, trust_remote_code: bool) -> Any:  # noqa: ANN401
    return load_weights(source, "float32", merged=merged, trust_remote_code=trust_remote_code)


def _prompts(adapter: Path) -> list[str]:
    """Plain text, and units of the adapter."""
    units: list[str] = []
    if (adapter / FILE_NAME).is_file():
        texts = [token.text for token in VocabDelta.load(adapter).added]
        texts = [text for text in texts if text.strip() and "\ufffd" not in text]
        units = texts[:: max(1, len(texts) // (GENERATIONS // 2))][: GENERATIONS // 2]
    return [*units, *_PLAIN[len(units) :]]


def _texts(prompts: Sequence[str]) -> list[str]:
    """Longer texts of the same, four of them, for there is a logit a token of the vocabulary."""
    return [" ".join(prompts[i::4]) for i in range(4)]


def _answers(model: Any, tokenizer: Any, prompts: list[str]) -> _Answers:  # noqa: ANN401
    read = stock.read(model, tokenizer, _texts(prompts))
    writes = not (has_head(model) or fills_masks(model))
    generated = stock.go_on(model, tokenizer, prompts, NEW_TOKENS)[0] if writes else []
    return _Answers([ids.tolist() for ids, _ in read], [logits for _, logits in read], generated)


def _logits(model: Any, tokenizer: Any, prompts: list[str]) -> list[Tensor]:  # noqa: ANN401
    return [logits for _, logits in stock.read(model, tokenizer, _texts(prompts))]


def _cast(model: Any, dtype: torch.dtype) -> None:  # noqa: ANN401
    """Rounds parameters alone: frequencies of positions are buffers, computed in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _save(model: Any, dtype: str, max_shard_size: str, source: Source, folder: Path) -> None:  # noqa: ANN401
    """Writes the model, its weights rounded, and the tokenizer's files as they are."""
    _cast(model, getattr(torch, dtype))
    try:
        model.save_pretrained(str(folder), max_shard_size=max_shard_size)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"cannot be saved, {reason}", where="adapt merge") from None
    for name in TOKENIZER_FILES:
        if name != FILE_NAME and (source.tokenizer / name).is_file():
            shutil.copyfile(source.tokenizer / name, folder / name)
    if (source.checkpoint / OUTPUT).is_dir():
        shutil.copytree(source.checkpoint / OUTPUT, folder / OUTPUT)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes 0600


def _fresh_process(
    folder: Path, prompts: list[str], expected: _Answers, trust_remote_code: bool
) -> tuple[_Answers, list[float | None]]:
    """What another process reads from a folder, with `transformers` and without `adapt`.

    Raises:
        MergeError: It cannot read it.
    """
    from adapt.training.model import device

    texts = _texts(prompts)
    questions = {
        "texts": texts,
        "prompts": prompts,
        "expected": expected.generated,
        "auto_class": kind_of(folder),
        "device": str(device()),
        "trust_remote_code": trust_remote_code,
    }
    with tempfile.TemporaryDirectory() as place:
        asked, answered = Path(place) / "questions.json", Path(place) / "answers.safetensors"
        asked.write_text(json.dumps(questions), encoding="utf-8")
        script = [sys.executable, "-P", str(Path(stock.__file__))]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        for launched in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            environment.pop(launched, None)
        done = subprocess.run(
            [*script, str(folder), str(asked), str(answered)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr.strip() or "no word").splitlines()[-1]
            raise MergeError(
                f"a fresh process cannot load what was merged ({reason})", where=str(folder)
            )
        with safe_open(str(answered), framework="pt") as file:
            record = json.loads(file.metadata()["answers"])
            count = range(len(texts))
            ids = [file.get_tensor(f"ids.{i}").tolist() for i in count]
            logits = [file.get_tensor(f"logits.{i}") for i in count]
    return _Answers(ids, logits, record["generated"]), record["gaps"]


def _judge(
    fresh: _Answers,
    gaps: Sequence[float | None],
    rounded: Sequence[Tensor],
    expected: _Answers,
    tolerance: float,
) -> tuple[float, int]:
    """Largest difference in spreads, and continuations that differ by a near tie.

    Raises:
        MergeError: More than the tolerances.
    """
    if fresh.ids != expected.ids:
        raise MergeError("the merged checkpoint's tokenizer cuts text otherwise than the adapter's")
    _refuse_difference(fresh.logits, rounded, "what was written is not what was merged")
    difference = float(differences(fresh.logits, expected.logits).median())
    if not difference <= tolerance:
        raise MergeError(
            f"rounding changed the model too much: logits differ by {difference:.2g} of their "
            f"spread, {tolerance:.2g} allowed",
            fix="give --dtype float32",
        )
    allowed = 2 * tolerance * spread(expected.logits)
    differing = [gap for gap in gaps if gap is not None]
    wrong = [gap for gap in differing if gap > allowed]
    if wrong:
        raise MergeError(
            f"{len(wrong)} of {len(gaps)} greedy continuations are not the adapter model's, by "
            f"{max(wrong):.2g} in a logit where {allowed:.2g} would be a near tie"
        )
    return difference, len(differing)


def _refuse_difference(found: Sequence[Tensor], expected: Sequence[Tensor], what: str) -> None:
    """Refuses any difference beyond `EXACT`; not a number counts as one."""
    if [f.shape for f in found] != [e.shape for e in expected]:
        sizes = f"{found[0].shape[-1]} instead of {expected[0].shape[-1]}"
        raise MergeError(f"{what}: logits of another size, {sizes}")
    difference = float(differences(found, expected).max())
    if not difference <= EXACT:
        raise MergeError(
            f"{what}: logits differ by {difference:.2g} of their spread, {EXACT:.2g} allowed",
            fix="nothing was written; please report it with the recipe",
        )
