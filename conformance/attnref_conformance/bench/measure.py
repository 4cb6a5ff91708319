"""A row, put together: made, verified, timed beside its peers, verified again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from attnref.backend import Backend
from attnref.errors import AttnrefError
from attnref_conformance.bench import verify
from attnref_conformance.bench.contenders import Absent, Given, Passes, Peer
from attnref_conformance.bench.method import REPEATS, Clock, Run, timed
from attnref_conformance.bench.results import Row, Timing
from attnref_conformance.bench.workloads import AnyWorkload, MapWorkload
from attnref_conformance.profiles import DEFAULT, Arithmetic, arithmetic

PASSES = ("forward", "backward")

FAILURES = (
    AttnrefError, ImportError, MemoryError, NotImplementedError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""How an implementation says that it cannot run something after all."""


class Turns(NamedTuple):
    """What is timed in place of single calls.

    Attributes:
        runs: Name to what a turn runs.
        calls: How many calls a turn makes.
        clock: What tells the time.
        how: What a row says it was timed by.
    """

    runs: Mapping[str, Run]
    calls: int
    clock: Clock
    how: str


class Machine(Protocol):
    """What rows are run on: a processor or a GPU.

    Attributes:
        name: `"cpu"` or `"cuda"`.
        peers: Everybody who may be installed.
    """

    name: str
    peers: Sequence[Peer]

    def sets(self, w: AnyWorkload) -> list[Given]:
        """Draw as many sets of inputs as no cache holds together; never zeros."""

    def read(self, x: Any) -> Any:
        """Turn a part of an input into a NumPy array."""

    def ours(self, w: AnyWorkload, backend: Backend) -> Passes:
        """Return a backend's passes."""

    def turns(
        self, w: AnyWorkload, passes: str, ready: Mapping[str, tuple[Passes, list[Any]]]
    ) -> Turns:
        """Say how a pass is timed: contenders with what they run on, a state for each set."""

    def peak(self, run: Any) -> int | None:
        """Return the bytes that a call takes at most, beyond what was held before."""

    def release(self) -> None:
        """Give back what a row has left behind."""


@dataclass(frozen=True)
class Plan:
    """How thoroughly.

    Attributes:
        peers: Names of the peers that are asked; `None` for all.
        repeats: Turns of each row.
        seconds: For the turns of one pass of a row.
        passes: Which passes.
        peaks: Whether memory is asked for, too.
    """

    peers: Sequence[str] | None = None
    repeats: int = REPEATS
    seconds: float = 60.0
    passes: Sequence[str] = PASSES
    peaks: bool = True


def measure(
    table: str, w: AnyWorkload, machine: Machine, backend: Backend, plan: Plan
) -> list[Row]:
    """Time the passes of a workload.

    Args:
        table: Which table the row is of.
        w: The row.
        machine: Where.
        backend: Whose.
        plan: How thoroughly.

    Returns:
        A row for each pass. A backend whose result does not hold is not timed: its row says
        what is wrong; one that cannot run it says why, under `absent`.
    """
    return _Measurement(table, w, machine, backend, plan).rows()


