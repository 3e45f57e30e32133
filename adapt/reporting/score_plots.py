"""What the report draws of scores: intervals, rounds, confusions and calibration."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adapt.evaluation.compare import SPEED
from adapt.evaluation.result import Rounds, TaskScores
from adapt.reporting.drawing import Plot
from adapt.reporting.formats import printed
from adapt.reporting.specs import SAID, Spec, by_model, lines, measure, names, text
from adapt.reporting.summary import MODELS, Row, Summary

_ROW = 26  # units, of a plot with one row a model
_MATRIX = 420  # units, of all cells of a confusion matrix, where they are of a good size then
_SLANTED = {"labelAngle": -40, "labelAlign": "left"}
_SHADE = {
    "field": "share",
    "type": "quantitative",
    "scale": {"domain": [0, 1], "range": [0.08, 1]},
    "legend": None,
}
_LABELS = 20  # of a confusion matrix; the rarer ones are taken together


# -- ranges ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Range:
    """One row: a value with what lies around it."""

    model: str
    label: str
    value: float
    low: float
    high: float
    said: str


def intervals(row: Row) -> Plot | None:
    """A measure of the table with its intervals, a row a model; None where one has none."""
    found = [
        _Range(
            model,
            f"{model}  {value:.{row.digits}f}",
            value,
            *row.intervals[model],
            f"{model}: {value:.{row.digits}f}, 95 % interval "
            f"{row.intervals[model][0]:.{row.digits}f} to {row.intervals[model][1]:.{row.digits}f}",
        )
        for model, value in row.values.items()
        if value is not None and model in row.intervals
    ]
    if not found or len(found) < len(row.values) or not all(map(_finite, found)):
        return None
    return Plot(
        f"{_capital(row.measure)}, with 95 % intervals",
        f"{_capital(row.measure)}: {'; '.join(one.said for one in found)}",
        _ranges(found, []),
    )


def rounds(title: str, measured: Mapping[str, Rounds]) -> Plot | None:
    """A speed by model: the median, the range of rounds, and each of them; None without any."""
    found = [
        _Range(
            model,
            f"{model}  {one.median:,.0f}",
            one.median,
            one.low,
            one.high,
            f"{model}: median {one.median:,.0f}, rounds {one.low:,.0f} to {one.high:,.0f}",
        )
        for model, one in measured.items()
    ]
    if not found or not all(map(_finite, found)):
        return None
    each = [
        {"label": of.label, "model": of.model, "round": value}
        for of in found
        for value in measured[of.model].values
    ]
    return Plot(
        f"{_capital(title)}, each round",
        f"{_capital(title)}: {'; '.join(one.said for one in found)}",
        _ranges(found, each),
        ("model", "rounds"),
        tuple((m, ", ".join(f"{v:,.0f}" for v in one.values)) for m, one in measured.items()),
    )


def _finite(one: _Range) -> bool:
    return all(map(math.isfinite, (one.value, one.low, one.high)))


def _ranges(found: Sequence[_Range], each: list[Spec]) -> Spec:
    """Ranges as lines, with the value as a point on them and `each` as faint ones."""
    values = [vars(one) for one in found]
    axis = {"domain": False, "ticks": False, "labelColor": "var(--text)", "labelPadding": 10}
    x = measure("value", None, {"grid": True, "tickCount": 5}, zero=False)
    x["scale"] = {"zero": False, "padding": 10}
    colour = {**by_model([one.model for one in found]), "legend": None}
    faint: Spec = {
        "data": {"values": each},
        "mark": {"type": "point", "filled": True, "aria": False, "size": 40, "opacity": 0.35},
        "encoding": {"x": {**x, "field": "round"}, "color": colour},
    }
    return {
        "height": _ROW * len(found) + 34,
        "data": {"values": values},
        "encoding": {"y": names("label", [one.label for one in found], None, axis)},
        "layer": [
            {
                "mark": {"type": "rule", "aria": False, "strokeWidth": 2.5, "opacity": 0.55},
                "encoding": {
                    "x": {**x, "field": "low"},
                    "x2": {"field": "high"},
                    "color": colour,
                },
            },
            *([faint] if each else []),
            {
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
                "encoding": {"x": x, "color": colour, **SAID},
            },
        ],
    }


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def speeds(summary: Summary) -> list[Plot]:
    """Speeds of all models in turns; nothing where they were not measured."""
    k = {m: s for m in MODELS if m in summary.scores and (s := summary.scores[m].speed)}
    titles = (
        [title for title in next(iter(k.values())).rounds if title.endswith(SPEED)] if k else []
    )
    drawings = [rounds(title, {m: s.rounds[title] for m, s in k.items()}) for title in titles]
    return [plot for plot in drawings if plot]


# -- tasks ----------------------------------------------------------------------------------


def confusion(task: TaskScores, model: str) -> Plot | None:
    """Predictions by reference, the most frequent labels first; None where there are none."""
    labels, cells = _folded(task.confusion)
    if not cells:
        return None
    totals: Counter[str] = Counter()
    for (reference, _), rows in cells.items():
        totals[reference] += rows
    values = [
        {
            "reference": reference,
            "answer": answer,
            "rows": f"{rows:,}",
            "share": rows / totals[reference],
            "said": f"{reference}, {'recognised' if answer == reference else f'said {answer}'}: "
            f"{rows:,} of {totals[reference]:,} rows",
        }
        for (reference, answer), rows in cells.items()
    ]
    right = sum(rows for (reference, answer), rows in cells.items() if reference == answer)
    shown = {"ticks": False, "domain": False, "labelLimit": 200, "labelOverlap": False}
    side = min(max(_MATRIX // len(labels), 27), 56) * len(labels)
    return Plot(
        f"Confusion matrix, {model}: a row a reference, a column an answer",
        f"Confusion matrix, {model}: {len(labels)} labels by {len(labels)} answers, "
        f"{right:,} of {totals.total():,} rows on the diagonal",
        {
            "width": side,
            "height": side,
            "autosize": "pad",
            "config": {"view": {"stroke": None, "fill": "var(--panel)"}},
            "data": {"values": values},
            "encoding": {
                "x": names("answer", labels, None, {**shown, "orient": "top", **_SLANTED}),
                "y": names("reference", labels, None, shown),
            },
            "layer": [
                {
                    "mark": {"type": "rect", "fill": "var(--heat)"},
                    "encoding": {"fillOpacity": _SHADE, **SAID},
                },
                {
                    "mark": {"type": "text", "aria": False, "color": "var(--text)"},
                    "encoding": {"text": text("rows")},
                },
            ],
        },
        ("reference", *labels),
        tuple(
            (reference, *(f"{cells.get((reference, answer), 0):,}" for answer in labels))
            for reference in labels
        ),
        wide=True,
    )


def _folded(
    confusions: Sequence[tuple[str, str, int]],
) -> tuple[list[str], dict[tuple[str, str], int]]:
    """Labels as drawn, by the rows that have them, and the cells between them.

    Labels are made distinct: two that are drawn alike would be one row of the matrix.
    """
    rows: Counter[str] = Counter()
    for reference, answer, count in confusions:
        rows[reference] += count
        rows[answer] += 0
    ranked = [label for label, _ in rows.most_common()]
    kept = ranked if len(ranked) <= _LABELS + 1 else ranked[:_LABELS]
    drawn: dict[str, str] = {}
    for label in kept:
        name = printed(label)
        while name in drawn.values():
            name += "′"
        drawn[label] = name
    other = f"other ({len(ranked) - len(kept)} labels)"
    cells: Counter[tuple[str, str]] = Counter()
    for reference, answer, count in confusions:
        cells[drawn.get(reference, other), drawn.get(answer, other)] += count
    return [*drawn.values(), *([other] if len(kept) < len(ranked) else [])], +cells


def calibration(tasks: Mapping[str, TaskScores]) -> Plot | None:
    """Accuracy by confidence, a curve a model; None where it was not measured."""
    finite = {
        model: [b for b in task.calibration if math.isfinite(b.confidence + b.accuracy)]
        for model, task in tasks.items()
    }
    known = {model: bins for model, bins in finite.items() if bins}
    if not known:
        return None
    values: list[Spec] = [
        {
            "model": model,
            "x": one.confidence,
            "y": one.accuracy,
            "said": f"{model}: confidence {one.confidence:.2f}, accuracy {one.accuracy:.2f}, "
            f"{one.rows:,} rows",
        }
        for model, bins in known.items()
        for one in bins
    ]
    x = measure("x", "confidence", {"format": ".1f", "tickCount": 5})
    y = measure("y", "accuracy", {"format": ".1f", "tickCount": 5})
    x["scale"] = y["scale"] = {"domain": [0, 1]}
    spec = lines(values, x, y, known, 300)
    diagonal = {
        "data": {"values": [{"x": 0, "y": 0, "x2": 1, "y2": 1}]},
        "mark": {"type": "rule", "aria": False, "strokeDash": [1, 3]},
        "encoding": {
            "x2": {"field": "x2"},
            "y2": {"field": "y2"},
            "color": {"value": "var(--quiet)"},
        },
    }
    errors = [
        f"{model} {task.metrics['ece']:.3f}"
        for model, task in tasks.items()
        if model in known and "ece" in task.metrics
    ]
    error = f"; expected calibration error: {', '.join(errors)}" if errors else ""
    return Plot(
        "Calibration: accuracy by confidence",
        f"Accuracy by confidence of {', '.join(known)}{error}",
        {**spec, "layer": [diagonal, *spec["layer"]]},
        ("model", "confidence", "accuracy", "rows"),
        tuple(
            (model, f"{one.confidence:.3f}", f"{one.accuracy:.3f}", f"{one.rows:,}")
            for model, bins in known.items()
            for one in bins
        ),
    )
