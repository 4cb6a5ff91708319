"""A run: in order, within a budget, interrupted, and never more than it was."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from attnref_conformance.case import DTYPES
from attnref_conformance.progress import Watcher, time_left
from attnref_conformance.running import run
from attnref_conformance.status import Outcome, Status
from attnref_conformance.suite import AnyTrial, Selection, spread
from attnref_conformance.vacuous import Declared, Wanted
from attnref_conformance.worker import Task
from attnref_conformance.workers import Here
from rich.console import Console

D1 = Selection(clauses=("D1",), dtypes=("float32",), quick=True)


class Judges:
    """Passes what it is asked, backwards, and stops where it is told to."""

    def __init__(self, stop: int | None = None, error: type[BaseException] | None = None) -> None:
        self.stop, self.error, self.closed = stop, error, False
        self.asked: list[str] = []
        self.claims: list[Declared] = []

    def run(self, trials: Sequence[AnyTrial], budget: float | None = None) -> Iterator[Outcome]:
        """Pass."""
        self.asked = [t.id for t in trials]
        for trial in list(reversed(trials))[: self.stop]:
            yield trial.about()
        if self.error:
            raise self.error

    def declared(self) -> list[Declared]:
        """Claim."""
        return self.claims

    def close(self) -> None:
        """Remember."""
        self.closed = True


def watcher() -> Watcher:
    """Watch quietly."""
    return Watcher(Console(quiet=True))


def test_outcomes_are_in_the_order_of_the_clauses() -> None:
    """Whoever finished first."""
    done = run(Judges(), D1, None, watcher())
    assert [t.id for t in D1.trials()] == [o.id for o in done.outcomes]
    assert done.partial
    assert not done.interrupted


def test_what_does_not_fit_is_not_run() -> None:
    """It says so, and the run is a part."""
    done = run(Judges(stop=5), Selection(), 7, watcher())
    rest = [o for o in done.outcomes if o.status is Status.NOT_RUN]
    assert len(Selection().trials()) - 5 == len(rest)
    assert {"not run within the budget of 7 s"} == {o.message for o in rest}
    assert done.partial


def test_a_run_that_is_interrupted_keeps_what_it_has() -> None:
    """The workers end, the rest is not run."""
    judges = Judges(stop=3, error=KeyboardInterrupt)
    done = run(judges, D1, None, watcher())
    assert judges.closed
    assert done.interrupted
    assert done.partial
    assert 3 == sum(o.status is Status.PASS for o in done.outcomes)
    assert {"the run was interrupted"} == {
        o.message for o in done.outcomes if o.status is Status.NOT_RUN
    }


def test_a_whole_run_is_held_to_what_was_declared() -> None:
    """Only there: a part cannot know what the rest exercises."""
    claim = Declared(Wanted("attention", frozenset({"mask"}), "float32"), "attention: q, mask")

    class Declines(Judges):
        def run(self, trials: Sequence[AnyTrial], budget: float | None = None) -> Iterator[Outcome]:
            for o in super().run(trials, budget):
                no = replace(o, status=Status.UNSUPPORTED, reasons=("too small",))
                yield no if "mask" in o.features else o

    judges = Declines()
    judges.claims = [claim]
    whole = run(judges, Selection(), None, watcher())
    assert "H2-exercised-attention-mask[float32]" == whole.outcomes[-1].id
    assert Status.VACUOUS is whole.outcomes[-1].status
    assert not whole.partial
    part = run(judges, Selection(clauses=("C1",)), None, watcher())
    assert Status.VACUOUS not in {o.status for o in part.outcomes}


def test_a_part_is_spread_over_everything() -> None:
    """The first of every clause, then of every dtype; always in the same order."""
    trials = Selection().trials()
    order = spread(trials)
    assert {t.id for t in trials} == {t.id for t in order}
    assert len(trials) == len(order)
    assert [t.id for t in order] == [t.id for t in spread(trials)]
    clauses = {t.clause for t in trials}
    first = order[: len(clauses)]
    assert clauses == {t.clause for t in first}
    assert {*DTYPES} == {t.dtype for t in first}
    assert 1 < len({getattr(t, "part", None) for t in first})


def test_a_budget_of_nothing_runs_nothing() -> None:
    """In this process as elsewhere."""
    judges = Here(Task("reference", D1, 60.0))
    judges.start()
    assert [] == list(judges.run(D1.trials(), 0.0))
    assert Status.PASS is next(judges.run(D1.trials())).status


@pytest.mark.parametrize(
    ("elapsed", "done", "budget", "said"),
    [
        (10.0, 100, None, "1:30 left"),
        (10.0, 100, 30.0, "0:20 left"),
        (31.0, 100, 30.0, "0:00 left"),
        (90.0, 900, 3000.0, "0:10 left"),
    ],
)
def test_the_time_left_is_told(elapsed: float, done: int, budget: float | None, said: str) -> None:
    """That of all trials, or of the budget where it ends sooner."""
    assert said == time_left(elapsed, done, 1000, budget)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_terminals(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file gets the report and nothing else."""
    monkeypatch.setattr(Watcher, "PAUSE", 0.0)
    run(Judges(), D1, None, Watcher(Console(force_terminal=terminal)))
    said = capsys.readouterr().out
    assert terminal == ("judging" in said)
    assert terminal == (" left" in said)
    assert terminal or said == ""
