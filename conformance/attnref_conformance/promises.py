"""What a backend promises beyond numbers: refusing the unknown, remembering nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

import attnref
from attnref import normalize
from attnref.backend import Backend
from attnref.problem import AttentionProblem
from attnref_conformance.status import Outcome, Status
from attnref_conformance.trial import Finding, declined, must_refuse, watched


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Later(AttentionProblem):
    """A call with an option that no backend of today has heard of."""

    def _features(self) -> set[str]:
        return {*AttentionProblem._features(self), "unheard of"}  # noqa: SLF001


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Elsewhere(AttentionProblem):
    """An operation that no backend of today has heard of."""

    operation: ClassVar[str] = "unheard_of"


def _arrays(backend: Backend, S: int = 9, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(1, 2, S, 16)).astype(np.float32) for _ in range(3))
    return backend.from_numpy(q), backend.from_numpy(k), backend.from_numpy(v)


def _refuses(backend: Backend, kind: type[AttentionProblem]) -> None:
    problem = normalize.attention(*_arrays(backend))
    named = {f.name: getattr(problem, f.name) for f in fields(problem)}
    later = kind(**named)
    if not declined(backend, later):
        raise Finding("declared support for what it cannot have heard of")
    must_refuse(backend, later)


def _refuses_a_feature(backend: Backend) -> None:
    _refuses(backend, _Later)


def _refuses_an_operation(backend: Backend) -> None:
    _refuses(backend, _Elsewhere)


def _attend(backend: Backend, *arrays: Any) -> np.ndarray:
    with watched():
        return np.array(backend.to_numpy(attnref.attention(*arrays, backend=backend)))


def _shapes_in_turn(backend: Backend) -> None:
    """Call with a shape, another, and the first again: the first answer comes back."""
    first = _attend(backend, *_arrays(backend, 9))
    _attend(backend, *_arrays(backend, 70, seed=1))
    _same(first, _attend(backend, *_arrays(backend, 9)), "after a call of another shape")


def _contents_in_turn(backend: Backend) -> None:
    """Overwrite the same arrays between two calls: the second sees the new contents."""
    arrays = _arrays(backend)
    first = _attend(backend, *arrays)
    others = _arrays(backend, seed=1)
    wanted = _attend(backend, *others)
    for mine, other in zip(arrays, others, strict=True):
        try:
            mine[...] = other
        except (TypeError, ValueError, RuntimeError):
            return  # immutable arrays cannot be overwritten, and so cannot go stale
    _same(wanted, _attend(backend, *arrays), "when the same arrays hold other contents")
    if np.array_equal(first, wanted):
        raise Finding("gave one answer to two different calls")


def _windows_in_turn(backend: Backend) -> None:
    """A map that one window covers drops its shift, and only for that call (G4)."""
    rng = np.random.default_rng(0)

    def attend(side: int, seed: int) -> np.ndarray | None:
        x = np.random.default_rng(seed).normal(size=(1, side, side, 2, 8)).astype(np.float32)
        array = backend.from_numpy(x)
        problem = normalize.window_attention(array, array, array, window=4, shift=2)
        if declined(backend, problem):
            return None
        with watched():
            out = attnref.window_attention(array, array, array, window=4, shift=2, backend=backend)
            return np.array(backend.to_numpy(out))

    seed = int(rng.integers(100))
    first = attend(8, seed)
    if first is None:
        return
    attend(4, seed + 1)
    again = attend(8, seed)
    assert again is not None
    _same(first, again, "after a call with a smaller map")


def _same(first: np.ndarray, again: np.ndarray, when: str) -> None:
    x, y = first.astype(np.float64), again.astype(np.float64)
    if not np.allclose(x, y, rtol=1e-5, atol=1e-6, equal_nan=True):
        raise Finding(f"answered differently {when}")


@dataclass(frozen=True)
class Promise:
    """A check of the protocol, shaped like a trial.

    Attributes:
        name: Clause and what is promised.
        keep: Raises a `Finding` if the promise is broken.
        quick: Part of the quick profile.
    """

    name: str
    keep: Callable[[Backend], None]
    level: int = 1
    operation: str = "attention"
    quick: bool = True
    dtype: str = "float32"

    @property
    def id(self) -> str:
        """The stable id that reports use."""
        return f"{self.name}[{self.dtype}]"

    @property
    def clause(self) -> str:
        """The clause that the promise belongs to."""
        return self.name.partition("-")[0]

    def run(self, backend: Backend) -> Outcome:
        """Judge the backend."""
        start = time.perf_counter()
        status, message = Status.PASS, ""
        try:
            self.keep(backend)
        except Finding as finding:
            status, message = finding.status, str(finding)
        except Exception as error:  # noqa: BLE001  # whatever it is, the run goes on
            status, message = Status.ERROR, f"the judge failed: {type(error).__name__}: {error}"
        seconds = time.perf_counter() - start
        return Outcome(
            self.id,
            self.clause,
            self.level,
            self.operation,
            self.dtype,
            (),
            status,
            message,
            seconds=seconds,
        )


PROMISES = (
    Promise("H2-refuses-a-feature-it-never-heard-of", _refuses_a_feature),
    Promise("H2-refuses-an-operation-it-never-heard-of", _refuses_an_operation),
    Promise("A5-shapes-in-turn", _shapes_in_turn),
    Promise("A5-contents-in-turn", _contents_in_turn),
    Promise("G7-maps-in-turn", _windows_in_turn, level=4, operation="window_attention"),
)
"""Every promise; ids are unique and stable."""
