"""Which trials make up a run, and the run itself."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Union

from attnref import registry
from attnref.backend import Backend, is_backend
from attnref.errors import AttnrefError
from attnref_conformance.case import DTYPES
from attnref_conformance.cases import ALL
from attnref_conformance.promises import PROMISES, Promise
from attnref_conformance.status import Outcome
from attnref_conformance.trial import Trial

if TYPE_CHECKING:
    from attnref_conformance.drawn import Drawn

AnyTrial = Union[Trial, Promise, "Drawn"]  # the last is loaded when it is used

_SIMPLEST_FIRST = ("float32", "float64", "float16", "bfloat16")
_QUICK = ("float32", "float16")


@dataclass(frozen=True)
class Selection:
    """Which part of the suite to run; all of it by default.

    Attributes:
        clauses: Clause ids or families, e.g. `("C5", "G")`; empty means all.
        dtypes: The dtypes to judge.
        quick: Small cases in float32 and float16, and the promises: a first impression.
        draw: How many drawn problems follow the cases.
        seed: What the drawing begins with.
        named: How the command names the backend; drawn problems that fail say it.
    """

    clauses: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = DTYPES
    quick: bool = False
    draw: int = 0
    seed: int = 0
    named: str = ""

    @property
    def partial(self) -> bool:
        """Whether something is left out; a partial run never claims a level."""
        return bool(self.clauses) or self.quick or set(self.dtypes) != set(DTYPES)

    def trials(self) -> list[AnyTrial]:
        """Return the trials in the order of the clauses."""
        fixed = sorted(self._selected(), key=lambda trial: trial.clause)
        return [*fixed, *self._drawn()]

    def _drawn(self) -> Iterator[AnyTrial]:
        if self.draw:
            from attnref_conformance.drawn import chunks  # which judges by what this module has

            yield from chunks(self.draw, self.dtypes, self.seed, self.named)

    def _selected(self) -> Iterator[AnyTrial]:
        for promise in PROMISES:
            asked = promise.dtype in self.dtypes and (
                not self.quick or (promise.quick and promise.dtype in _QUICK)
            )
            if asked and self._wants(promise.clause):
                yield promise
        for case in ALL:
            if not self._wants(case.clause) or (self.quick and not case.quick):
                continue
            for dtype in (d for d in _SIMPLEST_FIRST if d in case.dtypes and d in self.dtypes):
                if self.quick and dtype not in _QUICK:
                    continue
                yield from (Trial(case, part, dtype) for part in case.parts)

    def _wants(self, clause: str) -> bool:
        return not self.clauses or clause in self.clauses or clause[0] in self.clauses


def resolve(name: str) -> Backend:
    """Find a backend by its registered name, or as `module:object`.

    Modules of the current directory are found like installed ones.

    Raises:
        AttnrefError: The name is not registered, cannot be loaded, or is no backend.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return registry.load(name)
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        backend = getattr(import_module(module), attribute)
    except Exception as error:  # noqa: BLE001  # whatever somebody's import raises
        raise AttnrefError(f"{name!r} cannot be loaded: {type(error).__name__}: {error}") from None
    if isinstance(backend, type):
        raise AttnrefError(f"{name!r} is a class; name an instance of it")
    if not is_backend(backend):
        raise AttnrefError(f"{name!r} is not a backend; see attnref.backend")
    return backend


def run(backend: Backend, trials: Iterable[AnyTrial]) -> Iterator[Outcome]:
    """Judge a backend, one outcome at a time."""
    for trial in trials:
        yield trial.run(backend)


def spread(trials: Sequence[AnyTrial]) -> list[AnyTrial]:
    """Order trials so that any beginning of them is spread over clauses, dtypes and parts.

    The clauses take turns; within a clause its dtypes and parts do, and each clause begins
    with another one. The order is always the same.
    """
    clauses = []
    for n, mine in enumerate(_groups(trials, lambda t: t.clause)):
        kinds = _groups(mine, lambda t: (t.dtype, getattr(t, "part", "")))
        clauses.append(_in_turn(kinds[n % len(kinds) :] + kinds[: n % len(kinds)]))
    return _in_turn(clauses)


def _groups(trials: Iterable[AnyTrial], key: Callable[[Any], Any]) -> list[list[AnyTrial]]:
    groups: dict[Any, list[AnyTrial]] = {}
    for trial in trials:
        groups.setdefault(key(trial), []).append(trial)
    return list(groups.values())


def _in_turn(groups: Sequence[Sequence[AnyTrial]]) -> list[AnyTrial]:
    return [trial for turn in zip_longest(*groups) for trial in turn if trial is not None]


def unknown(clauses: Iterable[str]) -> str:
    """Say which clause or family no case judges, and which there are; empty if all are known."""
    known = known_clauses()
    strange = [c for c in clauses if c not in known and c not in {k[0] for k in known}]
    return f"no case judges clause {strange[0]!r}; there are {', '.join(known)}" if strange else ""


def undrawable(draw: int) -> str:
    """Say what is missing for problems to be drawn; empty if nothing is, or none are."""
    if draw and find_spec("hypothesis") is None:
        return "drawn problems need Hypothesis: pip install attnref[conformance]"
    return ""


def known_clauses(trials: Sequence[AnyTrial] | None = None) -> list[str]:
    """Return every clause that some trial judges."""
    return sorted({trial.clause for trial in trials or Selection().trials()})
