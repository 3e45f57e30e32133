"""`adapt merge` and `adapt export`: a run in the form that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapt.cli.models import BaseOption, Trust
from adapt.cli.shared import say


def merge(
    model: Annotated[str, typer.Argument(help="A run folder, an adapter, or its Hub id.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder to write; without it, `merged` in the run.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of the weights written; auto: what the base is stored in.")
    ] = "auto",
    max_shard_size: Annotated[str, typer.Option(help="Largest file of weights.")] = "5GB",
    force: Annotated[bool, typer.Option("--force", help="Replace a checkpoint there.")] = False,
    base: BaseOption = None,
    trust_remote_code: Trust = False,
) -> None:
    """Merge the adapter into a stand-alone checkpoint that stock transformers loads.

    A fresh process reads the checkpoint with transformers alone and compares logits and 20
    greedy continuations with the adapter model; where they differ, nothing is left behind.

    Examples:
      adapt merge runs/medical

      adapt merge runs/medical --output medical-merged --dtype bfloat16 --max-shard-size 2GB
    """
    from adapt.publish.merge import merge as merge_

    done = merge_(
        model,
        output,
        dtype=dtype,
        max_shard_size=max_shard_size,
        force=force,
        base=base,
        trust_remote_code=trust_remote_code,
    )
    say(
        f"compared in a fresh process: logits within {done.difference:.2g} of their spread "
        f"({done.tolerance:g} allowed for {done.dtype})"
        + (f", {done.continuations} greedy continuations the same" if done.continuations else "")
        + (f" but for {done.near_ties} near ties" if done.near_ties else "")
    )
    files = "1 file" if done.files == 1 else f"{done.files} files"
    say(f"merged: {done.folder} ({done.bytes_ / 1e6:,.1f} MB, {files}, {done.dtype})")


def export(
    model: Annotated[str, typer.Argument(help="A run folder, an adapter, or a merged checkpoint.")],
    format_: Annotated[
        str, typer.Option("--format", metavar="onnx|gguf|vllm", help="For which program.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder to write; without it, `exports/FORMAT` in the run.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="onnx: also a graph with weights of 8 bits.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="gguf: auto, float32, bfloat16 or float16.")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace an export there.")] = False,
    base: BaseOption = None,
    trust_remote_code: Trust = False,
) -> None:
    """Export a model to ONNX, to GGUF for llama.cpp, or to a folder that vLLM serves.

    An adapter is merged first. What was written is read back and compared with
    the checkpoint; where they differ, nothing is left behind. What the format
    cannot keep is printed, and stands in export.json.

    Examples:
      adapt export runs/medical --format onnx --int8

      adapt export runs/medical --format gguf --dtype float16

      adapt export runs/medical/merged --format vllm --output medical-vllm
    """
    from adapt.publish.export import export as export_

    done = export_(
        model,
        format_,
        output,
        dtype=dtype,
        int8=int8,
        force=force,
        base=base,
        trust_remote_code=trust_remote_code,
    )
    for heading, lines in (
        ("compared", done.checked),
        ("not compared", done.unchecked),
        ("not kept", done.lost),
    ):
        for line in lines:
            say(f"{heading}: {line}")
    say(f"exported: {done.folder} ({sum(done.bytes_.values()) / 1e6:,.1f} MB)")
    say(f"use: {done.use}")