class _Measurement:
    """The state of one row while it is measured."""

    def __init__(
        self, table: str, w: AnyWorkload, machine: Machine, backend: Backend, plan: Plan
    ) -> None:
        self.table, self.w, self.machine, self.plan = table, w, machine, plan
        self.name = backend.name
        self.ours: Arithmetic = arithmetic(getattr(backend, "profile", DEFAULT), w.dtype)
        self.theirs: Arithmetic = arithmetic("half-weights", w.dtype)
        self.sets = machine.sets(w)
        self.parts = verify.parts(w, self.sets[0], machine.read)
        self.there: dict[str, Passes] = {self.name: machine.ours(w, backend)}
        self.absent: dict[str, str] = {}
        self.taken: dict[str, list[Any]] = {}
        for peer in machine.peers:
            asked = plan.peers is None or peer.name in plan.peers
            if not asked or peer.function not in ("", w.function):
                continue
            found = peer.prepare(w)
            if isinstance(found, Absent):
                self.absent[peer.name] = found.reason
            else:
                self.there[peer.name] = found

    def rows(self) -> list[Row]:
        found = []
        for passes in PASSES:
            if passes in self.plan.passes and (passes == "forward" or self.w.backward):
                found.append(self._row(passes))
                if self.name not in found[-1].timings:
                    break  # what cannot run forward has nothing to go back from
        return found

    def _row(self, passes: str) -> Row:
        absent, peaks, used = dict(self.absent), {}, {}
        ready: dict[str, tuple[Passes, list[Any]]] = {}
        for name, way in self.there.items():
            try:
                peaks[name] = self._peak(name, way, passes)
                used[name] = self._check(name, way, passes)
                if self._holds(name, used[name]):
                    ready[name] = way, self._states(name, way, passes)
                else:
                    absent[name] = _wrong(used[name])
            except FAILURES as e:
                absent[name] = _line(e)
            if name == self.name and name not in ready:
                return self._without(passes, absent, used.get(name))
        turns = self.machine.turns(self.w, passes, ready)
        times = timed(turns.runs, turns.clock, self.plan.repeats, self.plan.seconds)
        timings = {}
        for name, seconds in times.items():
            after = max(used[name], self._check(name, self.there[name], passes))
            if self._holds(name, after):
                samples = tuple(t / turns.calls for t in seconds)
                timings[name] = Timing(samples, peaks[name], after)
            elif name == self.name:
                return self._without(passes, absent, after)
            else:
                absent[name] = _wrong(after)
        return self._bare(passes, clock=turns.how, timings=timings, absent=absent)

    def _take(self, name: str, way: Passes) -> list[Any]:
        if name not in self.taken:
            self.taken[name] = [way.take(given) for given in self.sets]
        return self.taken[name]

    def _states(self, name: str, way: Passes, passes: str) -> list[Any]:
        """Return what each turn runs on: inputs, or what a forward pass left behind."""
        taken = self._take(name, way)
        return taken if passes == "forward" else [way.record(x)[2] for x in taken]

    def _peak(self, name: str, way: Passes, passes: str) -> int | None:
        if not self.plan.peaks:
            return None
        first = self._take(name, way)[0]
        if passes == "forward":
            return self.machine.peak(lambda: way.forward(first))
        return self.machine.peak(lambda: way.backward(way.record(first)[2]))

    def _check(self, name: str, way: Passes, passes: str) -> float:
        first = self._take(name, way)[0]
        u = self.ours if name == self.name else self.theirs
        if passes == "forward":
            return verify.forward(self.parts, self.w, way.forward(first), way.read, u)
        out, lse, state = way.record(first)
        gradient = way.backward(state)[0]
        return verify.backward(self.parts, (out, lse), gradient, way.read, u)

    def _holds(self, name: str, used: float) -> bool:
        return used <= (1.0 if name == self.name else verify.PEERS)

    def _without(self, passes: str, absent: dict[str, str], used: float | None) -> Row:
        """Return the row of a backend that is not timed."""
        if used is None:
            return self._bare(passes, absent={self.name: absent[self.name]})
        return self._bare(passes, wrong=_wrong(used))

    def _bare(self, passes: str, **told: Any) -> Row:
        w, work = self.w, self.w.work(passes)
        by_bytes = isinstance(w, MapWorkload) or w.queries == 1
        return Row(
            self.table, w.name, passes, work.operations, _moved(w, passes), w.length,
            by_bytes=by_bytes, **told,
        )  # fmt: skip


def _wrong(used: float) -> str:
    return f"wrong: an error of {used:.3g} times its limit"


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _moved(w: AnyWorkload, passes: str) -> int:
    """Return the bytes that a rate in GB/s counts."""
    return w.moved(passes) if isinstance(w, MapWorkload) else w.work(passes).bytes
