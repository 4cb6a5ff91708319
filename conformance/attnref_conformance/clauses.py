"""The text of every clause, as the normative page has it, so that a report can quote it."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Clause:
    """One clause of `docs/semantics.md`.

    Attributes:
        id: `"C5"`.
        title: `"A row that sees nothing"`.
        text: The clause without its title and its links, a sentence or an item per line.
    """

    id: str
    title: str
    text: str


DRAWN = Clause(
    "drawn",
    "Any valid problem",
    "Calls that were drawn at random from everything that the specification allows.\n"
    "They count towards no level.",
)
"""What stands for the clauses where a problem was drawn: it may be about any of them."""


@cache
def clauses() -> dict[str, Clause]:
    """Read every clause by its id."""
    sections = re.split(r"^### ([A-Z]\d+)\n", _page(), flags=re.MULTILINE)
    return {
        name: _clause(name, text) for name, text in zip(sections[1::2], sections[2::2], strict=True)
    }


def clause(name: str) -> Clause:
    """Return a clause; one that the page does not have is empty."""
    return DRAWN if name == DRAWN.id else clauses().get(name, Clause(name, "", ""))


def _page() -> str:
    # A wheel carries the page; in a checkout it is where its readers look for it.
    for path in (HERE / "semantics.md", HERE.parents[1] / "docs" / "semantics.md"):
        if path.exists():
            return path.read_text("utf-8")
    return ""


def _clause(name: str, section: str) -> Clause:
    body = section.partition("\n## ")[0]
    body = re.sub(r"^\(\[\d{4}\].*\)$", "", body, flags=re.MULTILINE)  # records of decisions
    body = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", body)
    body = re.sub(r"(?<=[ (])\*(\w+)\*", r"\1", body)  # emphasis
    title, text = re.match(r"\s*\*\*(.+?)\.\*\*(.*)", body, flags=re.DOTALL).groups()  # type: ignore[union-attr]
    return Clause(name, title, text.strip())
