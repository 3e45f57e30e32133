"""`adapt report RUN…`: a run's page anew, and several runs on one page."""

import json
import re
import webbrowser
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from adapt.evaluation.bootstrap import Interval
from adapt.evaluation.compare import Figure
from adapt.evaluation.result import Likelihood
from adapt.evaluation.verdict import Verdict
from adapt.fertility import FertilityReport
from adapt.reporting.finished import read_summary
from adapt.reporting.side_by_side import MARK, Opened, link, open_runs, render, sections
from adapt.workspace import Workspace, write_json, write_text
from tests.reporting.conftest import make_bare, make_summary
from tests.test_layers import without_torch

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def hashed(summary, domain="a", general="b", task="c"):
    """A summary whose figures name their data."""

    def of(model):
        parts = {
            kind: replace(getattr(model, kind), data=name * 64)
            for kind, name in (("domain", domain), ("general", general))
            if getattr(model, kind)
        }
        tasks = {name: replace(one, data=task * 64) for name, one in model.tasks.items()}
        return replace(model, **parts, tasks=tasks)

    return replace(summary, scores={name: of(model) for name, model in summary.scores.items()})


def save(summary, folder):
    """The files that a run of this summary leaves, as far as a report needs them."""
    run = Workspace(folder)
    write_json(run.reports / "evaluation.json", summary.to_json())
    write_json(run.reports / "fertility.json", summary.fertility.to_json())
    write_text(run.recipe, summary.recipe)
    run.tokenizer.mkdir(parents=True)
    summary.vocabulary.delta.save(run.tokenizer)
    for stage in summary.seconds:
        run.finish(stage, "", {}, {}, 1.0)
    return folder


def placed(summary, folder):
    """The summary as it is read back from its folder."""
    run = Workspace(folder)
    folders = {"adapted": run.adapter, "control": run.control}
    return replace(
        summary,
        vocabulary=replace(summary.vocabulary, folder=run.tokenizer),
        trained={m: replace(one, folder=folders[m]) for m, one in summary.trained.items()},
    )


