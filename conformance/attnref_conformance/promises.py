"""What a backend promises beyond numbers: refusing the unknown, remembering nothing."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

import attnref
from attnref import normalize
from attnref.arrays import Array
from attnref.backend import Backend, Reason
from attnref.problem import AttentionProblem
from attnref_conformance.case import DTYPES, cast
from attnref_conformance.status import Outcome, Status
from attnref_conformance.trial import Finding, declined, must_refuse, unsupported, watched


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Later(AttentionProblem):
    """A call with an option that no backend of today has heard of."""

    def _features(self) -> set[str]:
        return {*AttentionProblem._features(self), "unheard of"}  # noqa: SLF001


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Elsewhere(AttentionProblem):
    """An operation that no backend of today has heard of."""

    operation: ClassVar[str] = "unheard_of"


class Declined(Exception):  # noqa: N818  # not an error
    """The backend has reasons against a call that a promise needs, and refused it."""

    def __init__(self, reasons: Sequence[Reason]) -> None:
        super().__init__("; ".join(map(str, reasons)))
        self.reasons = reasons


@dataclass(frozen=True)
class _Caller:
    """Calls a backend in one dtype, and hears its reasons first."""

    backend: Backend
    dtype: str

    def array(self, *shape: int, seed: int) -> Array:
        """Draw an array of the backend."""
        x = np.random.default_rng(seed).normal(size=shape)
        return self.backend.from_numpy(cast(x, self.dtype))

    def qkv(self, S: int = 9, seed: int = 0) -> list[Array]:
        """Draw queries, keys and values of one small call."""
        return [self.array(1, 2, S, 64, seed=3 * seed + n) for n in range(3)]

    def call(self, function: str, *given: Array, **options: Any) -> Array:
        """Call a public function.

        Raises:
            Declined: The backend gave reasons, and refused when called.
        """
        problem = getattr(normalize, function)(*given, **options)
        reasons = declined(self.backend, problem)
        if reasons:
            must_refuse(self.backend, problem)
            raise Declined(reasons)
        with watched():
            return getattr(attnref, function)(*given, **options, backend=self.backend)

    def values(self, x: Array) -> np.ndarray:
        """Copy the values of a result."""
        return np.array(self.backend.to_numpy(x)).astype(np.float64)

    def attend(self, *given: Array, **options: Any) -> np.ndarray:
        """Call `attention` and copy its values."""
        return self.values(self.call("attention", *given, **options))


def _refuses(caller: _Caller, kind: type[AttentionProblem]) -> None:
    problem = normalize.attention(*caller.qkv())
    later = kind(**{f.name: getattr(problem, f.name) for f in fields(problem)})
    if not declined(caller.backend, later):
        raise Finding("declared support for what it cannot have heard of")
    must_refuse(caller.backend, later)


def _refuses_a_feature(caller: _Caller) -> None:
    _refuses(caller, _Later)


def _refuses_an_operation(caller: _Caller) -> None:
    _refuses(caller, _Elsewhere)


def _shapes_in_turn(caller: _Caller) -> None:
    """Call with a shape, another, and the first again: the first answer comes back."""
    first = caller.attend(*caller.qkv(9))
    caller.attend(*caller.qkv(70, seed=1))
    _same(first, caller.attend(*caller.qkv(9)), "after a call of another shape")


def _contents_in_turn(caller: _Caller) -> None:
    """Overwrite the same arrays between calls: each call sees what they hold then."""
    given = caller.qkv()
    before = caller.attend(*given)
    for seed in (1, 2, 3):
        others = caller.qkv(seed=seed)
        wanted = caller.attend(*others)
        if np.array_equal(before, wanted):
            raise Finding("gave one answer to two different calls")
        if not all(_overwritten(x, y) for x, y in zip(given, others, strict=True)):
            given = caller.qkv(seed=seed)  # immutable arrays can only be replaced
        _same(wanted, caller.attend(*given), "when the same arrays hold other contents")


def _options_in_turn(caller: _Caller) -> None:
    """Overwrite optional arrays between calls: each call sees what they hold then."""
    given, backend = caller.qkv(), caller.backend
    rng = np.random.default_rng(0)
    for name in ("mask", "bias", "kv_lens", "sinks"):
        kept, last = None, (np.zeros(0), np.zeros(0))
        for _ in range(3):
            x = _option(rng, name, caller.dtype)
            wanted = caller.attend(*given, **{name: backend.from_numpy(x.copy())})
            if np.array_equal(last[1], wanted) and not np.array_equal(last[0], x):
                raise Finding(f"gave one answer to two different arrays for {name}")
            last = (x, wanted)
            if kept is None or not _overwritten(kept, backend.from_numpy(x.copy())):
                kept = backend.from_numpy(x.copy())
            again = caller.attend(*given, **{name: kept})
            _same(wanted, again, f"when the same {name} holds other contents")


def _option(rng: np.random.Generator, name: str, dtype: str) -> np.ndarray:
    if name == "mask":
        return np.asarray(rng.random((9, 9)) < 0.7)
    if name == "kv_lens":
        return rng.integers(1, 9, 1).astype(np.int32)
    return cast(rng.normal(size=(9, 9) if name == "bias" else 2), dtype)


def _overwritten(x: Array, y: Array) -> bool:
    try:
        x[...] = y
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def _results_are_kept(caller: _Caller) -> None:
    """A result belongs to its caller: later calls of the same shape leave it alone."""
    held = caller.call("attention", *caller.qkv())
    before = caller.values(held)
    for seed in (1, 2):
        caller.attend(*caller.qkv(seed=seed))
    _same(before, caller.values(held), "in a result that was already returned")


def _windows_in_turn(caller: _Caller) -> None:
    """A map that one window covers drops its shift, and only for that call (G4)."""

    def attend(side: int) -> np.ndarray:
        x = caller.array(1, side, side, 2, 32, seed=side)
        return caller.values(caller.call("window_attention", x, x, x, window=4, shift=2))

    first = attend(8)
    attend(4)
    _same(first, attend(8), "after a call with a smaller map")


def _biases_in_turn(caller: _Caller) -> None:
    """A position bias belongs to its call (G7), and another one gives another answer."""
    x = caller.array(1, 8, 8, 2, 32, seed=0)
    biases = (caller.array(2, 16, 16, seed=n) for n in (1, 2))
    first, second = (
        caller.values(caller.call("window_attention", x, x, x, window=4, bias=bias))
        for bias in biases
    )
    if np.array_equal(first, second):
        raise Finding("gave one answer to two different biases")


def _same(first: np.ndarray, again: np.ndarray, when: str) -> None:
    if not np.allclose(first, again, rtol=1e-5, atol=1e-6, equal_nan=True):
        raise Finding(f"answered differently {when}")


@dataclass(frozen=True)
class Promise:
    """A check of the protocol, shaped like a trial.

    Attributes:
        name: Clause and what is promised.
        keep: Raises a `Finding` if the promise is broken.
        dtype: The dtype that it is judged in.
        quick: Part of the quick profile.
    """

    name: str
    keep: Callable[[_Caller], None]
    dtype: str
    level: int = 1
    operation: str = "attention"
    quick: bool = True

    @property
    def id(self) -> str:
        """The stable id that reports use."""
        return f"{self.name}[{self.dtype}]"

    @property
    def clause(self) -> str:
        """The clause that the promise belongs to."""
        return self.name.partition("-")[0]

    def about(self) -> Outcome:
        """Describe the promise without any backend, as the beginning of an outcome."""
        return Outcome(
            self.id, self.clause, self.level, self.operation, self.dtype, (), Status.PASS
        )

    def run(self, backend: Backend) -> Outcome:
        """Judge the backend."""
        start = time.perf_counter()
        about = self.about()
        try:
            self.keep(_Caller(backend, self.dtype))
        except Declined as refusal:
            about = unsupported(about, refusal.reasons)
        except Finding as finding:
            about = replace(about, status=finding.status, message=str(finding))
        except Exception as error:  # noqa: BLE001  # whatever it is, the run goes on
            message = f"the judge failed: {type(error).__name__}: {error}"
            about = replace(about, status=Status.ERROR, message=message)
        return replace(about, seconds=time.perf_counter() - start)


_KEPT: tuple[tuple[str, Callable[[_Caller], None], int, str], ...] = (
    ("H2-refuses-a-feature-it-never-heard-of", _refuses_a_feature, 1, "attention"),
    ("H2-refuses-an-operation-it-never-heard-of", _refuses_an_operation, 1, "attention"),
    ("A5-shapes-in-turn", _shapes_in_turn, 1, "attention"),
    ("A5-contents-in-turn", _contents_in_turn, 1, "attention"),
    ("A5-options-in-turn", _options_in_turn, 1, "attention"),
    ("A5-results-are-kept", _results_are_kept, 1, "attention"),
    ("G7-maps-in-turn", _windows_in_turn, 4, "window_attention"),
    ("G7-biases-in-turn", _biases_in_turn, 4, "window_attention"),
)

PROMISES = tuple(
    Promise(name, keep, dtype, level, operation)
    for name, keep, level, operation in _KEPT
    for dtype in DTYPES
)
"""Every promise; ids are unique and stable."""
