"""Every table of a page as text: a heading, the names of its columns, and its rows."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from attnref_conformance.bench import growth
from attnref_conformance.bench.page import told
from attnref_conformance.bench.results import Row, Run


@dataclass(frozen=True)
class Table:
    """A table; the first column of a row says what it is about."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def timed(run: Run) -> list[Table]:
    """Return a table for each pass of each table of workloads."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in run.rows:
        groups.setdefault((row.table, row.passes), []).append(row)
    return [_rated(run, name, passes, rows) for (name, passes), rows in groups.items()]


def _rated(run: Run, name: str, passes: str, rows: list[Row]) -> Table:
    who = list(dict.fromkeys(n for row in rows for n in row.timings)) or [run.backend]
    units = {row.unit for row in rows}
    unit = f", {units.pop()}" if len(units) == 1 else ""
    heads = ("workload", *(f"{n}{unit}" for n in who), "of the best peer", "of the ceiling",
             "median", "quartiles", "peak memory", "turns", "timed by")  # fmt: skip
    return Table(
        f"{name.capitalize()}, {passes}", heads,
        tuple(_cells(run, row, who, bare=bool(unit)) for row in rows),
    )  # fmt: skip


def _cells(run: Run, row: Row, who: list[str], *, bare: bool) -> tuple[str, ...]:
    if run.backend not in row.timings:
        said = row.wrong or row.absent.get(run.backend, "not timed")
        return (row.name, said, *("-" for _ in who[1:]), *("-",) * 7)
    rates = (
        f"{told.number(row.told(n))}{'' if bare else f' {row.unit}'}" if n in row.timings else "-"
        for n in who
    )
    mine = row.timings[run.backend]
    low, _, high = mine.quartiles
    best = f"{told.ratio(row.ratio)} ({row.best_peer})" if row.best_peer else "-"
    return (
        row.name, *rates, best, told.share(run.of_ceiling(row)), told.seconds(mine.median),
        f"{told.seconds(low)} to {told.seconds(high)}", told.size(mine.peak),
        str(len(mine.samples)), row.clock,
    )  # fmt: skip


def fitted(run: Run) -> Table | None:
    """Return the exponents of the sweeps."""
    rows = tuple(
        (c.who, c.passes, "time" if c.what == "seconds" else "memory", f"{c.exponent:.2f}",
         f"{c.points[0][0]:,} to {c.points[-1][0]:,}")
        for c in growth.curves(run)
        if c.exponent is not None
    )  # fmt: skip
    heads = ("who", "pass", "what", "grows with length to the power of", "lengths")
    return Table("How time and memory grow", heads, rows) if rows else None


def host(run: Run) -> Table | None:
    """Return what calls cost the host."""
    rows = tuple(
        (name, told.seconds(median(times)), f"{len(times)}") for name, times in run.host.items()
    )
    return Table("Time of the host", ("what", "median", "turns"), rows) if rows else None


def absent(run: Run) -> Table | None:
    """Return who did not run, and why, with how many rows that holds for."""
    reasons: dict[tuple[str, str], int] = {}
    for row in run.rows:
        for who, why in row.absent.items():
            reasons[who, why] = reasons.get((who, why), 0) + 1
    rows = tuple((who, why, str(n)) for (who, why), n in sorted(reasons.items()))
    return Table("Who is absent", ("who", "why", "rows"), rows) if rows else None


def all_of(run: Run) -> Iterable[Table]:
    """Return every table, in the order of the page."""
    return [*timed(run), *(t for t in (fitted(run), host(run), absent(run)) if t)]
