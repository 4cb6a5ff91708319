"""What a run says: on a terminal, as JSON, JUnit XML, Markdown, and one HTML page.

`Report` is a run, `Content` what it amounts to as data, `Page` what is said of it. Every
format is written from the same `Page`, so that no two can disagree.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from attnref.backend import Backend
from attnref_conformance import SUITE_VERSION
from attnref_conformance.profiles import DEFAULT, PROFILES
from attnref_conformance.report import claims, html, jsonfile, junit, markdown, terminal
from attnref_conformance.report.claims import LEVELS
from attnref_conformance.report.evidence import machine, package_hash, package_of, versions
from attnref_conformance.report.examples import with_calls
from attnref_conformance.report.page import Page
from attnref_conformance.status import Outcome

__all__ = [
    "LEVELS",
    "Report",
    "machine",
    "package_hash",
    "package_of",
    "profile_sentence",
    "versions",
]


@dataclass(frozen=True)
class Report:
    """The outcomes of a run and what they were outcomes of.

    Attributes:
        backend: What was judged.
        outcomes: How each case ended.
        partial: Whether a part of the suite was left out.
        named: How the command named the backend, e.g. `"small:backend"`.
        forbidden: Modules that it could not import.
    """

    backend: Backend
    outcomes: Sequence[Outcome]
    partial: bool
    named: str = ""
    forbidden: Sequence[str] = ()

    @property
    def failures(self) -> list[Outcome]:
        """The outcomes that make the run fail, a run that executed nothing included."""
        return claims.failures(self.outcomes)

    @property
    def passed(self) -> bool:
        """Whether nothing failed and something ran."""
        return not self.failures

    def level(self, number: int, dtype: str) -> str:
        """Return `"claimed"`, or what stands in the way of a level in a dtype."""
        return claims.level(self.outcomes, number, dtype, partial=self.partial)

    @cached_property
    def explained(self) -> Sequence[Outcome]:
        """The outcomes, with a program to copy for the plainest failure of every clause."""
        return with_calls(self.outcomes, self.backend, self.named or self.backend.name)

    @cached_property
    def page(self) -> Page:
        """What is said of the run."""
        return Page(self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Return the JSON report."""
        outcomes = self.explained
        return jsonfile.sealed(
            {
                "schema": jsonfile.SCHEMA,
                "suite": SUITE_VERSION,
                "attnref": metadata.version("attnref"),
                "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
                "backend": self.backend.name,
                "profile": getattr(self.backend, "profile", DEFAULT),
                "package": package_of(self.backend),
                "package_hash": package_hash(self.backend),
                "machine": machine(),
                "versions": versions(),
                **({"forbidden": sorted(self.forbidden)} if self.forbidden else {}),
                "partial": self.partial,
                "passed": self.passed,
                "counts": claims.counts(outcomes),
                "levels": claims.levels(outcomes, partial=self.partial),
                "statistics": claims.statistics(jsonfile.kept(outcomes)),
                "outcomes": [o.as_json() for o in outcomes],
            }
        )

    def write(self, folder: Path) -> Path:
        """Write the report in every format into a folder.

        Returns:
            The path of the HTML page; the others are beside it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^\w.-]+", "-", self.page.name)
        for suffix, text in (
            ("json", jsonfile.lines(self.page.content)),
            ("xml", junit.document(self.page)),
            ("md", markdown.document(self.page)),
            ("html", html.document(self.page)),
        ):
            (folder / f"{name}.{suffix}").write_text(text, encoding="utf-8")
        return folder / f"{name}.html"

    def print(self, console: Console) -> None:
        """Print the page that an author reads."""
        terminal.show(self.page, console)


def profile_sentence(backend: Backend) -> str:
    """Say which arithmetic profile a backend is judged under."""
    name = getattr(backend, "profile", DEFAULT)
    return f"{name}: {PROFILES[name].meaning}"
