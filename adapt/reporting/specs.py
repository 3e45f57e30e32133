"""Parts of Vega-Lite specs that the plots share.

Text of the data stands in values, titles and scales only, never in an expression or a field's name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from adapt.evaluation.result import SAME_TIME
from adapt.reporting.formats import shown

Spec = dict[str, Any]

LINE: Spec = {"type": "line", "aria": False, "strokeWidth": 2}
SAID: Spec = {"description": {"field": "said"}}  # of a mark that a reader may point at

_STROKE: Spec = {"symbolType": "stroke", "symbolSize": 220, "symbolStrokeWidth": 2}
# By what plots call models.
_COLOURS = {shown(m): f"var(--{m})" for m in ("base", "control", SAME_TIME, "adapted")}
_DASHES = {"base": [2, 3], "control": [6, 4], shown(SAME_TIME): [9, 3, 2, 3]}
_DOTS = 40  # points of a curve that are shown as dots; those of a longer one when pointed at


def measure(field: str, title: str | None, axis: Spec | None = None, *, zero: bool = True) -> Spec:
    """A number, along an axis that has 0 on it or fits what there is."""
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"zero": zero, "nice": True},
        **({"axis": axis} if axis else {}),
    }


def names(field: str, domain: Iterable[str], title: str | None, axis: Spec | None = None) -> Spec:
    """Names along an axis, in this order."""
    return {
        "field": field,
        "type": "nominal",
        "title": title,
        "axis": axis or {},
        "scale": {"domain": list(domain)},
        "sort": None,
    }


def text(field: str) -> Spec:
    """What a text mark writes."""
    return {"field": field, "type": "nominal"}


def by_model(models: Iterable[str], legend: Spec | None = None) -> Spec:
    """Colour by model, with a legend where there are several."""
    domain = list(models)
    return _legend(domain, [_COLOURS.get(m, "var(--text)") for m in domain], "model", legend or {})


def lines(values: Sequence[Spec], x: Spec, y: Spec, models: Iterable[str], height: int) -> Spec:
    """A line for each model and side, if rows have a `side`; points with `said` are marks."""
    domain = list(models)
    sides = list(dict.fromkeys(value["side"] for value in values if value.get("side")))
    if sides:
        legend = {**_STROKE, "symbolStrokeColor": "var(--quiet)"}
        dash = _legend(sides, [[1, 0], [2, 3]], "side", legend)
    else:
        dash = _legend(domain, [_DASHES.get(m, [1, 0]) for m in domain], "model", _STROKE)
    most = max(Counter((value["model"], value.get("side")) for value in values).values())
    return {
        "height": height,
        "data": {"values": list(values)},
        "encoding": {"x": x, "y": y, "color": by_model(domain, _STROKE)},
        "layer": [
            {"mark": LINE, "encoding": {"strokeDash": dash, "order": {"field": "x"}}},
            {
                "transform": [{"filter": "isValid(datum.said)"}],
                "mark": {
                    "type": "point",
                    "filled": True,
                    "size": 30,
                    "opacity": 1 if most <= _DOTS else 0,
                },
                "encoding": SAID,
            },
        ],
    }


def _legend(domain: list[str], range_: list[Any], field: str, legend: Spec) -> Spec:
    return {
        "field": field,
        "type": "nominal",
        "scale": {"domain": domain, "range": range_},
        "legend": legend if len(domain) > 1 else None,
    }
