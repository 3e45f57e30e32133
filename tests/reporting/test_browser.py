"""The page in a real browser: tabs, plots, keys, colours, and hostile text that stays text."""

import shutil
from dataclasses import replace

import pytest

from adapt.evaluation.result import ClassScores
from adapt.reporting.html import render
from tests.reporting.test_html import HOSTILE, hostile_summary

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no chromium or google-chrome on the PATH", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

OPEN_ALL = "document.querySelectorAll('details').forEach((one) => one.open = true)"
SHOW_ALL = """document.querySelectorAll('section').forEach((one) => {
    one.removeAttribute('hidden');
    one.removeAttribute('aria-hidden');
})"""
CONTRAST = ["color-contrast"]  # what else axe looks at is the same in light and dark
WIDE, PHONE = {"width": 1200, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def report(summary, timed, bare, tmp_path):
    """Writes a report: one with everything, one with little, or one full of markup."""

    def task(one):
        labels = [f"label {n}" for n in range(6)]
        organ = replace(
            one.tasks["organ"],
            confusion=tuple((a, b, 3) for a in labels for b in (a, labels[0])),
            classes=tuple(ClassScores(label, 0.5, 0.5, 0.5, 9) for label in labels),
        )
        return replace(one, tasks={**one.tasks, "organ": organ})

    def written(name):
        scores = {model: task(one) for model, one in summary.scores.items()}
        whole = {"whole": replace(summary, scores=scores), "timed": timed, "bare": bare}
        path = tmp_path / f"{name}.html"
        path.write_text(render(whole.get(name) or hostile_summary(summary)), encoding="utf-8")
        return path.as_uri()

    return written


class Opened:
    """A page, and whatever it did that a report must not do."""

    def __init__(self, browser, address, **context):
        self.context = browser.new_context(**{"viewport": WIDE, **context})
        self.page = self.context.new_page()
        self.faults = []
        self.page.on("console", lambda said: self.faults.append(f"{said.type}: {said.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.faults.append("dialog"), dialog.dismiss()))
        self.page.on("request", self.asked)
        self.address = address
        self.page.goto(address)

    def asked(self, request):
        if request.url.partition("#")[0] != self.address.partition("#")[0]:
            self.faults.append(f"request: {request.url}")

    def __enter__(self):
        return self.page

    def __exit__(self, kind, *_):
        self.context.close()
        if kind is None:
            assert self.faults == []


def parts_shown(page):
    return page.eval_on_selector_all(
        "section", "all => all.filter((one) => !one.hidden).map((one) => one.id)"
    )


def selected(page):
    return page.eval_on_selector_all(
        "[role=tab]",
        "all => all.filter((t) => t.ariaSelected === 'true').map((t) => t.textContent)",
    )


def focused(page):
    return page.evaluate("(document.activeElement.ariaLabel || document.activeElement.textContent)")


def test_tabs_by_click_and_by_key(browser, report):
    with Opened(browser, report("whole")) as page:
        assert parts_shown(page) == ["scores"]
        tabs = page.get_by_role("tab")
        names = tabs.all_text_contents()
        assert names[0] == "Scores"
        assert len(names) == 8
        assert page.get_by_role("tablist").count() == 1
        page.get_by_role("tab", name="Training").click()
        assert parts_shown(page) == ["training"]
        assert selected(page) == ["Training"]
        assert page.url.endswith("#training")
        panel = page.get_by_role("tabpanel")
        assert panel.count() == 1
        assert panel.get_attribute("id") == "training"
        for key, now in (
            ("ArrowRight", "Tasks"),
            ("ArrowLeft", "Training"),
            ("End", "Run"),
            ("ArrowRight", "Scores"),
            ("ArrowLeft", "Run"),
            ("Home", "Scores"),
        ):
            page.keyboard.press(key)
            assert selected(page) == [now] == [focused(page)]
        # One stop for all tabs, and the part that is open comes next.
        stops = page.eval_on_selector_all("[role=tab]", "all => all.map((tab) => tab.tabIndex)")
        assert sorted(stops) == [-1] * 7 + [0]
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('section').id") == "scores"
        # The tabs stay in sight far down a part, and another part is shown from its beginning.
        page.get_by_role("tab", name="Tokenization").click()
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.get_by_role("tab", name="Speed and cost").click()
        assert 0 <= page.locator("#speed h2").bounding_box()["y"] < 200
        # The verdict and the table stay.
        assert page.locator(".verdict").is_visible()
        assert page.get_by_text("On held-out text and rows").is_visible()


def test_an_address_opens_the_part_that_holds_it(browser, report):
    with Opened(browser, report("whole") + "#segmentation") as page:
        assert parts_shown(page) == ["tokenization"]
        assert page.locator("#segmentation").is_visible()
        page.evaluate("location.hash = '#edge'")
        page.wait_for_function("!document.getElementById('scores').hidden")
        assert selected(page) == ["Scores"]
        # As in a browser that cannot search hidden parts and shows none by itself.
        plain = "all => all.forEach((one) => one.setAttribute('hidden', ''))"
        page.eval_on_selector_all("section[hidden]", plain)
        page.evaluate("location.hash = '#audit'")
        page.wait_for_function("!document.getElementById('corpus').hidden")
        assert selected(page) == ["Data"]
        page.evaluate("location.hash = '#no-such-thing'")
        assert parts_shown(page) == ["corpus"]
        page.get_by_role("tab", name="Scores").click()
        page.get_by_role("link", name="the edge of a prompt").click()
        assert parts_shown(page) == ["scores"]
        # What a search in the page finds in another part shows itself.
        page.evaluate("document.getElementById('run').dispatchEvent(new Event('beforematch'))")
        assert selected(page) == ["Run"]


def test_marks_say_what_they_are_to_the_mouse_and_to_keys(browser, report):
    with Opened(browser, report("whole") + "#training") as page:
        tip = page.locator(".tip")
        assert tip.is_hidden()
        marks = page.locator("#training figure").first.locator("[role=img]")
        marks.first.scroll_into_view_if_needed()
        marks.first.hover()
        assert tip.inner_text() == marks.first.get_attribute("aria-label")
        assert "step 5" in tip.inner_text()
        page.mouse.move(1, 1)
        assert tip.is_hidden()
        assert marks.evaluate_all("all => all.filter((mark) => mark.tabIndex === 0).length") == 1
        marks.first.focus()
        assert tip.is_visible()
        page.keyboard.press("ArrowRight")
        assert focused(page) == marks.nth(1).get_attribute("aria-label") == tip.inner_text()
        page.keyboard.press("End")
        assert focused(page) == marks.last.get_attribute("aria-label") == tip.inner_text()
        page.keyboard.press("Escape")
        assert tip.is_hidden()
        page.keyboard.press("Home")
        assert tip.is_visible()
        page.keyboard.press("Tab")  # out of the plot, not to its next mark
        assert page.evaluate("document.activeElement.closest('svg')") is None
        assert tip.is_hidden()


def test_markup_in_the_data_stays_text(browser, report):
    with Opened(browser, report("hostile")) as page:
        for tab in page.get_by_role("tab").all():
            tab.click()
            assert page.locator("img, iframe, object, [onerror], [onload]").count() == 0
        assert page.locator("script").count() == 1
        page.get_by_role("tab", name="Tasks").click()
        cell = page.locator("#tasks figure.wide [role=img]").first
        cell.hover()
        tip = page.locator(".tip")
        assert HOSTILE in tip.inner_text()
        assert tip.evaluate("tip => tip.childElementCount") == 0


@pytest.mark.parametrize("name", ["whole", "timed", "bare", "hostile"])
def test_on_a_phone_nothing_runs_over(browser, report, name):
    with Opened(browser, report(name), viewport=PHONE) as page:
        page.evaluate(OPEN_ALL)
        for tab in page.get_by_role("tab").all():
            tab.click()
            assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        smallest = page.eval_on_selector_all(
            "figure:not(.wide) svg text",
            "all => Math.min(...all.map((t) => t.getBoundingClientRect().height).filter(Boolean))",
        )
        assert smallest is None or smallest > 9


def an_axe():
    return pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
    ).Axe()


@pytest.mark.parametrize("name", ["whole", "timed", "bare", "hostile"])
def test_axe_finds_no_serious_fault_in_light_and_dark(browser, report, name):
    axe = an_axe()
    colours = []
    # Only axe itself, which is put into the page, needs the policy out of the way.
    with Opened(browser, report(name), bypass_csp=True) as page:
        page.evaluate(OPEN_ALL)
        page.evaluate(SHOW_ALL)
        for scheme, rules in (("light", ["wcag2a", "wcag2aa", "wcag21aa"]), ("dark", CONTRAST)):
            page.emulate_media(color_scheme=scheme)
            colours.append(
                [
                    page.evaluate(f"getComputedStyle(document.querySelector('{where}')).{what}")
                    for where, what in (("body", "color"), ("svg text", "fill"), ("th", "color"))
                ]
            )
            found = axe.run(page, options={"resultTypes": ["violations"], "runOnly": rules})
            grave = [
                (fault["id"], node["html"][:200])
                for fault in found.response["violations"]
                if fault["impact"] in ("serious", "critical")
                for node in fault["nodes"][:3]
            ]
            assert grave == [], scheme
    assert all(light != dark for light, dark in zip(*colours, strict=True))


def test_axe_would_find_a_fault(browser, tmp_path):
    axe = an_axe()
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><title>x</title><p style='color:#ccc'>Pale words.", encoding="utf-8"
    )
    with Opened(browser, path.as_uri()) as page:
        found = axe.run(page).response["violations"]
    assert {"color-contrast", "html-has-lang"} <= {fault["id"] for fault in found}


def test_colours_of_plots_follow_the_page(browser, report):
    with Opened(browser, report("whole") + "#training") as page:
        line = page.locator('#training path[stroke="var(--adapted)"]').first
        shown = []
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            shown.append(line.evaluate("line => getComputedStyle(line).stroke"))
        assert shown == ["rgb(9, 105, 218)", "rgb(90, 169, 255)"]


def test_nothing_moves(browser, report):
    with Opened(browser, report("whole"), reduced_motion="reduce") as page:
        page.get_by_role("tab", name="Run").click()
        assert page.evaluate("document.getAnimations().length") == 0
        moving = page.evaluate(
            "[...document.querySelectorAll('*')].filter((one) => {"
            " const style = getComputedStyle(one);"
            " return style.transitionDuration !== '0s' || style.animationName !== 'none'"
            " || style.scrollBehavior === 'smooth'; }).length"
        )
        assert moving == 0


def test_without_scripts_and_in_print_everything_is_shown(browser, report):
    with Opened(browser, report("whole"), java_script_enabled=False) as page:
        shown = [one.is_visible() for one in page.locator("section").all()]
        assert shown == [True] * 8
        assert page.locator(".hint").is_hidden()
        assert page.get_by_role("link", name="Training").count() == 1
    with Opened(browser, report("whole")) as page:
        heights = "all => all.map((one) => one.getBoundingClientRect().height > 50)"
        assert page.eval_on_selector_all("section", heights).count(True) == 1
        page.emulate_media(media="print")
        assert page.eval_on_selector_all("section", heights) == [True] * 8
        assert page.locator(".tabs").is_hidden()
