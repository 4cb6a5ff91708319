"""An experiment: a slowdown of 20 % is called out, and two runs of the same code are not.

    python -m attnref_conformance.bench.planted numpy --repeats 20 --json planted.json

A run is what `attnref bench` measures: rows in fresh processes. Each of these measures its rows
once as they are and once with a fifth of their own time added to every call. A repeat compares
a run with the one before: as it is, where no row may be called, and slowed, where one has to be;
how many slowed rows it names is told beside. It belongs on a machine that does nothing else,
and so not into any test.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from time import perf_counter
from typing import Any

from attnref_conformance.bench import compare, machine
from attnref_conformance.bench.command import PROCESSES
from attnref_conformance.bench.measure import Plan
from attnref_conformance.bench.processes import Fresh, Place, rows, together
from attnref_conformance.bench.results import Row, Run
from attnref_conformance.bench.slowed import Slower, SlowerOnGpu
from attnref_conformance.bench.workloads import SIZES, AnyWorkload

LONGEST = 1024
"""Keys, or tokens of a map, up to which a row is short enough to be measured so often."""

TURNS = 5
"""Of each process, as a run has at least."""


@dataclass(frozen=True)
class Pair:
    """One run, twice.

    Attributes:
        plain: As the backend is.
        slowed: With a fifth added.
    """

    plain: Run
    slowed: Run


def both(place: Place, w: AnyWorkload, plan: Plan) -> tuple[Row, Row]:
    """Measure a row as it is and slowed, in one process."""
    slow = SlowerOnGpu if place.machine.name == "cuda" else Slower
    (plain,), (slowed,) = (
        rows(place._replace(backend=backend), "planted", w, plan)
        for backend in (place.backend, slow(place.backend))
    )
    return plain, slowed


def measured(
    backend: str, device: str, workloads: Sequence[AnyWorkload], plan: Plan, processes: int
) -> Pair:
    """Make a run: all processes begin together and then measure one after another.

    Beginning takes longer than measuring, and what has begun only waits.
    """
    parts: list[list[tuple[Row, Row]]] = [[] for _ in workloads]
    with ExitStack() as stack:
        there = [stack.enter_context(Fresh(backend, device)) for _ in range(processes)]
        for process in there:
            process.wait()
        for process in there:
            for found, w in zip(parts, workloads, strict=True):
                found.append(process.run(both, w, plan))
    plain, slowed = (
        Run(backend, "", {}, {}, tuple(together([pair[n] for pair in row]) for row in parts))
        for n in range(2)
    )
    return Pair(plain, slowed)


@dataclass(frozen=True)
class Repeat:
    """One run, compared with the one before.

    Attributes:
        called: The slowed rows that were called slower.
        missed: Those that were not.
        slower: The unchanged rows that were.
        faster: Those that were called faster.
        ratios: Of the unchanged rows.
        planted: Of the slowed ones.
    """

    called: tuple[str, ...]
    missed: tuple[str, ...]
    slower: tuple[str, ...]
    faster: tuple[str, ...]
    ratios: tuple[float, ...]
    planted: tuple[float, ...]


def repeat(before: Pair, after: Pair) -> Repeat:
    """Compare a run with the one before, as it is and slowed."""
    same = compare.compare(before.plain, after.plain).changes
    slowed = compare.compare(before.plain, after.slowed).changes

    def those(changes: Sequence[compare.Change], *verdicts: str) -> tuple[str, ...]:
        return tuple(c.key[1] for c in changes if c.verdict in verdicts)

    return Repeat(
        those(slowed, "slower"), those(slowed, "faster", "same", "unclear"),
        those(same, "slower"), those(same, "faster"),
        tuple(c.ratio for c in same), tuple(c.ratio for c in slowed),
    )  # fmt: skip


def experiment(runs: Iterator[Pair]) -> Iterator[Repeat]:
    """Compare each run with the one before."""
    before = next(runs)
    for after in runs:
        yield repeat(before, after)
        before = after


def summary(found: Sequence[Repeat]) -> list[str]:
    """Say what came of the experiment."""
    n, rows_ = len(found), sum(len(r.ratios) for r in found)
    return [
        f"slowdown called out: {sum(bool(r.called) for r in found)} of {n} repeats",
        f"same code not called slower: {sum(not r.slower for r in found)} of {n} repeats",
        f"same code not called faster: {sum(not r.faster for r in found)} of {n} repeats",
        f"slowed rows that were named: {sum(len(r.called) for r in found) / rows_:.0%}",
        f"unchanged rows, ratio: {_spread([x for r in found for x in r.ratios])}",
        f"slowed rows, ratio: {_spread([x for r in found for x in r.planted])}",
    ]


def _spread(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.3f} to {max(ratios):.3f}, median {median(ratios):.3f}"


def noise(runs: Sequence[Pair]) -> list[str]:
    """Say how much each row differs from process to process, and from run to run, beside each."""
    said = []
    for n, row in enumerate(runs[0].plain.rows):
        mine, *peers = row.timings
        said.append(f"{row.name}: {1e3 * row.timings[mine].median:.3f} ms")
        for peer in (None, *peers):
            each = [compare.figures(run.plain.rows[n], mine, peer) for run in runs]
            within = fmean(stdev(figures) for figures in each)
            between = stdev(median(figures) for figures in each)
            who = f"beside {peer}" if peer else "alone"
            said.append(f"  processes {within:5.1%}  runs {between:5.1%}  {who}")
    return said


def _runs(said: argparse.Namespace, short: Sequence[AnyWorkload]) -> Iterator[Pair]:
    """Make runs until there are enough, or no time for another."""
    plan = Plan(said.peer, said.turns, passes=("forward",), peaks=False)
    begun = perf_counter()
    for n in range(said.repeats + 1):
        start = perf_counter()
        pair = measured(said.backend, said.device, short, plan, said.processes)
        print(f"run {n}: {perf_counter() - start:.1f} s", flush=True)  # noqa: T201
        yield pair
        if perf_counter() - begun + 1.1 * (perf_counter() - start) > said.seconds:
            return


def kept(runs: Sequence[Pair], found: Sequence[Repeat]) -> dict[str, Any]:
    """Return the experiment as data, with every turn."""

    def turns(run: Run) -> dict[str, Any]:
        return {r.name: {who: r.parts(who) for who in r.timings} for r in run.rows}

    return {
        "repeats": [asdict(r) for r in found],
        "runs": [{"plain": turns(r.plain), "slowed": turns(r.slowed)} for r in runs],
    }


def main(argv: Sequence[str]) -> int:
    """Run the experiment on short rows of the device's size."""
    parser = argparse.ArgumentParser(prog="python -m attnref_conformance.bench.planted")
    parser.add_argument("backend")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--processes", type=int, default=PROCESSES, help="of each run")
    parser.add_argument("--turns", type=int, default=TURNS, help="of each process")
    parser.add_argument("--peer", action="append", metavar="NAME", help="only this peer")
    parser.add_argument("--row", action="append", metavar="TEXT", help="only rows like this")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="at most, all told")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every turn of every run")
    said = parser.parse_args(argv)
    for pin in machine.PINS:  # processes begin with what stands here
        os.environ.pop(pin, None)
    tables = SIZES["datacentre" if said.device == "cuda" else "laptop"]
    short = [
        w
        for table in ("dense", "sweep", "windows")
        for w in tables.get(table, ())
        if w.length <= LONGEST and any(t.lower() in w.name.lower() for t in said.row or [""])
    ]
    runs: list[Pair] = []
    found = [*experiment(_each(_runs(said, short), runs))]
    if not found:
        print("no two runs were made: give more --seconds")  # noqa: T201
        return 2
    print("\n".join([*noise(runs), *summary(found)]))  # noqa: T201
    if said.json:
        said.json.write_text(json.dumps(kept(runs, found)) + "\n", "utf-8")
    return 0 if all(r.called and not r.slower for r in found) else 1


def _each(runs: Iterator[Pair], kept: list[Pair]) -> Iterator[Pair]:
    for run in runs:
        kept.append(run)
        yield run


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
