"""Softmax along any axis, a block for each row."""

from typing import Any

import cupy
import numpy as np

from attnref.problem import Result, SoftmaxGradients, SoftmaxProblem
from attnref_cupy import compiling
from attnref_cupy.launching import Launch
from attnref_cupy.layout import in_order_of
from attnref_cupy.structures import TYPES


def forward(problem: SoftmaxProblem) -> Result:
    """Weigh; the tile never changes the meaning, and a block's walk is one (D5)."""
    p = problem
    x = _rows(p.x, p.axis)
    y = cupy.empty(x.shape, x.dtype)
    launch("softmax", x, y).run()
    return Result(in_order_of(p.x, _back(y, p.axis)))


def backward(problem: SoftmaxProblem, result: Result, dy: Any) -> SoftmaxGradients:
    """Pass a gradient back from the weights alone."""
    axis = problem.axis
    y, dy = _rows(result.out, axis), _rows(dy, axis)
    dx = cupy.empty(y.shape, y.dtype)
    launch("softmax_gradient", y, dy, dx).run()
    return SoftmaxGradients(in_order_of(problem.x, _back(dx, axis)))


def launch(name: str, *arrays: Any) -> Launch:
    """Give every row of contiguous arrays a block, which is wider for longer rows."""
    x = arrays[0]
    columns = x.shape[-1]
    rows = x.size // columns if columns else 0
    threads = 32 if columns <= 512 else 256 if columns <= 2**14 else 1024
    dtype = x.dtype.name
    wide = "double" if dtype == "float64" else "float"
    kernel = compiling.kernel("softmax.cu", name, TYPES[dtype], wide, threads)
    return Launch(kernel, rows, threads, (*arrays, np.int64(columns)), 32 * 8)


def _rows(x: Any, axis: int) -> Any:
    """Bring an axis to the end, and rows next to one another."""
    return cupy.ascontiguousarray(cupy.moveaxis(x, axis, -1))


def _back(x: Any, axis: int) -> Any:
    return cupy.moveaxis(x, -1, axis)
