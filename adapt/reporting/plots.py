"""What the report draws of tokenization and training: results as plots with their words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from adapt.fertility import Fertility
from adapt.reporting.drawing import Plot
from adapt.reporting.formats import share
from adapt.reporting.specs import LINE, SAID, Spec, by_model, lines, measure, names, text
from adapt.training.result import PhaseResult
from adapt.vocab.budget import Point

Curve = Sequence[tuple[int, float]]

_HEIGHT = 230
_MARKS = 120  # points of a curve that say what they are
_BENDS = 1000  # points of a curve
_LISTED = 40  # points of a curve in a table
_OCTAVE = 125  # units; the curve of savings is linear below about so many, and logarithmic above


# -- tokenization ---------------------------------------------------------------------------


def word_tokens(before: Fertility, after: Fertility) -> Plot | None:
    """Shares of words by the tokens that each takes, before and after; None where not known."""
    counts = {"base": before.word_tokens, "adapted": after.word_tokens}
    if not all(map(sum, counts.values())) or len(set(map(len, counts.values()))) > 1:
        return None
    length = len(before.word_tokens)
    tokens = [*map(str, range(1, length)), f"{length} or more"]
    shares = {model: [n / sum(each) for n in each] for model, each in counts.items()}
    values = [
        {
            "tokens": name.replace(" or more", "+"),
            "model": model,
            "share": shares[model][n],
            "said": f"{model}: {name} {'token' if n == 0 else 'tokens'}, "
            f"{share(shares[model][n])} of words ({counts[model][n]:,})",
        }
        for n, name in enumerate(tokens)
        for model in counts
    ]
    axis = list(dict.fromkeys(str(value["tokens"]) for value in values))
    return Plot(
        "Words by the tokens that they take",
        f"Words that are one token: {share(shares['base'][0])} with the base's tokenizer, "
        f"{share(shares['adapted'][0])} with the adapted one",
        {
            "height": _HEIGHT,
            "data": {"values": values},
            "mark": {"type": "bar", "cornerRadiusEnd": 1.5},
            "encoding": {
                "x": names("tokens", axis, "tokens of a word", {"labelAngle": 0}),
                "xOffset": {"field": "model", "scale": {"domain": list(counts)}},
                "y": measure("share", "share of words", {"format": "%"}),
                "color": by_model(counts),
                **SAID,
            },
        },
        ("tokens", *counts),
        tuple((name, *(share(shares[m][n]) for m in counts)) for n, name in enumerate(tokens)),
    )


def documents(before: Fertility, after: Fertility) -> Plot | None:
    """Tokens per word of documents as a cumulative curve; None where not known."""
    counts = {"base": before.document_quantiles, "adapted": after.document_quantiles}
    length = min(map(len, counts.values()))
    if length < 2 or len(before.document_quantiles) != len(after.document_quantiles):
        return None
    parts = [n / (length - 1) for n in range(length)]
    values = [
        {"model": m, "x": x, "y": y, "said": f"{m}: {y:.0%} of documents take up to {x:.2f}"}
        for m, quantiles in counts.items()
        for x, y in zip(quantiles, parts, strict=True)
    ]
    half = {model: f"{quantiles[length // 2]:.2f}" for model, quantiles in counts.items()}
    return Plot(
        "Documents that take up to so many tokens per word",
        f"Half of the documents take up to {half['base']} tokens per word with the base's "
        f"tokenizer, up to {half['adapted']} with the adapted one",
        lines(
            values,
            measure("x", "tokens per word of a document", zero=False),
            measure("y", "share of documents", {"format": "%"}),
            counts,
            _HEIGHT,
        ),
        ("documents", *counts),
        tuple((f"{y:.0%}", *(f"{counts[m][n]:.3f}" for m in counts)) for n, y in enumerate(parts)),
    )


def savings(curve: Sequence[Point], best: Point | None) -> Plot | None:
    """Tokens saved by units added, and the size that was taken; None for fewer than two sizes."""
    if len(curve) < 2 or best is None:
        return None
    last = curve[-1]
    most = max(point.new_tokens for point in curve)
    chosen = {
        "x": best.new_tokens,
        "y": best.saved,
        "low": min(0.0, *(point.saved for point in curve)),
        "label": f"{best.new_tokens:,} units",
        "said": f"chosen: {best.new_tokens:,} units, which save {share(best.saved)}",
    }
    values = [
        {"x": p.new_tokens, "y": p.saved, "said": f"{p.new_tokens:,} units save {share(p.saved)}"}
        for p in curve
    ]
    blue = {"color": "var(--adapted)"}
    log = {"type": "symlog", "constant": _OCTAVE, "nice": False}
    axis = {"values": _sizes(most), "format": ",d"}
    return Plot(
        "Tokens saved on validation text, by units added",
        f"Tokens saved by units added: {last.saved:.1%} with {last.new_tokens:,} units; "
        f"chosen {best.new_tokens:,} units, which save {best.saved:.1%}",
        {
            "height": _HEIGHT,
            "data": {"values": values},
            "encoding": {
                "x": {**measure("x", "units added", axis), "scale": log},
                "y": measure("y", "tokens saved", {"format": "%"}),
            },
            "layer": [
                {"mark": {**LINE, **blue}},
                {
                    "mark": {"type": "point", "filled": True, "size": 26, "opacity": 1, **blue},
                    "encoding": SAID,
                },
                *_pointed_out(chosen, left=math.log1p(best.new_tokens / _OCTAVE) * 2 > _log(most)),
            ],
        },
    )


def _log(units: int) -> float:
    return math.log1p(units / _OCTAVE)


def _pointed_out(chosen: Spec, *, left: bool) -> list[Spec]:
    """A ring about one point, a line down from it, and its label to one side."""
    data = {"values": [chosen]}
    ring = {"type": "point", "filled": True, "size": 90, "strokeWidth": 2.5, "opacity": 1}
    label = {"type": "text", "aria": False, "color": "var(--text)", "fontWeight": 600, "dy": -9}
    beside = {"align": "right", "dx": -8} if left else {"align": "left", "dx": 8}
    return [
        {
            "data": data,
            "mark": {
                "type": "rule",
                "aria": False,
                "strokeDash": [2, 4],
                "color": "var(--adapted)",
            },
            "encoding": {"y2": {"field": "low"}},
        },
        {
            "data": data,
            "mark": {**ring, "fill": "var(--ground)", "stroke": "var(--adapted)"},
            "encoding": SAID,
        },
        {
            "data": data,
            "mark": {**label, **beside},
            "encoding": {"y": {"field": "low", "type": "quantitative"}, "text": text("label")},
        },
    ]


def _sizes(most: int) -> list[int]:
    """Ticks: nothing, the largest size, and every second octave up to half of it."""
    return [0, *(size for n in range(20) if 2 * (size := _OCTAVE * 4**n) <= most), most]


# -- training -------------------------------------------------------------------------------


def losses(phase: Mapping[str, PhaseResult]) -> Plot | None:
    """Losses of one phase by step, a curve a model and side; None where none was logged."""
    train, validation = "", ""
    if any(result.validation_losses for result in phase.values()):
        train, validation = "train", "validation"
    curves = {(model, train): result.losses for model, result in phase.items()}
    curves |= {(model, validation): r.validation_losses for model, r in phase.items() if validation}
    return _training(phase, curves, "Loss", "loss, nats per token")


def bits_per_byte(phase: Mapping[str, PhaseResult]) -> Plot | None:
    """Bits per byte of one phase by step, a curve a model; None where none was logged."""
    curves = {(model, ""): result.bits_per_byte for model, result in phase.items()}
    return _training(phase, curves, "Bits per byte", "bits per byte")


def _training(
    phase: Mapping[str, PhaseResult], logged: Mapping[tuple[str, str], Curve], what: str, title: str
) -> Plot | None:
    """Curves by model and side; an entry that is no finite number is left out."""
    finite = {k: [(s, v) for s, v in one if math.isfinite(v)] for k, one in logged.items()}
    curves = {key: curve for key, curve in finite.items() if curve}
    if not curves:
        return None
    values: list[Spec] = []
    rows: list[tuple[str, ...]] = []
    for (model, side), curve in curves.items():
        marks = set(_thinned(curve, _MARKS))
        of = f"{model}, {side}" if side else model
        for step, value in _thinned(curve, _BENDS):
            said = {"said": f"{of}, step {step:,}: {value:.3f}"} if (step, value) in marks else {}
            values.append({"model": model, "side": side, "x": step, "y": value, **said})
        rows += [(of, f"{step:,}", f"{value:.3f}") for step, value in _thinned(curve, _LISTED)]
    ends = [
        f"{' '.join(key).rstrip()} from {curve[0][1]:.2f} to {curve[-1][1]:.2f}"
        for key, curve in curves.items()
    ]
    steps = max(curve[-1][0] for curve in curves.values())
    x = measure("x", "optimizer step", {"tickMinStep": 1, "format": ",d"})
    x["scale"] = {"domain": [0, steps]}
    name = next(iter(phase.values())).name
    models = dict.fromkeys(model for model, _ in curves)
    return Plot(
        f"{what}, phase {name}",
        f"{what} by step in phase {name}: {', '.join(ends)}",
        lines(values, x, measure("y", title, zero=False), models, _HEIGHT),
        ("curve", "step", title),
        tuple(rows),
    )


def _thinned(curve: Curve, most: int) -> Curve:
    """About so many points of a curve, evenly, with its ends."""
    every = -(-len(curve) // most)
    return curve if every <= 1 else [*curve[:-1:every], curve[-1]]
