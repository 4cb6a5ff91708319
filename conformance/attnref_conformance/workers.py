"""Judges a backend in processes of its own, and outlives whatever it does there.

A worker is asked for one trial at a time, so that the trial that was running when it died
is the one to blame. A dead worker is replaced, one that does not answer is killed; the run
goes on to the end.
"""

import os
import pickle
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from attnref.errors import AttnrefError
from attnref_conformance.status import Outcome, Status
from attnref_conformance.suite import AnyTrial, resolve
from attnref_conformance.vacuous import Declared, declared, wanted
from attnref_conformance.worker import DECLARED, READY, Answer, Refused, Task

TIMEOUT = 120.0
"""How many seconds a trial may take: generous, since the first may compile a kernel."""

STARTING = 300.0
"""How many seconds a process may take to load a backend."""

ATTEMPTS = 3
"""How many times in a row a worker may fail to start before that is an error."""

PATIENCE = 3
"""After how many hung trials the rest of a clause is not tried."""

MOST = 4
"""How many workers there are at most, unless somebody asks for more: memory is finite too."""

SHARE = 150
"""How many trials pay for the start of one more worker."""

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_GRACE = 2.0
_BOOT = "import sys; sys.path[:] = {path!r}; from attnref_conformance.worker import main; main()"
_FRAME = re.compile(
    r'Current thread.*?File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<name>[^\n]+)', re.DOTALL
)


class Died(Exception):  # noqa: N818  # news, not an error
    """A worker ended, or was ended, without an answer."""


class CannotStart(Exception):  # noqa: N818  # likewise
    """A process that loads the backend does not come to its end."""


class Worker:
    """One process, started when it is first needed and again when it has died."""

    def __init__(self, task: Task, threads: int = 0) -> None:
        self._task = task
        self._threads = threads or cores()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._never = ""

    def start(self) -> None:
        """Start the process, unless it runs, and wait until it has loaded the backend.

        Raises:
            AttnrefError: The name is not registered, cannot be loaded, or is no backend.
            CannotStart: The process ends before it can say.
        """
        why = ""
        for _ in range(ATTEMPTS):
            if self._process is not None:
                return
            if self._never:
                raise CannotStart(self._never)
            self._process = self._started()
            try:
                answer = self._asked(self._task, STARTING)
            except Died as death:
                why = str(death)
                continue
            if isinstance(answer, Refused):
                self._drop()
                raise AttnrefError(answer.sentence)
            assert answer == READY
            return
        self._never = f"no process could load the backend: {why}"
        raise CannotStart(self._never)

    def _started(self) -> subprocess.Popen[bytes]:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the process
        return subprocess.Popen(  # noqa: S603  # our own interpreter
            [sys.executable, "-c", _BOOT.format(path=sys.path)],
            env={**dict.fromkeys(_THREADS, str(self._threads)), **os.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )

    def judge(self, trial: AnyTrial) -> Outcome:
        """Judge one trial, whatever becomes of the process."""
        start = time.perf_counter()
        try:
            self.start()
            answer: Answer = self._asked(trial.id, self._task.timeout)
        except Died as death:
            status, message = Status.CRASH, str(death)
        except (CannotStart, AttnrefError) as error:
            status, message = Status.ERROR, str(error)
        else:
            if not answer.fit:
                self._drop()
            return answer.outcome
        seconds = time.perf_counter() - start
        return replace(trial.about(), status=status, message=message, seconds=seconds)

    def declared(self) -> list[Declared]:
        """Ask for what the backend declares as supported; nothing if it does not say."""
        try:
            self.start()
            return self._asked(DECLARED, self._task.timeout)
        except (Died, CannotStart, AttnrefError):
            return []

    def close(self) -> None:
        """End the process for good."""
        self._never = self._never or "the run was ended"
        self._drop()

    def _drop(self) -> None:
        """End the process, and every one that it started."""
        process, self._process = self._process, None
        log, self._log = self._log, None
        if process is None or log is None:
            return
        _kill(process)
        log.close()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]  # both are pipes

    def _asked(self, request: Any, seconds: float) -> Any:
        """Ask, and wait so long for the answer.

        Raises:
            Died: There was none.
        """
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        hung = threading.Event()

        def give_up() -> None:
            hung.set()
            _abort(process)

        alarm = threading.Timer(seconds, give_up)
        alarm.daemon = True
        alarm.start()
        try:
            pickle.dump(request, process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)  # noqa: S301  # our own worker
        except Exception:  # noqa: BLE001  # an end of file, or an answer that was cut short
            why = self._death(process, seconds if hung.is_set() else None)
        finally:
            alarm.cancel()
        self._drop()
        raise Died(why)

    def _death(self, process: subprocess.Popen[bytes], seconds: float | None) -> str:
        """Say how a process ended and, where it left a trace, in which line."""
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        if seconds is not None:
            return f"hung: no answer within {seconds:g} s{self._where()}"
        return f"the process died: {_ending(process.poll())}{self._where()}"

    def _where(self) -> str:
        log = self._log
        if log is None:
            return ""
        with suppress(ValueError):  # the run was ended meanwhile
            log.seek(0)
            frame = _FRAME.search(log.read().decode(errors="replace"))
            if frame:
                return f", in {frame['name']} ({Path(frame['file']).name}:{frame['line']})"
        return ""


