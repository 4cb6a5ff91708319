"""The page about models tells the truth."""

import doctest
import re
from pathlib import Path

import pytest

from attnref import cli
from attnref.models.command import listing

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "models.md"


def masked(text: str) -> str:
    """Hide what depends on how a machine rounds: small numbers, bars, and an innocent's head."""
    text = re.sub(r"\d+\.\d+(e[+-]\d+)?|\d+e[+-]\d+", "N", text)
    innocent = re.compile(r"^( *\d+ +\w+) +\d+ +N +N +N +#*$", re.MULTILINE)
    return re.sub(r"#+| +", " ", innocent.sub(r"\1", text))


class Rounded(doctest.OutputChecker):
    """Compares what is printed but for what depends on the machine."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        """Tell whether what was printed is what the page shows."""
        return super().check_output(masked(want), masked(got), optionflags)


def test_the_page_runs() -> None:
    """Run down the page, what follows `>>>` prints what stands under it."""
    runner = doctest.DocTestRunner(checker=Rounded())
    text = PAGE.read_text("utf-8")

    runner.run(doctest.DocTestParser().get_doctest(text, {}, "page", str(PAGE), 0))

    assert (0, True) == (runner.failures, runner.tries > 0)
    assert masked("they part at layer 1, head 0") != masked("they part at layer 2, head 0")


def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for every small model, but for how near to its limit it is."""
    cli.main(["models", "--compare", "numpy", "torch"])

    shown = f"$ attnref models --compare numpy torch\n{capsys.readouterr().out}"
    assert masked(shown) in masked(PAGE.read_text("utf-8"))


def test_the_page_lists_the_models_that_there_are() -> None:
    """The table is what `attnref models` prints."""
    text = PAGE.read_text("utf-8")

    assert f"<!-- listing: begin -->\n```text\n{listing()}\n```\n<!-- listing: end -->" in text


def test_links_lead_somewhere() -> None:
    """Every relative link names a file that is there."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", PAGE.read_text("utf-8"))

    assert [] == [link for link in links if not (PAGE.parent / link).exists()]
