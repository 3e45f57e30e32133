"""What a run decides by short trainings, before it trains: how many units, and tied or untied."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from adapt.bases import Base
from adapt.corpus import Corpus
from adapt.embeddings.result import AdaptedBase
from adapt.errors import RecipeError
from adapt.recipe import Recipe
from adapt.vocab import Vocabulary
from adapt.workspace import Workspace

if TYPE_CHECKING:
    from adapt.probe.measure import Measured
    from adapt.probe.sizes import Subject
    from adapt.probe.units import Units


Asked = tuple[int | str, bool]  # how many units, and whether they may cross spaces


class Prepared(Protocol):
    """What trials ask of `adapt.preparation.Preparation`."""

    recipe: Recipe
    workspace: Workspace

    def base(self) -> Base:
        """The base, on disk."""

    def corpus(self) -> Corpus:
        """Domain text."""

    def vocabulary(self) -> Vocabulary:
        """The adapted tokenizer."""

    def adapted_base(self) -> AdaptedBase:
        """The base with rows for the new tokens."""

    def subject(self, name: Literal["base", "adapted"], checkpoint: Path) -> Subject:
        """A checkpoint to probe."""


def find_units(run: Prepared, candidate: Callable[[Asked, Path], Prepared]) -> Units:
    """`tokenizer.new_tokens: auto`: tries sizes, and keeps tokenizer and rows of the chosen one.

    Units across spaces come first, where the recipe allows them, and units inside words where no
    number of those pays. A search that was ended goes on with the candidates whose rows are there.

    Args:
        run: Whose recipe asks.
        candidate: The same recipe with other units, in a folder of its own.

    Raises:
        RecipeError: Several processes.
    """
    from adapt.probe.benefit import NetBenefit
    from adapt.probe.measure import STEPS, tokens_saved, validation_text
    from adapt.probe.units import Tried, Units, search, sizes

    _alone("tokenizer.new_tokens", "`adapt tokenizer build RECIPE`, or set a number")
    texts, work = validation_text(run.recipe, run.corpus()), run.workspace.root / ".units"
    base: list[Measured] = []

    def benefit(size: int, *, multiword: bool) -> NetBenefit:
        one = candidate((size, multiword), work)
        adapted, before = one.adapted_base(), one.subject("base", one.base().folder)
        after = one.subject("adapted", adapted.folder)
        base[:] = base or [probe(run, before, texts)]
        quality = probe(run, after, texts, base[0].documents).quality
        saved = tokens_saved(before, after, texts)
        return NetBenefit.of(adapted, saved, base[0].quality, quality)

    found = Units((), (), STEPS)
    for multiword in (True, False) if run.recipe.tokenizer.multiword else (False,):
        curve = candidate(("curve", multiword), work).vocabulary().curve
        if found.best or curve == found.curve:  # this base has no units across spaces
            break
        tried = search(sizes(curve), partial(benefit, multiword=multiword))
        more = (Tried(size, brings, multiword) for size, brings in tried.items())
        found = Units((*found.tried, *more), curve, STEPS)
    if found.best:
        one = candidate((found.best.new_tokens, found.best.multiword), work).workspace
        run.workspace.take(one, "vocab", one.tokenizer)
        run.workspace.take(one, "embeddings", one.adapted_base)
    shutil.rmtree(work)
    return found


def tied_or_not(run: Prepared, make: Callable[[bool, Path], AdaptedBase]) -> AdaptedBase:
    """`embeddings.untie: auto`: both are made, and a probe decides.

    Args:
        run: Whose recipe asks.
        make: Writes the adapted base, untied or not, into a folder.

    Raises:
        RecipeError: Several processes.
    """
    _alone("embeddings.untie", "`adapt check RECIPE --probe`, or set true or false")
    from adapt.probe.measure import STEPS, validation_text
    from adapt.probe.untying import tied_or_untied

    texts = validation_text(run.recipe, run.corpus())

    def bits_per_byte(adapted: AdaptedBase) -> float:
        return probe(run, run.subject("adapted", adapted.folder), texts).quality

    target, work = run.workspace.adapted_base, run.workspace.root / ".untie"
    return tied_or_untied(make, bits_per_byte, target, work, steps=STEPS)


def probe(
    run: Prepared, subject: Subject, texts: Sequence[str], documents: int | None = None
) -> Measured:
    """A short training on running text, with the recipe's settings.

    Args:
        run: Whose recipe and text it is.
        subject: What trains.
        texts: Scored afterwards.
        documents: That another probe saw; None: as many as fill the steps.
    """
    from adapt.probe.measure import STEPS, measure_training, text_phase

    return measure_training(
        run.recipe,
        run.corpus(),
        subject,
        run.workspace.root / ".probe",
        phase=text_phase(run.recipe.training),
        steps=STEPS,
        documents=documents,
        texts=texts,
        cache=run.workspace.tokenized,
    )


def _alone(where: str, first: str) -> None:
    """Refuses several processes, which cannot share a short training out.

    Raises:
        RecipeError: There are several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError(
            "is decided by short trainings, which several processes cannot share out",
            where=where,
            got="auto",
            fix=f"decide first, by {first}",
        )
