"""The kill matrix: every fault, and every honest variant, against the suite.

`nox -s kill_matrix` runs this module, and writes the table into the documentation. A fault
always meets the whole of its own clause; of the others a run can be partial, as one of the
suite can, and the page then says so.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from attnref.backend import Backend
from attnref_conformance import SUITE_VERSION, honest, oracle
from attnref_conformance.case import DTYPES
from attnref_conformance.faulty.fault import FAULTS, Fault
from attnref_conformance.faulty.variants import HONEST
from attnref_conformance.profiles import Arithmetic
from attnref_conformance.suite import AnyTrial, Selection

BEYOND_A_CPU = (
    (
        "Races between blocks of a kernel",
        "two blocks add to one gradient without atomics",
        "a CPU runs the blocks of this suite's faults one after the other",
    ),
    (
        "Missing barriers",
        "a warp reads a tile that another is still loading",
        "there is one thread of execution, and no shared memory that it could be late for",
    ),
    (
        "Missing synchronisation of streams",
        "a result is read before the side stream that computes it is done",
        "there are no streams",
    ),
    (
        "Waiting for the device",
        "a call copies lengths to the host, and stalls the queue",
        "every value is already there: the answer is the same, and no clock of this suite sees it",
    ),
    (
        "The wrong one of two devices",
        "a kernel is launched on the current device instead of that of its arrays",
        "there is one",
    ),
    (
        "Reads outside an array",
        "the last tile is loaded without a bound, and what lies there is discarded",
        "NumPy refuses an index out of range; a GPU's sanitizer is the witness",
    ),
    (
        "Indices in 32 bits",
        "the offset of an element past the two thousand millionth wraps around",
        "such arrays hold gigabytes in every dtype; a run on a GPU with memory has them",
    ),
    (
        "The wrong architecture's path",
        "a kernel for one generation of tensor cores is chosen on another",
        "there is one instruction set per machine",
    ),
)
"""Faults that would survive on a CPU: what, for example, and why."""


@dataclass
class Row:
    """How one backend fared.

    Attributes:
        failed: The cases that failed, by clause, each counted once whatever its dtype.
        cases: The cases that it met.
    """

    failed: dict[str, set[str]] = field(default_factory=dict)
    cases: set[str] = field(default_factory=set)

    def add(self, other: "Row") -> None:
        """Join what another process found for the same backend."""
        self.cases |= other.cases
        for clause, names in other.failed.items():
            self.failed.setdefault(clause, set()).update(names)


def by_case(selection: Selection) -> list[list[AnyTrial]]:
    """Gather the trials of each case: its parts and dtypes."""
    cases: dict[str, list[AnyTrial]] = {}
    for trial in selection.trials():
        cases.setdefault(_name(trial), []).append(trial)
    return list(cases.values())


def _name(trial: AnyTrial) -> str:
    return trial.case.name if hasattr(trial, "case") else trial.name


@contextmanager
def shared_oracle() -> Iterator[Callable[[], None]]:
    """Ask the oracle once per trial, not once per backend; what is yielded forgets.

    The oracle knows nothing of a backend but its arithmetic, and costs more than it.
    """
    kept: dict[Any, Any] = {}

    def once(name: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        def answer(*given: Any) -> Any:
            key = (name, next((x for x in given if isinstance(x, Arithmetic)), None))
            if key not in kept:
                kept[key] = ask(*given)
            return kept[key]

        return answer

    with ExitStack() as patched:
        for module, name in ((oracle, "forward"), (oracle, "backward"), (honest, "errors")):
            ask = once(name, getattr(module, name))
            patched.enter_context(mock.patch.object(module, name, ask))
        yield kept.clear


def judge(
    names: Iterable[str], cases: Iterable[list[AnyTrial]], chosen: set[str]
) -> dict[str, Row]:
    """Judge backends by the chosen trials, and by every one of the clause that they break.

    A case is over for a backend at its first trial that fails.
    """
    backends: dict[str, Backend] = {
        n: HONEST[n] if n in HONEST else FAULTS[n].backend for n in names
    }
    rows = {name: Row() for name in backends}
    with shared_oracle() as forget:
        for trials in cases:
            alive = dict(backends)
            for trial in trials:
                forget()
                meet = [name for name in alive if trial.id in chosen or _own(name, trial)]
                for name in meet:
                    rows[name].cases.add(_name(trial))
                    backend = alive[name]
                    if trial.run(backend).status.failure:
                        rows[name].failed.setdefault(trial.clause, set()).add(_name(trial))
                        del alive[name]
    return rows


def _own(name: str, trial: AnyTrial) -> bool:
    return name in FAULTS and FAULTS[name].clause == trial.clause


def _share(names: list[str], selection: Selection, number: int, of: int) -> dict[str, Row]:
    chosen = {trial.id for trial in selection.trials()}
    return judge(names, by_case(Selection())[number::of], chosen)


def matrix(names: list[str], selection: Selection, workers: int) -> dict[str, Row]:
    """Judge backends in parallel; each process takes its share of the cases."""
    shares = 16 * workers
    rows: dict[str, Row] = {name: Row() for name in names}
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(_share, names, selection, n, shares) for n in range(shares)]
        for done, job in enumerate(jobs, start=1):
            for name, row in job.result().items():
                rows[name].add(row)
            print(f"{done} of {shares} shares", file=sys.stderr)  # noqa: T201  # progress
    return rows


def survivors(rows: Mapping[str, Row]) -> list[str]:
    """Name the faults that no case of their clause killed, and honest variants accused."""
    faults = [n for n in rows if n in FAULTS and FAULTS[n].clause not in rows[n].failed]
    return faults + [n for n in rows if n in HONEST and rows[n].failed]


def page(rows: Mapping[str, Row], selection: Selection) -> str:
    """Write the matrix as a page of the documentation."""
    faults = [fault for name, fault in FAULTS.items() if name in rows]
    killed = sum(fault.clause in rows[fault.name].failed for fault in faults)
    met = set().union(*(row.cases for row in rows.values()))
    lines = [
        "# Kill matrix",
        "",
        "The judge is judged by `attnref_conformance.faulty`: backends that are wrong on purpose,",
        "each of which must fail on the clause that it breaks, and honest variants, none of which may fail.",
        f"This page is written by `nox -s kill_matrix` from the {len(met)} cases of suite {SUITE_VERSION}.",
        f"Each fault met every case of its own clause, in every dtype; {_others(selection)}.",
        "",
        f"- **{killed} of {len(faults)} faults** are killed on the clause that they break.",
        f"- **{sum(not rows[n].failed for n in HONEST)} of {len(HONEST)} honest variants** fail no case.",
        "",
        "To see one fail: `attnref conform attnref_conformance.faulty:NAME --clause CLAUSE`.",
        "",
        "## Faults",
        "",
        "A case counts once, whatever dtypes and parts of it fail.",
        "",
        "| fault | what it does | clause | killed there | cases that fail | other clauses that notice |",
        "|---|---|---|---|---|---|",
        *(_line(fault, rows[fault.name]) for fault in sorted(faults, key=lambda f: f.clause)),
        "",
        "## Honest variants",
        "",
        "| variant | what it does | profile | cases that fail |",
        "|---|---|---|---|",
        *(_honest_line(name, backend, rows[name]) for name, backend in HONEST.items()),
        "",
        "## Faults that a CPU does not show",
        "",
        "These are real, and would survive here. They are for runs on a GPU, its sanitizers and its profiler.",
        "",
        "| fault | for example | why it survives |",
        "|---|---|---|",
        *(f"| {what} | {example} | {why} |" for what, example, why in BEYOND_A_CPU),
        "",
    ]
    return "\n".join(lines)


def _others(selection: Selection) -> str:
    """Say what of the other clauses was run."""
    if not selection.partial:
        return "and every case of the others"
    which = "the quick cases" if selection.quick else "the cases"
    return f"of the others, and by honest variants, {which} in {' and '.join(selection.dtypes)} were met"


def _line(fault: Fault, row: Row) -> str:
    verdict = "yes" if fault.clause in row.failed else "**no**"
    count = Counter({clause: len(names) for clause, names in row.failed.items()})
    others = ", ".join(sorted(set(count) - {fault.clause})) or "none"
    return (
        f"| `{fault.name}` | {fault.meaning} | {fault.clause} | {verdict} "
        f"| {count.total()} | {others} |"
    )


def _honest_line(name: str, backend: Any, row: Row) -> str:
    what = (type(backend).__doc__ or "").strip().partition("\n")[0]
    if type(backend) is honest.Tiled:
        order = ", from the last tile to the first" if backend.reverse else ""
        what = f"Walks tiles of {backend.tile} keys{order}."
    failed = sorted(set().union(*row.failed.values()))
    return f"| `{name}` | {what} | {backend.profile} | {', '.join(failed) or 'none'} |"


def main(arguments: list[str] | None = None) -> int:
    """Judge everything, and write the page.

    Returns:
        0 if every fault is killed on its clause and no honest variant is accused, else 1.
    """
    parser = argparse.ArgumentParser(description="Write the kill matrix.")
    parser.add_argument("page", type=Path, help="the Markdown page to write")
    parser.add_argument("-n", "--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="quick cases of other clauses")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="only these, likewise")
    given = parser.parse_args(arguments)
    start = time.perf_counter()
    selection = Selection(dtypes=tuple(given.dtype or DTYPES), quick=given.quick)
    rows = matrix([*FAULTS, *HONEST], selection, given.workers)
    given.page.write_text(page(rows, selection), encoding="utf-8")
    print(f"wrote {given.page} in {time.perf_counter() - start:.0f} s")  # noqa: T201
    for name in survivors(rows):
        print(f"{name}: {rows[name].failed or 'survives'}")  # noqa: T201
    return 1 if survivors(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
