"""What a run will take and whether its vocabulary pays, from short trainings (`check --probe`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from adapt import bases
from adapt.corpus import Corpus
from adapt.estimate import evaluation_tokens
from adapt.preparation import Preparation
from adapt.probe.benefit import WORTH, NetBenefit
from adapt.probe.measure import (
    STEPS,
    TIMED,
    Measured,
    measure_training,
    text_phase,
    tokens_saved,
    validation_text,
)
from adapt.probe.sizes import Shape, Subject, data_of, shape_of
from adapt.probe.units import LOSS
from adapt.recipe import Recipe
from adapt.workspace import write_json

FILE = "probe.json"  # in the run's reports


@dataclass(frozen=True)
class Line:
    """A part of a run.

    Attributes:
        part: What is done.
        seconds: What it takes.
        how: How that is known.
    """

    part: str
    seconds: float
    how: str


@dataclass(frozen=True)
class Forecast:
    """What a run will take on this machine, in one process.

    Attributes:
        lines: Parts of the run, in order.
        memory_bytes: Peak, of training and of reading text.
        measured: The probes.
        benefit: Of the vocabulary; None where there is none, or no text is written.
        sentence: What to do about the vocabulary, or why there is none; else empty.
    """

    lines: tuple[Line, ...]
    memory_bytes: int
    measured: tuple[Measured, ...]
    benefit: NetBenefit | None
    sentence: str

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return sum(line.seconds for line in self.lines)

    def to_json(self) -> dict[str, Any]:
        """For `reports/probe.json`."""
        record = asdict(self)
        benefit = self.benefit.to_json() if self.benefit else None
        return {**record, "seconds": self.seconds, "benefit": benefit}


def forecast(recipe: Recipe, *, steps: int | None = None) -> Forecast:
    """Runs the stages before training, probes, and writes `reports/probe.json`.

    The stages are the run's own: `adapt run` finds them done. Where there are new units, the base
    trains for 50 steps and the adapted base on the same documents, and both are scored; else the
    base trains for ten steps.

    Args:
        recipe: Checked.
        steps: Instead of 50 or ten.

    Raises:
        AdaptError: A stage or a probe failed.
    """
    prepared = Preparation(recipe)
    with prepared.alone():
        found = _forecast(prepared, steps)
        write_json(prepared.workspace.reports / FILE, found.to_json())
    return found


def _forecast(prepared: Preparation, steps: int | None) -> Forecast:
    """See `forecast`."""
    recipe = prepared.recipe
    prepared.build_tokenizer()
    adapted, corpus = prepared.adapted_base(), prepared.corpus()
    base = prepared.base()
    before = prepared.subject("base", base.folder)
    after = prepared.subject("adapted", adapted.folder)
    benefit, cache = None, prepared.workspace.tokenized
    probe = partial(
        measure_training, recipe, corpus, folder=prepared.workspace.root / ".probe", cache=cache
    )
    if adapted.tensors and bases.writes_text(base.folder):
        texts, phase = validation_text(recipe, corpus), text_phase(recipe.training)
        scored = partial(probe, phase=phase, steps=steps or STEPS, texts=texts)
        one = scored(before)
        other = scored(after, documents=one.documents)
        measured = [one, other]
        saved = tokens_saved(before, after, texts)
        benefit = NetBenefit.of(adapted, saved, one.quality, other.quality)
    else:
        measured = [probe(after, steps=steps or TIMED)]
    shapes = _shapes(recipe, corpus, after, before, cache)
    lines = _training_lines(recipe, measured, shapes)
    return Forecast(
        (
            Line(
                "corpus, vocabulary and rows",
                sum(prepared.stages.seconds.values()),
                "done, and kept",
            ),
            *lines,
            *_same_time(recipe, lines),
            _evaluation_line(recipe, measured),
        ),
        _memory(measured, shapes),
        tuple(measured),
        benefit,
        _sentence(recipe, adapted.added, benefit) if benefit else _kept(prepared),
    )


def _shapes(
    recipe: Recipe, corpus: Corpus, adapted: Subject, base: Subject, cache: Path
) -> dict[str, list[Shape]]:
    """The phases of each training: the control's read the documents of the adapted model's."""
    shapes: dict[str, list[Shape]] = {"adapted": []}
    if recipe.evaluation.control:
        shapes["control"] = []
    for number, phase in enumerate(recipe.training.phases):
        documents = None
        for name in shapes:
            subject = adapted if name == "adapted" else base
            data = data_of(
                recipe, recipe.training, phase, corpus, subject, number, documents, cache
            )
            shapes[name].append(shape_of(phase, data))
            documents = data.documents
    return shapes


def _of(name: str, measured: Sequence[Measured]) -> Measured:
    """The probe that speaks for a training; the control is the base's."""
    wanted = "adapted" if name == "adapted" else "base"
    return next((one for one in measured if one.name == wanted), measured[-1])


