import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import adapt.reporting
from adapt.corpus.audit import DataAudit, Extent
from adapt.corpus.findings import Finding
from adapt.evaluation.bootstrap import Interval
from adapt.evaluation.result import Bin
from adapt.evaluation.verdict import Verdict
from adapt.fertility import FertilityReport, SplitWord
from adapt.reporting.html import render, visible, write_report
from adapt.reporting.summary import table
from adapt.training.result import PhaseResult
from adapt.vocab import Kept, NewToken, VocabDelta
from adapt.vocab.audit import Audit
from adapt.vocab.budget import Point
from adapt.vocab.prune import Replaced

VOID = {"meta", "link", "br", "hr", "img", "input"}
BLOCKS = {"td", "th", "dt", "dd", "small", "code", "span", "bdi"}
HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;"


class Page(HTMLParser):
    """Elements, texts and faults in nesting."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self.faults, self.open = [], [], [], []
        self.feed(html)
        self.close()
        self.faults += [f"<{name}> is never closed" for name in self.open]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"</{tag}> at {self.getpos()} in {self.open[-3:]}")
        else:
            self.open.pop()
        if tag in BLOCKS:
            self.texts.append(" ")

    def handle_data(self, data):
        if not {"style", "title", "script"} & set(self.open):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join("".join(self.texts).split())

    def attributes(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture
def page(summary):
    return Page(render(summary))


def hostile_summary(summary):
    """Hostile text wherever text of users, data and models may stand."""
    words = (SplitWord(HOSTILE, 3, (HOSTILE[:8], HOSTILE[8:])),)
    fertility = [replace(f, most_split_words=words) for f in summary.fertility.domain]
    scores = {
        model: replace(
            one,
            tasks={
                HOSTILE: replace(
                    one.tasks["organ"],
                    examples=((f"prompt {HOSTILE}", f"label {HOSTILE}", f"{model} {HOSTILE}"),),
                    confusion=(("heart", f"class {HOSTILE}", 3), ("heart", "heart", 2)),
                    notes=(f"remark {HOSTILE}",),
                )
            },
        )
        for model, one in summary.scores.items()
    }
    trained = {
        model: replace(
            one, phases=tuple(replace(phase, name=f"phase {HOSTILE}") for phase in one.phases)
        )
        for model, one in summary.trained.items()
    }
    return replace(
        summary,
        name=f"name {HOSTILE}",
        base=f"base {HOSTILE}",
        verdict=Verdict(f"choice {HOSTILE}", f"verdict {HOSTILE}"),
        fertility=FertilityReport(tuple(fertility), ()),
        vocabulary=replace(
            summary.vocabulary,
            delta=VocabDelta(
                300, 301, (Kept(0, 0, 300),), (NewToken(300, "x", f"token{HOSTILE}", (1, 2)),)
            ),
            joints=(HOSTILE,),
            notes=(f"term {HOSTILE}",),
            audit=Audit(10, {f"promise {HOSTILE}": 1}),
            replaced=(Replaced(1, "x", f"old{HOSTILE}", 2, "y", f"new{HOSTILE}"),),
        ),
        corpus=replace(
            summary.corpus,
            dropped={f"reason {HOSTILE}": 1},
            tasks={f"rows {HOSTILE}": {"train": 1}},
            provenance=[{"name": f"source {HOSTILE}", "url": f'https://example.org/"{HOSTILE}'}],
        ),
        scores=scores,
        trained=trained,
        recipe=f"recipe: {HOSTILE}",
        environment={"processor": f"processor {HOSTILE}"},
        audit=DataAudit(
            (Finding(f"finding {HOSTILE}", 2, f"unit {HOSTILE}", 9, (f"place {HOSTILE}",), True),),
            (Extent(f"file {HOSTILE}", 9, 900, True),),
            ((f"script {HOSTILE}", 1.0),),
            (f"unseen {HOSTILE}",),
        ),
    )


@pytest.mark.parametrize("kind", ["whole", "bare", "hostile"])
def test_elements_nest_and_nothing_is_loaded_or_run(summary, bare, kind):
    html = render({"whole": summary, "bare": bare, "hostile": hostile_summary(summary)}[kind])
    page = Page(html)
    assert page.faults == []
    tags = {name for name, _ in page.elements}
    assert not tags & {"img", "iframe", "object", "embed", "form", "base", "video"}
    assert [link["href"] for link in page.attributes("link")] == ["data:,"]
    names = {name for _, attrs in page.elements for name in attrs}
    assert not {name for name in names if name.startswith("on")}
    assert not names & {"src", "srcset", "xlink:href", "poster", "action"}
    assert not re.search(r"url\(|@import|@font-face", html)
    policy = next(m for m in page.attributes("meta") if "http-equiv" in m)
    assert "default-src 'none'" in policy["content"]
    # One script, the page's own, by its hash; styles alone may be inline.
    assert page.attributes("script") == [{}]
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"; script-src 'sha256-{digest}'; style-src 'unsafe-inline';" in policy["content"]
    assert policy["content"].count("unsafe") == 1
    assert not re.search(r"HTML|eval|write|Function|fetch|XMLHttp|import|https?:", script)


def test_hostile_text_stays_text(summary):
    page = Page(render(hostile_summary(summary)))
    for where in (
        *("name", "base", "verdict", "term", "reason", "rows", "source", "processor", "recipe:"),
        *("prompt", "label", "control", "adapted", "phase", "promise", "remark", "class"),
        *("finding", "unit", "place", "file", "script", "unseen"),
    ):
        assert f"{where} {HOSTILE}" in page.text
    for where in ("token", "old", "new"):
        assert visible(f"{where}{HOSTILE}") in page.text
    link = next(a for a in page.attributes("a") if a["href"].startswith("https"))
    assert link["href"].endswith(HOSTILE)
    assert link["rel"] == "noopener noreferrer"


def test_only_web_addresses_become_links(summary):
    provenance = [{"url": "javascript:alert(1)", "licence": "see https://example.org"}]
    page = Page(render(replace(summary, corpus=replace(summary.corpus, provenance=provenance))))
    assert all(attrs["href"].startswith("#") for attrs in page.attributes("a"))
    assert "javascript:alert(1)" in page.text


def test_the_template_never_trusts_text():
    room = Path(adapt.reporting.__path__[0])
    templates = list(room.glob("*.jinja"))
    assert {"report.html.jinja", "macros.html.jinja", "part_tasks.html.jinja"} <= {
        path.name for path in templates
    }
    for path in templates:
        assert not re.search(r"\|\s*safe|autoescape|Markup", path.read_text(encoding="utf-8"))
    trusting = [p.name for p in room.glob("*.py") if "Markup" in p.read_text(encoding="utf-8")]
    assert trusting == ["drawing.py"]


def test_control_characters_show_and_cannot_cut_the_page(summary):
    html = render(replace(summary, base="a\x00b\x1bc\r"))
    assert "a␀b␛c␍" in html
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", html)


def test_it_is_a_document_with_language_and_title(summary, page):
    assert page.attributes("html") == [{"lang": "en"}]
    assert "<title>medical: adopt</title>" in render(summary)
    assert any(meta.get("name") == "viewport" for meta in page.attributes("meta"))
    headings = [int(name[1]) for name, _ in page.elements if re.fullmatch(r"h\d", name)]
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(headings, headings[1:], strict=False))
    anchors = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(anchors) == len(set(anchors))
    links = {a["href"][1:] for a in page.attributes("a") if a["href"].startswith("#")}
    assert links == set(anchors)


def test_tables_have_captions_and_scopes_and_scroll_by_keyboard(page):
    names = [name for name, _ in page.elements]
    assert names.count("table") == names.count("caption") > 5
    assert all(cell.get("scope") in ("col", "row") for cell in page.attributes("th"))
    scrolled = [a for a in page.attributes("div") if a.get("class") == "scroll"]
    assert len(scrolled) == names.count("table")
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolled)


def test_the_verdict_comes_first(summary, page):
    assert page.text.index(summary.verdict.sentence) < page.text.index("Base, control and adapted")


@pytest.mark.parametrize(
    ("choice", "look", "sign"),
    [
        ("adopt", "good", "✓"),
        ("adopt for speed", "fast", "»"),
        ("no difference", "same", "="),
        ("do not extend", "bad", "✕"),
        ("no control", "same", "?"),
    ],
)
def test_each_choice_has_a_look_and_a_sign(summary, choice, look, sign):
    html = render(replace(summary, verdict=Verdict(choice, f"{choice.capitalize()}: figures.")))
    assert f'class="verdict {look}"' in html
    assert f"{sign} {choice.capitalize()}: figures." in Page(html).text


def test_the_table_shows_all_measures_with_intervals_and_the_best_bold(summary, page):
    html = render(summary)
    for row in table(summary):
        assert row.measure in page.text
    assert "<strong>0.850</strong>" in html
    assert "<strong>0.900</strong>" not in html
    assert "0.900 0.850 to 0.950" in page.text
    assert "training, bytes/s ↑ – 3,000 3,000" in page.text
    signs = {a["aria-label"] for a in page.attributes("span") if a.get("class") == "arrow"}
    assert signs == {"higher is better", "lower is better"}


def test_differences_say_what_they_show(page):
    assert "adapted − control −0.050 −0.070 to −0.030 adapted is better" in page.text
    assert "−0.050 −0.100 to +0.010 not told apart" in page.text
    assert "+0.050 +0.010 to +0.100 adapted is worse" in page.text


def test_tokenization_before_and_after(summary, page):
    assert "25.0% of tokens saved, on 20 documents of 6.0 kB." in page.text
    assert "5.0% of tokens saved" in page.text
    widths = [a["style"] for a in page.attributes("span") if "style" in a]
    assert widths == ["width: 100.00%", "width: 75.00%", "width: 100.00%", "width: 95.00%"]
    for line in (
        "terms that are one token ↑ 12.5% 12.5%",
        "length, the base's being 1 ↓ 1.000 0.750",
        "words in 2,048 tokens ↑ 1,024 1,365",
        "vocabulary 300 300 different tokens used 150 150",
        "share of the vocabulary used 50.0% 50.0%",
        "Rényi efficiency, α = 2.5 ↑ 0.400 0.300",
    ):
        assert line in page.text


def test_measures_of_an_older_report_are_left_out_or_dashes(summary):
    new = dict.fromkeys(
        ("renyi_efficiency", "vocabulary", "vocabulary_used", "vocabulary_used_share")
        + ("context", "words_in_context", "single_token_term_share")
    )
    before, after = (replace(one, **new) for one in summary.fertility.domain)
    old = Page(render(replace(summary, fertility=FertilityReport((before, after), ())))).text
    assert "Rényi" not in old
    assert "words in" not in old
    assert "terms that are one token" not in old
    assert "unknown tokens ↓ 0.0% 0.0%" in old
    mixed = FertilityReport((before, summary.fertility.domain[1]), ())
    assert (
        "Rényi efficiency, α = 2.5 ↑ – 0.300"
        in Page(render(replace(summary, fertility=mixed))).text
    )


def test_speed_in_turns(page):
    assert "Timed in turns on the same held-out documents" in page.text
    assert "memory, MB (weights and cache) ↓ 250 250 250" in page.text


def test_what_a_small_model_takes_has_places(summary):
    def of(model, one):
        return replace(one, speed=replace(one.speed, latency_p50_ms=1.4 + (model == "adapted")))

    scores = {model: of(model, one) for model, one in summary.scores.items()}
    text = Page(render(replace(summary, scores=scores))).text
    assert "one request, 50 % took at most; ms ↓ 1.4 1.4 2.4" in text


def test_the_edge_of_a_prompt(summary, page):
    assert "The edge of a prompt" in page.text
    assert "(64 cuts, 3.0 kB in all)" in page.text
    assert "after a cut, plain ↓ 1.400 1.380 to 1.420 1.100" in page.text
    assert "after a cut, healed ↓ 1.370 1.350 to 1.390 1.100" in page.text
    assert "healed minus plain ↓ −0.030 −0.050 to −0.010 0.000 −0.020 to 0.020" in page.text
    assert "base: its tokens cross 0.0% of the cuts, and healing had tokens to drop at 75.0%" in (
        page.text
    )
    assert "adapted: its tokens cross 50.0% of the cuts" in page.text
    assert "75.0%. Healing helps." in page.text
    assert "75.0%. Healing and plain are not told apart." in page.text
    edge = summary.scores["adapted"].edge
    worse = replace(edge, difference=replace(edge.difference, low=0.01, high=0.03))
    scores = {**summary.scores, "adapted": replace(summary.scores["adapted"], edge=worse)}
    assert "Healing costs bits here." in Page(render(replace(summary, scores=scores))).text


def test_split_words_show_their_pieces(summary):
    html = render(summary)
    chips = re.findall(r'<span class="chip c(\d)">([^<]*)</span>', html)
    assert chips[:5] == [("0", "ab"), ("1", "normal"), ("2", "ity"), ("0", "心"), ("1", "·")]
    assert "no longer among the 2 costliest" in html
    assert "seizures" in html


def test_new_tokens_joints_notes_and_audit(summary, page):
    assert "70 added to 300. The first 60 by id" in page.text
    assert "359 ␣t␣59" in page.text
    assert "␣t␣60" not in page.text
    assert "Units may cross, between words: ␣ ,␣" in page.text
    assert "units stay inside digits" in page.text
    assert "checked on 25,000 texts" in page.text
    assert "more tokens than with the base 0" in page.text
    assert "a new unknown token 3" in page.text
    assert "widened pre-tokenizer alone (dropped if any) 7" in page.text


def test_signs_for_what_cannot_be_seen():
    assert visible(" a\n\tb\u200b\u00a0é心") == "␣a⏎⇥b\\u200b\\u00a0é心"


def drawings(page):
    """What each plot is, in words."""
    return [attrs["aria-label"] for attrs in page.attributes("svg")]


def marks(page):
    """What each mark of all plots is, in words."""
    return [a["aria-label"] for _, a in page.elements if a.get("role") == "img" and "d" in a]


def test_the_curve_of_sizes_with_the_chosen_one(summary, page):
    best = min(summary.vocabulary.curve, key=lambda point: point.cost)
    assert best.new_tokens == 5657
    assert "5,657 units, which save 29.2% of the tokens of validation text" in page.text
    (drawing,) = (said for said in drawings(page) if said.startswith("Tokens saved"))
    assert "34.0% with 32,000 units; chosen 5,657 units, which save 29.2%" in drawing
    assert "chosen: 5,657 units, which save 29.2%" in marks(page)
    assert sum("units save" in mark for mark in marks(page)) == len(summary.vocabulary.curve)
    assert "The 18 sizes that were tried" in page.text
    assert "5,657 chosen 7,080 29.2% 0.7748" in page.text
    assert page.text.count(" chosen ") == 1


@pytest.mark.parametrize(
    "shares", [(0.0, 0.0), (0.0, -0.1, 0.05), (0.0, 0.2), (0.0, *[0.01 * n for n in range(40)])]
)
def test_odd_curves_can_be_shown(summary, shares):
    curve = tuple(
        Point(20 * n, 1000, saved, (1 - saved) * (1 + n / 9)) for n, saved in enumerate(shares)
    )
    vocabulary = replace(summary.vocabulary, curve=curve)
    page = Page(render(replace(summary, vocabulary=vocabulary)))
    assert page.faults == []
    assert sum(re.match(r"\d+ units save", mark) is not None for mark in marks(page)) == len(curve)


def test_a_size_that_short_trainings_chose_is_marked(summary):
    delta = replace(
        summary.vocabulary.delta,
        added=tuple(NewToken(300 + i, f"t{i}", f"t{i}", (1, 2)) for i in range(125)),
        size=425,
    )
    text = Page(render(replace(summary, vocabulary=replace(summary.vocabulary, delta=delta)))).text
    assert "125 units , which save 5.0%" in text or "125 units, which save 5.0%" in text
    assert "short trainings spoke for this size" in text


def test_without_a_search_there_is_no_curve(bare):
    html = render(bare)
    assert "How many to add" not in html
    assert "to new ones" not in html
    assert "Tokens saved by units added" not in html
    assert "Audit" not in html  # there was nothing to promise


def test_replaced_tokens_the_first_fifty(summary, page):
    assert "70 tokens of the base gave their ids to new ones" in page.text
    assert "The first 50 tokens, the least used first; times" in page.text
    assert "␣old␣0 0 ␣t␣0 " in page.text
    assert "␣old␣49 24 ␣t␣49 " in page.text
    assert "␣old␣50" not in page.text
    few = replace(summary.vocabulary, replaced=summary.vocabulary.replaced[:1])
    text = Page(render(replace(summary, vocabulary=few))).text
    assert "1 token of the base gave its id to new ones" in text
    assert "The 1 token, the least" in text


@pytest.mark.parametrize(
    ("added", "removed", "words"),
    [
        (0, 1, "None; 1 token removed from the base's 300."),
        (0, 12, "None; 12 tokens removed from the base's 300."),
        (2, 1, "2 added to 300, 1 token removed. The first 2 by id"),
        (2, 12, "2 added to 300, 12 tokens removed. The first 2 by id"),
    ],
)
def test_removed_tokens_are_told(summary, added, removed, words):
    delta = VocabDelta(
        300,
        300 + added,
        (Kept(removed, removed, 300 - removed),),
        tuple(NewToken(300 + i, "x", "x", (50, 51)) for i in range(added)),
        tuple(range(removed)),
    )
    vocabulary = replace(summary.vocabulary, delta=delta)
    assert words in Page(render(replace(summary, vocabulary=vocabulary))).text


def test_training_of_both_models(summary, page):
    assert "domain, control 20 80 40.0 kB 12,000 10.0 s 4,000" in page.text
    assert "domain, adapted 20 80 40.0 kB 9,000 10.0 s 4,000" in page.text
    assert "nats per predicted token" in page.text
    said = [one for one in drawings(page) if "by step" in one]
    assert len(said) == 2  # bits per byte and losses of one phase; the other logged nothing
    assert said[0].startswith("Bits per byte by step in phase domain: control from")
    assert "control from 3.50 to 2.25, adapted from 4.50 to 2.50" in said[1]
    assert {"adapted, step 10: 3.250", "control, step 5: 3.500"} <= set(marks(page))


def test_what_each_model_cost(summary, page):
    for line in (
        "cost base control adapted training time – 16.0 s 16.0 s",
        "text trained on – 48.0 kB 48.0 kB",
        "tokens trained on – 15,000 11,250",
        "parameters trained – 1,234,567 1,234,567",
        "adapter – 4.9 MB 4.9 MB",
        "rows added to the vocabulary – 0 70",
        "parameters added, of the base's – 0.0% 0.1%",
    ):
        assert line in page.text
    assert "energy" not in page.text.split("What training took")[1].split("The base")[0]
    known = {
        model: replace(one, phases=tuple(replace(phase, energy_kwh=0.0625) for phase in one.phases))
        for model, one in summary.trained.items()
    }
    assert "energy – 0.125 kWh 0.125 kWh" in Page(render(replace(summary, trained=known))).text


def test_the_audit_of_the_data(summary, bare, page):
    for text in (
        "exact duplicates, dropped by the run worth a look 3 of 1,000 texts a.jsonl:7",
        "e-mail addresses worth a look 25 found a.jsonl:0, a.jsonl:1, a.jsonl:2, a.jsonl:3, "
        "a.jsonl:4, …",
        "1 thing looked for and not found",
        "phase tasks: over 512 tokens, lose their end 1 of 150 texts b.csv:2",
        "150 items, 20.0 kB, its beginning only.",
        "Letters by script: Latin 99.0%, Han 1.0%.",
        "Not looked at: org/data: of the Hub",
    ):
        assert text in page.text
    assert page.text.index("worth a look") < page.text.index("looked for and not found")
    assert "Audit" not in render(bare)
    clean = replace(summary.audit, findings=summary.audit.findings[:1], scripts=(), notes=())
    assert "Nothing was found." in Page(render(replace(summary, audit=clean))).text


def test_the_verdict_has_intervals_under_it(summary, page):
    first = drawings(page)[0]
    assert "base: 1.200, 95 % interval 1.150 to 1.250" in first
    assert page.text.index(summary.verdict.sentence) < page.text.index("with 95 % intervals")
    scores = {
        model: replace(one, domain=replace(one.domain, interval=Interval(1.0, 1.0, float("nan"))))
        for model, one in summary.scores.items()
    }
    broken = drawings(Page(render(replace(summary, scores=scores))))
    assert not [one for one in broken if one.startswith("Bits per byte, domain text")]


def test_distributions_before_and_after(summary, page):
    said = [one for one in drawings(page) if "are one token" in one or one.startswith("Half")]
    assert len(said) == 4  # of domain text and general text
    assert "base: 1 token, 75.0% of words (750)" in marks(page)
    assert "10 or more 0.1% 0.1%" in page.text
    old = [replace(one, word_tokens=(), document_quantiles=()) for one in summary.fertility.domain]
    page = Page(render(replace(summary, fertility=FertilityReport(tuple(old), ()))))
    assert not [one for one in drawings(page) if "one token" in one or one.startswith("Half")]


def test_confusions_and_calibration(summary, page):
    said = [one for one in drawings(page) if one.startswith("Accuracy by confidence")]
    assert said == ["Accuracy by confidence of base, control, adapted"]
    assert not [one for one in drawings(page) if one.startswith("Confusion")]

    def task(one):
        organ = replace(
            one.tasks["organ"],
            confusion=(("heart", "heart", 9), ("lung", "heart", 3)),
            calibration=(Bin(0.5, 0.25, 12),),
            metrics={**one.tasks["organ"].metrics, "ece": 0.25},
        )
        return replace(one, tasks={"organ": organ})

    page = Page(render(replace(summary, scores={m: task(o) for m, o in summary.scores.items()})))
    confusions = [one for one in drawings(page) if one.startswith("Confusion")]
    assert [one.split(":")[0] for one in confusions] == [
        f"Confusion matrix, {model}" for model in ("adapted", "control")
    ]
    assert "calibration error: base 0.250, control 0.250, adapted 0.250" in " ".join(drawings(page))
    assert "reference heart lung heart 9 0 lung 3 0" in page.text
    assert "adapted: confidence 0.50, accuracy 0.25, 12 rows" in marks(page)


def test_speed_as_ranges_of_rounds(page):
    said = [one for one in drawings(page) if "rounds" in one]
    assert "adapted: median 60, rounds 54 to 120" in said[0]
    assert len(said) == 2


def test_every_plot_has_a_caption_and_its_figures_are_in_a_table(page):
    names = [name for name, _ in page.elements]
    assert names.count("figure") == names.count("svg") == names.count("figcaption") > 8
    assert page.text.count("As a table: ") > 5
    assert all(said.strip() for said in drawings(page))


def test_parts_are_links_and_sections_in_one_order(page, bare):
    for one, missing in ((page, set()), (Page(render(bare)), {"tasks"})):
        sections = [attrs["id"] for attrs in one.attributes("section")]
        links = [a["href"][1:] for a in one.attributes("a") if a["href"][1:] in sections]
        assert links == sections
        assert {"scores", "tokenization", "tasks", "run"} - set(sections) == missing
        # Nothing is hidden but what only the script can use.
        hidden = [attrs["class"] for _, attrs in one.elements if "hidden" in attrs]
        assert hidden == ["hint quiet", "tip"]


@pytest.mark.parametrize("losses", [((1, 2.0),), ((1, 2.0), (2, 2.0)), ((9, 1e-9), (90, 5e3))])
def test_odd_losses_can_be_shown(summary, losses):
    phase = PhaseResult("short", 1, 1, 100, 20, 0.0, losses)
    trained = {m: replace(t, phases=(phase, phase)) for m, t in summary.trained.items()}
    # Without time there is no speed; a real run always took some.
    trained["adapted"] = replace(trained["adapted"], phases=(replace(phase, seconds=1.0), phase))
    trained["control"] = trained["adapted"]
    page = Page(render(replace(summary, trained=trained)))
    assert page.faults == []
    assert sum(mark.startswith("adapted, step") for mark in marks(page)) == 2 * len(losses)


def test_tasks_with_ten_examples_side_by_side(page):
    assert page.text.count("Which system? A murmur") == 10
    assert "10 rows side by side" in page.text
    assert "reference heart base base says control control says adapted adapted says" in page.text
    assert "generation, 1,500 held-out rows" in page.text


def test_a_long_or_empty_answer(summary):
    def answered(model, answer):
        task = replace(summary.scores[model].tasks["define"], examples=(("p", "r", answer),))
        return replace(summary.scores[model], tasks={"define": task})

    answers = {"base": "", "control": "x" * 5000, "adapted": "y"}
    page = Page(render(replace(summary, scores={m: answered(m, a) for m, a in answers.items()})))
    assert "base (nothing)" in page.text
    assert "x" * 1400 in page.text
    assert "x" * 1501 not in page.text


def test_corpus_run_and_recipe(page):
    for text in (
        "train 900 90.0 kB 15,000",
        "organ train 100, test 50",
        "Read: domain 1,000.",
        "near duplicate 31",
        "Time of each stage when it ran, 3 min 09 s in all",
        "training 3 min 05 s",
        "processor x86_64",
        "name: medical",
    ):
        assert text in page.text


def test_a_run_with_almost_nothing(bare):
    page = Page(render(bare))
    assert "Base and adapted" in page.text
    assert "No control was trained" in page.text
    assert "General text" not in page.text
    assert "None: the vocabulary is the base's own, 300 tokens." in page.text
    assert "The base splits no word" in page.text
    assert "Nothing was dropped." in page.text
    assert "no SOURCES.json" in page.text
    assert not any(a["href"] in ("#tasks", "#edge") for a in page.attributes("a"))
    assert "edge of a prompt" not in page.text
    assert page.faults == []


def test_the_file_is_written_whole(summary, tmp_path):
    path = tmp_path / "run" / "report.html"
    write_report(summary, path)
    first = path.read_text(encoding="utf-8")
    assert first == render(summary)
    with pytest.raises(AttributeError):
        write_report(replace(summary, verdict=None), path)
    assert path.read_text(encoding="utf-8") == first
    assert list(path.parent.iterdir()) == [path]
