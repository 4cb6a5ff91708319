"""Which backend runs a call, and why not the others.

A named backend runs or the call fails with every reason: nothing falls back (H1).
Without a name the preference order decides, each backend for arrays of its own library.
Third parties' backends and the reference are not in the order until somebody puts them
there, so that installing a package changes no result. A backend refuses a call that asks
for anything it has not heard of (H2), and arrays are of one library and on one device:
nothing is moved or converted unasked (H3).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from attnref import arrays, registry
from attnref.arrays import Array
from attnref.backend import Backend, is_backend
from attnref.errors import BackendLoadError, InvalidProblem, Reason, UnsupportedError
from attnref.problem import Gradients, Problem, Result

IN_TREE = ("triton", "cupy", "torch", "numpy")
"""The preference order unless the user sets another."""

_order: ContextVar[tuple[str, ...]] = ContextVar("order", default=IN_TREE)
_log: ContextVar["list[Ran] | None"] = ContextVar("log", default=None)


@dataclass(frozen=True, slots=True)
class Ran:
    """One execution, as `trace` records it."""

    backend: str
    operation: str
    direction: str

    def __str__(self) -> str:
        """Return e.g. `attention forward on numpy`."""
        return f"{self.operation} {self.direction} on {self.backend}"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A backend that was found fit for a problem, and how arrays get to it.

    Attributes:
        backend: The backend.
        log: Where to record what runs; `None` outside a `trace`.
        library: The library to cross to; `None` if the arrays are the backend's own.
    """

    backend: Backend
    log: list[Ran] | None = None
    library: str | None = None

    def forward(self, problem: Problem) -> Result:
        """Run the problem, differentiably where its arrays ask for it."""
        if problem.with_gradients:
            from attnref import autograd  # loads torch

            return autograd.forward(self, problem)
        return self.forward_only(problem)

    def forward_only(self, problem: Problem) -> Result:
        """Run the problem."""
        given = problem if self.library is None else crossed(problem, self.library)
        result = self.backend.forward(given)
        if self.log is not None:
            self._record(problem, "forward")
        ours = self._ours(result, problem)
        return ours if type(ours) is Result else Result(*ours)

    def backward(
        self, problem: Problem, result: Result, dout: Array, dlse: Array | None = None
    ) -> Gradients:
        """Pass gradients back."""
        given, theirs = [*result, dout, dlse], problem
        if self.library is not None:
            given = [None if x is None else arrays.cross(x, self.library) for x in given]
            theirs = crossed(problem, self.library)
        out, lse, dout, dlse = given
        gradients = self.backend.backward(theirs, Result(out, lse), dout, dlse)
        self._record(problem, "backward")
        return type(gradients)(*self._ours(gradients, problem))

    def _ours(self, results: Sequence[Array | None], problem: Problem) -> Sequence[Array | None]:
        mine = getattr(problem, problem.main)
        kind = type(mine)
        for x in results:
            if x is not None and type(x) is not kind:
                return [None if x is None else arrays.cross_like(x, mine) for x in results]
        return results

    def _record(self, problem: Problem, direction: str) -> None:
        if self.log is not None:
            self.log.append(Ran(self.backend.name, problem.operation, direction))


def order() -> tuple[str, ...]:
    """Return the preference order of this thread or task."""
    return _order.get()


def log() -> list[Ran] | None:
    """Return where to record what runs; `None` outside a `trace`."""
    return _log.get()


def crossed(problem: Problem, library: str) -> Problem:
    """Return the problem with every array as one of another library."""
    named = {n: arrays.cross(x, library) for n, x in problem.arrays.items()}
    return problem.with_arrays(named)


def choose(problem: Problem, *, requested: str | Backend | None = None) -> Chosen:
    """Choose the backend that runs a problem.

    Args:
        problem: The call.
        requested: A registered name, or a backend object; `None` walks the order.

    Raises:
        InvalidProblem: What was requested is neither a name nor a backend object.
        UnknownBackend: No package registers the name.
        BackendLoadError: The named backend's package cannot be imported.
        UnsupportedError: Every reason against every backend considered.
    """
    log = _log.get()
    backend = asked_for(requested)
    if backend is not None:
        reasons = against(backend, problem, named=True)
        if reasons:
            raise UnsupportedError(str(problem), {backend.name: reasons}, requested=backend.name)
        foreign = backend.library not in ("any", problem.library)
        return Chosen(backend, log, backend.library if foreign else None)
    refused: dict[str, Sequence[Reason]] = {}
    for name in _order.get():
        reasons = answer(name, problem, named=False)
        if not reasons:
            return Chosen(registry.load(name), log)
        refused[name] = reasons
    raise UnsupportedError(
        str(problem), refused, hint=f'{problem.operation}(..., backend="reference")'
    )


def asked_for(requested: str | Backend | None) -> Backend | None:
    """Return the backend that a call asks for by name or as an object, if it does.

    Raises:
        InvalidProblem: What was requested is neither a name nor a backend object.
        UnknownBackend: No package registers the name.
        BackendLoadError: The named backend's package cannot be imported.
    """
    _check(requested)
    return registry.load(requested) if isinstance(requested, str) else requested


