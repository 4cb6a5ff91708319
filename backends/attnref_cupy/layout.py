"""How arrays lie in memory: results as the inputs they belong to (A1)."""

from typing import Any

import cupy

from attnref.backend import memory_order

EIGHT = 8
"""Elements of a half precision in sixteen bytes, which a thread copies at a time."""


def pointer(x: Any) -> int:
    """Return where an array begins; nothing is read there if it is empty."""
    return int(x.data.ptr)


def eights(n: int) -> int:
    """Round up to a multiple of eight."""
    return -(-n // EIGHT) * EIGHT


def is_aligned(x: Any) -> bool:
    """Tell whether columns are adjacent and rows begin at multiples of sixteen bytes."""
    *outer, column = x.strides
    rows = all(s % 16 == 0 for s, n in zip(outer, x.shape, strict=False) if n > 1)
    return pointer(x) % 16 == 0 and rows and (column == x.itemsize or x.shape[-1] == 1)


def columns_in_eights(x: Any) -> Any:
    """Return an array whose rows can be copied sixteen bytes at a time: `x`, or a copy.

    A copy has as many columns of zeros as it takes: they change no product (A1 allows it).
    """
    *outer, n = x.shape
    if n == eights(n) and is_aligned(x):
        return x
    copy = cupy.zeros((*outer, eights(n)), x.dtype)
    copy[..., :n] = x
    return copy


def room_for(due: Any) -> Any:
    """Return where a kernel can write a result that is due: there, or into a buffer."""
    *outer, width = due.shape
    if width % EIGHT == 0 and is_aligned(due):
        return due
    return cupy.empty((*outer, eights(width)), due.dtype)


def settle(due: Any, made: Any) -> Any:
    """Bring a result from where a kernel wrote it to where it is due."""
    if made is not due:
        due[...] = made[..., : due.shape[-1]]
    return due


def empty_as(x: Any, last: int | None = None, dtype: Any = None) -> Any:
    """Allocate an array that lies as `x` does, perhaps with another last axis or dtype."""
    shape = x.shape if last is None else (*x.shape[:-1], last)
    order = memory_order(x)
    made = cupy.empty([shape[axis] for axis in order], x.dtype if dtype is None else dtype)
    return made.transpose(sorted(range(x.ndim), key=order.__getitem__))


def in_order_of(x: Any, y: Any) -> Any:
    """Lay `y`, of the same shape, out in memory as `x` is."""
    if x.flags.c_contiguous and y.flags.c_contiguous:
        return y
    order = memory_order(x)
    made = cupy.ascontiguousarray(y.transpose(order))
    return made.transpose(sorted(range(x.ndim), key=order.__getitem__))


def lined_up(x: Any) -> Any:
    """Return numbers that lie next to one another: kernels read these without a stride."""
    return cupy.ascontiguousarray(x) if isinstance(x, cupy.ndarray) else x


def integers_of(x: Any) -> Any:
    """Return integers as kernels read them: side by side, with sign, of 32 or 64 bits."""
    if isinstance(x, cupy.ndarray) and x.dtype.name not in ("int32", "int64"):
        x = x.astype(cupy.int64)
    return lined_up(x)


def four_axes(x: Any) -> Any:
    """Give an array that is broadcast to the scores its four axes."""
    return None if x is None else x[(None,) * (4 - x.ndim)]
