"""Drawn problems: any valid call, judged like the cases, and made small where it fails.

What `Selection(draw=n)` adds to a run. The problems are the same in every run with the same
seed. They look for what nobody thought of, and so they count towards no level: a level is
what every backend was asked alike.

Hypothesis draws and shrinks; it is loaded when the first problem is drawn.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from attnref.backend import Backend
from attnref_conformance import replay
from attnref_conformance.clauses import DRAWN
from attnref_conformance.report.examples import cause
from attnref_conformance.smallest import smallest, way
from attnref_conformance.status import Outcome, Status
from attnref_conformance.trial import Trial

CLAUSE = DRAWN.id
"""Where reports put drawn problems: in a section of their own, after the clauses."""

CHUNK = 40
"""How many problems are one trial, so that a run knows how far it is and can stop."""

SHRINKING = 10.0
"""How many seconds a failing problem may take to become a small one."""

SHARES = {
    "attention": 10,
    "attention_varlen": 4,
    "window_attention": 4,
    "window_attention_qkv": 2,
    "softmax": 2,
    "merge": 2,
    "relative_position_bias": 1,
}
"""How often each public function is drawn; one has many more options than another."""


@dataclass(frozen=True)
class Drawn:
    """Some problems of one public function in one dtype.

    Attributes:
        function: The public name without suffixes.
        dtype: The dtype of the main arrays.
        number: Which of the trials of this function and dtype it is.
        n: How many problems are drawn.
        seed: What the drawing begins with.
        named: How the command names the backend, for the program that shows a failure.
    """

    function: str
    dtype: str
    number: int
    n: int
    seed: int = 0
    named: str = ""

    clause: ClassVar[str] = CLAUSE

    @property
    def name(self) -> str:
        """What the trial is called in every dtype."""
        return f"{CLAUSE}-{self.function}-{self.number}"

    @property
    def id(self) -> str:
        """The id that reports use."""
        return f"{self.name}[{self.dtype}]"

    def about(self) -> Outcome:
        """Say what is judged, before it is."""
        return Outcome(self.id, CLAUSE, 0, self.function, self.dtype, (), Status.PASS)

    def run(self, backend: Backend) -> Outcome:
        """Judge the backend."""
        start = time.perf_counter()
        tally = _Tally(backend)
        try:
            explore(self.trials(), tally.judge, self.n, (self.seed << 16) + self.number)
        except Found:
            outcome = self._failure(tally, backend)
        else:
            outcome = self._passed(tally)
        return replace(outcome, seconds=time.perf_counter() - start)

    def trials(self) -> Any:
        """Return the strategy that problems are drawn from."""
        from attnref_conformance import strategies

        return strategies.trials(self.function, self.dtype)

    def _passed(self, tally: "_Tally") -> Outcome:
        """Sum up: problems were computed, or every one of them was declined."""
        o, n = tally.worst, len(tally.outcomes)
        declined = [x for x in tally.outcomes if x.status is Status.UNSUPPORTED]
        if len(declined) == n:
            return replace(o, id=self.id, clause=CLAUSE, level=0, features=())
        said = f"{n} drawn" + (f", {len(declined)} declined" if declined else "")
        poor = sum(x.status is Status.QUALITY for x in tally.outcomes)
        if poor:
            said = f"{poor} of {said}: {o.message}"
        about = replace(self.about(), status=o.status, message=said, length=o.length)
        executed = [x for x in tally.outcomes if x.status is not Status.UNSUPPORTED]
        return replace(
            about,
            utilisation=max(x.utilisation for x in executed),
            ratio=max(x.ratio for x in executed),
            ulp=max(x.ulp for x in executed),
        )

    def _failure(self, tally: "_Tally", backend: Backend) -> Outcome:
        """Describe the smallest problem that fails, with a program to copy."""
        trial, o = tally.found[-1]
        if o.status is Status.FAIL:
            small = smallest(trial, backend, o, seconds=2.0)
            trial, o = small.trial, small.outcome
        shown = replace(o, id=self.id, clause=CLAUSE, level=0)
        named = self.named or backend.name
        text = replay.program(trial, backend, named, shown, drawn=True)
        return replace(shown, cause=cause(o), call=text)


class Found(BaseException):
    """A problem that fails, or the end of making it smaller; nobody may catch it."""


@dataclass
class _Tally:
    """What became of the problems so far.

    Attributes:
        backend: The backend under judgement.
        outcomes: How each problem ended, until one failed.
        found: The failing problems, each smaller than the one before.
    """

    backend: Backend
    outcomes: list[Outcome] = field(default_factory=list)
    found: list[tuple[Trial, Outcome]] = field(default_factory=list)
    end: float = 0.0

    @property
    def worst(self) -> Outcome:
        """The outcome that says most: a remark, then a computed one, then a declined one."""
        order = (Status.QUALITY, Status.PASS, Status.UNSUPPORTED)
        return min(self.outcomes, key=lambda o: (order.index(o.status), -o.ratio))

    def judge(self, trial: Trial) -> None:
        """Judge one problem.

        Raises:
            AssertionError: It fails, in the same way as the first that failed.
            Found: It does, and time is up.
        """
        if self.found and time.monotonic() > self.end:
            raise Found
        o = trial.run(self.backend)
        if not self.found:
            self.outcomes.append(o)
        if not o.status.failure:
            return
        if not self.found:
            self.end = time.monotonic() + SHRINKING
        if not self.found or way(o) == way(self.found[0][1]):
            self.found.append((trial, o))
            raise AssertionError(o.message)


def explore(strategy: Any, judge: Any, n: int, seed: int) -> None:
    """Give a judge `n` problems; where one fails, the smallest of its kind comes last.

    Raises:
        Found: The judge raised for a problem, and it was made smaller.
    """
    import hypothesis

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=n,
        database=None,
        deadline=None,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=False,
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(strategy)
    def drawn(trial: Trial) -> None:
        judge(trial)

    try:
        drawn()
    # What fails once and not again is found too: Hypothesis calls it flaky.
    except (AssertionError, hypothesis.errors.Flaky, BaseExceptionGroup) as error:
        raise Found from error


def shared(n: int, dtypes: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Share `n` problems out among functions and dtypes, exactly."""
    total, taken = sum(SHARES.values()) * len(dtypes), 0
    for function, share in SHARES.items():
        for dtype in dtypes:
            first, taken = taken, taken + share
            yield function, dtype, n * taken // total - n * first // total


def chunks(n: int, dtypes: Sequence[str], seed: int = 0, named: str = "") -> Iterator[Drawn]:
    """Make the trials of `n` problems."""
    for function, dtype, mine in shared(n, dtypes):
        for number, at in enumerate(range(0, mine, CHUNK)):
            yield Drawn(function, dtype, number, min(CHUNK, mine - at), seed, named)
