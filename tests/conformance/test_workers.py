"""Worker processes: whatever a backend does there is a finding, and the run goes on."""

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from attnref_conformance import workers
from attnref_conformance.status import Outcome, Status
from attnref_conformance.suite import Selection
from attnref_conformance.unruly import UNRULY
from attnref_conformance.worker import Task, judged
from attnref_conformance.workers import CannotStart, Crew, Here, Worker, crew

from attnref.errors import AttnrefError

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


DIES = "import os; os._exit(4)"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that workers import from as well."""
    (tmp_path / "dies_at_once.py").write_text(DIES, encoding="utf-8")
    (tmp_path / "no_backend.py").write_text("backend = 3", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


@pytest.mark.usefixtures("modules")
def test_a_worker_that_cannot_be_started_is_an_error(worker: Callable[..., Worker]) -> None:
    """It is tried a few times, and not for ever; every trial says so."""
    said = "no process could load the backend: the process died: exit status 4"
    mine = worker("dies_at_once:backend")
    with pytest.raises(CannotStart, match=said):
        mine.start()
    outcome = mine.judge(TRIALS[BEFORE])
    assert (Status.ERROR, said) == (outcome.status, outcome.message)
    assert [] == mine.declared()


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("workers", [1, 0])
@pytest.mark.parametrize(
    ("named", "said"),
    [("no_backend:backend", "is not a backend"), ("refrence", "no backend is called 'refrence'")],
    ids=["no-backend", "no-name"],
)
def test_what_cannot_be_loaded_is_told_as_here(named: str, said: str, workers: int) -> None:
    """The sentence of `resolve` arrives from the other process."""
    judges = crew(Task(named, Selection(quick=True), 60.0), workers, 1)
    with closing(judges), pytest.raises(AttnrefError, match=said):
        judges.start()


def test_a_clause_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few hung trials the rest of the clause is not tried, and says why."""
    monkeypatch.setattr(workers, "PATIENCE", 1)
    trials = [TRIALS[DURING], TRIALS[AFTER]]
    judges = Crew(Task("attnref_conformance.unruly:hangs", Selection(clauses=("D1",)), 1.0), 1)
    with closing(judges):
        hung, after = judges.run(trials)
    assert hung.message.startswith("hung: ")
    said = "1 trials of D1 hung before, and the rest was not tried"
    assert (Status.NOT_RUN, said) == (after.status, after.message)


def test_the_results_are_the_same_whatever_the_number_of_workers() -> None:
    """In this process, in one other and in two."""
    selection = Selection(clauses=("D1",), quick=True)
    trials = selection.trials()[:12]
    task = Task("attnref_conformance.faulty:dropped_rescale", selection, 60.0)
    found = []
    for n in (0, 1, 2):
        judges = crew(task, n, len(trials))
        with closing(judges):
            judges.start()
            outcomes = {o.id: (o.status, o.message, o.utilisation) for o in judges.run(trials)}
        found.append(outcomes)
    assert {t.id for t in trials} == {*found[0]}
    assert found[0] == found[1] == found[2]


def test_the_number_of_workers_is_worth_its_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few trials share one process, many as many as there are cores, up to a limit."""
    task = Task("reference", Selection(), 60.0)
    monkeypatch.setattr(workers, "cores", lambda: 16)
    sizes = [len(crew(task, None, n)._workers) for n in (1, 200, 5000)]
    assert [1, 2, workers.MOST] == sizes
    assert 7 == len(crew(task, 7, 1)._workers)
    assert isinstance(crew(task, 0, 5000), Here)


def test_an_idle_worker_ends_with_its_parent(worker: Callable[..., Worker]) -> None:
    """It reads the end of its requests, and leaves."""
    mine = worker("reference")
    mine.start()
    process = mine._process
    process.stdin.close()
    assert 0 == process.wait(20)


SPOILT = """
from attnref_conformance.honest import Tiled

class Spoilt(Tiled):
    \"\"\"Loses its library for good where there are 15 keys.\"\"\"

    lost = False

    def attended(self, p):
        self.lost = self.lost or p.k.shape[2] == 15
        return super().attended(p)

    def to_numpy(self, x):
        if self.lost:
            raise RuntimeError("an illegal memory access was encountered")
        return super().to_numpy(x)

backend = Spoilt("spoilt")
"""


def test_a_process_whose_library_is_lost_is_replaced(
    modules: Path, worker: Callable[..., Worker]
) -> None:
    """One trial is to blame, and those after it are judged as if nothing had been."""
    (modules / "spoilt.py").write_text(SPOILT, encoding="utf-8")
    mine = worker("spoilt:backend")
    statuses = [mine.judge(TRIALS[id_]).status for id_ in (BEFORE, DURING, AFTER)]
    assert [Status.PASS, Status.ERROR, Status.PASS] == statuses
