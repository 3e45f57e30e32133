"""One line of `initialisation.py`: rows by a strategy, and what a model with them gives to text."""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from clinical_texts import corpus_of, news, section_of

from adapt.bases import Base, resolve, size
from adapt.corpus import Corpus
from adapt.embeddings.build import Lesson, make_adapted_base
from adapt.embeddings.frozen import batches
from adapt.embeddings.snippets import NOWHERE, aligned
from adapt.evaluation.likelihood import halves
from adapt.preparation import Preparation
from adapt.probe.measure import STEPS
from adapt.recipe import Recipe
from adapt.recipe.sources import ModelSection
from adapt.recipe.training import LoraSection, Phase, TrainingSection
from adapt.recipe.vocabulary import DistillSection, EmbeddingsSection, TokenizerSection
from adapt.training.batches import encode_documents, start_ids
from adapt.training.model import best_dtype, load_merged, load_model
from adapt.training.reading import never_written
from adapt.training.run import train
from adapt.vocab import Material, Vocabulary, adapt_vocabulary, load_tokenizer
from adapt.workspace import write_json

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
    record = folder.with_name(f"{folder.name}.json")
    if record.is_file():
        return Vocabulary.from_json(folder, json.loads(record.read_text(encoding="utf-8")))
    made = adapt_vocabulary(
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
    write_json(record, made.to_json())
    return made


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
