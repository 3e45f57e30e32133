"""Plots: what they show, that they can be drawn, and that nothing but a drawing comes out."""

import math
import re
from dataclasses import replace
from importlib import resources
from xml.etree import ElementTree

import pytest
import vl_convert
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.evaluation.bootstrap import Interval
from adapt.evaluation.result import Bin, Rounds, TaskScores
from adapt.reporting import plots, score_plots
from adapt.reporting.drawing import Plot, drawn
from adapt.reporting.summary import Row
from adapt.training.result import PhaseResult
from adapt.vocab.budget import Point, cheapest
from tests.reporting.conftest import CURVE, fertility

HOSTILE = "</text></svg><script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;"
ELEMENTS = {"svg", "g", "path", "line", "rect", "text"}
ATTRIBUTES = {
    *("viewBox", "transform", "d", "x", "y", "x1", "x2", "y1", "y2", "width", "height"),
    *("fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "fill-opacity"),
    *("text-anchor", "font-size", "font-weight", "aria-label", "role"),
}


def placed(plot):
    """Every element of a drawing with where its own (0, 0) stands."""

    def walk(element, x, y):
        for dx, dy in re.findall(r"translate\(([^,]+),([^)]+)\)", element.get("transform", "")):
            x, y = x + float(dx), y + float(dy)
        yield element, x, y
        for child in element:
            yield from walk(child, x, y)

    return list(walk(ElementTree.fromstring(drawn(plot)), 0, 0))


def marks(plot):
    """What a reader can point at, with its place."""
    return {e.get("aria-label"): (x, y) for e, x, y in placed(plot) if e.get("role") == "img"}


def curves(plot):
    """Places of each line's points, by colour and dashes."""
    return {
        (e.get("stroke"), e.get("stroke-dasharray")): [
            (x + float(dx), y + float(dy))
            for dx, dy in re.findall(r"[ML]([^,]+),([^ML]+)", e.get("d"))
        ]
        for e, x, y in placed(plot)
        if e.tag == "path" and e.get("stroke-width") == "2" and e.get("role") is None
        if "L" in e.get("d") and not re.fullmatch(r"M-[\d.]+,0L[\d.]+,0", e.get("d"))  # a legend's
    }


def texts(plot):
    return [(e.text, x, y) for e, x, y in placed(plot) if e.tag == "text"]


def inside(plot):
    """Whether every mark and point of a line stands in the drawing."""
    (root, *_), *_ = placed(plot)
    _, _, width, height = map(float, root.get("viewBox").split())
    points = [*marks(plot).values(), *(p for curve in curves(plot).values() for p in curve)]
    return all(0 <= x <= width and 0 <= y <= height for x, y in points) and points != []


def phase(losses, **more):
    return PhaseResult("domain", 20, 80, 40_000, 9_000, 10.0, losses, **more)


def classified(confusion=(), calibration=(), **metrics):
    return TaskScores(
        "classification",
        50,
        {"accuracy": 0.5, **metrics},
        Interval(0.5, 0.4, 0.6),
        (),
        confusion=tuple(confusion),
        calibration=tuple(calibration),
    )


# -- tokenization ---------------------------------------------------------------------------


def test_the_curve_of_sizes_with_the_chosen_one():
    plot = plots.savings(CURVE, cheapest(CURVE))
    assert "34.0% with 32,000 units; chosen 5,657 units, which save 29.2%" in plot.described
    (curve,) = curves(plot).values()
    assert len(curve) == len(CURVE)
    assert all(a < c and b > d for (a, b), (c, d) in zip(curve, curve[1:], strict=False))
    # Like steps to the right for like factors, as on a logarithmic axis.
    steps = [after[0] - before[0] for before, after in zip(curve[9:], curve[10:], strict=False)]
    assert max(steps) < 1.1 * min(steps)
    found = marks(plot)
    assert found["chosen: 5,657 units, which save 29.2%"] == pytest.approx(curve[12], abs=0.1)
    assert found["125 units save 5.0%"] == pytest.approx(curve[1], abs=0.1)
    assert len(found) == len(CURVE) + 1
    ticks = [(text, x) for text, x, _ in texts(plot) if re.fullmatch(r"[\d,]+", text)]
    assert [text for text, _ in ticks] == ["0", "125", "500", "2,000", "8,000", "32,000"]
    assert ticks[-1][1] == pytest.approx(curve[-1][0], abs=1)
    assert ("5,657 units", True) in [(text, x < curve[12][0]) for text, x, _ in texts(plot)]
    assert inside(plot)


def sizes(shares, apart=20):
    return tuple(
        Point(apart * n, 1000, saved, (1 - saved) * (1 + n / 9)) for n, saved in enumerate(shares)
    )


@pytest.mark.parametrize(
    "shares", [(0.0, 0.0), (0.0, -0.1, 0.05), (0.0, 0.2), (0.0, *[0.01 * n for n in range(40)])]
)
def test_odd_curves_can_be_drawn(shares):
    plot = plots.savings(sizes(shares), cheapest(sizes(shares)))
    assert inside(plot)
    ticks = [x for text, x, _ in texts(plot) if re.fullmatch(r"[\d,]+", text)]
    assert len(ticks) >= 2
    assert all(after - before > 20 for before, after in zip(ticks, ticks[1:], strict=False))


@settings(max_examples=15)
@given(
    st.lists(st.floats(-0.5, 0.9), min_size=2, max_size=9),
    st.integers(1, 9_000),
)
def test_any_curve_of_sizes_can_be_drawn(shares, apart):
    plot = plots.savings(sizes(shares, apart), cheapest(sizes(shares, apart)))
    assert inside(plot)
    assert len(marks(plot)) >= 2
    ticks = [x for text, x, _ in texts(plot) if re.fullmatch(r"[\d,]+", text)]
    assert all(after - before > 20 for before, after in zip(ticks, ticks[1:], strict=False))


def test_without_sizes_there_is_no_curve():
    assert plots.savings((), None) is None
    assert plots.savings(CURVE[:1], CURVE[0]) is None


def test_words_by_tokens_as_shares_before_and_after():
    before = replace(fertility("base", 2000, ()), word_tokens=(50, 30, 0, 20))
    after = replace(before, word_tokens=(90, 10, 0, 0))
    plot = plots.word_tokens(before, after)
    found = marks(plot)
    assert list(found)[:2] == [
        "base: 1 token, 50.0% of words (50)",
        "adapted: 1 token, 90.0% of words (90)",
    ]
    assert "base: 4 or more tokens, 20.0% of words (20)" in found
    assert plot.rows[0] == ("1", "50.0%", "90.0%")
    assert plot.rows[-1] == ("4 or more", "20.0%", "0.0%")
    assert "50.0% with the base's tokenizer, 90.0% with the adapted one" in plot.described
    assert {"1", "4+"} <= {text for text, _, _ in texts(plot)}


def test_documents_by_tokens_per_word():
    before = replace(fertility("base", 2000, ()), document_quantiles=(1.0, 2.0, 4.0))
    after = replace(before, document_quantiles=(1.0, 1.5, 2.0))
    plot = plots.documents(before, after)
    found = marks(plot)
    (x0, y0), (x1, y1) = (
        found[f"{model}: 50% of documents take up to {half}"]
        for model, half in (("adapted", "1.50"), ("base", "2.00"))
    )
    assert x0 < x1
    assert y0 == y1
    assert plot.rows[-1] == ("100%", "4.000", "2.000")
    assert inside(plot)


def test_distributions_of_older_reports_are_left_out():
    known = fertility("base", 2000, ())
    for old in ({"word_tokens": ()}, {"word_tokens": (0, 0)}):
        assert plots.word_tokens(replace(known, **old), known) is None
        assert plots.word_tokens(known, replace(known, **old)) is None
    assert plots.documents(replace(known, document_quantiles=()), known) is None
    assert plots.documents(known, replace(known, document_quantiles=())) is None


# -- training -------------------------------------------------------------------------------


def test_losses_by_model_and_a_falling_one_falls_on_the_page():
    plot = plots.losses(
        {
            "control": phase(((5, 3.5), (10, 3.0), (20, 2.25))),
            "adapted": phase(((5, 4.5), (10, 3.25), (20, 2.5))),
        }
    )
    assert "control from 3.50 to 2.25, adapted from 4.50 to 2.50" in plot.described
    drawing = curves(plot)
    assert {stroke for stroke, _ in drawing} == {"var(--control)", "var(--adapted)"}
    ((_, adapted),) = (item for item in drawing.items() if item[0][0] == "var(--adapted)")
    assert adapted[0][1] < adapted[1][1] < adapted[2][1]
    (x5, x10, x20) = (x for x, _ in adapted)
    assert x20 - x10 == pytest.approx(2 * (x10 - x5), abs=0.1)  # the axis is one of steps, from 0
    assert marks(plot)["adapted, step 10: 3.250"] == pytest.approx(adapted[1], abs=0.1)
    assert ("control", "5", "3.500") in plot.rows
    assert inside(plot)


def test_validation_losses_are_curves_of_their_own():
    known = {"adapted": phase(((5, 4.5), (10, 3.0)), validation_losses=((10, 3.5),))}
    plot = plots.losses(known)
    assert "adapted train from 4.50 to 3.00, adapted validation from 3.50" in plot.described
    assert "adapted, validation, step 10: 3.500" in marks(plot)
    assert {"train", "validation"} <= {text for text, _, _ in texts(plot)}


def test_bits_per_byte_are_their_own_plot():
    known = {m: phase((), bits_per_byte=((1, 2.0), (9, 1.0))) for m in ("control", "adapted")}
    plot = plots.bits_per_byte(known)
    assert plot.title == "Bits per byte, phase domain"
    assert len(curves(plot)) == 2
    assert plots.losses(known) is None
    assert plots.bits_per_byte({"adapted": phase(((1, 2.0),))}) is None


@pytest.mark.parametrize(
    "losses", [((1, 2.0),), ((1, 2.0), (2, 2.0)), ((9, 1e-9), (90, 5e3)), ((0, 1.0),)]
)
def test_odd_losses_can_be_drawn(losses):
    plot = plots.losses({"control": phase(losses), "adapted": phase(losses)})
    assert inside(plot)
    assert len(marks(plot)) == 2 * len(losses)


def test_what_is_no_number_is_left_out():
    broken = ((1, math.nan), (2, 2.0), (3, math.inf))
    plot = plots.losses({"adapted": phase(broken)})
    assert list(marks(plot)) == ["adapted, step 2: 2.000"]
    assert plots.losses({"adapted": phase(broken[:1])}) is None
    sure = classified(calibration=[Bin(math.nan, 0.5, 3), Bin(0.5, 0.5, 3)])
    assert len(marks(score_plots.calibration({"adapted": sure}))) == 1
    wide = Row("bits", "lower", {"base": 1.0}, 3, {"base": (math.nan, 2.0)})
    assert score_plots.intervals(wide) is None
    assert score_plots.rounds("characters/s", {"base": Rounds((1.0, math.inf))}) is None


def test_a_long_curve_keeps_its_ends_and_stays_small():
    losses = tuple((step, 5000 / step) for step in range(1, 20_001))
    plot = plots.losses({"adapted": phase(losses)})
    (curve,) = curves(plot).values()
    assert 500 <= len(curve) <= 1001
    assert {"adapted, step 1: 5000.000", "adapted, step 20,000: 0.250"} <= set(marks(plot))
    assert len(plot.rows) <= 41
    assert len(drawn(plot)) < 50_000


# -- scores ---------------------------------------------------------------------------------


def test_intervals_side_by_side():
    values = {"base": 1.2, "control": 0.9}
    row = Row("bits per byte", "lower", values, 3, {"base": (1.1, 1.3), "control": (0.8, 1.0)})
    plot = score_plots.intervals(row)
    found = marks(plot)
    assert list(found) == [
        "base: 1.200, 95 % interval 1.100 to 1.300",
        "control: 0.900, 95 % interval 0.800 to 1.000",
    ]
    (base, control) = found.values()
    assert base[0] > control[0]
    assert base[1] < control[1]
    assert inside(plot)
    assert score_plots.intervals(replace(row, intervals={"base": (1.1, 1.3)})) is None
    assert score_plots.intervals(replace(row, values={**values, "adapted": None})) is None


def test_rounds_of_a_speed():
    plot = score_plots.rounds("characters/s", {"base": Rounds((10.0, 30.0, 20.0))})
    assert list(marks(plot)) == ["base: median 20, rounds 10 to 30"]
    assert plot.rows == (("base", "10, 30, 20"),)
    faint = [x for e, x, _ in placed(plot) if e.tag == "path" and e.get("opacity") == "0.35"]
    assert len(faint) == 3
    assert score_plots.rounds("characters/s", {}) is None


def test_confusions_by_the_most_frequent_label():
    plot = score_plots.confusion(
        classified([("lung", "lung", 5), ("heart", "heart", 9), ("heart", "lung", 3)]), "adapted"
    )
    found = marks(plot)
    assert set(found) == {
        "heart, recognised: 9 of 12 rows",
        "heart, said lung: 3 of 12 rows",
        "lung, recognised: 5 of 5 rows",
    }
    assert found["heart, recognised: 9 of 12 rows"] == found["heart, said lung: 3 of 12 rows"]
    assert plot.columns == ("reference", "heart", "lung")
    assert plot.rows == (("heart", "9", "3"), ("lung", "0", "5"))
    assert "14 of 17 rows on the diagonal" in plot.described
    assert score_plots.confusion(classified(), "adapted") is None


def test_rare_labels_are_folded_and_no_row_is_lost():
    cells = [(f"l{n}", f"l{n // 2}", 100 - n) for n in range(50)]
    plot = score_plots.confusion(classified(cells), "adapted")
    assert plot.columns == ("reference", *(f"l{n}" for n in range(20)), "other (30 labels)")
    told = sum(int(label.split(": ")[1].split(" of ")[0].replace(",", "")) for label in marks(plot))
    in_table = sum(int(cell.replace(",", "")) for row in plot.rows for cell in row[1:])
    assert told == in_table == sum(count for *_, count in cells)
    few = score_plots.confusion(classified(cells[:21]), "adapted")
    assert len(few.rows) == 21  # to fold one label would save nothing


def test_labels_that_are_drawn_alike_stay_apart():
    long = "x" * 300
    plot = score_plots.confusion(
        classified([(f"{long}a", f"{long}a", 2), (f"{long}b", f"{long}b", 1)]), "adapted"
    )
    assert len(plot.rows) == 2
    assert len(marks(plot)) == 2


def test_calibration_against_the_diagonal():
    task = classified(calibration=[Bin(0.25, 0.25, 4), Bin(0.75, 0.5, 1_200)], ece=0.125)
    plot = score_plots.calibration({"base": classified(), "adapted": task})
    assert "expected calibration error: adapted 0.125" in plot.described
    found = marks(plot)
    assert list(found) == [
        "adapted: confidence 0.25, accuracy 0.25, 4 rows",
        "adapted: confidence 0.75, accuracy 0.50, 1,200 rows",
    ]
    ((line, x, y),) = (
        one for one in placed(plot) if one[0].tag == "line" and one[0].get("stroke-dasharray")
    )
    slope = float(line.get("y2")) / float(line.get("x2"))
    (x0, y0), (x1, y1) = found.values()
    assert y0 - y == pytest.approx(slope * (x0 - x), abs=1.5)  # on the diagonal
    assert y1 - y > slope * (x1 - x) + 10  # below it
    assert score_plots.calibration({"adapted": classified()}) is None


# -- nothing but a drawing ------------------------------------------------------------------


def every_plot():
    known = fertility("base", 2000, ())
    task = classified(
        [("a", "a", 3), ("a", "b", 1), ("b", "b", 2)], [Bin(0.2, 0.1, 3), Bin(0.9, 0.8, 2)]
    )
    curve = ((1, 3.0), (5, 2.0))
    logged = {m: phase(curve, validation_losses=curve) for m in ("control", "adapted")}
    values = {"base": 1.0, "control": 2.0, "adapted": 3.0}
    return [
        plots.word_tokens(known, known),
        plots.documents(known, known),
        plots.savings(CURVE, cheapest(CURVE)),
        plots.losses(logged),
        score_plots.intervals(Row("bits", "", values, 1, {m: (0.5, 3.5) for m in values})),
        score_plots.rounds("speed", {m: Rounds((v, v + 1)) for m, v in values.items()}),
        score_plots.confusion(task, "adapted"),
        score_plots.calibration(dict.fromkeys(values, task)),
    ]


def test_colours_are_those_of_the_page_in_light_and_dark():
    style = resources.files("adapt.reporting").joinpath("style.css").read_text(encoding="utf-8")
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for plot in every_plot():
        for element, _, _ in placed(plot):
            for name in ("fill", "stroke"):
                colour = element.get(name)
                assert colour in (None, "none", "transparent") or colour.startswith("var(--"), plot
                if colour and colour.startswith("var("):
                    variable = colour.removeprefix("var(").removesuffix(")")
                    assert f"{variable}:" in light
                    assert f"{variable}:" in dark


def test_drawings_scale_and_every_mark_and_drawing_says_what_it_is():
    for plot in every_plot():
        root = ElementTree.fromstring(drawn(plot))
        assert root.get("viewBox")
        assert (root.get("width") is None) is not plot.wide
        assert root.get("aria-label") == plot.described
        assert root.get("role") == "group"
        assert marks(plot)
        assert all(label.strip() for label in marks(plot))
        assert 0 < float(root.get("viewBox").split()[2]) <= (1000 if plot.wide else 401)


def only_a_drawing(plot):
    root = ElementTree.fromstring(drawn(plot))  # fails where a label breaks out
    for element in root.iter():
        assert element.tag in ELEMENTS
        assert set(element.attrib) <= ATTRIBUTES
        assert element.text is None or element.tag == "text"
        for value in element.attrib.values():
            assert "url(" not in value
    return root


def test_hostile_labels_stay_text():
    labels = [HOSTILE, f"{HOSTILE} b", "a\x00b\x1b\u202ec\ud800\uffff\n"]
    plot = score_plots.confusion(
        classified([(one, other, 2) for one in labels for other in labels]), HOSTILE
    )
    root = only_a_drawing(plot)
    assert HOSTILE in root.get("aria-label")
    assert f"{HOSTILE}, recognised: 2 of 6 rows" in marks(plot)
    assert any(label.startswith("a\\u0000b\\u001b\\u202ec\\ud800\\uffff") for label in marks(plot))
    assert "<script" not in drawn(plot)
    for draw in (plots.losses, plots.bits_per_byte):
        named = replace(phase(((1, 2.0),), bits_per_byte=((1, 2.0),)), name=HOSTILE)
        assert HOSTILE in only_a_drawing(draw({"adapted": named})).get("aria-label")


@settings(max_examples=20)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=3, unique=True))
def test_any_label_can_be_drawn_and_breaks_nothing(labels):
    plot = score_plots.confusion(classified([(label, label, 1) for label in labels]), "adapted")
    only_a_drawing(plot)
    assert len(marks(plot)) == len(labels) == len(plot.rows)


def test_what_is_no_drawing_is_dropped_whoever_wrote_it(monkeypatch):
    monkeypatch.setattr(
        vl_convert,
        "vegalite_to_svg",
        lambda *_, **__: (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            ' viewBox="0 0 9 9" onload="alert(1)"><script>alert(1)</script><style>*{}</style>'
            '<a xlink:href="javascript:alert(1)"><path d="M0,0"/></a>'
            '<foreignObject><p xmlns="http://www.w3.org/1999/xhtml">x</p></foreignObject>'
            '<g onclick="alert(1)"><path d="M0,0" style="fill:url(x)" href="x" fill="none"/></g>'
            '<image href="x"/><text>&lt;b&gt;</text></svg>'
        ),
    )
    assert drawn(Plot("t", "said", {"never": "drawn before"})) == (
        '<svg viewBox="0 0 9 9" aria-label="said" role="group"><path d="M0,0" fill="none"></path>'
        "<text>&lt;b&gt;</text></svg>"
    )
