"""The report on a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from attnref_conformance.case import DTYPES
from attnref_conformance.report.page import Cell, Page, Row
from attnref_conformance.status import Status

_MARKS = {Status.PASS: "green", Status.QUALITY: "yellow", Status.UNSUPPORTED: "dim"}
_REMARKS = 20
_CALLS = 3


def show(page: Page, console: Console) -> None:
    """Print the page that an author reads."""
    console.print(_table("Per clause", ("clause", "what it says"), page.clauses))
    if not page.partial:
        console.print(_table("Coverage", ("operation", "feature"), page.grid))
        console.print(_levels(page))
    _declines(page, console)
    _remarks(page, console)
    _failures(page, console)
    said = ", ".join(f"{n} {status}" for status, n in page.counts)
    style = "bold green" if page.passed else "bold red"
    console.print(f"[{style}]{page.name} {page.verdict}[/]: {said}")


def _table(title: str, heads: tuple[str, ...], rows: Sequence[Row]) -> Table:
    dtypes = [*rows[0].cells] if rows else []
    table = Table(*heads, *dtypes, title=title, title_justify="left")
    before = ""
    for row in rows:
        first, *others = row.heads
        if "operation" in heads and first != before:
            table.add_section()
        shown = "" if "operation" in heads and first == before else first
        table.add_row(shown, *others, *map(_cell, row.cells.values()))
        before = first
    return table


def _cell(cell: Cell) -> str:
    styled = zip(cell.counts, cell.words, strict=True)
    return ", ".join(f"[{_MARKS.get(status, 'red')}]{said}[/]" for (status, _), said in styled)


def _levels(page: Page) -> Table:
    table = Table("level", "covers", *DTYPES, title="Levels", title_justify="left")
    for name, covers, states in page.levels:
        table.add_row(name, covers, *(states[d] for d in DTYPES))
    return table


def _declines(page: Page, console: Console) -> None:
    declined = page.declined()
    if declined:
        console.print("[bold]Declined[/]")
    for d in declined:
        many = "case" if len(d.ids) == 1 else "cases"
        console.print(f"  {len(d.ids):5} {many}: {d.reason}", highlight=False, markup=False)


def _remarks(page: Page, console: Console) -> None:
    if page.remarks:
        console.print("[bold]Correct, but not as good as it could be[/]")
    for o in page.remarks[:_REMARKS]:
        console.print(f"  {o.id}: {o.message}", highlight=False, markup=False)
    if len(page.remarks) > _REMARKS:  # a page, not a list
        console.print(f"  and {len(page.remarks) - _REMARKS} more")


def _failures(page: Page, console: Console) -> None:
    """Print one failure of every clause, how many there are, and the first calls to copy."""
    for failure in page.failures:
        first, n = failure.shown, len(failure.outcomes)
        many = "case" if n == 1 else "cases"
        console.print(
            f"[bold red]{failure.clause.id}[/] {first.status}: {n} {many}, the plainest is"
        )
        console.print(f"  {first.id}\n  {first.message}", highlight=False, markup=False)
        if failure.common:
            console.print(f"  {failure.common}", highlight=False, markup=False)
    if page.causes:
        console.print("[bold]Made as small as they go, the failures come down to[/]")
    for cause, clauses in page.causes:
        console.print(f"  {cause} ({', '.join(clauses)})", highlight=False, markup=False)
    calls = [f.shown for f in page.failures if f.shown.call]
    for o in calls[:_CALLS]:
        console.print(f"[bold]To see it fail, copy[/] [dim]({o.clause})[/]")
        # Neither wrapped nor indented: it is meant to be copied.
        console.print(o.call, highlight=False, markup=False, soft_wrap=True)
    if len(calls) > _CALLS:
        console.print(f"{len(calls) - _CALLS} more calls to copy are in the report: --report DIR")
