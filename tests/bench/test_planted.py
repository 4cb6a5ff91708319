"""The experiment with a planted slowdown, on drawn runs and in small."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from attnref_conformance.bench import cpu, planted, slowed
from attnref_conformance.bench.measure import Plan
from attnref_conformance.bench.planted import Pair
from attnref_conformance.bench.processes import Here, Place
from attnref_conformance.bench.workloads import Workload

from attnref import registry

from . import made

SMALL = Workload(1, 2, 2, 32, 32, 8, dtype="float32")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs be drawn in place of measured ones."""
    seeds = iter(range(100))

    def measured(*_: Any) -> Pair:
        n = next(seeds)
        return Pair(made.run(2 * n), made.run(2 * n + 1, slower=1.2))

    monkeypatch.setattr(planted, "measured", measured)


def test_the_experiment_counts_repeats(
    drawn: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The planted slowdown is called, the same code is not; a file keeps every turn."""
    assert 0 == planted.main(["numpy", "--repeats", "3", "--json", str(tmp_path / "a.json")])
    out = capsys.readouterr().out
    assert "slowdown called out: 3 of 3 repeats" in out
    assert "same code not called slower: 3 of 3 repeats" in out
    assert "same code not called faster: 3 of 3 repeats" in out
    assert (12, 12) == (out.count(" ms\n"), out.count("  beside naive\n"))
    found = json.loads((tmp_path / "a.json").read_text())
    assert (3, 4) == (len(found["repeats"]), len(found["runs"]))
    turns = found["runs"][0]["plain"]["row 0"]["mine"]
    assert [5] * 10 == [*map(len, turns)]


def test_what_is_missed_is_counted() -> None:
    """Each run is compared with the one before."""
    runs = [Pair(made.run(n), made.run(10 + n, slower=s)) for n, s in ((0, 1), (1, 1), (2, 1.3))]
    first, second = planted.experiment(iter(runs))
    assert ((), 12) == (first.called, len(first.missed))
    assert (12, ()) == (len(second.called), second.missed)
    assert "slowdown called out: 1 of 2 repeats" == planted.summary([first, second])[0]
    assert "slowed rows that were named: 50%" == planted.summary([first, second])[3]


def test_a_slower_run_is_no_quiet_repeat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is a faster one, in the count of its own."""
    times = iter([1.0, 1.4, 1.0])
    runs = (Pair(made.run(n, slower=s), made.run(n, slower=1.2 * s)) for n, s in enumerate(times))
    monkeypatch.setattr(planted, "measured", lambda *_: next(runs))
    assert 1 == planted.main(["numpy", "--repeats", "2"])
    out = capsys.readouterr().out
    assert "same code not called slower: 1 of 2 repeats" in out
    assert "same code not called faster: 1 of 2 repeats" in out


def test_the_experiment_ends_in_time(drawn: None, capsys: pytest.CaptureFixture[str]) -> None:
    """One run is no repeat."""
    assert 2 == planted.main(["numpy", "--seconds", "0"])
    assert capsys.readouterr().out.endswith("no two runs were made: give more --seconds\n")


def test_a_row_is_measured_as_it_is_and_slowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same process; both are verified."""

    class InPlace(Here):
        def __init__(self, *_: Any) -> None:
            super().__init__(Place(registry.load("numpy"), cpu.Processor()))

        def wait(self) -> None: ...

    monkeypatch.setattr(planted, "Fresh", InPlace)
    plan = Plan(peers=[], repeats=5, passes=("forward",), peaks=False)
    pair = planted.measured("numpy", "cpu", [SMALL], plan, 2)
    for run in (pair.plain, pair.slowed):
        (row,) = run.rows
        assert ("", (5, 5)) == (row.wrong, row.processes)


def test_the_slower_backend_waits_a_fifth(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock, and returns what the other does, forward and backward."""
    now = iter(np.arange(0.0, 100.0, 0.5))
    asked: list[float] = []

    def clock() -> float:
        asked.append(float(next(now)))
        return asked[-1]

    monkeypatch.setattr(slowed, "perf_counter", clock)
    other = SimpleNamespace(name="a", forward=lambda x: x + 1, backward=lambda *x: x)
    slow: Any = slowed.Slower(other, share=4.0)
    assert ("a", 2, (1, 2)) == (slow.name, slow.forward(1), slow.backward(1, 2))
    # It took a second by a clock that moves when it is asked, and waits for four more.
    assert [4.5, 9.5] == [asked[9], asked[19]]
    assert 20 == len(asked)


def test_the_device_waits_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as a fifth of what it needed for the call when it was seen first."""
    import torch

    at, queued = [0.0], []

    def sleep(cycles: int) -> None:
        queued.append(cycles)
        at[0] += cycles / 1e6

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = at[0]

        def elapsed_time(self, other: "Event") -> float:
            return other.at - self.at

    def forward(problem: Any) -> str:
        at[0] += 3.0  # of a million cycles
        return "result"

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(slowed, "sleep", sleep)
    other = SimpleNamespace(forward=forward)
    slow: Any = slowed.SlowerOnGpu(other)
    problem = SimpleNamespace(q=np.zeros((1, 2)))
    assert "result" == slow.forward(problem)
    assert 600_000 == pytest.approx(queued[-1], rel=1e-6)
    before = len(queued)
    slow.forward(problem)
    assert 1 == len(queued) - before
