"""Softmax along any axis, a tile at a time (D5)."""

from collections.abc import Iterator

import numpy as np

from attnref.problem import Result, SoftmaxGradients, SoftmaxProblem

from .precision import compute_dtype, widened, zeros


def forward(problem: SoftmaxProblem) -> Result:
    """Read every slice twice: for its maximum and sum, and to divide by the sum.

    A tile bounds the memory beside input and output, and changes nothing else.
    """
    out = zeros(problem.x)
    x, y = (np.moveaxis(a, problem.axis, -1) for a in (problem.x, out))
    dtype = compute_dtype(x)
    rows = (*x.shape[:-1], 1)
    m, l = np.full(rows, -np.inf, dtype), np.zeros(rows, dtype)
    for at in _tiles(problem):
        part = widened(x[..., at], dtype)
        top = np.maximum(m, part.max(axis=-1, keepdims=True))
        shift = _measurable(top)
        more = np.exp(part - shift).sum(axis=-1, keepdims=True)
        m, l = top, l * np.exp(m - shift) + more
    l[l == 0] = 1
    for at in _tiles(problem):
        y[..., at] = np.exp(widened(x[..., at], dtype) - _measurable(m)) / l
    return Result(out)


def backward(problem: SoftmaxProblem, result: Result, dout: np.ndarray) -> SoftmaxGradients:
    """Return `y (dy - sum(y dy))`."""
    y, dy = (widened(a, compute_dtype(problem.x)) for a in (result.out, dout))
    dx = zeros(problem.x)
    dx[...] = y * (dy - (y * dy).sum(axis=problem.axis, keepdims=True))
    return SoftmaxGradients(dx)


def _tiles(problem: SoftmaxProblem) -> Iterator[slice]:
    n = problem.x.shape[problem.axis]
    step = problem.tile or max(n, 1)
    return (slice(j, j + step) for j in range(0, n, step))


def _measurable(m: np.ndarray) -> np.ndarray:
    """Measure from zero where nothing was seen: no difference of infinities."""
    return np.where(m == -np.inf, 0, m)
