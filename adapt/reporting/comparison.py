"""Two models side by side: a table for the terminal, rows for CSV, a record for JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from adapt.evaluation.bootstrap import Interval
from adapt.evaluation.compare import FRAGMENTED, Comparison, Figure
from adapt.evaluation.result import ModelScores
from adapt.evaluation.seeds import Trainings
from adapt.evaluation.slices import on_slice
from adapt.evaluation.verdict import Verdict
from adapt.fertility import Fertility
from adapt.reporting.tasks import METRICS

Judged = tuple[str, Comparison, Verdict]  # name of the model, what it gained, and the sentence

_INTERVALS = ("interval", "other_interval", "difference")


def comparison_table(comparison: Comparison, name: str, title: str) -> Table:
    """Every shared figure of a model and the one it is compared with."""
    drawn = Table(title=escape(title), box=box.SIMPLE_HEAD, title_justify="left")
    drawn.add_column("same held-out text and rows", overflow="fold")
    for column in (comparison.against, name, "difference", "p"):
        drawn.add_column(escape(column), justify="right", overflow="fold")
    for figure in comparison.figures:
        arrow = "↑" if figure.better == "higher" else "↓"
        drawn.add_row(
            escape(f"{figure.name} {arrow}"),
            _cell(figure.other, figure.other_interval, f",.{figure.digits}f"),
            _cell(figure.value, figure.interval, f",.{figure.digits}f"),
            _cell(figure.difference.value, figure.difference, "+.3f") if figure.difference else "–",
            "–" if figure.p_value is None else probability(figure.p_value),
        )
    return drawn


def _cell(value: float, interval: Interval | None, form: str) -> str:
    if interval is None:
        return format(value, form)
    return f"{value:{form}} ({interval.low:{form}} to {interval.high:{form}})"


def probability(p_value: float) -> str:
    """A p-value as it is printed; the bootstrap's own limit is far below 0.001."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def explained(figures: Sequence[Figure]) -> str:
    """What stands in the columns, in a line."""
    tests = sorted({figure.test for figure in figures if figure.test})
    said = (
        "in brackets 95 % bootstrap intervals, of differences paired by document; another training "
        "seed is not in them (adapt compare --seeds)"
    )
    return f"{said}; p: two-sided, {' or '.join(tests)}" if tests else said


def explained_seeds(found: Trainings, runs: Sequence[str]) -> Iterator[str]:
    """What each training says of the figure that decides, and what stands in the columns."""
    for run, seed, one in zip(runs, found.seeds, found.each, strict=True):
        if figure := one.comparison.leading:
            values = f"adapted {figure.value:.3f}, control {figure.other:.3f}"
            yield f"seed {seed} ({run}): {values}, {figure.name}"
    yield (
        f"means over {len(runs)} trainings; in brackets the 95 % interval of the mean difference, "
        "p two-sided, both by Student's t; every training has its own split of the text"
    )


def to_json(reference: str, judged: Sequence[Judged]) -> dict[str, Any]:
    """All figures, notes and verdicts, for a file."""
    return {
        "reference": reference,
        "comparisons": [
            {"model": name, **asdict(comparison), "verdict": asdict(verdict)}
            for name, comparison, verdict in judged
        ],
    }


def to_csv(reference: str, judged: Sequence[Judged]) -> str:
    """A row a model and figure; intervals take two columns each, and what is not there is empty."""
    plain = [f.name for f in fields(Figure) if f.name not in _INTERVALS]
    ends = [f"{name}_{end}" for name in _INTERVALS for end in ("low", "high")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("model", "reference", "verdict", *plain, "difference", *ends))
    for name, comparison, verdict in judged:
        for figure in comparison.figures:
            intervals = [getattr(figure, one) for one in _INTERVALS]
            limits = [x for i in intervals for x in ((i.low, i.high) if i else (None, None))]
            change = figure.difference.value if figure.difference else None
            values = [getattr(figure, one) for one in plain]
            writer.writerow((name, reference, verdict.choice, *values, change, *limits))
    return out.getvalue()


def scores_table(scores: ModelScores, tokens: Fertility, title: str) -> Table:
    """One model by itself: every figure with its 95 % interval."""
    drawn = Table(title=escape(title), box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("held-out text and rows", "value", "95 % interval", "of"):
        drawn.add_column(column, justify="left" if column == "held-out text and rows" else "right")
    drawn.add_row(
        "tokens per word ↓", f"{tokens.tokens_per_word:.3f}", "", f"{tokens.words:,} words"
    )
    for name, found, of in (*_of_text(scores), *_of_tasks(scores)):
        cells = (f"{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}", of)
        drawn.add_row(escape(name), *cells)
    if scores.speed:
        name, speed = next(iter(scores.speed.rounds.items()))
        spread = f"{speed.low:,.0f} to {speed.high:,.0f}"
        drawn.add_row(f"{name} ↑", f"{speed.median:,.0f}", spread, f"{len(speed.values)} rounds")
    return drawn


def _of_text(scores: ModelScores) -> Iterator[tuple[str, Interval, str]]:
    """Name, figure, and what it is of."""
    for kind, one in (("domain", scores.domain), ("general", scores.general)):
        if one is None:
            continue
        documents = f"{len(one.bits):,} documents"
        yield f"{one.measure}, {kind} text ↓", one.interval, documents
        if (cut := on_slice(one, one.fragmented)) is not None:
            yield f"{one.measure}{FRAGMENTED} ↓", cut, f"{len(one.fragmented):,} documents"
        if one.new_token_share:
            yield f"probability on new tokens, {kind} text", one.new_token_share, documents
        if one.share_on_fragmented:
            documents = f"{len(one.fragmented):,} documents"
            yield f"probability on new tokens{FRAGMENTED}", one.share_on_fragmented, documents


def _of_tasks(scores: ModelScores) -> Iterator[tuple[str, Interval, str]]:
    for task, one in scores.tasks.items():
        whole = {next(iter(one.metrics)): one.main, **one.intervals}
        for after, rows, figures in (
            ("", one.rows, whole),
            (FRAGMENTED, len(one.fragmented), one.on_fragmented),
        ):
            for metric, found in figures.items():
                label, _, better, _ = METRICS.get(metric, (metric, 3, "", False))
                arrow = {"higher": " ↑", "lower": " ↓"}.get(better, "")
                yield f"{task}: {label}{after}{arrow}", found, f"{rows:,} rows"
