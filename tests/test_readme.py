"""The front page tells the truth."""

import doctest
import re
from pathlib import Path

import pytest
from attnref_conformance import support
from attnref_conformance.report import verify

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")

PAGES = (
    "README.md",
    "backends/README.md",
    "conformance/README.md",
    "examples/attnref_jax/README.md",
    "examples/minilm/README.md",
)


def test_the_quickstart_runs() -> None:
    """What a newcomer types prints what the page shows."""
    flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    failed, attempted = doctest.testfile(
        str(ROOT / "README.md"), module_relative=False, optionflags=flags
    )

    assert (0, True) == (failed, attempted > 0)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link of a front door names a file that is there."""
    folder = (ROOT / page).parent
    text = (ROOT / page).read_text("utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)

    assert [] == [link for link in links if not (folder / link).exists()]


def test_the_support_table_is_that_of_the_reports() -> None:
    """Nobody typed the table of what each backend supports."""
    reports = support.read(ROOT / "conformance" / "reports")
    written = README.partition(support.BEGIN)[2].partition(support.END)[0].strip()

    assert support.settled(support.table(reports)) == support.settled(written)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "conformance" / "reports").glob("*.json")), ids=lambda path: path.stem
)
def test_the_reports_verify(path: Path) -> None:
    """Nobody edited the evidence; whether it is stale is another matter."""
    assert [] == list(verify.verify(path.read_text("utf-8")).wrong)
