"""Softmax and merging: the two operations that are no attention."""

import torch

from attnref.problem import (
    MergeGradients,
    MergeProblem,
    Result,
    SoftmaxGradients,
    SoftmaxProblem,
)
from attnref_torch.rounding import lse_of, rounded, wide


def forward(problem: SoftmaxProblem) -> Result:
    """Weigh; the tile never changes the meaning, and one tile is the fastest (D5)."""
    x, axis = problem.x.to(wide(problem.x)), problem.axis
    if x.shape[axis] == 0:
        return Result(rounded(x.clone(), problem.x))
    m = x.amax(axis, keepdim=True)
    p = torch.exp(x - torch.where(m == -torch.inf, 0.0, m))
    l = p.sum(axis, keepdim=True)
    return Result(rounded(p / torch.where(l == 0, 1.0, l), problem.x))


def backward(problem: SoftmaxProblem, result: Result, dy: torch.Tensor) -> SoftmaxGradients:
    """Pass a gradient back from the weights alone."""
    dtype = wide(problem.x)
    y, dy = result.out.to(dtype), dy.to(dtype)
    dx = y * (dy - (y * dy).sum(problem.axis, keepdim=True))
    return SoftmaxGradients(rounded(dx, problem.x))


def merge_forward(problem: MergeProblem) -> Result:
    """Join two parts; one that saw nothing, `(0, -inf)`, changes nothing (D3)."""
    p, dtype = problem, wide(problem.out_a)
    m = torch.maximum(p.lse_a, p.lse_b)
    m = torch.where(m == -torch.inf, 0.0, m)
    w_a, w_b = torch.exp(p.lse_a - m), torch.exp(p.lse_b - m)
    l = w_a + w_b
    nothing = l == 0
    l = torch.where(nothing, 1.0, l)
    acc = w_a[..., None] * p.out_a.to(dtype) + w_b[..., None] * p.out_b.to(dtype)
    lse = torch.where(nothing, -torch.inf, m + torch.log(l))
    return Result(rounded(acc / l[..., None], p.out_a), lse_of(lse, p.out_a))


def merge_backward(
    problem: MergeProblem,
    result: Result,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
) -> MergeGradients:
    """Pass a merged row's gradient to both parts (D3)."""
    p, dtype, whole = problem, wide(problem.out_a), result.lse
    assert whole is not None  # a merge always has one
    out, dout = result.out.to(dtype), dout.to(dtype)
    dlse = torch.zeros_like(whole) if dlse is None else dlse
    parts = []
    for mine, lse in ((p.out_a, p.lse_a), (p.out_b, p.lse_b)):
        saw = lse != -torch.inf
        w = torch.where(saw, torch.exp(lse - torch.where(saw, whole, 0.0)), 0.0)
        along = (dout * (mine.to(dtype) - out)).sum(-1)
        parts += [rounded(w[..., None] * dout, mine), rounded(w * (dlse + along), lse)]
    return MergeGradients(*parts)
