"""Things are timed in turns, and a clock that cheats nobody is asked after everything ran."""

from collections.abc import Callable

import pytest
from attnref_conformance.bench.method import FEWEST, WARM_UP, HostClock, Run, timed


class Counted:
    """A clock on which each run takes as long as it says, and which keeps who ran when."""

    name = "counted"

    def __init__(self, **seconds: float) -> None:
        self.seconds, self.order, self.settled, self.finished = seconds, [], 0, 0

    def settle(self) -> None:
        self.settled += 1

    def time(self, run: Run, turn: int) -> Callable[[], float]:
        name = run(turn)
        self.order.append((turn, name))

        def took() -> float:
            assert self.finished, "asked before everything ran"
            return self.seconds[str(name)]

        return took

    def finish(self) -> None:
        self.finished += 1


def runs(*names: str) -> dict[str, Run]:
    return {name: lambda _, name=name: name for name in names}


def test_everyone_runs_once_in_each_turn_and_another_begins() -> None:
    """After the warm-up, whose times are nobody's."""
    clock = Counted(a=1.0, b=2.0)
    assert {"a": [1.0] * 4, "b": [2.0] * 4} == timed(runs("a", "b"), clock, 4)
    after = clock.order[WARM_UP * 2 :]
    assert [n for _, n in after] == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert clock.settled == 4


def test_inputs_rotate() -> None:
    """No turn gets the number of the turn before."""
    clock = Counted(a=1.0)
    timed(runs("a"), clock, 3)
    assert [*range(WARM_UP + 3)] == [turn for turn, _ in clock.order]


@pytest.mark.parametrize(
    ("seconds", "turns"),
    [(1e9, 30), (60.0, 20), (0.1, FEWEST)],
    ids=["there is time", "there is less", "there is none"],
)
def test_long_rows_take_fewer_turns(seconds: float, turns: int) -> None:
    """But never so few that nobody knows their noise."""
    found = timed(runs("a", "b"), Counted(a=1.0, b=2.0), 30, seconds)
    assert turns == len(found["a"])


def test_the_host_clock_waits_and_counts_up() -> None:
    """It empties a queue before each turn."""
    waited: list[int] = []
    found = timed({"a": lambda _: sum(range(100))}, HostClock(lambda: waited.append(1)), 5)
    assert all(t > 0 for t in found["a"])
    assert len(waited) == 5