def _ending(code: int | None) -> str:
    if code is None:
        return "it closed its pipes"
    if code >= 0:
        return f"exit status {code}"
    names = {s.value: s.name for s in signal.Signals}
    return f"signal {-code} ({names.get(-code, 'unknown')})"


def _abort(process: subprocess.Popen[bytes]) -> None:
    """Ask a process for a trace of where it is, then end it."""
    if sys.platform != "win32":
        process.send_signal(signal.SIGABRT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children."""
    if sys.platform == "win32":
        process.kill()
    else:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Crew:
    """Several workers that share the trials of a run.

    Args:
        task: What every worker is started for.
        workers: How many there are.
    """

    def __init__(self, task: Task, workers: int) -> None:
        threads = max(1, cores() // workers)
        self._workers = [Worker(task, threads) for _ in range(workers)]

    def start(self) -> None:
        """Start one worker, to see whether the backend can be loaded at all; see `Worker`."""
        self._workers[0].start()

    def run(self, trials: Sequence[AnyTrial], budget: float | None = None) -> Iterator[Outcome]:
        """Judge, one outcome at a time in the order in which they come.

        Args:
            trials: What to judge by.
            budget: After how many seconds no further trial is begun.
        """
        waiting = _Waiting(trials, budget)
        done: queue.Queue[Outcome | None] = queue.Queue()

        def work(worker: Worker) -> None:
            try:
                while (trial := waiting.next()) is not None:
                    reason = waiting.given_up(trial)
                    outcome = not_run(trial, reason) if reason else worker.judge(trial)
                    waiting.heard(outcome)
                    done.put(outcome)
            finally:
                done.put(None)

        threads = [threading.Thread(target=work, args=(w,), daemon=True) for w in self._workers]
        for thread in threads:
            thread.start()
        try:
            for _ in threads:
                yield from iter(done.get, None)
        finally:
            waiting.stop()

    def declared(self) -> list[Declared]:
        """Ask for what the backend declares as supported."""
        return self._workers[0].declared()

    def close(self) -> None:
        """End every worker."""
        for worker in self._workers:
            worker.close()


class Here:
    """Judges in this process, for a debugger: a backend that dies ends the run.

    Args:
        task: As in `Crew`; nothing watches the time.
    """

    def __init__(self, task: Task) -> None:
        self._task = task

    def start(self) -> None:
        """Load the backend; see `Worker`."""
        self._backend = resolve(self._task.named)

    def run(self, trials: Sequence[AnyTrial], budget: float | None = None) -> Iterator[Outcome]:
        """Judge, one outcome at a time in the order of the trials."""
        waiting = _Waiting(trials, budget)
        while (trial := waiting.next()) is not None:
            yield trial.run(self._backend)

    def declared(self) -> list[Declared]:
        """Ask for what the backend declares as supported."""
        trials = self._task.selection.trials()
        return declared(self._backend, wanted(trial.about() for trial in trials))

    def close(self) -> None:
        """Do nothing: there is nothing to end."""


def crew(task: Task, workers: int | None, trials: int) -> Crew | Here:
    """Choose who judges.

    Args:
        task: What is judged.
        workers: How many processes; 0 for this one, `None` for as many as are worth it.
        trials: How many trials there are to share.
    """
    if workers == 0:
        return Here(task)
    return Crew(task, workers or min(cores(), MOST, 1 + trials // SHARE))


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Waiting:
    """The trials that no worker has taken yet."""

    def __init__(self, trials: Sequence[AnyTrial], budget: float | None) -> None:
        self._trials = iter(trials)
        self._lock = threading.Lock()
        self._end = None if budget is None else time.monotonic() + budget
        self._hung: Counter[str] = Counter()

    def next(self) -> AnyTrial | None:
        with self._lock:
            if self._end is not None and time.monotonic() >= self._end:
                return None
            return next(self._trials, None)

    def stop(self) -> None:
        with self._lock:
            self._trials = iter(())

    def heard(self, outcome: Outcome) -> None:
        self._hung[outcome.clause] += outcome.message.startswith("hung: ")

    def given_up(self, trial: AnyTrial) -> str:
        """Say why a trial is not worth waiting for; empty if it is."""
        if self._hung[trial.clause] < PATIENCE:
            return ""
        return f"{PATIENCE} trials of {trial.clause} hung before, and the rest was not tried"


def not_run(trial: AnyTrial, reason: str) -> Outcome:
    """Return the outcome of a trial that was not run."""
    return replace(trial.about(), status=Status.NOT_RUN, message=reason)
