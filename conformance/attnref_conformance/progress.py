"""How far a run has come, on a terminal; quiet everywhere else."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from attnref_conformance.status import Outcome


class Watcher:
    """Shows trials, failures and the time that is left.

    Args:
        console: Where to; nothing is shown unless it is a terminal.
        budget: How many seconds the run may take, if it may not take all it needs.
    """

    PAUSE = 0.1
    """How many seconds lie between two pictures."""

    def __init__(self, console: Console, budget: float | None = None) -> None:
        self._budget = budget
        self._done, self._failed, self._total = 0, 0, 0
        # Drawn here and not by a thread: a trial in this process takes what is printed
        # while it runs for the backend's.
        self._bar = Progress(
            TextColumn("judging"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("[red]{task.fields[failed]}"),
            console=console,
            transient=True,
            auto_refresh=False,
            disable=not console.is_terminal,
        )

    def begin(self, total: int) -> None:
        """Start the clock."""
        self._total, self._start = total, time.monotonic()
        self._shown = 0.0
        self._bar.start()
        self._task = self._bar.add_task("", total=total, left="", failed="")

    def hear(self, outcome: Outcome) -> None:
        """Count one trial."""
        self._done += 1
        self._failed += outcome.status.failure
        elapsed = time.monotonic() - self._start
        if elapsed - self._shown >= self.PAUSE:
            self._shown = elapsed
            left = time_left(elapsed, self._done, self._total, self._budget)
            failed = f"{self._failed} failed" if self._failed else ""
            self._bar.update(self._task, completed=self._done, left=left, failed=failed)
            self._bar.refresh()

    def end(self) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()


def time_left(elapsed: float, done: int, total: int, budget: float | None) -> str:
    """Say how long a run will take, from how long it took so far.

    Example:
        >>> time_left(10.0, 100, 1000, None), time_left(10.0, 100, 1000, 30.0)
        ('1:30 left', '0:20 left')
    """
    left = elapsed / done * (total - done)
    if budget is not None:
        left = max(min(left, budget - elapsed), 0.0)
    minutes, seconds = divmod(round(left), 60)
    return f"{minutes}:{seconds:02} left"
