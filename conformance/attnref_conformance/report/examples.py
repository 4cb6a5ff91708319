"""The plainest failure of every clause, made small and written as a program to copy."""

import time
from collections.abc import Sequence
from dataclasses import replace

from attnref.backend import Backend
from attnref_conformance import replay
from attnref_conformance.smallest import smallest
from attnref_conformance.status import Outcome, Status
from attnref_conformance.suite import AnyTrial
from attnref_conformance.trial import Trial

SECONDS = 20.0
"""How long all failures together may be made smaller."""

_LOOKED_AT = 8
"""How many failures of a clause are weighed against each other."""


def with_calls(outcomes: Sequence[Outcome], backend: Backend, named: str) -> Sequence[Outcome]:
    """Give the plainest failure of every clause a program that shows it."""
    by_clause: dict[str, list[Outcome]] = {}
    for o in outcomes:
        if o.status.failure and not o.call:
            by_clause.setdefault(o.clause, []).append(o)
    end = time.monotonic() + SECONDS
    told = {}
    for at, mine in enumerate(by_clause.values()):
        left = (end - time.monotonic()) / (len(by_clause) - at)
        o, trial = _plainest(mine)
        if trial is None:
            continue
        try:
            told[o.id] = _told(o, trial, backend, named, max(left, 0.0))
        except Exception as error:  # noqa: BLE001  # a report without a program is still a report
            said = f"# no program could be written: {type(error).__name__}: {error}\n"
            told[o.id] = replace(o, call=said)
    return [told.get(o.id, o) for o in outcomes]


def _plainest(failures: Sequence[Outcome]) -> tuple[Outcome, AnyTrial | None]:
    """Choose the failure that says most with the least: a wrong number in a small call."""
    first = failures[:_LOOKED_AT]
    found = [(o, trial) for o in first if (trial := replay.find(o.id)) is not None]
    if not found:
        return failures[0], None
    return min(found, key=lambda pair: (pair[0].element is None, _size(pair[1])))


def _size(trial: AnyTrial) -> int:
    if not isinstance(trial, Trial):
        return 0
    call = trial.case.call(trial.dtype)
    return sum(x.size for x in call.values.values())


def _told(o: Outcome, trial: AnyTrial, backend: Backend, named: str, seconds: float) -> Outcome:
    """Give a failure its cause and its program, of the smallest call that still fails."""
    small = shown = o
    # What crashed once may not be tried again here, where a crash would cost the report.
    if isinstance(trial, Trial) and o.status is Status.FAIL:
        found = smallest(trial, backend, o, min(seconds, 2.0))
        # What cannot be written out is drawn from the seed, and the seed draws the whole case.
        small = found.outcome
        if replay.is_written_out(found.trial, backend):
            trial, shown = found.trial, found.outcome
    return replace(o, cause=_cause(small), call=replay.program(trial, backend, named, shown))


def _cause(o: Outcome) -> str:
    """Say what a call uses and what is wrong with it, without a number."""
    uses = ", ".join(f"`{f}`" for f in o.features if f != "gradients")
    what = f"`{o.operation}`{f' with {uses}' if uses else ''}"
    if o.element is None:
        return f"{what}: {o.message.partition(';')[0][:120]}"
    special = o.element.error == "not a number"
    must = f" must be {o.element.expected}" if special and "inf" in o.element.expected else ""
    strange = " is not finite" if special and not must else ""
    return f"{what}: `{o.element.array}`{must or strange or ' is wrong'}"
