"""`report.html`: one file for people, which opens offline.

All text of the data is hostile until escaped: autoescape is on, and nothing is marked safe but
plots (`adapt.reporting.drawing`). The page's own content security policy forbids any request and
any script but the one that stands in it, by its hash; without it everything is shown as well.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from adapt.evaluation.compare import FRAGMENTED
from adapt.evaluation.result import BITS
from adapt.fertility import RENYI_ALPHA, Fertility, SplitWord, saved
from adapt.reporting import plots, score_plots
from adapt.reporting.comparison import probability
from adapt.reporting.cost import costs, same_time
from adapt.reporting.drawing import Plot, drawn
from adapt.reporting.formats import CONTROL, duration, number, share, shown, size
from adapt.reporting.formats import visible as visible
from adapt.reporting.pages import LOOKS, pages
from adapt.reporting.summary import (
    MODELS,
    Row,
    Summary,
    by_task,
    edge_rows,
    speed_rows,
    table,
    task_rows,
)
from adapt.reporting.tasks import defeats, forgotten, ranking
from adapt.training.result import PhaseResult
from adapt.vocab.budget import Point, cheapest, chosen
from adapt.workspace import write_text

# Tabs of the page, by the part that each shows.
_PARTS = {
    **{"scores": "Scores", "tokenization": "Tokenization", "vocabulary": "Vocabulary"},
    **{"training": "Training", "tasks": "Tasks", "speed": "Speed and cost"},
    **{"corpus": "Data", "run": "Run"},
}
_FOREST = ("bits per byte, domain text", "bits per byte, general text")  # under the verdict
_EXAMPLES = 10  # of each task, where the worst and the best are not known
_CONFUSIONS = 15  # of each classification task
_WORDS = 15  # of each list of split words
_NEW_TOKENS = 60
_REPLACED = 50


def write_report(summary: Summary, path: Path) -> None:
    """Writes the report of a run, whole or not at all.

    Args:
        summary: Of a run whose stages are done.
        path: The file; one that is there is replaced.
    """
    write_text(path, render(summary))


def render(summary: Summary) -> str:
    """The report as HTML."""
    environment = _environment()
    script = environment.get_template("report.js").render().encode()
    models = [name for name in MODELS if name in summary.scores]
    before, after = summary.fertility.domain[0], summary.fertility.domain[-1]
    rows, curve = table(summary), summary.vocabulary.curve
    page = environment.get_template("report.html.jinja").render(
        summary=summary,
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}",
        parts=_parts(summary),
        models=models,
        look=LOOKS.get(summary.verdict.choice, ("same", "?")),
        rows=rows,
        edge_rows=edge_rows(summary),
        speed_rows=speed_rows(summary),
        fragmented=any(row.measure.endswith(FRAGMENTED) for row in rows),
        edges=[(name, edge) for name in models if (edge := summary.scores[name].edge)],
        best=_best,
        saved=saved,
        tokenization_lines=_tokenization_lines,
        segmentations=_segmentations(before, after),
        split_now=after.most_split_words[:_WORDS],
        new_tokens=summary.vocabulary.delta.added[:_NEW_TOKENS],
        phases=_phases(summary),
        costs=costs(summary),
        same_time=same_time(summary),
        masked=any(one.domain and one.domain.measure != BITS for one in summary.scores.values()),
        chosen=_chosen(summary),
        cheapest=cheapest(curve) if curve else None,
        replaced=summary.vocabulary.replaced[:_REPLACED],
        tasks=[
            (name, task_rows(summary, name), _examples(summary, name))
            for name in summary.scores["adapted"].tasks
        ],
        ranking=lambda task: ranking(summary.scores, task),
        defeats=defeats(summary.scores),
        forgotten=forgotten(summary.scores),
        confusions=lambda task: [
            cell for cell in summary.scores["adapted"].tasks[task].confusion if cell[0] != cell[1]
        ][:_CONFUSIONS],
        found=[one for one in summary.audit.findings if one.count] if summary.audit else [],
        sought=[one for one in summary.audit.findings if not one.count] if summary.audit else [],
        **_drawings(summary),
    )
    return page.translate(CONTROL)


@cache
def _environment() -> Environment:
    environment = pages()
    environment.filters |= {
        "number": number,
        "signed": lambda value, digits: number(value, digits, "+"),
        "share": share,
        "shown": shown,
        "size": size,
        "duration": duration,
        "visible": visible,
        "probability": probability,
        "drawn": drawn,
    }
    return environment


def _parts(summary: Summary) -> dict[str, str]:
    """Parts of the page that have something in them, by id, with the names of their tabs."""
    detailed = any(c.domain or c.figures for c in summary.comparisons.values())
    shown = {
        "scores": detailed or any(one.edge for one in summary.scores.values()),
        "tasks": bool(summary.scores["adapted"].tasks),
    }
    return {id_: name for id_, name in _PARTS.items() if shown.get(id_, True)}


def _drawings(summary: Summary) -> dict[str, Any]:
    """Every plot, by the names that the templates have for them."""

    def of_phases(draw: Callable[[dict[str, PhaseResult]], Plot | None]) -> list[Plot]:
        named = [{shown(m): did for m, did in phase.items()} for phase in _phases(summary)]
        return [plot for phase in named if (plot := draw(phase))]

    def of_fertility(before: Fertility, after: Fertility) -> list[Plot]:
        both = plots.word_tokens(before, after), plots.documents(before, after)
        return [plot for plot in both if plot]

    def of_task(name: str) -> dict[str, list[Plot]]:
        tasks = {shown(m): task for m, task in by_task(summary, name).items()}
        confusions = {m: score_plots.confusion(task, m) for m, task in tasks.items()}
        found = {**confusions, "calibration": score_plots.calibration(tasks)}
        return {name: [plot] for name, plot in found.items() if plot}

    likelihoods = [row for row in table(summary) if row.measure.endswith(_FOREST)]
    return {
        "forest": [plot for row in likelihoods if (plot := score_plots.intervals(_named(row)))],
        "savings": plots.savings(summary.vocabulary.curve, _chosen(summary)),
        "bits_plots": of_phases(plots.bits_per_byte),
        "loss_plots": of_phases(plots.losses),
        "speed_plots": score_plots.speeds(summary),
        "fertility_plots": of_fertility,
        "task_plots": of_task,
    }


def _named(row: Row) -> Row:
    """With models as plots call them."""
    values = {shown(m): value for m, value in row.values.items()}
    return replace(row, values=values, intervals={shown(m): i for m, i in row.intervals.items()})


# -- tables ---------------------------------------------------------------------------------


def _best(row: Row) -> float | None:
    """The best value of a row; None where no model has one, or where none is better."""
    if not row.better:
        return None
    known = [value for value in row.values.values() if value is not None]
    return (max if row.better == "higher" else min)(known) if known else None


@dataclass(frozen=True)
class _Example:
    """One row of a task, with each model's answer."""

    prompt: str
    reference: str
    answers: dict[str, str]