@pytest.fixture
def refused(adapt):
    """One line on the error stream and exit code 2."""

    def refused(*arguments):
        code, out, err = adapt(*arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1), err
        return err.rstrip()

    return refused


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs on the same data, `one` and `other`; `bare` has no control and other domain text."""
    monkeypatch.chdir(tmp_path)
    made = {
        "one": hashed(make_summary()),
        "other": hashed(replace(make_summary(), name="second")),
        "bare": hashed(make_bare(make_summary()), domain="d"),
    }
    return {name: save(one, Path("runs") / name) for name, one in made.items()}


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def links(self):
        return [attributes["href"] for tag, attributes in self.tags if tag == "a"]


def by_title(opened):
    return {section.title: section for section in sections(opened)}


def line(section, measure):
    (found,) = [one for one in section.lines if one.measure == measure]
    return found


# -- a run read back -----------------------------------------------------------------------------


def test_a_summary_is_read_back_as_it_was(tmp_path):
    figure = Figure(
        "bits", "lower", 3, "f" * 64, 0.5, 0.6, Interval(0.5, 0.4, 0.6), None,
        Interval(-0.1, -0.2, 0.0), 0.04, "paired bootstrap",
    )  # fmt: skip
    whole = hashed(make_summary())
    against = replace(whole.comparisons["control"], figures=(figure,), notes=("x: not compared",))
    whole = replace(whole, comparisons={**whole.comparisons, "control": against})
    for name, summary in (("whole", whole), ("bare", make_bare(make_summary()))):
        folder = save(summary, tmp_path / name)
        assert read_summary(folder) == placed(summary, folder)


def test_results_of_an_older_version_are_read(tmp_path):
    folder = save(make_summary(), tmp_path / "run")
    path = folder / "reports" / "evaluation.json"
    record = json.loads(path.read_text())
    del record["audit"]
    for one in record["scores"].values():
        for task in one["tasks"].values():
            del task["calibration"]
    for one in record["comparisons"].values():
        del one["figures"], one["notes"]
    write_json(path, record)
    read = read_summary(folder)
    assert read.audit is None
    assert read.scores["adapted"].tasks["organ"].calibration == ()
    assert read.comparisons["control"].figures == ()


@pytest.mark.parametrize("file", ["reports/evaluation.json", "reports/fertility.json"])
def test_what_is_not_finished_is_refused(runs, refused, file):
    (runs["one"] / file).unlink()
    page = Path("runs/one/report.html")
    for more in ([], ["runs/other"]):
        assert refused("report", "runs/one", *more) == (
            f"runs/one: is not a finished run (no {file}); finish it with `adapt run` and its "
            "recipe"
        )
    assert not page.exists()
    assert not Path("report-compare.html").exists()


def test_a_run_begun_anew_is_not_finished(runs, refused):
    Workspace(runs["one"]).start("training")
    assert "is not a finished run (stage training under way" in refused("report", "runs/one")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"seconds": {}}', '{"seconds": 3}'])
def test_files_that_cannot_be_read_are_one_line(runs, refused, content):
    (runs["one"] / "reports" / "evaluation.json").write_text(content)
    assert refused("report", "runs/one").startswith("runs/one: holds result files that cannot be")


# -- one run -------------------------------------------------------------------------------------


def test_one_run_gets_its_own_page_anew(runs, adapt):
    code, out, err = adapt("report", "runs/one")
    assert (code, out, err) == (0, "report: runs/one/report.html\n", "")
    page = Path("runs/one/report.html").read_text()
    assert "Adopt:" in Page(page).text
    Path("runs/one/report.html").write_text("old")
    assert adapt("report", "runs/one")[0] == 0
    assert Path("runs/one/report.html").read_text() == page


def test_pages_need_no_torch(runs):
    assert "runs/one/report.html" in without_torch("report", "runs/one")
    assert "report-compare.html" in without_torch("report", "runs/one", "runs/bare")


# -- several runs --------------------------------------------------------------------------------


def test_runs_side_by_side(runs, adapt):
    code, out, err = adapt("report", "runs/one", "runs/other", "runs/bare")
    assert (code, out, err) == (0, "report: report-compare.html\n", "")
    page = Page(Path("report-compare.html").read_text())
    assert page.text.index("Adopt: adapted") < page.text.index("All measures")
    heads = [a for tag, a in page.tags if tag == "th" and a.get("scope") == "colgroup"]
    assert [one["colspan"] for one in heads] == ["2", "2", "1"], "bare has no control"
    assert page.links() == []
    for name in runs:
        Path(f"runs/{name}/report.html").write_text("x")
    adapt("report", "runs/one", "runs/other", "--html", "pages/two.html")
    linked = Page(Path("pages/two.html").read_text()).links()
    assert linked == ["../runs/one/report.html", "../runs/other/report.html"]
    assert all((Path("pages") / one).is_file() for one in linked)


def test_every_row_has_a_cell_for_every_model(runs):
    opened = open_runs([runs["one"], runs["bare"]])
    for section in sections(opened):
        assert len(section.data) == 2
        for one in section.lines:
            assert len(one.cells) == 3
    found = by_title(opened)
    tokens = line(found["Tokens of held-out domain text"], "tokens per word")
    assert [cell.value for cell in tokens.cells] == [1.5, 2.0, 2.0]
    saved = line(found["Tokens of held-out domain text"], "tokens saved, %")
    assert [cell.value for cell in saved.cells] == [25.0, None, 0.0]
    general = line(found["General text"], "bits per byte, general text")
    assert [cell.value for cell in general.cells] == [1.05, 1.1, None]
    size = found["Size"]
    assert [cell.value for cell in line(size, "new tokens").cells] == [70, 0, 0]
    assert [cell.value for cell in line(size, "adapter, MB").cells] == [4.9, 4.9, 4.9]
    time = line(found["Time and energy"], "training, s")
    assert [cell.value for cell in time.cells] == [16.0, 16.0, 16.0]


def test_figures_on_other_data_are_marked_and_never_the_best_of_all(runs):
    opened = open_runs([runs["one"], runs["other"], runs["bare"]])
    found = by_title(opened)
    domain = found["Held-out domain text"]
    assert not domain.shared
    assert [one[0] for one in domain.data] == ["a", "a", "b"]
    cells = line(domain, "bits per byte, domain text").cells
    assert [(c.value, c.letter, c.best) for c in cells] == [
        (0.85, "a", True), (0.9, "a", False), (0.85, "a", True), (0.9, "a", False),
        (0.85, "b", False),
    ]  # fmt: skip
    assert cells[0].interval == (0.85 - 0.05, 0.85 + 0.05)
    assert found["General text"].shared
    assert {c.letter for c in line(found["General text"], "bits per byte, general text").cells} == {
        ""
    }
    assert found["General text"].data[2] is None
    assert found["Task organ"].shared
    assert not found["Speed"].shared, "of another text"
    text = re.sub(r"\s+", " ", Page(render(opened, Path())).text)
    other = text[text.index("Not measured alike") :]
    assert "Held-out domain text" in other[: other.index("same letter")]
    assert "General text" in text[text.index("Measured alike") : text.index("Not measured alike")]
    assert "SHA-256 aaaaaaaaaaaa" in text
    assert "SHA-256 dddddddddddd" in text


def test_data_without_a_hash_is_told_by_its_sizes(tmp_path):
    def domain(bytes_, data=""):
        summary = make_summary()
        one = Likelihood((1.0,) * len(bytes_), bytes_, Interval(1, 0, 2), data)
        scores = {m: replace(model, domain=one) for m, model in summary.scores.items()}
        return Opened(tmp_path, replace(summary, scores=scores))

    def letters(*opened):
        return [one[0] for one in by_title(opened)["Held-out domain text"].data]

    assert letters(domain((5, 6)), domain((5, 6)), domain((6, 5))) == ["a", "a", "b"]
    assert letters(domain((5, 6), "x" * 64), domain((5, 6))) == ["a", "a"]
    assert letters(domain((5, 6), "x" * 64), domain((5, 6), "y" * 64)) == ["a", "b"]


def test_rows_of_tasks_are_told_by_hash(runs):
    other = hashed(make_summary(), task="e")
    opened = [*open_runs([runs["one"]]), Opened(Path("x"), other)]
    organ = by_title(opened)["Task organ"]
    assert [one[0] for one in organ.data] == ["a", "b"]
    assert [c.best for c in line(organ, "accuracy").cells] == [True, False, True, False]
    gone = {m: replace(model, tasks={}) for m, model in other.scores.items()}
    one = by_title([opened[0], Opened(Path("x"), replace(other, scores=gone))])["Task organ"]
    assert one.data[1] is None
    assert one.shared


def test_the_fragmented_rows_of_a_task_are_other_data_where_the_bases_are(runs):
    cut = {"accuracy": Interval(0.4, 0.2, 0.6)}

    def opened(*part):
        summary = hashed(make_summary())
        scores = {}
        for name, one in summary.scores.items():
            task = replace(one.tasks["organ"], fragmented=part, on_fragmented=cut)
            scores[name] = replace(one, tasks={"organ": task})
        return Opened(Path(str(part)), replace(summary, scores=scores))

    found = by_title([opened(1, 4), opened(1, 4), opened(2, 4)])
    assert found["Task organ"].shared
    fifth = found["Task organ, its most fragmented fifth"]
    assert [one[0] for one in fifth.data] == ["a", "a", "b"]
    assert [one.measure for one in fifth.lines] == ["accuracy, fragmented text"]
    assert "fragmented" not in str([one.measure for one in found["Task organ"].lines])
    without = by_title(open_runs([runs["one"]]))
    assert "Task organ, its most fragmented fifth" not in without


def test_another_machine_is_other_data_to_speed(runs):
    far = replace(hashed(make_summary()), environment={"processor": "arm", "cores": "8"})
    found = by_title([*open_runs([runs["one"]]), Opened(Path("x"), far)])
    assert not found["Speed"].shared
    assert not found["Time and energy"].shared
    assert found["Held-out domain text"].shared


def test_hostile_names_stay_text(tmp_path, adapt, monkeypatch):
    monkeypatch.chdir(tmp_path)
    summary = hashed(make_summary())
    tasks = {HOSTILE: summary.scores["adapted"].tasks["organ"]}
    evil = replace(
        summary,
        name=HOSTILE,
        base=HOSTILE,
        verdict=Verdict(HOSTILE, f"Adopt: {HOSTILE}\x00\u202e"),
        scores={m: replace(model, tasks=tasks) for m, model in summary.scores.items()},
        environment={"processor": HOSTILE, "gpu": HOSTILE},
    )
    name = 'javascript:alert(1)"><b onclick=x>'
    for folder in (name, "plain"):
        save(evil, Path(folder))
        Path(folder, "report.html").write_text("x")
    code, _, err = adapt("report", name, "plain")
    assert code == 0, err
    text = Path("report-compare.html").read_text()
    page = Page(text)
    assert {"script", "img", "b"}.isdisjoint(tag for tag, _ in page.tags)
    assert not [a for _, a in page.tags if any(n.startswith("on") for n in a)]
    assert HOSTILE in page.text
    assert name in page.text
    assert page.links()[0].startswith("javascript%3Aalert%281%29%22")
    assert "\x00" not in text
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert "script-src" not in policy


def test_names_are_short_where_they_tell_runs_apart(tmp_path, adapt, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("x/run", "y/run"):
        save(make_summary(), Path(folder))
    assert adapt("report", "x/run", "y/run")[0] == 0
    text = Page(Path("report-compare.html").read_text()).text
    assert "x/run" in text
    assert "y/run" in text
    assert str(tmp_path) not in text


def test_no_link_climbs_to_the_root(tmp_path):
    folder = save(make_summary(), tmp_path / "a b" / "run")
    assert link(folder, tmp_path) is None, "there is no report"
    (folder / "report.html").write_text("x")
    assert link(folder, tmp_path) == "a%20b/run/report.html"
    assert link(folder, tmp_path / "pages") == "../a%20b/run/report.html"
    assert link(folder, Path(tmp_path.anchor) / "elsewhere") is None


# -- files and options ---------------------------------------------------------------------------


def test_a_file_of_others_is_kept_unless_forced(runs, adapt, refused):
    both = ("report", "runs/one", "runs/other", "--html", "page.html")
    page = Path("page.html")
    page.write_text("mine")
    assert refused(*both) == (
        "page.html: is a file that adapt report did not make; choose another --html, or replace "
        "it by --force"
    )
    assert page.read_text() == "mine"
    assert adapt(*both, "--force")[0] == 0
    assert MARK in page.read_text()
    assert adapt(*both)[0] == 0, "its own page is replaced"
    Path("folder").mkdir()
    assert refused(*both[:-1], "folder").startswith("folder: is a folder; ")
    assert refused(*both[:-1], "page.html/x.html").startswith("page.html/x.html: cannot be written")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "adapt report: neither a run nor a text; name finished runs, or give --text"),
        (["--tokenizer", "x"], "adapt report: neither a run nor a text; "),
        (["--against", "runs/one"], "adapt report: neither a run nor a text; "),
        (["runs/one", "--text", "a.txt"], "--text: measures a text, and RUN was given; name runs "),
        (["runs/one", "--words", "3"], "--words: measures a text, and RUN was given; "),
        (["--text", "a.txt", "--open"], "--open: is for runs; "),
        (["--text", "a.txt", "--html", "x.html"], "--html: is for runs; "),
        (["--text", "a.txt"], "adapt report: no tokenizer; "),
        (["runs/one", "--html", "x.html"], "--html: is for several runs; leave it out: "),
        (["runs/one", "--force"], "--force: is for several runs; "),
        (["runs/one", "runs/../runs/one"], "runs/../runs/one: is given twice; "),
        (["runs/none"], "runs/none: is not a finished run (no reports/evaluation.json); "),
    ],
)
def test_wrong_options_are_one_line(runs, refused, arguments, said):
    assert refused("report", *arguments).startswith(said)
    assert not list(Path().glob("*.html"))


def test_open_shows_the_page_that_was_written(runs, adapt, refused, monkeypatch):
    shown = []
    monkeypatch.setattr(webbrowser, "open", lambda address: shown.append(address) or True)
    assert adapt("report", "runs/one", "--open")[0] == 0
    assert adapt("report", "runs/one", "runs/other", "--open")[0] == 0
    pages = ["runs/one/report.html", "report-compare.html"]
    assert shown == [Path(page).resolve().as_uri() for page in pages]
    refused("report", "runs/one", "runs/none", "--open")
    adapt("report", "runs/one")
    assert len(shown) == 2, "only on a success, and only when asked"
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    code, out, _ = adapt("report", "runs/one", "--open")
    assert code == 0
    assert out.endswith("no browser was found to show it\n")


def test_reports_of_other_kinds_stay_in_their_place(runs, adapt, tiny_base):
    Path("text.txt").write_text("The mayor repaired the harbour in 1987.\n")
    output = Path("out.json")
    code, _, err = adapt(
        "report", "--tokenizer", tiny_base, "--text", "text.txt", "--output", output
    )
    assert code == 0, err
    assert FertilityReport.from_json(json.loads(output.read_text())).domain[0].words == 7


def test_a_page_that_cannot_be_written_is_an_error(runs, refused, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("adapt.reporting.html.write_text", full)
    said = "runs/one/report.html: cannot be written, got 'No space left on device'; "
    assert refused("report", "runs/one").startswith(said)
