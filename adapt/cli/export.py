"""`adapt export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapt.cli.models import BaseOption, Trust
from adapt.cli.shared import say


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
