"""How things are timed: in turns, on rotated inputs, after a warm-up.

One process times everyone. In each turn everybody runs once, beginning with another than in
the turn before, so that a machine that heats up, or is busy for a while, is so for all.
"""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Protocol

REPEATS = 30
"""Turns, unless a row would take too long."""

FEWEST = 5
"""Turns at least, however long they take."""

WARM_UP = 2

Run = Callable[[int], object]
"""Given how many calls came before, by which it rotates its inputs."""


class Clock(Protocol):
    """What tells the time, on the host or on a device.

    Attributes:
        name: What a row says it was timed by.
    """

    name: str

    def settle(self) -> None:
        """Prepare a turn."""

    def time(self, run: Run, turn: int) -> Callable[[], float]:
        """Run once; the seconds may be asked for after `finish`."""

    def finish(self) -> None:
        """Wait until everything has run."""


class HostClock:
    """Seconds of the host, for what returns when it is done.

    Args:
        wait: What empties a device's queue before a turn, if what is timed fills one.
    """

    name = "perf_counter"

    def __init__(self, wait: Callable[[], object] = lambda: None) -> None:
        self._wait = wait

    def settle(self) -> None:
        """Wait."""
        self._wait()

    def time(self, run: Run, turn: int) -> Callable[[], float]:
        """Run once."""
        start = perf_counter()
        run(turn)
        seconds = perf_counter() - start
        return lambda: seconds

    def finish(self) -> None:
        """Nothing is waited for."""


def timed(
    runs: Mapping[str, Run], clock: Clock, repeats: int = REPEATS, seconds: float = float("inf")
) -> dict[str, list[float]]:
    """Time each run in turns.

    Args:
        runs: Name to run.
        clock: What tells the time.
        repeats: Turns.
        seconds: How long all turns may take together. Fewer turns are taken where the
            warm-up says that they would take longer, but never fewer than `FEWEST`.

    Returns:
        Name to the seconds of every turn, in the order of turns: the n-th of each were
        taken side by side.
    """
    for turn in range(WARM_UP):
        last = [clock.time(run, turn) for run in runs.values()]
    clock.finish()
    once = sum(took() for took in last)
    if once * repeats > seconds:
        repeats = max(min(FEWEST, repeats), int(seconds / once))
    names = list(runs)
    found: dict[str, list[Callable[[], float]]] = {name: [] for name in runs}
    for turn in range(repeats):
        clock.settle()
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(clock.time(runs[name], WARM_UP + turn))
    clock.finish()
    return {name: [took() for took in times] for name, times in found.items()}
