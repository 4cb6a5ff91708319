"""Gradients of window attention, by the chunks of the forward pass."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from attnref.problem import Result, WindowGradients, WindowProblem, split_qkv

from .lattice import Chunk, chunks
from .precision import compute_dtype, finite, rounded, zeros
from .rows import Finished, Known, known, weigh
from .windows import Gathered


class Shared(NamedTuple):
    """Gradients that every window adds to; `None` where there was no such input."""

    bias: Float[np.ndarray, "H N N"] | None
    scale: Float[np.ndarray, " H"] | None

    @classmethod
    def of(cls, problem: WindowProblem) -> "Shared":
        """Start at zero; sums over all pairs of all maps are worth float64."""
        bias, scale = problem.bias, np.asarray(problem.scale)
        return cls(
            None if bias is None else zeros(bias, dtype=compute_dtype(problem.q)),
            zeros(scale, dtype=np.dtype(np.float64)) if scale.ndim else None,
        )


def backward(
    problem: WindowProblem, result: Result, dout: np.ndarray, dlse: np.ndarray | None
) -> WindowGradients:
    """Pass gradients back; those of a packed projection into one packed array."""
    qkv = None if problem.qkv is None else zeros(problem.qkv)
    inputs = (problem.q, problem.k, problem.v)
    dq, dk, dv = map(zeros, inputs) if qkv is None else split_qkv(qkv).values()
    shared = Shared.of(problem)
    for chunk in chunks(problem):
        rows = _rows(problem, chunk, result, dout, dlse)
        told = _chunk(Gathered.of(problem, chunk), rows, chunk.heads, shared)
        for into, part in zip((dq, dk, dv), told, strict=True):
            chunk.put(into, part)
    dbias = rounded(shared.bias, problem.bias)
    dscale = rounded(shared.scale, np.asarray(problem.scale))
    if qkv is None:
        return WindowGradients(dq, dk, dv, dbias, dscale)
    return WindowGradients(None, None, None, dbias, dscale, qkv)


def _rows(
    problem: WindowProblem,
    chunk: Chunk,
    result: Result,
    dout: np.ndarray,
    dlse: np.ndarray | None,
) -> Known:
    """Gather what is known of a chunk's rows; padding is a row that saw nothing."""
    arriving = (problem.q, result.out, np.asarray(result.lse), dout)
    q, out, lse, dout = (chunk.gather(x) for x in arriving)
    lse = np.where(chunk.real[:, None], lse, -np.inf)
    dlse = None if dlse is None else chunk.gather(dlse)
    return known(q, Finished(out, lse), dout, dlse, compute_dtype(q))


def _chunk(
    g: Gathered, rows: Known, heads: slice, shared: Shared
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return dq, dk and dv of a chunk, and add to the gradients that are shared."""
    similar = rows.q @ g.k.mT
    s = g.scores(similar.copy() if shared.scale is not None else similar)
    P, dS = weigh(s, finite(g.v), rows)
    if shared.bias is not None:
        shared.bias[heads] += dS.sum(axis=0)
    if shared.scale is not None:
        told = np.where(P > 0, dS * similar, 0)
        shared.scale[heads] += told.sum(axis=(0, 2, 3), dtype=np.float64)
    dA = dS * g.scale
    return dA @ finite(g.k), dA.mT @ rows.q, P.mT @ rows.dout
