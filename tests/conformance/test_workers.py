"""Worker processes: whatever a backend does there is a finding, and the run goes on."""

from collections.abc import Callable, Iterator

import pytest
from attnref_conformance.status import Outcome, Status
from attnref_conformance.suite import Selection
from attnref_conformance.unruly import UNRULY
from attnref_conformance.worker import Task, judged
from attnref_conformance.workers import Worker

TRIALS = {t.id: t for t in Selection(clauses=("D1",)).trials()}
BEFORE, DURING, AFTER = "D1-2-keys[float32]", "D1-15-keys[float32]", "D1-17-keys[float32]"

FATAL = ("hangs", "leaves", "segfaults", "aborts", "is_killed", "interrupts")
"""What would end or block the process that it happens in."""


@pytest.fixture
def worker() -> Iterator[Callable[..., Worker]]:
    """Make workers, and end them."""
    made: list[Worker] = []

    def make(named: str, timeout: float = 60.0) -> Worker:
        made.append(Worker(Task(named, Selection(clauses=("D1",)), timeout)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def provoked(name: str) -> list[Outcome]:
    """Judge an unruly backend in this process by every trial that provokes it."""
    return [
        judged(trial, UNRULY[name].backend)
        for trial in TRIALS.values()
        if trial.id.startswith("D1-15-keys") and "gradients" not in trial.id
    ]


@pytest.mark.parametrize("name", FATAL)
def test_what_ends_a_process_is_a_crash_and_the_run_goes_on(
    name: str, worker: Callable[..., Worker]
) -> None:
    """The trial that was running is blamed, and no other."""
    mine = worker(f"attnref_conformance.unruly:{name}", timeout=1.5)
    before, during, after = (mine.judge(TRIALS[id_]) for id_ in (BEFORE, DURING, AFTER))
    assert (Status.PASS, Status.PASS) == (before.status, after.status)
    assert UNRULY[name].status is during.status
    assert during.message.startswith(UNRULY[name].said)
    assert ("D1", 1, "attention") == (during.clause, during.level, during.operation)
    assert 0 < during.seconds < 30


@pytest.mark.parametrize("name", [name for name in UNRULY if name not in FATAL])
def test_what_does_not_stay_within_its_call_is_a_finding(name: str) -> None:
    """Each has a status and a message of its own."""
    guest = UNRULY[name]
    found = {o.status: o.message for o in provoked(name) if o.status is not Status.PASS}
    assert [guest.status] == [*found]
    assert guest.said in found[guest.status]


def test_where_it_hung_and_where_it_died_is_told(worker: Callable[..., Worker]) -> None:
    """The interpreter leaves the line that it was in."""
    hung = worker("attnref_conformance.unruly:hangs", timeout=1.5).judge(TRIALS[DURING])
    assert hung.message.startswith("hung: no answer within 1.5 s, in _hangs (unruly.py:")
    died = worker("attnref_conformance.unruly:aborts").judge(TRIALS[DURING])
    assert died.message.startswith("the process died: signal 6 (SIGABRT), in _aborts (unruly.py:")
