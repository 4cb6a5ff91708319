"""The plainest failure of every clause, made small and written as a program to copy.

Making a call smaller calls the backend again, on inputs that nobody has tried on it. That
happens in a process of its own: a backend that hangs or dies there costs a program, and not
the report.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from attnref.backend import Backend
from attnref_conformance import replay
from attnref_conformance.smallest import can_shrink, smallest
from attnref_conformance.status import Element, Outcome
from attnref_conformance.suite import AnyTrial, resolve
from attnref_conformance.trial import Trial

SECONDS = 20.0
"""How long all failures together may be made smaller."""

_EACH = 2.0
_STARTING = 40.0
"""How long a process may take to load a backend."""

_LOOKED_AT = 8
"""How many failures of a clause are weighed against each other."""


def with_calls(outcomes: Sequence[Outcome], backend: Backend, named: str) -> Sequence[Outcome]:
    """Give the plainest failure of every clause a cause, and a program that shows it.

    Args:
        outcomes: How each case ended.
        backend: The backend that was judged.
        named: How the command names it; if it does not, the failures are made smaller here.
    """
    by_clause: dict[str, list[Outcome]] = {}
    for o in outcomes:
        if o.status.failure and not o.call:
            by_clause.setdefault(o.clause, []).append(o)
    plainest = {o.id: o for o in filter(None, map(_plainest, by_clause.values()))}
    plain = {o.id: _shown(o, backend, named or backend.name) for o in plainest.values()}
    if named:
        made = _elsewhere(plainest.values(), named)
    else:
        made = _here(plainest.values(), backend, backend.name, SECONDS)
    told = {**plain, **{o.id: o for o in made}}
    return [told.get(o.id, o) for o in outcomes]


def _plainest(failures: Sequence[Outcome]) -> Outcome | None:
    """Choose the failure that says most with the least: a wrong number in a small call."""
    first = failures[:_LOOKED_AT]
    found = [(o, trial) for o in first if (trial := replay.find(o.id)) is not None]
    if not found:
        return None
    return min(found, key=lambda pair: (pair[0].element is None, _size(pair[1])))[0]


def _size(trial: AnyTrial) -> int:
    if not isinstance(trial, Trial):
        return 0
    call = trial.case.call(trial.dtype)
    return sum(x.size for x in call.values.values())


def _shown(o: Outcome, backend: Backend, named: str) -> Outcome:
    """Show a failure as it is; the backend is not called."""
    return replace(o, cause=cause(o), call=_program(replay.find(o.id), backend, named, o))


def _program(trial: AnyTrial | None, backend: Backend, named: str, o: Outcome) -> str:
    assert trial is not None
    try:
        return replay.program(trial, backend, named, o)
    except Exception as error:  # noqa: BLE001  # a report without a program is still a report
        return f"# no program could be written: {type(error).__name__}: {error}\n"


def _here(
    failures: Iterable[Outcome], backend: Backend, named: str, seconds: float
) -> Iterator[Outcome]:
    """Make failures smaller in this process; each has its share of the time."""
    waiting = list(filter(can_shrink, failures))
    end = time.monotonic() + seconds
    for at, o in enumerate(waiting):
        share = (end - time.monotonic()) / (len(waiting) - at)
        trial = replay.find(o.id)
        assert isinstance(trial, Trial)
        found = smallest(trial, backend, o, min(max(share, 0.0), _EACH))
        shown = o
        # What cannot be written out is drawn from the seed, and the seed draws the whole case.
        if replay.is_written_out(found.trial, backend):
            trial, shown = found.trial, found.outcome
        call = _program(trial, backend, named, shown)
        yield replace(o, cause=cause(found.outcome), call=call)


def _elsewhere(failures: Iterable[Outcome], named: str) -> Iterator[Outcome]:
    """Make failures smaller in another process, and go on after one that ends it."""
    waiting = list(filter(can_shrink, failures))
    end = time.monotonic() + SECONDS
    with tempfile.TemporaryDirectory() as folder:
        given, told = Path(folder) / "given", Path(folder) / "told"
        while waiting and (left := end - time.monotonic()) > 0:
            given.write_text("\n".join(json.dumps(o.as_json()) for o in waiting), "utf-8")
            told.write_text("", "utf-8")
            ended = _process(named, given, told, left)
            made = list(
                map(Outcome.from_json, map(json.loads, told.read_text("utf-8").splitlines()))
            )
            yield from made
            # The one after the last that was told is the one that ended the process.
            waiting = [] if ended else waiting[len(made) + 1 :]


_MAIN = "import sys; from attnref_conformance.report import examples; examples.main(sys.argv[1:])"


def _process(named: str, given: Path, told: Path, seconds: float) -> bool:
    """Run `main` in a process, and tell whether it came to its end, or to that of its time."""
    words = [sys.executable, "-c", _MAIN, named, str(given), str(told), f"{seconds:.1f}"]
    try:
        ran = subprocess.run(words, capture_output=True, check=False, timeout=seconds + _STARTING)  # noqa: S603
    except subprocess.TimeoutExpired:
        return True
    return ran.returncode == 0


_PLAIN = ("gradients", "1-D", "2-D", "3-D", "qkv")
"""Features that say how a call is made, and not what it asks for."""


def cause(o: Outcome) -> str:
    """Say what a call uses and what is wrong with it, without a number."""
    uses = ", ".join(f"`{f}`" for f in o.features if f not in _PLAIN)
    what = f"`{o.operation}`{f' with {uses}' if uses else ''}"
    if o.element is None:
        return f"{what}: {o.message.partition(';')[0][:120]}"
    return f"{what}: `{o.element.array}` {_wrong(o.element)}"


def _wrong(e: Element) -> str:
    """Say in what way an element is wrong, without a number."""
    if e.error != "not a number":
        return "is wrong"
    must = {"-inf": "must be -inf", "nan": "must be spoiled", "inf": "must be spoiled"}
    return must.get(e.expected, "must be finite")


def main(argv: Sequence[str]) -> None:
    """Make the failures of one file smaller, and write each into another as it is done."""
    named, given, told, seconds = argv
    failures = map(Outcome.from_json, map(json.loads, Path(given).read_text("utf-8").splitlines()))
    with Path(told).open("a", encoding="utf-8") as file:
        for o in _here(failures, resolve(named), named, float(seconds)):
            file.write(json.dumps(o.as_json()) + "\n")
            file.flush()
