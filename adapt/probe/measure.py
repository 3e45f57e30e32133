"""One short training, timed and scored.

It trains with the recipe's own method, batch and length, in a scratch folder that is gone
afterwards, and is scored on the validation side, never on the test side.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapt.bases import Base
from adapt.corpus import Corpus
from adapt.errors import DataError
from adapt.evaluation.likelihood import document_bits, halves
from adapt.evaluation.scores import sample
from adapt.probe.meter import Memory, held, scratch, step_clock, watched_memory
from adapt.probe.sizes import Shape, Subject, all_steps, data_of, shape_of
from adapt.recipe import Recipe
from adapt.recipe.training import Phase, TrainingSection
from adapt.training.batches import plain_encoding
from adapt.training.model import Loading, best_dtype, load_merged
from adapt.training.phases import PhaseData
from adapt.training.reading import never_written
from adapt.training.run import train

STEPS = 50  # optimizer steps of the base, where quality is asked for
TIMED = 10  # where only time and memory are

_WARM_UP = 2  # first steps, which allocate


@dataclass(frozen=True)
class Measured:
    """What a probe took, and what it reached.

    Attributes:
        name: Of the subject.
        phase: Of the recipe, whose settings it trained with.
        steps: Optimizer steps.
        documents: Documents that it saw.
        seconds_per_step: Median, first steps left out.
        seconds_per_slot: The same over a step's slots (see `Shape`).
        overhead_seconds: Of loading and saving: all that was no step.
        peak_bytes: Of memory in training: of the GPU where there is one, else resident.
        resting_bytes: Of that, what is held between steps: all but activations and logits.
        largest: Slots of its largest batch.
        bits_per_byte: Of validation text afterwards; None where it was not scored.
        seconds_per_token: Of reading that text; None with it.
        reading_bytes: Peak memory of reading, general text too; 0 where it was not scored.
    """

    name: str
    phase: str
    steps: int
    documents: int
    seconds_per_step: float
    seconds_per_slot: float
    overhead_seconds: float
    peak_bytes: int
    resting_bytes: int
    largest: int
    bits_per_byte: float | None = None
    seconds_per_token: float | None = None
    reading_bytes: int = 0

    @property
    def quality(self) -> float:
        """Bits per byte of what was scored."""
        if self.bits_per_byte is None:
            raise ValueError("nothing was scored")  # the caller's fault, not the user's
        return self.bits_per_byte

    def seconds_of(self, shape: Shape) -> float:
        """Time that a phase of this shape takes, by its slots, without loading and saving."""
        return shape.total * self.seconds_per_slot

    def memory_of(self, shapes: Sequence[Shape]) -> int:
        """Peak memory of phases; what is not held between steps grows with the largest batch."""
        grown = max([1.0, *(shape.largest / self.largest for shape in shapes)])
        return self.resting_bytes + round((self.peak_bytes - self.resting_bytes) * grown)


def measure_training(
    recipe: Recipe,
    corpus: Corpus,
    subject: Subject,
    folder: Path,
    *,
    phase: Phase | None = None,
    steps: int = TIMED,
    documents: int | None = None,
    texts: Sequence[str] = (),
    cache: Path | None = None,
) -> Measured:
    """Trains for some steps on the corpus's training side, in this process alone.

    Engines that need a launcher (DeepSpeed, FSDP) are left out.

    Args:
        recipe: Its method, and its first phase.
        corpus: Its training side is read.
        subject: What trains.
        folder: Scratch; emptied before, gone afterwards.
        phase: Instead of the recipe's first.
        steps: Optimizer steps; of a phase with fewer too.
        documents: As many instead of those that fill the steps, which then are as many as these
            take: for the text that another probe saw.
        texts: Scored afterwards, in bits per byte; none: nothing is scored.
        cache: Of encoded texts; see `phase_data`.

    Raises:
        TrainingError: Memory, disk, or a loss that is not a number.
    """
    cut = _cut(phase or recipe.training.phases[0], steps)
    section = recipe.training.model_copy(
        update={"phases": [cut], "deepspeed": None, "fsdp": False, "report_to": []}
    )
    data = data_of(recipe, section, cut, corpus, subject, 0, documents, cache)
    shape = shape_of(cut, data, all_steps(cut, data))
    loading = Loading.of(recipe.model)
    with scratch(folder), watched_memory() as memory:
        with step_clock(memory) as clock:
            started = time.perf_counter()
            train(
                section,
                corpus,
                recipe.evaluation.tasks,
                model_folder=subject.checkpoint,
                tokenizer=subject.tokenizer,
                tokenizer_folder=subject.tokenizer_folder,
                new_ids=subject.new_ids,
                base=Base(subject.checkpoint, str(subject.checkpoint), str(subject.checkpoint)),
                dtype=recipe.model.dtype,
                trust_remote_code=recipe.model.trust_remote_code,
                seed=recipe.seed,
                checkpoints=folder / "checkpoints",
                folder=folder / "trained",
                documents=[data.documents],
                completion_tokenizer=subject.writer if subject.new_ids else None,
                tokenized=cache,
                loading=loading,
            )
            total = time.perf_counter() - started
        measured = _timed(subject, cut, data, shape, clock, total, memory)
        if texts:
            gc.collect()
            general = _sample(recipe, corpus.general)
            measured = _scored(recipe, subject, folder / "trained", texts, general, measured)
    gc.collect()
    return measured


def _timed(
    subject: Subject,
    phase: Phase,
    data: PhaseData,
    shape: Shape,
    clock: Sequence[float],
    total: float,
    memory: Memory,
) -> Measured:
    """Figures of a training, from when its steps ended."""
    took = [later - earlier for earlier, later in zip(clock, clock[1:], strict=False)]
    pairs = list(zip(took, shape.slots[1:], strict=False))
    pairs = pairs[_WARM_UP - 1 :] or pairs or [(total, shape.slots[0])]
    step = statistics.median(seconds for seconds, _ in pairs)
    return Measured(
        subject.name,
        phase.name,
        shape.steps,
        data.documents,
        step,
        statistics.median(seconds / slots for seconds, slots in pairs),
        max(0.0, total - step * shape.steps),
        memory.peak,
        round(statistics.median(memory.between)) if memory.between else memory.peak,
        shape.largest,
    )


def _scored(
    recipe: Recipe,
    subject: Subject,
    trained: Path,
    texts: Sequence[str],
    general: Sequence[str],
    measured: Measured,
) -> Measured:
    """Adds what the trained model makes of texts.

    Evaluation reads general text too, whose documents may be longer: what reading needs besides
    the model is scaled to the largest batch of either, and they are not read.
    """
    section, trust = recipe.evaluation, recipe.model.trust_remote_code
    dtype = best_dtype(recipe.model.dtype)
    with watched_memory() as loading:
        model = load_merged(subject.checkpoint, trained, dtype, trust_remote_code=trust)
    if subject.writer is not None:
        never_written(model, subject.new_ids)
    gc.collect()
    resting = held()
    with watched_memory() as reading:
        started = time.perf_counter()
        bits = document_bits(
            model,
            subject.tokenizer,
            texts,
            max_length=section.max_length,
            batch_size=section.per_device_eval_batch_size,
            label=f"{subject.name}: validation text",
            writer=subject.writer,
        )
        seconds = time.perf_counter() - started
    scored = texts if subject.writer is None else [halves(text)[1] for text in texts]
    lengths = [tokens_read(subject.tokenizer, subject.writer, [text]) for text in texts]
    others = [tokens_read(subject.tokenizer, subject.writer, [text]) for text in general]
    batch = section.per_device_eval_batch_size, section.max_length
    grown = max(1.0, largest_read(others, *batch) / max(1, largest_read(lengths, *batch)))
    return replace(
        measured,
        bits_per_byte=float(bits.sum()) / max(1, sum(len(text.encode()) for text in scored)),
        seconds_per_token=seconds / max(1, sum(lengths)),
        reading_bytes=max(loading.peak, resting + round(max(0, reading.peak - resting) * grown)),
    )


def largest_read(lengths: Sequence[int], batch_size: int, max_length: int) -> int:
    """Slots of the first batch that reading makes of documents, the longest ones.

    Args:
        lengths: Tokens of each document.
        batch_size: Windows at once.
        max_length: Longest window; tokens. Longer documents give several, half of it apart.
    """
    windows = sum(1 + max(0, -(-(n - max_length) // (max_length // 2))) for n in lengths)
    return min(batch_size, windows) * min(max_length, max(lengths, default=0))


def tokens_read(tokenizer: Any, writer: Any, texts: Sequence[str]) -> int:  # noqa: ANN401
    """Tokens of texts; of second halves as the writer's, where units are only read."""
    if writer is None:
        return sum(len(plain_encoding(tokenizer, text).ids) for text in texts)
    pairs = [halves(text) for text in texts]
    return sum(
        len(plain_encoding(tokenizer, first).ids) + len(plain_encoding(writer, rest).ids)
        for first, rest in pairs
    )


