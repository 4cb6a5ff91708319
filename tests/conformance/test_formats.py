"""Every format is written from one model, and none lets a backend's words become markup."""

import json
import re
from html import unescape
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from attnref_conformance.honest import Tiled
from attnref_conformance.report import Report, charts, html, jsonfile, junit, markdown
from attnref_conformance.report.page import Page
from attnref_conformance.status import Element, Outcome, Status

WORST = Element("out", (0, 1), "1.5", "1.25", "0.25", "1e-06", 3, 40)
HOSTILE = '<script>alert(1)</script> | `x` & "y" \x00\x1b[31m ]]>'


def outcome(status: Status = Status.PASS, **about: Any) -> Outcome:
    """Make an outcome of clause C5."""
    named = {"id": "C5-case[float32]", "clause": "C5", "level": 1, "operation": "attention",
             "dtype": "float32", "features": ("mask",), **about}  # fmt: skip
    return Outcome(status=status, **named)


OUTCOMES = (
    outcome(utilisation=0.25, ratio=1.1, ulp=2.0, bias=-0.5, elements=40, length=37),
    outcome(Status.QUALITY, id="C5-poor[float16]", dtype="float16", message="5.0 times the error",
            utilisation=0.75, ratio=5.0, elements=10, length=64, determinism="varies"),
    outcome(Status.UNSUPPORTED, id="G2-map[float32]", clause="G2", level=4, features=("shift",),
            operation="window_attention", message="no maps", codes=("maps",), reasons=("no maps",)),
    outcome(Status.FAIL, id="D2-lse[float32]", clause="D2", level=2, features=("bias",),
            message="out[0, 1] is 1.5", element=WORST, length=128,
            cause="`attention` with `bias`: `out` is wrong", call="import attnref\nassert False\n"),
    outcome(Status.CRASH, id="D2-two[float32]", clause="D2", level=2, features=("bias",),
            message="ValueError: too\nmany lines"),
    outcome(Status.NOT_RUN, id="E1-later[float32]", clause="E1", level=3),
)  # fmt: skip


def page(*outcomes: Outcome, partial: bool = False) -> Page:
    """Make the page of some outcomes."""
    return Report(Tiled("mine"), outcomes or OUTCOMES, partial).page


class Tags(HTMLParser):
    """Checks that what is opened is closed, and keeps what there is."""

    VOID = ("meta", "link", "wbr", "br", "line", "path", "rect", "circle")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open a tag."""
        assert not ("p" in self.open and tag in ("p", "details", "div", "ul", "figure", "table"))
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the last that was opened, or fail."""
        if tag in self.VOID:
            return
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        self.said += data


FORMATS = {
    "html": lambda page: Tags(html.document(page)).said,
    "markdown": markdown.document,
    "junit": lambda page: unescape(junit.document(page)),
    "json": lambda page: json.dumps(page.content),
}


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_what_failed_and_how_to_see_it(form: str) -> None:
    """The case, what was found, the reason for declining, the remark, the call to copy."""
    said = FORMATS[form](page()).replace("\\n", "\n")
    for word in (
        "D2-lse[float32]",
        "no maps",
        "5.0 times the error",
        "import attnref\nassert False",
    ):
        assert word in said, word
    assert "mine" in said


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_a_page_quotes_the_clause_that_failed(form: str) -> None:
    """Nobody has to look up what D2 says."""
    said = FORMATS[form](page())
    assert "Log-sum-exp" in said
    assert "is the natural logarithm, includes the sink, and is differentiable." in said


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_a_page_says_what_is_expected_and_what_came(form: str) -> None:
    """The element, both values, the error, the limit, and how many are wrong."""
    said = FORMATS[form](page())
    for word in ("out[0, 1]", "1.5", "1.25", "0.25", "1e-06", "3 of 40"):
        assert word in said, word


def test_the_verdict_comes_first_in_every_page() -> None:
    """Before anything else is said."""
    assert markdown.document(page()).startswith("# `mine` does not conform\n")
    tags = Tags(html.document(page()))
    heads = [tag for tag, _ in tags.seen if tag in ("h1", "h2")]
    assert "h1" == heads[0]
    assert re.search(
        r"<h1><span class=\"name\">mine</span> does not conform</h1>", html.document(page())
    )


