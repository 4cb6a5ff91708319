"""Rows are measured in fresh processes, and their turns are put together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from attnref_conformance.bench import command, cpu, machine, measure, processes, results
from attnref_conformance.bench.processes import Fresh, Here, Place
from attnref_conformance.bench.results import Row, Timing
from attnref_conformance.bench.workloads import Workload

from attnref import registry

from . import made

SMALL = Workload(1, 2, 2, 32, 32, 8, dtype="float32")
PLAN = measure.Plan(repeats=5, peers=["naive numpy"])


def place_of(place: Place) -> tuple[str, str, int]:
    """Say who is measured, and where."""
    import os

    return place.backend.name, place.machine.name, os.getpid()


def test_each_is_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the backend and the machine in it."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # where a process finds `place_of`
    here = Here(Place(registry.load("numpy"), cpu.Processor()))
    with here as a, Fresh("numpy", "cpu") as b, Fresh("attnref_numpy:backend", "cpu") as c:
        b.wait()
        found = [process.run(place_of) for process in (a, b, c)]
    assert {("numpy", "cpu")} == {told[:2] for told in found}
    assert 3 == len({pid for *_, pid in found})


def test_a_row_is_measured_there() -> None:
    """As here, and without memory if the plan says so."""
    plan = replace(PLAN, peaks=False)
    with Fresh("numpy", "cpu") as process:
        found = process.run(processes.rows, "dense", SMALL, plan)
    assert ["forward", "backward"] == [row.passes for row in found]
    for row in found:
        assert {"numpy": (5, None), "naive numpy": (5, None)} == {
            who: (len(t.samples), t.peak) for who, t in row.timings.items()
        }


def part(n: int, **more: Timing) -> Row:
    """Make a row of one process, with two turns that say which it was."""
    timings = {"mine": Timing((n, n + 0.5), 100 * n, 0.1 * n), **more}
    return made.row("dense", "row", 0, timings=timings, absent={})


def test_turns_are_put_together() -> None:
    """Process after process, with the largest peak and error."""
    found = processes.together([part(1), replace(part(2), clock="another")])
    assert {"mine": Timing((1, 1.5, 2, 2.5), 200, 0.2)} == found.timings
    assert ((2, 2), "counted; another") == (found.processes, found.clock)
    assert [(1, 1.5), (2, 2.5)] == found.parts("mine")


def test_one_process_has_all_turns() -> None:
    """Also of files that do not say so."""
    assert [(1, 1.5)] == part(1).parts("mine")


def test_peaks_that_nobody_asked_for_are_unknown() -> None:
    """Those of one process are the row's."""
    bare = part(2, mine=Timing((2.0, 2.0)))
    assert 100 == processes.together([part(1), bare]).timings["mine"].peak
    assert processes.together([bare, bare]).timings["mine"].peak is None


def test_a_peer_that_one_process_lacks_is_absent() -> None:
    """With the reason."""
    whole = part(1, torch=Timing((1.0, 1.0)))
    found = processes.together([whole, replace(part(2), absent={"torch": "out of memory"})])
    assert (["mine"], {"torch": "out of memory"}) == ([*found.timings], found.absent)


def test_what_was_wrong_in_one_process_is_wrong() -> None:
    """And has no time."""
    wrong = replace(part(2), timings={}, wrong="wrong: an error of 3 times its limit")
    assert wrong is processes.together([part(1), wrong, part(3)])


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let the command run rows that nobody measures, and keep the plans of them."""
    plans: list[Any] = []

    class Drawn(Here):
        def __init__(self, *_: Any) -> None:
            super().__init__(Place(registry.load("numpy"), cpu.Processor()))

    def rows(_: Place, table: str, w: Any, plan: Any) -> list[Row]:
        plans.append((w, plan))
        samples = tuple(1e-3 * (n + 1) for n in range(plan.repeats))
        timings = {"numpy": Timing(samples, 7 if plan.peaks else None)}
        return [made.row(table, w.name, 0, timings=timings if w.queries > 16 else {})]

    for pin in machine.PINS:
        monkeypatch.delenv(pin, raising=False)
    full = cpu.Processor.ceilings
    monkeypatch.setattr(cpu.Processor, "ceilings", lambda self: full(self, 2**12, 16))
    monkeypatch.setattr(processes, "Fresh", Drawn)
    monkeypatch.setattr(processes, "rows", rows)
    short = SMALL._replace(queries=16, keys=16)
    monkeypatch.setitem(command.SIZES, "laptop", {"dense": [SMALL, short]})
    return plans


def bench(line: str) -> int:
    return command.main(command.parser().parse_args(line.split()))


def test_every_process_runs_all_rows(
    session: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for those that did not run; memory is asked for once, and the file says who ran what."""
    assert 0 == bench(f"numpy --table dense --processes 3 --repeats 30 --json {tmp_path}/a.json")
    expected = [(32, True), (16, True), (32, False), (32, False)]
    assert expected == [(w.queries, plan.peaks) for w, plan in session]
    assert {(10, 20.0)} == {(plan.repeats, plan.seconds) for _, plan in session}
    row, other = results.read(tmp_path / "a.json").rows
    assert ((10, 10, 10), 30, 7) == (
        row.processes, len(row.timings["numpy"].samples), row.timings["numpy"].peak,
    )  # fmt: skip
    assert {} == other.timings
    assert "[process 3/3, 1/2] dense | B 1, H 2, S 32" in capsys.readouterr().out


def test_a_file_tells_the_medians_of_processes(session: list[Any], tmp_path: Path) -> None:
    """For whoever reads it with other tools."""
    bench(f"numpy --table dense --processes 2 --repeats 2 --json {tmp_path}/a.json")
    (entry,) = results.document(results.read(tmp_path / "a.json"))["benchmarks"]
    assert [3e-3, 3e-3] == entry["extra_info"]["medians of processes"]


def test_rows_without_time_are_of_fewer_processes(session: list[Any]) -> None:
    """Of one at least, with five turns."""
    bench("numpy --table dense --processes 3 --seconds 0")
    assert 2 == len(session)
    session.clear()
    bench("numpy --table dense --processes 30 --repeats 30 --seconds 60")
    assert {5} == {plan.repeats for _, plan in session}
    assert 31 == len(session)
