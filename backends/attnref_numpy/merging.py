"""Joining finished rows of disjoint keys (D3)."""

import numpy as np

from attnref.problem import MergeGradients, MergeProblem, Result

from .precision import compute_dtype, widened, zeros


def forward(problem: MergeProblem) -> Result:
    """Weigh each part by its share of the sum; an empty part has none."""
    lse_a, lse_b, dtype = problem.lse_a, problem.lse_b, compute_dtype(problem.out_a)
    top = np.maximum(lse_a, lse_b)
    shift = np.where(top == -np.inf, 0, top)
    a, b = np.exp(lse_a - shift), np.exp(lse_b - shift)
    l = np.asarray(a + b)
    nothing = l == 0
    l[nothing] = 1
    joined = a[..., None] * widened(problem.out_a, dtype)
    joined += b[..., None] * widened(problem.out_b, dtype)
    joined /= l[..., None]
    out = zeros(problem.out_a)
    out[...] = joined
    lse = np.where(nothing, -np.inf, shift + np.log(l))
    return Result(out, np.ascontiguousarray(lse).reshape(lse_a.shape))


def backward(
    problem: MergeProblem, result: Result, dout: np.ndarray, dlse: np.ndarray | None
) -> MergeGradients:
    """Pass a merged row's gradient to both of its parts."""
    dtype = compute_dtype(problem.out_a)
    dout = widened(dout, dtype)
    dlse = np.zeros_like(problem.lse_a) if dlse is None else dlse
    whole = Result(widened(result.out, dtype), result.lse)
    a = _part(problem.out_a, problem.lse_a, whole, dout, dlse)
    b = _part(problem.out_b, problem.lse_b, whole, dout, dlse)
    return MergeGradients(*a, *b)


def _part(
    out: np.ndarray, lse: np.ndarray, whole: Result, dout: np.ndarray, dlse: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give a part its share; one that saw nothing receives nothing."""
    nothing = lse == -np.inf
    w = np.where(nothing, 0, np.exp(lse - np.where(nothing, 0, np.asarray(whole.lse))))
    along = (dout * (widened(out, dout.dtype) - whole.out)).sum(axis=-1)
    mine = zeros(out), zeros(lse)
    mine[0][...] = np.where(nothing[..., None], 0, w[..., None] * dout)
    mine[1][...] = np.where(nothing, 0, w * (dlse + along))
    return mine