def _examples(summary: Summary, task: str) -> dict[str, list[_Example]]:
    """Rows of a task side by side, by what they are: the adapted model's worst and its best.

    All models answered the same rows in the same order.
    """
    by_model = {shown(m): scored for m, scored in by_task(summary, task).items()}
    adapted = by_model["adapted"]
    if not adapted.example_rows or not all(one.answers for one in by_model.values()):
        rows = list(zip(*(one.examples for one in by_model.values()), strict=True))[:_EXAMPLES]
        first = [
            _Example(row[0][0], row[0][1], {m: e[2] for m, e in zip(by_model, row, strict=True)})
            for row in rows
        ]
        return {"": first} if first else {}
    chosen = [
        _Example(prompt, reference, {m: one.answers[row] for m, one in by_model.items()})
        for (prompt, reference, _), row in zip(adapted.examples, adapted.example_rows, strict=True)
    ]
    halves = {"worst": chosen[: adapted.worst], "best": chosen[adapted.worst :]}
    return {name: half for name, half in halves.items() if half}


def _chosen(summary: Summary) -> Point | None:
    """Where the run's vocabulary stands on the curve of sizes."""
    curve = summary.vocabulary.curve
    return chosen(curve, len(summary.vocabulary.delta.added)) if curve else None


def _segmentations(before: Fertility, after: Fertility) -> list[tuple[SplitWord, list[SplitWord]]]:
    """The words that cost most before, with every way that `after` lists them as split."""
    now: dict[str, list[SplitWord]] = {}
    for word in after.most_split_words:
        now.setdefault(word.word, []).append(word)
    return [(word, now.get(word.word, [])) for word in before.most_split_words[:_WORDS]]


def _phases(summary: Summary) -> list[dict[str, PhaseResult]]:
    """Each phase by model; all models go through the same ones."""
    trained = {name: summary.trained[name].phases for name in MODELS if name in summary.trained}
    return [dict(zip(trained, phase, strict=True)) for phase in zip(*trained.values(), strict=True)]


@dataclass(frozen=True)
class _Line:
    """One measure of tokenization; `better` is empty where neither more nor less is."""

    measure: str
    better: str
    before: str
    after: str


def _tokenization_lines(before: Fertility, after: Fertility) -> list[_Line]:
    """Every measure of tokenization that either has."""

    def digits(count: int) -> Callable[[float | None], str]:
        return lambda value: number(value, count)

    measures: list[tuple[str, str, str, Callable[[float | None], str]]] = [
        ("tokens", "lower", "tokens", digits(0)),
        ("length, the base's being 1", "lower", "normalized_sequence_length", digits(3)),
        ("tokens per word", "lower", "tokens_per_word", digits(3)),
        ("bytes per token", "higher", "bytes_per_token", digits(3)),
        ("tokens per character", "lower", "tokens_per_character", digits(3)),
        (f"words in {before.context or 0:,} tokens", "higher", "words_in_context", digits(0)),
        ("words of two tokens or more", "lower", "continued_word_share", share),
        ("terms that are one token", "higher", "single_token_term_share", share),
        ("unknown tokens", "lower", "unknown_rate", share),
        ("vocabulary", "", "vocabulary", digits(0)),
        ("different tokens used", "", "vocabulary_used", digits(0)),
        ("share of the vocabulary used", "", "vocabulary_used_share", share),
        (f"Rényi efficiency, α = {RENYI_ALPHA}", "higher", "renyi_efficiency", digits(3)),
    ]
    lines = []
    for measure, better, field, form in measures:
        values = getattr(before, field), getattr(after, field)
        if values != (None, None):
            lines.append(_Line(measure, better, *map(form, values)))
    return lines
