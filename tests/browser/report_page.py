"""The report's page in a real browser: `nox -s pages`.

Not collected with the other tests, which need no browser: it is named when it is wanted.
The pages are opened from the disk, in Chromium, on a phone and on a desk, by day and by
night.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from attnref_conformance.faulty import FAULTS
from attnref_conformance.honest import Tiled
from attnref_conformance.report import Report
from attnref_conformance.status import Status
from attnref_conformance.suite import Selection, run
from playwright.sync_api import Browser, Page, sync_playwright

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
READERS = [(PHONE, "light"), (PHONE, "dark"), (DESK, "light"), (DESK, "dark")]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start the Chromium that is on the PATH."""
    path = shutil.which("chromium")
    assert path, "there is no chromium on the PATH: apt-get install -y chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write the page of a run that fails in many ways, and of one that does not."""
    folder = tmp_path_factory.mktemp("pages")
    faulty, honest = FAULTS["heads_interleaved"].backend, Tiled("honest")
    clauses = Selection(clauses=("A2", "B1", "C5", "G2"), quick=True).trials()
    failed = list(run(faulty, clauses))
    long = "a reason that goes on and on, with_a_word_that_does_not_break_" + "x" * 200
    failed[0] = replace(failed[0], status=Status.UNSUPPORTED, reasons=(long,), message=long)
    failed[1] = replace(failed[1], status=Status.CRASH, message=f"ValueError: {'y' * 300}")
    passed = list(run(honest, clauses))
    return {
        "failed": Report(
            faulty, failed, partial=False, named="attnref_conformance.faulty:heads_interleaved"
        ).write(folder),
        "passed": Report(honest, passed, partial=False).write(folder),
    }


