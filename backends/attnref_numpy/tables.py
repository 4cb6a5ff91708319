"""Relative position bias: one table row per displacement of two tokens (G6)."""

import numpy as np
from jaxtyping import Int

from attnref.problem import Result, TableGradients, TableProblem

from .precision import rounded, zeros


def forward(problem: TableProblem) -> Result:
    """Look the rows up, heads first."""
    rows = problem.table.T[:, displacements(problem.window)]
    return Result(np.ascontiguousarray(rows))


def backward(problem: TableProblem, dbias: np.ndarray) -> TableGradients:
    """Add up what equal displacements say, in float64: `bincount` offers no other."""
    at = displacements(problem.window).ravel()
    dtable = zeros(problem.table, dtype=np.dtype(np.float64))
    for h, pairs in enumerate(dbias):
        told = pairs.astype(np.float64).ravel()
        dtable[:, h] = np.bincount(at, told, minlength=len(dtable))
    return TableGradients(rounded(dtable, problem.table))


def displacements(window: tuple[int, ...]) -> Int[np.ndarray, "N N"]:
    """Return the table row of every pair: query minus key, row-major."""
    tokens = np.indices(window).reshape(len(window), -1)
    number = np.zeros((tokens.shape[1],) * 2, np.int64)
    for w, x in zip(window, tokens, strict=True):
        number *= 2 * w - 1
        number += x[:, None] - x[None, :] + w - 1
    return number
