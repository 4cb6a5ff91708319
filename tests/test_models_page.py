"""The page about models tells the truth."""

import doctest
import re
from pathlib import Path

from attnref.models.command import listing

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "models.md"


def test_the_page_runs() -> None:
    """What follows `>>>` prints what stands under it."""
    failed, attempted = doctest.testfile(str(PAGE), module_relative=False)

    assert (0, True) == (failed, attempted > 0)


def test_the_page_lists_the_models_that_there_are() -> None:
    """The table is what `attnref models` prints."""
    text = PAGE.read_text("utf-8")

    assert f"<!-- listing: begin -->\n```text\n{listing()}\n```\n<!-- listing: end -->" in text


def test_links_lead_somewhere() -> None:
    """Every relative link names a file that is there."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", PAGE.read_text("utf-8"))

    assert [] == [link for link in links if not (PAGE.parent / link).exists()]
