"""Pages are whole without a network, and every row is a point."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from attnref_conformance.bench import growth, page
from attnref_conformance.bench.page import html, markdown, plots, tables, told
from attnref_conformance.bench.results import Run, Timing

from . import made


def swept() -> Run:
    """Make a run with sweeps that grow by two powers, one of them without memory."""
    rows = []
    for n in range(6):
        timings = {
            "mine": Timing((1e-5 * 4.0**n,), 1024 * 2**n),
            "torch": Timing((2e-5 * 4.0**n,), None),
        }
        rows.append(made.row("sweep", f"S {512 * 2**n}", n, timings=timings))
    wrong = made.row("decode", "a <wrong> row", 0, wrong="wrong: an error of 3 times its limit")
    none = made.row("decode", "a refused row", 0, absent={"mine": "D | 300 exceeds 256"})
    host = {"attention": (1.2e-6, 1.3e-6)}
    plain = made.run(rows=3)
    return replace(plain, rows=(*plain.rows, *rows, wrong, none), host=host, made="today")


class Whole(HTMLParser):
    """Checks that what opens closes, and keeps what would be fetched."""

    VOID = ("meta", "link", "br", "wbr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [v or "" for n, v in attrs if n in ("src", "href") and v]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()


def test_the_page_is_whole_and_fetches_nothing() -> None:
    """Names are escaped; links stay on the page."""
    text = html.document(swept())
    checked = Whole(text)
    assert [] == checked.open
    assert all(link.startswith("#") or link == "data:," for link in checked.fetched)
    assert "url(" not in text
    assert "@import" not in text
    assert "a &lt;wrong&gt; row" in text
    assert "<wrong>" not in text
    assert "default-src 'none'" in text


def test_what_is_wrong_comes_first() -> None:
    """Before any plot."""
    text = html.document(swept())
    assert text.index('id="wrong"') < text.index('id="roofline"') < text.index('id="rates"')
    assert "<b>1</b> wrong" in text
    assert 'id="wrong"' not in html.document(made.run())


def test_every_timed_row_is_a_point_of_the_roofline() -> None:
    """Filled, and hollow for the best peer; the ceilings are lines with their figures."""
    svg = plots.roofline(swept())
    ET.fromstring(svg)
    timed = [row for row in swept().rows if row.timings]
    points = re.findall(r'<circle class="dot s\d (hollow)?"', svg)
    assert [len(timed)] * 2 == [points.count(""), points.count("hollow")]
    assert 2 == svg.count('class="roof"')
    assert "copy 20.0 GB/s" in svg
    assert "matrix product 0.1 TFLOP/s" in svg


def test_points_lie_below_a_roof_that_they_keep() -> None:
    """A row at half the product's rate is lower than the line, and higher at all of it."""
    axes = plots.Axes((0, 4), (9, 12))
    assert axes.at(100, 5e10)[1] > axes.at(100, 1e11)[1]
    assert (plots.LEFT, plots.HEIGHT - plots.BOTTOM) == axes.at(1, 1e9)
    assert (plots.WIDTH - plots.RIGHT, plots.TOP) == axes.at(1e4, 1e12)


@pytest.mark.parametrize(
    ("ceilings", "roofs"),
    [({}, 0), ({"copy": 2e8}, 1), ({"product": 1e11}, 1), ({"copy": 1.0}, 0)],
    ids=["none", "copy", "product", "a copy below the plot"],
)
def test_unknown_ceilings_are_not_drawn(ceilings: dict[str, float], roofs: int) -> None:
    """And the page says which were not measured."""
    run = replace(made.run(), ceilings=ceilings)
    assert roofs == plots.roofline(run).count('class="roof"')
    if "product" not in ceilings:
        assert "no matrix product was measured" in html.document(run).lower()


def test_a_run_without_rows_has_no_plots() -> None:
    """Nor does its page fail."""
    empty = Run("mine", "laptop", made.FACTS, {})
    assert "" == plots.roofline(empty)
    assert {} == plots.lengths(empty)
    assert 'id="roofline"' not in html.document(empty)
    assert "# mine, laptop size" in markdown.document(empty)


def test_sweeps_are_drawn_with_their_exponents() -> None:
    """Time forward of both, memory of who told it."""
    drawn = plots.lengths(swept())
    assert ["time-forward", "memory-forward"] == [*drawn]
    assert "mine ∝ S^2.00" in drawn["time-forward"]
    assert "torch ∝ S^2.00" in drawn["time-forward"]
    assert "mine ∝ S^1.00" in drawn["memory-forward"]
    assert "torch" not in drawn["memory-forward"]
    assert all(ET.fromstring(svg) is not None for svg in drawn.values())


def test_one_length_has_no_exponent() -> None:
    """A power needs two."""
    run = replace(swept(), rows=swept().rows[3:4])
    assert [None, None, None] == [c.exponent for c in growth.curves(run)]
    assert tables.fitted(run) is None
    assert "mine</text>" in plots.lengths(run)["time-forward"]


def test_short_calls_do_not_bend_the_exponent() -> None:
    """Of more than three points, the longer half is fitted."""
    points = tuple((2**n, max(1e-4, 1e-9 * 4.0**n)) for n in range(4, 16))
    assert growth.Curve("a", "seconds", "forward", points).exponent == pytest.approx(2.0, abs=0.01)


def test_markdown_has_every_table() -> None:
    """Bars inside cells are escaped; what is wrong is said on top."""
    text = markdown.document(swept(), ["a-roofline.svg"])
    titles = ["Dense, forward", "Sweep, forward", "Decode, forward", "How time and memory grow",
              "Time of the host", "Who is absent", "Made with"]  # fmt: skip
    assert titles == re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert "- a <wrong> row, forward: wrong: an error of 3 times its limit" in text
    assert "D \\| 300 exceeds 256" in text
    assert "![roofline](a-roofline.svg)" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert 1 == len(columns)


def test_files_are_written_beside_each_other(tmp_path: Path) -> None:
    """The plots that Markdown shows carry their colours."""
    names = {path.name for path in page.write(swept(), tmp_path / "new")}
    plots_ = {f"bench-mine-{n}.svg" for n in ("roofline", "time-forward", "memory-forward")}
    assert {"bench-mine.html", "bench-mine.md", *plots_} == names
    svg = (tmp_path / "new" / "bench-mine-roofline.svg").read_text()
    assert "prefers-color-scheme: dark" in svg
    ET.fromstring(svg)


def test_mixed_units_stand_in_their_cells() -> None:
    """Where one table has rates by bytes and by operations."""
    rows = [made.row("t", f"{b}", 0, by_bytes=b, timings={"mine": Timing((1e-3,))}) for b in (0, 1)]
    (table,) = tables.timed(replace(made.run(), rows=tuple(rows)))
    assert "mine" == table.heads[1]
    assert ["0.1 TFLOP/s", "1.00 GB/s"] == [row[1] for row in table.rows]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (told.seconds(0.0123), "12.3 ms"), (told.seconds(2e-10), "0.2 ns"),
        (told.seconds(-2e-6), "-2.00 µs"), (told.size(None), "unknown"), (told.size(0), "0 B"),
        (told.size(3 * 2**20), "3.00 MiB"), (told.share(None), "-"), (told.share(0.98), "98%"),
        (told.share(0.012), "1.2%"), (told.ratio(1.234), "1.23"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits_and_a_unit(said: str, expected: str) -> None:
    """Or say that nobody knows."""
    assert expected == said
