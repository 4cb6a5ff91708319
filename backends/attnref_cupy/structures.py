"""The structures that kernels are given, as NumPy lays them out: `problem.cuh` in Python.

A structure is passed by value: CuPy copies the bytes of a NumPy array without axes. That
both sides agree on every offset is a test (`tests/cupy/compiled`).
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from attnref_cupy.layout import pointer

OPEN = 1 << 62
"""A bound of the band that is none."""

KINDS = {"float16": 0, "bfloat16": 1, "float32": 2, "float64": 3}
"""What kernels call the dtypes of arrays that they read a number at a time."""

TYPES = {"float16": "f16", "bfloat16": "bf16", "float32": "float", "float64": "double"}
"""Dtypes as template arguments."""

TOKENS = np.dtype(
    [("at", "u8"), ("batch", "i8"), ("head", "i8"), ("token", "i8"), ("column", "i8")], align=True
)
ROWS = np.dtype([("at", "u8"), ("batch", "i8"), ("head", "i8")], align=True)
TABLE = np.dtype(
    [("at", "u8"), ("batch", "i8"), ("head", "i8"), ("row", "i8"), ("column", "i8")], align=True
)
INTEGERS = np.dtype([("at", "u8"), ("wide", "i8")], align=True)

ARGUMENTS = np.dtype(
    [
        *((name, TOKENS) for name in ("q", "k", "v", "out", "dout", "dq", "dk", "dv")),
        *((name, ROWS) for name in ("lse", "delta", "dlse")),
        *((name, TABLE) for name in ("mask", "bias", "dbias")),
        ("sinks", "u8"),
        ("dsinks", "u8"),
        *((name, INTEGERS) for name in ("q_lens", "k_lens", "q_starts", "k_starts", "offset")),
        ("left", "i8"),
        ("right", "i8"),
        ("scale", "f8"),
        ("softcap", "f8"),
        *((name, "i4") for name in ("from_end", "entries", "heads", "group")),
        *((name, "i4") for name in ("Sq", "Sk", "D", "DV", "tiles", "sink_kind", "bias_kind")),
    ],
    align=True,
)
"""`Arguments`."""


@cache
def pointers(layout: np.dtype) -> tuple[tuple[str, int], ...]:
    """List a structure's pointers, which are its only unsigned words, and where they are.

    A pointer that is `at` is called as the array that it stands in.
    """
    return tuple(_pointers(layout))


def _pointers(layout: np.dtype) -> Iterator[tuple[str, int]]:
    for name, (kind, offset, *_) in (layout.fields or {}).items():
        for inner, further in _pointers(kind):
            yield name if inner == "at" else inner, offset + further
        if kind == np.uint64:
            yield name, offset


def elements(x: Any) -> tuple[int, ...]:
    """Return strides in elements."""
    size = x.dtype.itemsize
    return tuple(s // size for s in x.strides)


def tokens(x: Any, packed: bool) -> tuple[int, ...]:
    """Describe an array of tokens: `(B, H, S, D)`, or packed `(T, H, D)`."""
    if x is None:
        return (0, 0, 0, 0, 0)
    if packed:
        token, head, column = elements(x)
        return (pointer(x), 0, head, token, column)
    return (pointer(x), *elements(x))


def rows(x: Any, packed: bool) -> tuple[int, ...]:
    """Describe one number per row: C-contiguous `(B, H, S)`, or packed `(H, T)`."""
    if x is None:
        return (0, 0, 0)
    if packed:
        return (pointer(x), 0, x.shape[-1])
    return (pointer(x), x.shape[1] * x.shape[2], x.shape[2])


def table(x: Any) -> tuple[int, ...]:
    """Describe an array of four axes that is broadcast along those of length one."""
    if x is None:
        return (0, 0, 0, 0, 0)
    strides = (0 if n == 1 else s for n, s in zip(x.shape, elements(x), strict=True))
    return (pointer(x), *strides)


def integers(x: Any) -> tuple[int, int]:
    """Describe contiguous integers of 32 or 64 bits."""
    return (0, 0) if x is None else (pointer(x), int(x.dtype.itemsize == 8))