def _training_lines(
    recipe: Recipe, measured: Sequence[Measured], shapes: dict[str, list[Shape]]
) -> list[Line]:
    """Phases by the slots of their steps, and what each training takes besides."""
    lines = []
    for name, each in shapes.items():
        probe = _of(name, measured)
        for phase, shape in zip(recipe.training.phases, each, strict=True):
            how = f"{probe.steps} steps measured"
            if phase.name != probe.phase:
                how = f"{probe.phase}'s, by tokens a step"
            lines.append(Line(f"{name}: {phase.name}", probe.seconds_of(shape), how))
        lines.append(Line(f"{name}: loading and saving", probe.overhead_seconds, "as in the probe"))
    return lines


def _same_time(recipe: Recipe, lines: Sequence[Line]) -> list[Line]:
    """The control that trains for as long as the adapted model, with what that takes besides."""
    if not recipe.evaluation.times_control:
        return []
    seconds = sum(line.seconds for line in lines if line.part.startswith("adapted: "))
    return [Line("control-time: training", seconds, "as long as the adapted model")]


def _evaluation_line(recipe: Recipe, measured: Sequence[Measured]) -> Line:
    """Evaluation reads about as many tokens as `adapt check` reckons with.

    Where no text was read, a token takes half of what it does in training: forwards, and not
    backwards through frozen weights as well.
    """
    read = [one.seconds_per_token for one in measured if one.seconds_per_token is not None]
    how = "tokens by the recipe, at the speed of reading"
    if not read:
        how = "tokens by the recipe, at twice the speed of training"
    each = sum(read) / len(read) if read else measured[-1].seconds_per_slot / 2
    return Line("evaluation", evaluation_tokens(recipe) * each, how)


def _memory(measured: Sequence[Measured], shapes: dict[str, list[Shape]]) -> int:
    """The largest of all parts; phases with larger batches than the probe's are scaled."""
    training = [_of(name, measured).memory_of(each) for name, each in shapes.items()]
    return max(*training, *(one.reading_bytes for one in measured))


def _kept(prepared: Preparation) -> str:
    """Why there are no units, where they were looked for."""
    units = prepared.units()
    return units.note if units else ""


def _sentence(recipe: Recipe, units: int, benefit: NetBenefit) -> str:
    """What the probe says of the vocabulary."""
    chose = f"{units:,} new units"
    if isinstance(recipe.tokenizer.new_tokens, str):
        chose = f"{recipe.tokenizer.new_tokens} chose {units:,} units"
    if not benefit.worth_it:
        result = f"not worth it (below {WORTH:.0%}), keep the tokenizer (tokenizer.mode=keep)"
    elif benefit.quality_loss > LOSS:
        result = (
            f"worth it by cost, not by quality: bits per byte rise by {benefit.quality_loss:.1%}; "
            f"tokenizer.new_tokens=auto looks for a number that keeps them within {LOSS:.0%}"
        )
    else:
        result = "worth it"
    return f"{chose}; net benefit {benefit.net:+.1%}: {result}"
