"""Where the arrays of a call lie: inside larger ones, next to memory that is spoiled.

What lies around an input is NaN, the largest integer, or True. Whoever writes there is
found by its bytes, whoever reads there by what it returns. And the memory that was freed
last, which the results are likely to be given, is full of NaN: what a backend leaves
unwritten shows.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from attnref import arrays
from attnref.arrays import Array
from attnref.backend import Backend
from attnref_conformance.case import cast

GUARD = 64
"""How many elements lie on either side; a multiple of every alignment that libraries give."""

_COPIES = 3


class Guarded:
    """Makes arrays of a backend that lie inside larger ones, and remembers those."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._around: dict[str, Array] = {}

    def array(self, name: str, x: np.ndarray) -> Array:
        """Make an array in C order; a library without views makes a plain one."""
        flat = np.empty(x.size + 2 * GUARD, x.dtype)
        flat[...] = _spoiled(x.dtype)
        flat[GUARD : GUARD + x.size] = x.ravel()
        around = self._backend.from_numpy(flat)
        if not hasattr(around, "strides") and not hasattr(around, "stride"):
            return self._backend.from_numpy(x.copy())
        self._around[name] = around
        return around[GUARD : GUARD + x.size].reshape(x.shape)

    def read(self, name: str, x: Array) -> bytes:
        """Read an array, and what lies around it."""
        whole = self._around.get(name, x)
        return np.ascontiguousarray(self._backend.to_numpy(whole)).tobytes()

    def change(self, name: str, before: bytes, after: bytes) -> str:
        """Say what was done to an array; empty if nothing was."""
        if before == after:
            return ""
        edge = GUARD * len(before) // self._around[name].shape[0] if name in self._around else 0
        inside = slice(edge, len(before) - edge)
        return f"modified {name}" if before[inside] != after[inside] else f"wrote outside {name}"


def _spoiled(dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "iu":
        return np.iinfo(dtype).max
    return True if dtype.kind == "b" else np.nan


def poison(backend: Backend, shapes: Iterable[tuple[tuple[int, ...], str]]) -> None:
    """Fill memory of these shapes and dtypes with NaN, and free it."""
    _ = [
        backend.from_numpy(cast(np.full(shape, np.nan), dtype))
        for shape, dtype in shapes
        for _ in range(_COPIES)
    ]


def same_bits(backend: Backend, x: Array | None, y: Array | None) -> bool:
    """Tell whether two results agree in every bit."""
    if x is None or y is None or arrays.library(x) is None or arrays.library(y) is None:
        return x is y
    a, b = backend.to_numpy(x), backend.to_numpy(y)
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