def test_the_page_is_well_formed_and_needs_no_network() -> None:
    """Everything is closed, every link is into the page itself, ids are unique."""
    tags = Tags(html.document(page()))
    assert not tags.open
    ids = [a["id"] for _, a in tags.seen if "id" in a]
    assert len(set(ids)) == len(ids)
    links = [a["href"] for tag, a in tags.seen if tag == "a"]
    assert links
    assert {link[1:] for link in links} <= set(ids)
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"(src|url)\s*[=(]|https?://", html.document(page()))


def test_what_a_backend_says_does_not_become_markup() -> None:
    """Names, messages, reasons and calls are text."""
    hostile = outcome(Status.FAIL, message=HOSTILE, call=f"# {HOSTILE}\n", cause=HOSTILE)
    declined = outcome(Status.UNSUPPORTED, id="C5-no[float32]", reasons=(HOSTILE,), message=HOSTILE)
    made = Report(Tiled(HOSTILE.replace("/", "")), [hostile, declined], partial=False).page
    text = html.document(made)
    assert 1 == text.count("<script>")
    assert not Tags(text).open
    fenced = re.compile(r"^(`{3,})python$.*?^\1$", re.MULTILINE | re.DOTALL)
    outside = fenced.sub("", markdown.document(made))
    assert "\\<script\\>" in outside
    assert not re.search(r"(?<!\\)<script", outside)
    ET.fromstring(junit.document(made))


def test_junit_has_a_suite_per_clause_and_counts() -> None:
    """Declined is skipped, a crash is an error, a wrong answer a failure."""
    root = ET.fromstring(junit.document(page()))
    assert ("6", "1", "1", "2") == tuple(
        root.attrib[n] for n in ("tests", "failures", "errors", "skipped")
    )
    assert ["C5", "D2", "E1", "G2"] == [s.get("name") for s in root.iter("testsuite")]
    assert "no maps" == root.find(".//skipped[@type='UNSUPPORTED']").get("message")
    assert root.find(".//failure").text.endswith("import attnref\nassert False\n")
    assert "CRASH" == root.find(".//error").get("type")
    assert "QUALITY: 5.0 times the error" == root.find(".//system-out").text


def test_a_run_that_executed_nothing_fails_in_every_format() -> None:
    """The verdict is not lost where no case failed."""
    empty = page(outcome(Status.UNSUPPORTED, reasons=("no",), message="no"))
    assert "no case was executed" in markdown.document(empty)
    assert "no case was executed" in html.document(empty)
    failure = ET.fromstring(junit.document(empty)).find(".//failure")
    assert ("VACUOUS", True) == (failure.get("type"), "no case was executed" in failure.text)


def test_a_page_of_nothing_but_passes_has_no_empty_sections() -> None:
    """What there is nothing to say of is not headed."""
    plain = page(outcome(elements=1, utilisation=0.5, length=3))
    heads = re.findall(r"<h2>(.*?)</h2>", html.document(plain))
    assert ["Levels", "Per clause", "Coverage", "Errors", "Evidence"] == heads
    assert "What failed" not in markdown.document(plain)
    bare = page(outcome())
    assert "<h2>Errors</h2>" not in html.document(bare)


def test_a_part_of_the_suite_shows_no_levels() -> None:
    """It claims none."""
    assert "<h2>Levels</h2>" not in html.document(page(*OUTCOMES, partial=True))
    assert "| L1 |" not in markdown.document(page(*OUTCOMES, partial=True))


def test_long_lists_are_counted() -> None:
    """A page is no list; the JSON report is whole."""
    many = [outcome(Status.QUALITY, id=f"C5-{n}[float32]", message="poor") for n in range(90)]
    failed = [
        outcome(Status.FAIL, id=f"D1-{n}[float32]", clause="D1", message="wrong") for n in range(90)
    ]
    made = page(*many, *failed)
    assert "and 30 more, in the JSON report" in html.document(made)
    assert "and 70 more" in markdown.document(made)
    assert 180 == len(made.content["outcomes"])


def test_a_case_that_was_not_run_was_not_judged() -> None:
    """It is counted among the rest only."""
    assert "5 cases judged: 2 failed, on the clause D2." == page().summary


# ---- The model -----------------------------------------------------------------------


