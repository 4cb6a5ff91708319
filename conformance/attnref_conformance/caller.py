"""Calls a backend directly, for promises that no single case shows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import attnref
from attnref import normalize
from attnref.arrays import Array
from attnref.backend import Backend, Reason
from attnref_conformance.case import cast
from attnref_conformance.trial import Finding, declined, must_refuse, watched


class Declined(Exception):  # noqa: N818  # not an error
    """The backend has reasons against a call that a promise needs, and refused it."""

    def __init__(self, reasons: Sequence[Reason]) -> None:
        super().__init__("; ".join(map(str, reasons)))
        self.reasons = reasons


@dataclass(frozen=True)
class Caller:
    """Calls a backend in one dtype, and hears its reasons first."""

    backend: Backend
    dtype: str

    def array(self, *shape: int, seed: int) -> Array:
        """Draw an array of the backend."""
        x = np.random.default_rng(seed).normal(size=shape)
        return self.backend.from_numpy(cast(x, self.dtype))

    def qkv(self, S: int = 9, seed: int = 0, H: int = 2) -> list[Array]:
        """Draw queries, keys and values of one small call."""
        return [self.array(1, H, S, 64, seed=3 * seed + n) for n in range(3)]

    def ask(self, function: str, *given: Array, gradients: bool = False, **options: Any) -> None:
        """Ask whether the backend runs a call, and its gradients if they are wanted.

        Raises:
            Declined: The backend gave reasons, and refused when called.
        """
        problem = getattr(normalize, function)(*given, **options)
        problem = replace(problem, with_gradients=gradients)
        reasons = declined(self.backend, problem)
        if reasons:
            must_refuse(self.backend, problem)
            raise Declined(reasons)

    def call(self, function: str, *given: Array, **options: Any) -> Array:
        """Call a public function, unless the backend declines; see `ask`."""
        self.ask(function, *given, **options)
        with watched():
            return getattr(attnref, function)(*given, **options, backend=self.backend)

    def answered(self, *qkv: Array, seed: int) -> list[Array]:
        """Attend, and return what a backward pass is given: `(dout, q, k, v, out, lse)`."""
        self.ask("attention", *qkv, gradients=True)
        with watched():
            out, lse = attnref.attention_with_lse(*qkv, backend=self.backend)
        return [self.array(*out.shape, seed=seed), *qkv, out, lse]

    def gradients(self, *given: Array) -> np.ndarray:
        """Call `attention_backward` and copy the values of `dq`, `dk` and `dv`, in one row."""
        with watched():
            g = attnref.attention_backward(*given, backend=self.backend)
        return np.concatenate([self.values(x).ravel() for x in (g.dq, g.dk, g.dv)])

    def values(self, x: Array) -> np.ndarray:
        """Copy the values of a result."""
        return np.array(self.backend.to_numpy(x)).astype(np.float64)

    def attend(self, *given: Array, **options: Any) -> np.ndarray:
        """Call `attention` and copy its values."""
        return self.values(self.call("attention", *given, **options))


def same(first: np.ndarray, again: np.ndarray, when: str) -> None:
    """Compare two answers that must agree.

    Raises:
        Finding: They do not.
    """
    alike = first.shape == again.shape
    if not alike or not np.allclose(first, again, rtol=1e-5, atol=1e-6, equal_nan=True):
        raise Finding(f"answered differently {when}")


def overwritten(x: Array, y: Array) -> bool:
    """Overwrite an array, and tell whether that can be done."""
    try:
        x[...] = y
    except (TypeError, ValueError, RuntimeError):
        return False
    return True
