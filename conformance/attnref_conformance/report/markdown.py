"""The report as Markdown, for a pull request or a wiki."""

import re
from collections.abc import Iterable

from attnref_conformance.case import DTYPES
from attnref_conformance.report.page import Cell, Failure, Page, Row, cases
from attnref_conformance.status import Element

_REMARKS = 20


def document(page: Page) -> str:
    """Write the document."""
    blocks = [
        f"# `{_cleaned(page.name)}` {page.verdict}",
        page.summary,
        _table(["level", "covers", *DTYPES], _levels(page)) if not page.partial else "",
        *_failures(page),
        "## Per clause",
        _table(["clause", "what it says", *page.dtypes], _rows(page.clauses)),
        *_section("## Coverage", _table(["operation", "feature", *page.dtypes], _rows(page.grid))),
        *_section(
            "## Declined", _items(f"{cases(len(d.ids))}: {d.reason}" for d in page.declined())
        ),
        *_section("## Correct, but not as good as it could be", _remarks(page)),
        *_section("## Errors", _numbers(page)),
        "## Evidence",
        _table(["", ""], [(name, f"`{value}`") for name, value in page.facts]),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _section(title: str, body: str) -> list[str]:
    return [title, body] if body else []


def _levels(page: Page) -> list[tuple[str, ...]]:
    return [(name, covers, *(states[d] for d in DTYPES)) for name, covers, states in page.levels]


def _rows(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    return [(*row.heads, *map(_cell, row.cells.values())) for row in rows]


def _cell(cell: Cell) -> str:
    return ", ".join(cell.words)


def _failures(page: Page) -> list[str]:
    causes = "\n".join(f"- {_cleaned(cause)} ({', '.join(on)})" for cause, on in page.causes)
    blocks = [f"Made as small as they go, the failures come down to\n\n{causes}"] if causes else []
    for failure in page.failures:
        blocks += _failure(failure)
    return ["## What failed", *blocks] if page.failures else []


def _failure(failure: Failure) -> list[str]:
    o, clause = failure.shown, failure.clause
    return [
        f"### {clause.id} {clause.title}".rstrip(),
        _quoted(clause.text),
        f"{len(failure.outcomes)} of {cases(failure.judged)} failed. {failure.common}".rstrip(),
        f"`{o.id}` {o.status}: {_cleaned(o.message)}",
        _element(o.element) if o.element else "",
        _fenced(o.call) if o.call else "",
    ]


def _fenced(call: str) -> str:
    """Fence a program with more backticks than it has in a row."""
    longest = max(map(len, re.findall("`+", call)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}python\n{call.rstrip()}\n{fence}"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def _element(e: Element) -> str:
    at = ", ".join(map(str, e.at))
    heads = ["element", "got", "expected", "error", "limit", "wrong elements"]
    row = (f"`{e.array}[{at}]`", e.got, e.expected, e.error, e.limit, f"{e.wrong} of {e.of}")
    return _table(heads, [row])


def _remarks(page: Page) -> str:
    more = len(page.remarks) - _REMARKS
    said = [f"`{o.id}`: {o.message}" for o in page.remarks[:_REMARKS]]
    return _items([*said, *([f"and {more} more"] if more > 0 else [])])


def _numbers(page: Page) -> str:
    heads = {
        "dtype": "dtype",
        "part": "part",
        "cases": "cases",
        "utilisation": "median error / limit",
        "nearest": "largest error / limit",
        "ratio": "worst error / honest error",
        "ulp": "worst ulp",
        "bias": "bias",
        "determinism": "determinism",
    }
    rows = [tuple(str(said[n]) for n in heads) for said in page.content["statistics"]]
    return _table(list(heads.values()), rows) if rows else ""


def _items(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_cleaned(line)}" for line in lines)


def _table(heads: list[str], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += [
        "| " + " | ".join(_cleaned(x).replace("|", "\\|") for x in row) + " |" for row in rows
    ]
    return "\n".join(lines)


def _cleaned(text: str) -> str:
    """Keep a text on its line, and what a backend said from becoming markup."""
    return re.sub(r"([<>])", r"\\\1", " ".join(text.split()))
