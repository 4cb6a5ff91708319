"""The process that a backend is judged in: it may hang, print or die without harm.

Requests come on standard input and answers go to standard output, pickled. Before the
backend is loaded both are moved out of its reach: what it prints outside a trial goes to
the file that standard error is, and what it reads is empty.
"""

import faulthandler
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np

from attnref.backend import Backend
from attnref.errors import AttnrefError
from attnref_conformance.forbidden import forbid
from attnref_conformance.status import Outcome, Status
from attnref_conformance.suite import AnyTrial, Selection, resolve
from attnref_conformance.vacuous import Declared, declared, wanted

ORPHANED = 30.0
"""How many seconds past its limit a worker ends itself, if nobody else did."""


@dataclass(frozen=True)
class Task:
    """What a worker is started for.

    Attributes:
        named: The backend, as the command names it.
        selection: The trials that it may be asked for, by their ids.
        timeout: How many seconds a trial may take.
        forbidden: Modules that must not be imported.
    """

    named: str
    selection: Selection
    timeout: float
    forbidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """The backend could not be loaded, for a reason that its author can act on."""

    sentence: str


@dataclass(frozen=True)
class Answer:
    """How a trial ended, and whether the process is fit for another one."""

    outcome: Outcome
    fit: bool


READY = "ready"
"""The first answer of a worker that has loaded the backend."""

DECLARED = "declared"
"""The request for what the backend declares as supported."""


def main() -> None:
    """Answer requests until there are no more."""
    requests, answers = _wires()
    _be_quiet_when_killed()
    task: Task = pickle.load(requests)  # noqa: S301  # the parent's own words

    def say(answer: Any) -> None:
        pickle.dump(answer, answers)
        answers.flush()

    try:
        forbid(task.forbidden)
        backend = resolve(task.named)
    except AttnrefError as error:
        say(Refused(str(error)))
        return
    trials = {trial.id: trial for trial in task.selection.trials()}
    say(READY)
    for request in _requests(requests):
        faulthandler.dump_traceback_later(task.timeout + ORPHANED, exit=True)
        if request == DECLARED:
            say(_declared(backend, trials.values()))
        else:
            outcome = judged(trials[request], backend)
            say(Answer(outcome, fit(outcome, backend)))
        faulthandler.cancel_dump_traceback_later()


def judged(trial: AnyTrial, backend: Backend) -> Outcome:
    """Judge, also where a backend raises what ends a process by convention.

    Nobody types Ctrl-C here, so that a `KeyboardInterrupt` is the backend's own.
    """
    start = time.perf_counter()
    try:
        return trial.run(backend)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the run goes on
        message = f"{type(error).__name__}: {error}".removesuffix(": ")
        seconds = time.perf_counter() - start
        return replace(trial.about(), status=Status.CRASH, message=message, seconds=seconds)


def fit(outcome: Outcome, backend: Backend) -> bool:
    """Tell whether the backend's library still works; a GPU that failed once fails always."""
    if outcome.status not in (Status.CRASH, Status.ERROR):
        return True
    try:
        return bool(backend.to_numpy(backend.from_numpy(np.ones(1, np.float32)))[0] == 1)
    except BaseException:  # noqa: BLE001
        return False


def _declared(backend: Backend, trials: Iterable[AnyTrial]) -> list[Declared]:
    """Ask for what is declared; a backend that falls over has said so in its trials."""
    try:
        return declared(backend, wanted(trial.about() for trial in trials))
    except BaseException:  # noqa: BLE001
        return []


def _requests(wire: BinaryIO) -> Iterator[str]:
    with suppress(EOFError):
        while True:
            yield pickle.load(wire)  # noqa: S301  # the parent's own words


def _wires() -> tuple[BinaryIO, BinaryIO]:
    """Take standard input and output away from whoever prints and reads."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _be_quiet_when_killed() -> None:
    """Leave a trace of where the process died, no core file, and Ctrl-C to the parent."""
    log: Callable[[], int] = lambda: os.dup(2)  # noqa: E731  # trials move descriptor 2
    faulthandler.enable(os.fdopen(log(), "w"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
