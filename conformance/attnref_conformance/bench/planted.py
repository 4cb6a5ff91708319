"""An experiment: a slowdown of 20 % is called out, and two runs of the same code are not.

    python -m attnref_conformance.bench.planted numpy --repeats 20

In each repeat the backend is measured twice as it is and once with a fifth of its own time
added to every call. The comparison has to call the third slower, in any row, and the second in
none; how many rows of the third it names is told beside. It belongs on a machine that does
nothing else, and so not into any test.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter
from typing import Any

from attnref import registry
from attnref.backend import Backend
from attnref_conformance.bench.compare import PLANTED, compare
from attnref_conformance.bench.cpu import Processor
from attnref_conformance.bench.measure import Plan, measure
from attnref_conformance.bench.results import Run
from attnref_conformance.bench.workloads import SIZES, AnyWorkload

LONGEST = 1024
"""Keys, or tokens of a map, up to which a row is short enough to be measured so often."""


class Slower:
    """A backend that takes a fifth longer than another, and returns the same.

    Args:
        backend: The other, whose name it keeps.
        share: Of each call's time, spent waiting on the clock.
    """

    def __init__(self, backend: Backend, share: float = PLANTED) -> None:
        self._backend, self._share = backend, share

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def forward(self, problem: Any) -> Any:
        """Run, and wait."""
        return self._longer(self._backend.forward, problem)

    def backward(self, *given: Any) -> Any:
        """Run, and wait."""
        return self._longer(self._backend.backward, *given)

    def _longer(self, run: Any, *given: Any) -> Any:
        start = perf_counter()
        found = run(*given)
        until = perf_counter() + self._share * (perf_counter() - start)
        while perf_counter() < until:
            pass
        return found


@dataclass(frozen=True)
class Outcome:
    """What came of the experiment.

    Attributes:
        called: In how many repeats the slowdown was called out.
        quiet: In how many the same code was not called slower.
        still: In how many the same code was not called faster either.
        rows: The share of slowed rows that were named, over all repeats.
    """

    called: int
    quiet: int
    still: int
    rows: float


def experiment(backend: Backend, rows: Sequence[AnyWorkload], plan: Plan, repeats: int) -> Outcome:
    """Repeat the experiment.

    Args:
        backend: Whose rows.
        rows: Which.
        plan: How thoroughly.
        repeats: How often.
    """
    machine, called, quiet, still, named = Processor(), 0, 0, 0, []
    for _ in range(repeats):
        first, second, slowed = (
            _run(b, rows, machine, plan) for b in (backend, backend, Slower(backend))
        )
        same, planted = compare(first, second), compare(first, slowed)
        called += bool(planted.slower)
        quiet += not same.slower
        still += all(c.verdict != "faster" for c in same.changes)
        named.append(len(planted.slower) / len(planted.changes))
    return Outcome(called, quiet, still, fmean(named))


def _run(backend: Any, rows: Sequence[AnyWorkload], machine: Processor, plan: Plan) -> Run:
    found = (row for w in rows for row in measure("planted", w, machine, backend, plan))
    return Run(backend.name, "laptop", {}, {}, tuple(found))


def main(argv: Sequence[str]) -> int:
    """Run the experiment on short rows of the laptop's size."""
    parser = argparse.ArgumentParser(prog="python -m attnref_conformance.bench.planted")
    parser.add_argument("backend")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--turns", type=int, default=30)
    said = parser.parse_args(argv)
    every = (w for tables in ("dense", "windows") for w in SIZES["laptop"].get(tables, ()))
    short = [w for w in every if w.length <= LONGEST]
    plan = Plan(repeats=said.turns, passes=("forward",))
    found = experiment(registry.load(said.backend), short, plan, said.repeats)
    named = ("slowdown called out", "same code not called slower", "same code not called faster")
    for name, times in zip(named, (found.called, found.quiet, found.still), strict=True):
        print(f"{name}: {times} of {said.repeats} repeats")  # noqa: T201
    print(f"slowed rows that were named: {found.rows:.0%}")  # noqa: T201
    return 0 if (found.called, found.quiet) == (said.repeats, said.repeats) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
