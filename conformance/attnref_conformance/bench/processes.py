"""Rows in fresh processes, because two processes of the same code differ.

Where memory lies and which cores threads begin on is drawn once for a process, and moves a row
by several percent. No number of turns shows it; further processes do.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any, NamedTuple, Protocol, Self, TypeVar

from attnref.backend import Backend
from attnref_conformance.bench import command
from attnref_conformance.bench.measure import Machine, Plan, measure
from attnref_conformance.bench.results import Row, Timing
from attnref_conformance.bench.workloads import AnyWorkload

T = TypeVar("T")


class Place(NamedTuple):
    """Who is measured, and where.

    Attributes:
        backend: Whose rows.
        machine: What they are run on.
    """

    backend: Backend
    machine: Machine


class Process(Protocol):
    """Where rows are measured: in a process of their own, or here."""

    def run(self, what: Callable[..., T], *given: Any) -> T:
        """Return what a function returns that is given a `Place` and the rest."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """End it."""


class Here:
    """This process.

    Args:
        place: Who, and where.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    def run(self, what: Callable[..., T], *given: Any) -> T:
        """Run it."""
        return what(self._place, *given)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was begun."""


class Fresh:
    """A process in which nothing has run, and that ends with the `with`.

    It begins at once; what it runs first waits until it has begun.

    Args:
        backend: Name of whose rows, as the command takes it.
        device: `"cpu"` or `"cuda"`.
    """

    def __init__(self, backend: str, device: str) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), _begin, (backend, device))
        self._begun = self._pool.submit(_in_place, _nothing)

    def wait(self) -> None:
        """Wait until it has begun."""
        self._begun.result()

    def run(self, what: Callable[..., T], *given: Any) -> T:
        """Run it there; the function, what it is given and what it returns are pickled."""
        return self._pool.submit(_in_place, what, *given).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


_place: list[Place] = []
"""Who and where, in a process that is there for it."""


def _begin(backend: str, device: str) -> None:
    _place.append(Place(command.named(backend), command.machine_of(device)))


def _in_place(what: Callable[..., T], *given: Any) -> T:
    return what(_place[0], *given)


def _nothing(_: Place) -> None:
    """Run nothing; a process has begun once it has."""


def rows(place: Place, table: str, w: AnyWorkload, plan: Plan) -> list[Row]:
    """Measure the passes of a workload, and hold nothing of it afterwards."""
    found = measure(table, w, place.machine, place.backend, plan)
    place.machine.release()
    return found


def together(parts: Sequence[Row]) -> Row:
    """Make one row of those of several processes.

    Args:
        parts: The same pass of the same workload, from each process.

    Returns:
        All turns, process after process. A row that was wrong or did not run in one process
        is so; a peer that one of them lacks is absent.
    """
    first, *_ = parts
    for part in parts:
        if not part.timings:
            return part
    who = [name for name in first.timings if all(name in part.timings for part in parts)]
    absent = {name: why for part in parts for name, why in part.absent.items()}
    return replace(
        first,
        timings={name: _joined([part.timings[name] for part in parts]) for name in who},
        absent=absent,
        clock="; ".join(dict.fromkeys(part.clock for part in parts)),
        processes=tuple(len(part.timings[who[0]].samples) for part in parts),
    )


def _joined(parts: Sequence[Timing]) -> Timing:
    peaks = [part.peak for part in parts if part.peak is not None]
    samples = tuple(seconds for part in parts for seconds in part.samples)
    return Timing(samples, max(peaks, default=None), max(part.used for part in parts))
