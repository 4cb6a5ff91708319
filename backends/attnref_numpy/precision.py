"""Which dtype work is done in, and how arrays get into it and out again (A1, A6).

Half precisions compute and accumulate in float32, the others in themselves. Results are
allocated in the input's dtype and memory order; writing into them is the one rounding.
"""

from typing import Any

import numpy as np

from attnref.backend import memory_order

Dtype = np.dtype[Any]


def compute_dtype(x: np.ndarray) -> Dtype:
    """Return float64 for float64 and float32 for the rest; also the dtype of `lse`."""
    return np.dtype(np.float64 if x.dtype == np.float64 else np.float32)


def widened(x: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Return `x` in the compute dtype, itself where it is already; only to be read.

    A float64 bias may exceed float32. It stays finite, because a finite score never
    weighs zero by being invisible (B4).
    """
    if x.dtype == dtype:
        return x
    wide = x.astype(dtype)
    if x.dtype.itemsize > dtype.itemsize:
        limit = np.finfo(dtype).max
        np.clip(wide, -limit, limit, out=wide, where=np.isfinite(x))
    return wide


def number(x: float, dtype: Dtype, *, least: float = -np.inf) -> float:
    """Bring a finite option into the finite range of the compute dtype."""
    return max(float(widened(np.array(x), dtype)), least)


def zeros(
    like: np.ndarray,
    *,
    shape: tuple[int, ...] | None = None,
    dtype: Dtype | None = None,
) -> np.ndarray:
    """Allocate a result, or a sum that becomes one, in an input's memory order (A1)."""
    order = memory_order(like)
    shape = like.shape if shape is None else shape
    dense = np.zeros([shape[a] for a in order], dtype or like.dtype)
    return dense.transpose([order.index(a) for a in range(len(order))])


def rounded(x: np.ndarray | None, like: np.ndarray | None) -> np.ndarray | None:
    """Round a sum of `zeros` once, to its input's dtype; `None` if there is none."""
    if x is None or like is None:
        return None
    return x.astype(like.dtype, order="K", copy=False)


def ready(x: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Return the matrix `x` in the compute dtype, with strides that BLAS can read.

    NumPy multiplies other strides one number at a time, a hundred times slower.
    """
    row, column = x.strides
    if column == x.itemsize and row >= x.shape[1] * column:
        return widened(x, dtype)
    return np.ascontiguousarray(widened(x, dtype))


def finite(x: np.ndarray) -> np.ndarray:
    """Return `x` with zeros where it is not finite, itself where it all is.

    A product with a zero weight does not hide NaN; a zero does. The sum is a cheap
    first look: a finite array whose sum overflows only costs a second one.
    """
    return x if np.isfinite(x.sum()) else np.where(np.isfinite(x), x, 0)