def test_failures_of_one_cause_stand_together() -> None:
    """The clause that fails most nearly whole first; the others refer to it."""
    cause = "`attention` with `bias`: `out` is wrong"
    made = page(
        outcome(Status.FAIL, id="A1-a[float32]", clause="A1", cause=cause, call="a"),
        outcome(id="A1-b[float32]", clause="A1"),
        outcome(Status.FAIL, id="B3-a[float32]", clause="B3", cause=cause, call="b"),
        outcome(Status.FAIL, id="C2-a[float32]", clause="C2", cause="other", call="c"),
    )
    assert [("B3", True), ("A1", False), ("C2", True)] == [
        (f.clause.id, f.first) for f in made.failures
    ]
    assert [(cause, ["B3", "A1"]), ("other", ["C2"])] == made.causes


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        ([("mask",)], "It uses `bias`; no case that passed does."),
        ([("bias",), ("mask",), ()], "It uses `bias`; so does 1 case that passed."),
        ([("bias",), ("bias",)], ""),
    ],
    ids=["alone", "rare", "common"],
)
def test_what_failures_have_in_common_is_told(passed: list[tuple[str, ...]], said: str) -> None:
    """If the cases that passed have it less often."""
    good = [outcome(id=f"A1-{n}[float32]", clause="A1", features=f) for n, f in enumerate(passed)]
    bad = outcome(Status.FAIL, id="B3-a[float32]", clause="B3", features=("bias",))
    assert [said] == [f.common for f in page(*good, bad).failures]


def test_the_errors_are_summed_up_per_dtype_and_part() -> None:
    """Median, largest, worst, and the bias weighted by elements."""
    made = page(
        outcome(utilisation=0.1, ratio=1.0, ulp=1.0, bias=1.0, elements=30, determinism="bitwise"),
        outcome(id="C5-b[float32]", utilisation=0.3, ratio=2.0, ulp=4.0, bias=-1.0, elements=10,
                determinism="bitwise"),
        outcome(id="C5-c[float32]", features=("gradients",), elements=5, utilisation=0.5,
                determinism="varies"),
        outcome(Status.FAIL, id="C5-d[float32]", elements=0),
    )  # fmt: skip
    forward, gradients = made.content["statistics"]
    assert {
        "dtype": "float32",
        "part": "forward",
        "cases": 2,
        "utilisation": 0.2,
        "nearest": 0.3,
        "nearest_id": "C5-b[float32]",
        "ratio": 2.0,
        "ulp": 4.0,
        "bias": 0.5,
        "determinism": "bitwise",
    } == forward
    assert ("gradients", 1, "varies") == tuple(
        gradients[n] for n in ("part", "cases", "determinism")
    )


# ---- The plots -----------------------------------------------------------------------


def test_a_histogram_has_a_bar_per_quarter_of_a_decade() -> None:
    """A failure stands past the limit, what is exact is not drawn."""
    drawn = charts.histogram([*OUTCOMES, outcome(utilisation=0.26), outcome()], "float32")
    assert [("within", "2"), ("past", "1")] == re.findall(r'class="(\w+)"[^>]*><title>(\d+)', drawn)
    assert "" == charts.histogram(OUTCOMES, "float64")


def test_errors_are_drawn_against_the_number_of_keys() -> None:
    """Forward, gradients and failures have marks of their own."""
    back = outcome(features=("gradients",), utilisation=0.1, length=5)
    drawn = charts.lengths([*OUTCOMES, back], "float32")
    assert ["fore", "back", "failed"] == re.findall(r'class="(fore|back|failed)"', drawn)
    assert "" == charts.lengths(OUTCOMES, "float64")


@pytest.mark.parametrize(
    ("element", "share"),
    [(WORST, 250000.0), (None, 0.0)],
    ids=["number", "none"],
)
def test_a_failure_is_as_far_as_its_element(element: Element | None, share: float) -> None:
    """What has no number is not drawn."""
    assert pytest.approx(share) == charts.used(outcome(Status.FAIL, element=element))


def test_a_limit_of_zero_is_passed_infinitely() -> None:
    """Where exactness is asked for; it is drawn at the edge."""
    exact = Element("out", (0,), "1", "0", "1", "0", 1, 1)
    failed = outcome(Status.FAIL, element=exact, length=3)
    assert float("inf") == charts.used(failed)
    assert "failed" in charts.lengths([failed], "float32")


def test_the_digest_is_of_the_content_alone() -> None:
    """Neither the order of keys nor a digest that is already there matters."""
    assert jsonfile.digest({"a": 1, "b": 2}) == jsonfile.digest({"b": 2, "digest": "x", "a": 1})
    assert jsonfile.digest({"a": 1}) != jsonfile.digest({"a": 2})