def tokens_saved(base: Subject, adapted: Subject, texts: Sequence[str]) -> float:
    """Share of the tokens of texts that the adapted one does not need."""
    before, now = (tokens_read(one.tokenizer, one.writer, texts) for one in (base, adapted))
    return 1 - now / max(1, before)


def validation_text(recipe: Recipe, corpus: Corpus) -> list[str]:
    """What probes are scored on: as much as evaluation reads, from the validation side.

    Raises:
        DataError: There is none.
    """
    texts = _sample(recipe, lambda: corpus.documents("validation"))
    if not texts:
        raise DataError(
            "a probe is scored on the validation side, which holds nothing",
            where="corpus.validation_fraction",
            got=recipe.corpus.validation_fraction,
            fix="raise it",
        )
    return texts


def _sample(recipe: Recipe, texts: Callable[[], Iterable[str]]) -> list[str]:
    """As much as evaluation reads of a kind of text."""
    section = recipe.evaluation
    return sample(texts, section.max_documents, section.max_bytes, recipe.seed)


def text_phase(section: TrainingSection) -> Phase:
    """The first phase on running text, or the first one's settings on it."""
    found = next((phase for phase in section.phases if phase.objective == "clm"), None)
    change = {"objective": "clm", "tasks": None, "messages": None, "class_weights": None}
    return found or section.phases[0].model_copy(update=change)


def _cut(phase: Phase, steps: int) -> Phase:
    """The phase, ended after some steps, without a look at the validation side on the way."""
    change: dict[str, Any] = {
        "max_steps": steps,
        "save_steps": steps,
        "eval_steps": None,
        "early_stopping_patience": None,
        "load_best_model_at_end": False,
        "trains": "all",  # a warm-up of rows says nothing of the training that follows it
    }
    return phase.model_copy(update=change)
