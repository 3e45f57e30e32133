"""Vega-Lite specs drawn as SVG inside the page: no script, no request, colours of the page.

This is the one place that hands the page markup instead of text. Nothing that Vega wrote is passed
on as it is: the drawing is parsed, and only elements and attributes named here are written anew,
with every value escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup, escape

WIDTH = 400  # units, axes included; on a phone about one CSS pixel each

_ELEMENTS = {"svg", "g", "path", "line", "rect", "text"}
_ATTRIBUTES = (
    *("viewBox", "transform", "d", "x", "y", "x1", "x2", "y1", "y2", "width", "height"),
    *("fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "fill-opacity"),
    *("text-anchor", "font-size", "font-weight", "aria-label"),
)
# What Vega writes and a browser takes for granted, or draws nothing of.
_DEFAULTS = {
    **{"opacity": "1", "x1": "0", "y1": "0", "x2": "0", "y2": "0", "text-anchor": "start"},
    **{"transform": "translate(0,0)", "font-weight": "normal"},
}

# Vega places text by a font of its own, and that of the page may be wider: it lays out text this
# much larger than the page then shows it.
_ROOM = 1.2
_FONT = 12 * _ROOM  # units
_LONG = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")
_QUIET = {"labelColor": "var(--quiet)", "labelFontSize": _FONT, "aria": False}
_CONFIG = {
    "background": None,
    "view": {"stroke": None},
    "axis": {
        **_QUIET,
        "titleColor": "var(--quiet)",
        "titleFontSize": _FONT,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "tickSize": 4,
        "labelOverlap": True,
        "labelFlush": False,
    },
    "axisX": {"grid": False},
    "axisY": {"domain": False, "ticks": False, "tickCount": 5},
    "legend": {**_QUIET, "title": None, "orient": "top", "offset": 8, "labelLimit": 0},
    "text": {"fontSize": _FONT},
}


@dataclass(frozen=True)
class Plot:
    """What the page draws.

    Attributes:
        title: Above it.
        described: The same in words, for who cannot see it.
        spec: Vega-Lite; each mark that a reader may point at has a `description`.
        columns: Of its figures as a table; empty where the page has them in one anyway.
        rows: Of that table.
        wide: Whether it is drawn in its own size and scrolls where that has no room.
    """

    title: str
    described: str
    spec: dict[str, Any]
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    wide: bool = False


def drawn(plot: Plot) -> Markup:
    """A plot as an SVG element to stand in HTML, with its description and one for each mark."""
    return _drawn(json.dumps(plot.spec, allow_nan=False), plot.described, plot.wide)


@lru_cache(maxsize=128)
def _drawn(spec: str, described: str, wide: bool) -> Markup:
    """By Vega in this process; the first drawing takes a second, and others far less."""
    import vl_convert  # 80 MB that only a finished run needs

    own = json.loads(spec)
    framed = {
        "width": WIDTH,
        "autosize": {"type": "fit", "contains": "padding"},
        "padding": 4,
        **own,
        "config": {**_CONFIG, **own.get("config", {})},
    }
    root = ElementTree.fromstring(vl_convert.vegalite_to_svg(framed, allowed_base_urls=[]))
    root.set("aria-label", described)
    if not wide:  # as wide as the page has room for
        root.attrib.pop("width", None)
        root.attrib.pop("height", None)
    return Markup("".join(_written(root)))


def _written(element: ElementTree.Element) -> Iterator[str]:
    """An element with what it holds; nothing of one that is unknown, unseen or empty."""
    tag = element.tag.rpartition("}")[2]
    unseen = element.get("class") in ("background", "foreground") and "fill" not in element.attrib
    if tag not in _ELEMENTS or unseen:
        return
    inside = "".join(part for child in element for part in _written(child))
    if tag == "g" and not inside:
        return
    known = {name: element.get(name, "") for name in _ATTRIBUTES if name in element.attrib}
    if size := known.get("font-size"):
        known["font-size"] = f"{float(size.removesuffix('px')) / _ROOM:g}"
    for name in ("d", "transform"):
        if name in known:  # a hundredth of a unit is finer than any screen
            known[name] = _LONG.sub(lambda found: f"{float(found[0]):.2f}", known[name])
    kept = {name: value for name, value in known.items() if _DEFAULTS.get(name) != value}
    if "aria-label" in kept:
        kept["role"] = "group" if tag == "svg" else "img"
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in kept.items())
    if tag == "g" and not attributes:
        yield inside
    else:
        yield f"<{tag}{attributes}>{escape(element.text or '') if tag == 'text' else ''}{inside}"
        yield f"</{tag}>"