class Reader:
    """Opens a page and hears what it complains of and what it asks for."""

    def __init__(self, browser: Browser, path: Path, viewport: dict[str, int], scheme: Any) -> None:
        self.page: Page = browser.new_page(viewport=viewport, color_scheme=scheme)
        self.heard: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.heard.append(message.text))
        self.page.on("pageerror", lambda error: self.heard.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def tell(self, script: str) -> Any:
        """Evaluate a script."""
        return self.page.evaluate(script)

    def until(self, script: str) -> None:
        """Wait for a script to hold; the page's own policy keeps the browser from doing it."""
        for _ in range(100):
            if self.tell(script):
                return
            self.page.wait_for_timeout(20)
        raise AssertionError(script)


@pytest.fixture(params=READERS, ids=lambda r: f"{r[0]['width']}-{r[1]}")
def reading(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Any]:
    """Open pages as one kind of reader."""
    opened: list[Reader] = []

    def read(path: Path) -> Reader:
        opened.append(Reader(browser, path, *request.param))
        return opened[-1]

    yield read
    for reader in opened:
        reader.page.close()


@pytest.mark.parametrize("name", ["failed", "passed"])
def test_nothing_is_asked_for_and_nothing_complained_of(
    name: str, reading: Any, pages: dict[str, Path]
) -> None:
    """The file is all there is, and the browser finds nothing wrong with it."""
    reader = reading(pages[name])
    assert [] == reader.heard
    outside = [url for url in reader.asked if not url.startswith(("file://", "data:"))]
    assert [] == outside
    assert 1 == sum(url.startswith("file://") for url in reader.asked)


@pytest.mark.parametrize("name", ["failed", "passed"])
def test_the_page_is_no_wider_than_the_screen(
    name: str, reading: Any, pages: dict[str, Path]
) -> None:
    """Opened in every place, too; what is wider scrolls in a box of its own."""
    reader = reading(pages[name])
    reader.tell("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert reader.tell("innerWidth") == reader.tell("document.documentElement.scrollWidth")
    wide = reader.tell(
        """[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, pre, svg'))
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
        .map(e => e.outerHTML.slice(0, 90))"""
    )
    assert [] == wide


def test_a_wide_table_scrolls_in_its_box(browser: Browser, pages: dict[str, Path]) -> None:
    """On a phone, with the keyboard."""
    reader = Reader(browser, pages["failed"], PHONE, "light")
    box = reader.page.locator("#errors .scroll")
    assert box.evaluate("e => e.scrollWidth > e.clientWidth")
    box.focus()
    reader.page.keyboard.press("ArrowRight")
    reader.until("document.querySelector('#errors .scroll').scrollLeft > 0")
    reader.page.close()


def test_the_verdict_is_seen_first(reading: Any, pages: dict[str, Path]) -> None:
    """Without scrolling, on any screen."""
    reader = reading(pages["failed"])
    assert "heads_interleaved does not conform" == reader.page.locator("h1").inner_text()
    assert reader.tell("document.querySelector('h1').getBoundingClientRect().bottom < innerHeight")


_CONTRAST = """() => {
  const channel = c => { c /= 255; return c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4; };
  const parse = s => s.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
  };
  const poor = [];
  document.querySelectorAll('details').forEach(d => { d.open = true; });
  for (const e of document.querySelectorAll('body *:not(script):not(style):not(svg *)')) {
    const said = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!said || !e.checkVisibility()) continue;
    const both = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(...both) + .05) / (Math.min(...both) + .05);
    if (ratio < 4.5) poor.push([ratio, e.outerHTML.slice(0, 90)]);
  }
  return poor;
}"""


def test_every_word_can_be_read(reading: Any, pages: dict[str, Path]) -> None:
    """Text has the contrast that WCAG asks for at level AA, by day and by night."""
    assert [] == reading(pages["failed"]).tell(_CONTRAST)


def test_the_colours_follow_the_reader(browser: Browser, pages: dict[str, Path]) -> None:
    """A dark page for who works in the dark."""
    shades = []
    for scheme in ("light", "dark"):
        reader = Reader(browser, pages["passed"], DESK, scheme)
        colour = reader.tell("getComputedStyle(document.body).backgroundColor")
        shades.append(sum(map(int, re.findall(r"\d+", colour)[:3])))
        reader.page.close()
    assert shades[0] > 700
    assert shades[1] < 120


def test_everything_is_reached_by_the_keyboard(reading: Any, pages: dict[str, Path]) -> None:
    """In the order of the page, the skip link first, each with a visible focus."""
    reader = reading(pages["failed"])
    wanted = reader.tell(
        """[...document.querySelectorAll('a, button, summary, [tabindex="0"]')]
        .filter(e => e.checkVisibility()).length"""
    )
    reached = []
    for _ in range(wanted):
        reader.page.keyboard.press("Tab")
        reached.append(
            reader.tell(
                """(() => { const e = document.activeElement, s = getComputedStyle(e);
                e.dataset.seen = 1;
                return [e.tagName, e.className, s.outlineStyle, parseFloat(s.outlineWidth)]; })()"""
            )
        )
    assert ["A", "skip"] == reached[0][:2]
    assert wanted == reader.tell("document.querySelectorAll('[data-seen]').length")
    assert all(style == "solid" and width >= 2 for _, _, style, width in reached)


def test_the_skip_link_leads_past_the_links(browser: Browser, pages: dict[str, Path]) -> None:
    """It is off the screen until it is focused."""
    reader = Reader(browser, pages["failed"], DESK, "light")
    reader.page.keyboard.press("Tab")
    assert reader.page.locator(".skip").bounding_box()["y"] >= 0
    reader.page.keyboard.press("Enter")
    assert "main" == reader.tell("document.activeElement.id")
    reader.page.close()


def test_details_open_and_close_by_the_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    """They are the browser's own."""
    reader = Reader(browser, pages["failed"], DESK, "light")
    summary = reader.page.locator("#clauses summary").first
    summary.focus()
    reader.page.keyboard.press("Enter")
    assert reader.page.locator("#clauses details").first.get_attribute("open") is not None
    reader.page.close()


def test_a_link_to_a_clause_opens_it(browser: Browser, pages: dict[str, Path]) -> None:
    """What it leads to is folded, and is not when one arrives."""
    reader = Reader(browser, pages["failed"], DESK, "light")
    reader.page.locator("#clauses table a").first.click()
    reader.until("document.querySelector(location.hash).checkVisibility()")
    reader.page.close()


def test_the_call_is_copied_whole(browser: Browser, pages: dict[str, Path]) -> None:
    """The clipboard holds the program, and the button says so."""
    reader = Reader(browser, pages["failed"], DESK, "light")
    reader.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button = reader.page.locator("button.copy").first
    button.click()
    reader.until("document.querySelector('button.copy').textContent === 'Copied'")
    copied = reader.tell("navigator.clipboard.readText()")
    assert "import attnref\n" in copied
    with pytest.raises(AssertionError):
        exec(compile(copied, "copied.py", "exec"), {})
    reader.page.close()


def test_the_page_says_what_failed_without_scripts(
    browser: Browser, pages: dict[str, Path]
) -> None:
    """Only the copying needs one."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["failed"].as_uri())
    assert page.locator("pre").first.is_visible()
    assert not page.locator("button.copy").first.is_visible()
    context.close()
