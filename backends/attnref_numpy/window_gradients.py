"""Gradients of window attention, by the chunks of the forward pass."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from attnref.problem import Result, WindowGradients, WindowProblem, split_qkv

from .lattice import Chunk, chunks
from .precision import compute_dtype, finite, rounded, zeros
from .rows import Finished, Known, known, weigh
from .threads import spread
from .windows import Gathered, bias_of, scores_of


class Said(NamedTuple):
    """What a chunk says to gradients that all windows share; `None` where there was no input."""

    bias: Float[np.ndarray, "h N N"] | None
    scale: Float[np.ndarray, " h"] | None


def backward(
    problem: WindowProblem, result: Result, dout: np.ndarray, dlse: np.ndarray | None
) -> WindowGradients:
    """Pass gradients back; those of a packed projection into one packed array."""
    qkv = None if problem.qkv is None else zeros(problem.qkv)
    inputs = (problem.q, problem.k, problem.v)
    dq, dk, dv = map(zeros, inputs) if qkv is None else split_qkv(qkv).values()
    bias, units = bias_of(problem), chunks(problem)

    def work(chunk: Chunk) -> Said:
        g = Gathered.of(problem, chunk, bias)
        *told, said = _chunk(g, _rows(g.q, chunk, result, dout, dlse), problem.scale_per_head)
        for into, part in zip((dq, dk, dv), told, strict=True):
            chunk.put(into, part)
        return said

    dbias, dscale = _summed(problem, units, spread(work, units, scores_of(problem)))
    if qkv is None:
        return WindowGradients(dq, dk, dv, dbias, dscale)
    return WindowGradients(None, None, None, dbias, dscale, qkv)


def _summed(
    problem: WindowProblem, units: list[Chunk], said: list[Said]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Add up what chunks said, in their order; sums over all pairs are worth float64."""
    bias, scale = problem.bias, np.asarray(problem.scale)
    dbias = None if bias is None else zeros(bias, dtype=compute_dtype(problem.q))
    dscale = zeros(scale, dtype=np.dtype(np.float64)) if scale.ndim else None
    for chunk, (of_bias, of_scale) in zip(units, said, strict=True):
        if dbias is not None and of_bias is not None:
            dbias[chunk.heads] += of_bias
        if dscale is not None and of_scale is not None:
            dscale[chunk.heads] += of_scale
    return rounded(dbias, bias), rounded(dscale, scale)


def _rows(
    q: Float[np.ndarray, "n h N D"],
    chunk: Chunk,
    result: Result,
    dout: np.ndarray,
    dlse: np.ndarray | None,
) -> Known:
    """Gather what is known of a chunk's rows; padding is a row that saw nothing."""
    out, lse, dout = (chunk.gather(x) for x in (result.out, np.asarray(result.lse), dout))
    lse = np.where(chunk.real[:, None], lse, -np.inf)
    dlse = None if dlse is None else chunk.gather(dlse)
    return known(q, Finished(out, lse), dout, dlse, q.dtype)


def _chunk(
    g: Gathered, rows: Known, per_head: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Said]:
    """Return dq, dk and dv of a chunk, and what it says to gradients that are shared."""
    similar = rows.q @ g.k.mT
    s = g.scores(similar.copy() if per_head else similar)
    P, dS = weigh(s, finite(g.v), rows)
    said = Said(
        None if g.bias is None else dS.sum(axis=0),
        np.where(P > 0, dS * similar, 0).sum(axis=(0, 2, 3), dtype=np.float64)
        if per_head
        else None,
    )
    dA = dS * g.scale
    return dA @ finite(g.k), dA.mT @ rows.q, P.mT @ rows.dout, said
