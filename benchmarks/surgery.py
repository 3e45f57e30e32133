"""Time and memory of adding tokens: surgery on shards, against resizing a loaded model.

    python benchmarks/surgery.py [--gigabytes 8] [--json out.json]

Makes a Llama-shaped checkpoint in bfloat16 (random weights, shards of 5 GB) in a temporary folder,
and adds tokens to it in three ways, each in a process of its own, one after the other:

    surgery         adapt.embeddings.surgery.write_adapted_base, strategy mean
    resize          from_pretrained, resize_token_embeddings as it comes, save_pretrained
    resize, plain   the same with mean_resizing=False: rows drawn at random, no covariance

Seconds are those of the work after imports, with what was written brought to disk (fsync); before
each way the checkpoint is dropped from the page cache. Peak memory is the process's own,
libraries included: `resident` as the kernel counts it (ru_maxrss, pages of mapped files among it),
`anonymous` without those pages (RssAnon, sampled each 10 ms). Compare figures only within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from adapt.embeddings.shards import INDEX
from adapt.vocab.delta import Kept, NewToken, VocabDelta
from adapt.workspace import write_json

WAYS = ("surgery", "resize, plain", "resize")
GIGABYTE = 10**9
BLOCK = 1 << 20  # random bfloat16 values that all weights repeat


def tensors_of(vocab: int, hidden: int, gigabytes: float, tied: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama model of about the size asked for, in checkpoint order."""
    inner, narrow = hidden * 7 // 2, hidden // 4
    layer = {
        "self_attn.q_proj.weight": (hidden, hidden),
        "self_attn.k_proj.weight": (narrow, hidden),
        "self_attn.v_proj.weight": (narrow, hidden),
        "self_attn.o_proj.weight": (hidden, hidden),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    matrices = (1 if tied else 2) * vocab * hidden
    size = sum(int(np.prod(shape)) for shape in layer.values())
    layers = max(1, round((gigabytes * GIGABYTE / 2 - matrices) / size))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for i in range(layers):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    return shapes if tied else shapes | {"lm_head.weight": (vocab, hidden)}


def make_checkpoint(folder: Path, arguments: argparse.Namespace) -> int:
    """Writes the checkpoint, never holding more of it than a block; returns its bytes."""
    vocab, hidden = arguments.vocab, arguments.hidden
    shapes = tensors_of(vocab, hidden, arguments.gigabytes, arguments.tied)
    shards: list[dict[str, int]] = [{}]
    for name, shape in shapes.items():
        bytes_ = 2 * int(np.prod(shape))
        if shards[-1] and sum(shards[-1].values()) + bytes_ > arguments.shard_gigabytes * GIGABYTE:
            shards.append({})
        shards[-1][name] = bytes_
    draw = torch.Generator().manual_seed(0)
    block = (torch.randn(BLOCK, generator=draw) * 0.02).bfloat16().view(torch.uint8).numpy()
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        file_name = f"model-{i:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys(shard, file_name)
        write_shard(folder / file_name, shard, shapes, block.tobytes())
    total = sum(sum(shard.values()) for shard in shards)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    from transformers import LlamaConfig

    LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=hidden * 7 // 2,
        num_hidden_layers=sum(name.endswith("q_proj.weight") for name in shapes),
        num_attention_heads=max(4, hidden // 128),
        num_key_value_heads=max(4, hidden // 128) // 4,
        tie_word_embeddings=arguments.tied,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    ).save_pretrained(folder)
    return total


def write_shard(
    path: Path, shard: dict[str, int], shapes: dict[str, tuple[int, ...]], block: bytes
) -> None:
    """One safetensors file that repeats a block of values."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, bytes_ in shard.items():
        place = [offset, offset + bytes_]
        header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": place}
        offset += bytes_
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        while offset > 0:
            offset -= file.write(block[: min(offset, len(block))])


def make_delta(folder: Path, vocab: int, new: int) -> None:
    """New tokens of three constituents each, and a stand-in for the tokenizer."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    added = tuple(
        NewToken(vocab + i, f"t{i}", f"t{i}", tuple(map(int, draw.integers(0, vocab, 3))))
        for i in range(new)
    )
    VocabDelta(vocab, vocab + new, (Kept(0, 0, vocab),), added).save(folder)


def work(way: str, base: Path, tokenizer: Path, target: Path) -> None:
    """Adds the tokens in one way; runs in a process of its own."""
    delta = VocabDelta.load(tokenizer)
    if way == "surgery":
        from adapt.embeddings.surgery import write_adapted_base
    from transformers import AutoModelForCausalLM

    peak = [0]
    threading.Thread(target=watch_anonymous, args=(peak,), daemon=True).start()
    start = time.perf_counter()
    if way == "surgery":
        write_adapted_base(base, tokenizer, delta, "mean", target)
    else:
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        model.resize_token_embeddings(delta.size, mean_resizing=way == "resize")
        model.save_pretrained(target, max_shard_size="5GB")
    for path in target.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    print(json.dumps({"seconds": seconds, "resident": resident, "anonymous": peak[0]}))


def watch_anonymous(peak: list[int]) -> None:
    """Keeps the largest RssAnon of this process, in bytes, in `peak[0]`."""
    while True:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
        peak[0] = max(peak[0], int(line.split()[1]) * 1024)
        time.sleep(0.01)


def run(way: str, folder: Path) -> dict[str, object]:
    """One way in a child process, from a cold page cache; what it wrote is checked and deleted."""
    base, target = folder / "base", folder / "target"
    target.mkdir()
    for path in base.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    for path in target.iterdir():
        path.unlink()
    target.rmdir()
    return {"way": way, **json.loads(done.stdout.splitlines()[-1])}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--shard-gigabytes", type=float, default=5.0)
    parser.add_argument("--vocab", type=int, default=128_000)
    parser.add_argument("--hidden", type=int, default=4_096)
    parser.add_argument("--new-tokens", type=int, default=8_000)
    parser.add_argument("--tied", action="store_true", help="one matrix for input and output")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Prints the table and writes JSON where asked."""
    arguments = parse()
    if arguments.way:
        folder = arguments.folder
        work(arguments.way, folder / "base", folder / "tokenizer", folder / "target")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "base").mkdir()
        total = make_checkpoint(folder / "base", arguments)
        make_delta(folder / "tokenizer", arguments.vocab, arguments.new_tokens)
        found = [run(way, folder) for way in arguments.ways]
    matrix = 2 * arguments.vocab * arguments.hidden
    title = f"{total / GIGABYTE:.2f} GB, embedding {matrix / GIGABYTE:.2f} GB"
    title += f" ({'tied' if arguments.tied else 'untied'}), +{arguments.new_tokens:,} tokens"
    table = Table(title=title, title_justify="left")
    table.add_column("way")
    for column in ("seconds", "resident", "anonymous", "resident / matrix", "time / surgery"):
        table.add_column(column, justify="right")
    for row in found:
        row["resident_per_matrix"] = row["resident"] / matrix
        row["times_surgery"] = row["seconds"] / found[0]["seconds"]
        row["surgery_share_of_resident"] = found[0]["resident"] / row["resident"]
        table.add_row(
            str(row["way"]),
            f"{row['seconds']:.1f}",
            f"{row['resident'] / GIGABYTE:.2f} GB",
            f"{row['anonymous'] / GIGABYTE:.2f} GB",
            f"{row['resident_per_matrix']:.2f}",
            f"{row['times_surgery']:.1f}",
        )
    Console().print(table)
    if arguments.json:
        record = {"bytes": total, "matrix_bytes": matrix, "tied": arguments.tied, "rows": found}
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