def _check(requested: object) -> None:
    """Refuse what is neither a name nor a backend object: a class is not its object."""
    known = requested is None or isinstance(requested, str) or is_backend(requested)
    if not known or isinstance(requested, type):
        raise InvalidProblem(
            f"backend is a {type(requested).__name__}; it must be a name or a backend object.",
            see="attnref.dispatch (H1)",
            hint='backend="numpy", or an object as in attnref.backend',
        )


def answer(name: str, problem: Problem, *, named: bool) -> Sequence[Reason]:
    """Return the reasons of a registered name, which may not load, or not be there."""
    if name not in registry.names():
        return [Reason("not-installed", "not installed")]
    found = registry.find(name)
    if isinstance(found, BackendLoadError):
        return [Reason("not-loaded", str(found))]
    return against(found, problem, named=named)


def against(backend: Backend, problem: Problem, *, named: bool) -> Sequence[Reason]:
    """Return every reason against a backend: its arrays, its machine, its limits."""
    ours, theirs = problem.library, backend.library
    if theirs not in ("any", ours):
        fact = f"takes {theirs} arrays, and these are {ours} arrays"
        if not arrays.crosses(ours, theirs, problem.device):
            unasked = "nothing is moved or converted unasked"
            return [Reason("device", f"{fact} on {problem.device}; {unasked}")]
        if not named:
            return [Reason("library", f'{fact}; backend="{backend.name}" reads them as views')]
    unavailable = backend.available()
    if unavailable:
        return unavailable
    if theirs not in ("any", ours):
        problem = crossed(problem, theirs)
    return backend.unsupported(problem)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What each backend answers to a call, and which one would run.

    Attributes:
        call: The call in one line.
        runs: The backend that would run; `None` if none would.
        reasons: Backend name to its reasons; empty if it could run.
        remarks: Backend name to what it says of how it would run the call, where it says
            anything: none of it is a reason against it.
    """

    call: str
    runs: str | None
    reasons: dict[str, tuple[Reason, ...]]
    remarks: dict[str, tuple[Reason, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return a table: the call, then one line per backend and reason."""
        width = max(map(len, self.reasons), default=0)
        lines = [self.call]
        for name, reasons in self.reasons.items():
            mark = "runs" if name == self.runs else "could run"
            said = [str(r) for r in reasons] or [mark, *map(str, self.remarks.get(name, ()))]
            lines += [f"  {'' if n else name:<{width}}  {text}" for n, text in enumerate(said)]
        return "\n".join(lines)


def explain(problem: Problem, *, requested: str | Backend | None = None) -> Explanation:
    """Say what every backend answers to a problem, without running it."""
    _check(requested)
    order = _order.get()
    rest = [name for name in registry.names() if name not in order]
    reasons: dict[str, tuple[Reason, ...]] = {}
    for name in (*order, *rest):
        walked = requested is None and name in order
        reasons[name] = tuple(answer(name, problem, named=not walked))
    if requested is None:
        runs = next((n for n in order if not reasons[n]), None)
    else:
        name = requested if isinstance(requested, str) else requested.name
        if isinstance(requested, str):
            registry.find(name)
        else:
            reasons[name] = tuple(against(requested, problem, named=True))
        runs = None if reasons[name] else name
    given = {} if requested is None or isinstance(requested, str) else {requested.name: requested}
    remarks = {
        n: said
        for n, found in reasons.items()
        if not found and (said := _remarks(given.get(n) or registry.load(n), problem))
    }
    return Explanation(str(problem), runs, reasons, remarks)


def _remarks(backend: Backend, problem: Problem) -> tuple[Reason, ...]:
    ask = getattr(backend, "remarks", None)
    if ask is None:
        return ()
    if backend.library not in ("any", problem.library):
        problem = crossed(problem, backend.library)
    return tuple(ask(problem))


class _Preference:
    """Undoes `prefer` when used as a context manager."""

    def __init__(self, token: Token[tuple[str, ...]]) -> None:
        self._token = token

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        _order.reset(self._token)


def prefer(*names: str) -> _Preference:
    """Set the order in which backends are considered when a call names none.

    Args:
        *names: Registered backends, the first choice first. None at all restores the
            in-tree order.

    Returns:
        A context manager that restores the previous order; ignore it to keep the new
        one for the current thread or task.

    Raises:
        InvalidProblem: Something that is no name.
        UnknownBackend: A name that is neither registered nor in-tree.

    Example:
        >>> import attnref
        >>> with attnref.prefer("reference"):
        ...     pass
    """
    for name in names:
        if not isinstance(name, str):
            raise InvalidProblem(
                f"prefer() was given a {type(name).__name__}; it takes names.",
                see="attnref.dispatch (H1)",
                hint='prefer("numpy", "torch")',
            )
        if name not in IN_TREE:
            registry.find(name)
    return _Preference(_order.set(names or IN_TREE))


@contextmanager
def trace() -> Iterator[list[Ran]]:
    """Record what really runs inside the block, gradients included.

    Example:
        >>> import numpy as np, attnref
        >>> q = np.zeros((1, 1, 4, 8))
        >>> with attnref.trace() as ran:
        ...     out = attnref.attention(q, q, q, backend="reference")
        >>> print(*ran)
        attention forward on reference
    """
    log: list[Ran] = []
    token = _log.set(log)
    try:
        yield log
    finally:
        _log.reset(token)
