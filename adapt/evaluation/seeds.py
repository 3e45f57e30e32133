"""Trainings of one recipe that differ by seed alone: what a change gains, training's luck included.

An interval over documents says how a model would do on other text, and nothing of what another
training would have made of it (Dror et al. 2019, Deep Dominance, P19-1266; Reimers and Gurevych
2017, Reporting Score Distributions Makes a Difference, D17-1035). Here the sample is the trainings:
each gives one difference between its adapted model and its control, and their mean has the interval
of Student's t with one degree of freedom less than there are trainings. A recipe's seed draws the
split of the text as well, so other documents are in it too; as all draw on one pile of text, their
differences are not quite independent, and the interval is somewhat too narrow (Nadeau and Bengio
2003, Inference for the Generalization Error, 10.1023/A:1024068626366).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from adapt.errors import DataError, WorkspaceError
from adapt.evaluation.bootstrap import Difference, Interval
from adapt.evaluation.compare import DOMAIN, GENERAL, Comparison, Figure
from adapt.evaluation.measured import Pair, open_measured, pair
from adapt.workspace import Workspace

CONTROL = "control"
TEST = "paired t over trainings"
_OWN = ("seed", "name", "output_dir", "publish")  # what trainings of one recipe may differ by


@dataclass(frozen=True)
class Trainings:
    """Several trainings of one recipe, the adapted model of each against its own control.

    Attributes:
        seeds: Of each, in the order of the runs.
        each: What each one says.
        together: Their means, with intervals and p-values of Student's t.
    """

    seeds: tuple[int, ...]
    each: tuple[Pair, ...]
    together: Pair


def over_seeds(runs: Sequence[str]) -> Trainings:
    """Compares the adapted model with its control over trainings that differ by seed.

    Args:
        runs: Folders of finished runs with a control.

    Raises:
        WorkspaceError: A folder is no finished run.
        DataError: A run has no control, another recipe than the first, or the seed of another; or
            there are fewer than two.
    """
    seeds = _seeds(runs)
    each = tuple(pair(open_measured(run), open_measured(f"{run}@{CONTROL}")) for run in runs)
    bases = [one.base for one in each if one.base]
    saved = [one.saved for one in each if one.saved is not None]
    together = Pair(
        means([one.comparison for one in each], CONTROL),
        means(bases, "base") if len(bases) == len(each) else None,
        float(np.mean(saved)) if len(saved) == len(each) else None,
    )
    return Trainings(seeds, each, together)


def means(comparisons: Sequence[Comparison], against: str) -> Comparison:
    """Every figure that all trainings have, as its mean over them.

    Args:
        comparisons: One a training, at least two.
        against: What all were compared with.
    """
    by_name = [{figure.name: figure for figure in one.figures} for one in comparisons]
    common = [
        f.name for f in comparisons[0].figures if all(f.name in figures for figures in by_name)
    ]
    missing = sorted({name for figures in by_name for name in figures} - set(common))
    found = tuple(_mean([figures[name] for figures in by_name]) for name in common)
    notes = dict.fromkeys(note for one in comparisons for note in one.notes)
    left_out = [f"{name}: not in every training, left out" for name in missing]
    domain, general = (_difference_of(found, kind) for kind in (DOMAIN, GENERAL))
    return Comparison(against, domain, general, found, (*notes, *left_out))


def mean_test(values: Sequence[float]) -> Difference:
    """The mean of a few independent values, its 95 % interval, and the p-value of no mean at all.

    Student's t with one degree of freedom less than there are values: two values are 12.7 standard
    errors wide to each side, three 4.3, five 2.8.

    Args:
        values: At least two.
    """
    # It takes longer to import than all the rest takes.
    from scipy.stats import t

    column = np.asarray(values, dtype=np.float64)
    mean, freedom = float(column.mean()), column.size - 1
    error = float(column.std(ddof=1)) / column.size**0.5
    width = float(t.ppf(0.975, freedom)) * error
    p_value = 2 * float(t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
    return Difference(Interval(mean, mean - width, mean + width), p_value)


def _mean(figures: Sequence[Figure]) -> Figure:
    """One figure of every training, as a figure of their mean."""
    first = figures[0]
    ours, theirs = ([getattr(f, side) for f in figures] for side in ("value", "other"))
    tested = None
    if all(figure.difference for figure in figures):
        tested = mean_test([a - b for a, b in zip(ours, theirs, strict=True)])
    return Figure(
        first.name,
        first.better,
        min(figure.rows for figure in figures),
        first.data if len({figure.data for figure in figures}) == 1 else "",
        float(np.mean(ours)),
        float(np.mean(theirs)),
        difference=tested.interval if tested else None,
        p_value=tested.p_value if tested else None,
        test=TEST if tested else "",
    )


def _difference_of(figures: Sequence[Figure], kind: str) -> Interval | None:
    return next((figure.difference for figure in figures if figure.name.endswith(kind)), None)


def _seeds(runs: Sequence[str]) -> tuple[int, ...]:
    """The seeds of runs of one recipe.

    Raises:
        DataError: Fewer than two, one seed twice, or recipes that differ in something else.
    """
    if len(runs) < 2:
        raise DataError(
            "one training has no spread", where="--seeds", got=f"{len(runs)} run", fix="give two"
        )
    first, *others = recipes = [_recipe(run) for run in runs]
    for run, recipe in zip(runs[1:], others, strict=True):
        _refuse_other_recipe(run, recipe, runs[0], first)
    by_seed: dict[int, str] = {}
    for run, recipe in zip(runs, recipes, strict=True):
        if recipe["seed"] in by_seed:
            raise DataError(
                f"has the seed of {by_seed[recipe['seed']]}",
                where=run,
                got=f"seed: {recipe['seed']}",
                fix="train it with another: adapt run RECIPE seed=1 output_dir=...",
            )
        by_seed[recipe["seed"]] = run
    return tuple(by_seed)


def _refuse_other_recipe(
    run: str, recipe: dict[str, Any], other: str, wanted: dict[str, Any]
) -> None:
    for key in sorted({*recipe, *wanted}):
        if key.split(".")[0] not in _OWN and recipe.get(key) != wanted.get(key):
            raise DataError(
                f"is of another recipe than {other}",
                where=run,
                got=f"{key}: {recipe.get(key)} instead of {wanted.get(key)}",
                fix="give runs whose recipes differ by seed alone",
            )


def _recipe(run: str) -> dict[str, Any]:
    """Every setting of a run by its dotted path."""
    path = Workspace(Path(run)).recipe
    try:
        found = dict(_settings(yaml.safe_load(path.read_text(encoding="utf-8"))))
        return {**found, "seed": int(found["seed"])}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise WorkspaceError(
            "is no finished run", where=run, fix="give folders that adapt run has finished"
        ) from None


def _settings(record: dict[str, Any] | list[Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths of what holds nothing else, items of lists by their number."""
    items = record.items() if isinstance(record, dict) else enumerate(record)
    for key, value in items:
        if isinstance(value, (dict, list)):
            yield from _settings(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
