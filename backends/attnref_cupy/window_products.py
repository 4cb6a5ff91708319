"""Window attention by products of matrices: any dtype, any head, windows of any size.

The map is not padded, rolled and cut. Clause G2 says for each token in which window it falls
and where in it, and that is one index per token: a scatter lays the tokens out by windows, a
gather brings rows back, and what no token is scattered to is the padding. Then cuBLAS
multiplies, some windows, or some queries of one, at a time, so that memory is linear in the
tokens. Half precisions are multiplied as float32, since CuPy's batched product takes no other
way with them.
"""

from collections.abc import Iterator, Sequence
from math import inf, prod
from typing import Any, NamedTuple

import cupy
import numpy as np

from attnref.problem import Result, WindowGradients, WindowProblem
from attnref_cupy.layout import empty_as, settle

SCORES = 1 << 24
"""Scores that are in memory at a time."""


class Layout(NamedTuple):
    """Where the tokens of a map lie in its windows.

    Attributes:
        slot: `(tokens,)`: the window, then the place in it, row-major.
        region: `(tokens,)`: tokens of one window with different numbers are wrapped.
        windows: How many windows a map has.
        N: How many places a window has.
    """

    slot: Any
    region: Any
    windows: int
    N: int


def layout(problem: WindowProblem) -> Layout:
    """Find every token's window, place and region, axis by axis (G2)."""
    index = [cupy.zeros(1, "int64")] * 3
    windows = 1
    for g, w, s in zip(problem.extents, problem.window, problem.shift, strict=True):
        n = -(-g // w)
        x = cupy.arange(g, dtype="int64") - s
        axis = ((x // w) % n, x % w, x // w + 1)
        index = [
            (whole[:, None] * base + mine).ravel()
            for whole, mine, base in zip(index, axis, (n, w, n + 1), strict=True)
        ]
        windows *= n
    window, place, region = index
    N = prod(problem.window)
    return Layout(window * N + place, region, windows, N)


def cut(x: Any, at: Layout, fill: float = 0.0) -> Any:
    """Lay a map `(B, tokens, ...)` out by windows, `(B * windows, N, ...)`."""
    B, _, *rest = x.shape
    cells = cupy.full((B, at.windows * at.N, *rest), fill, x.dtype)
    cells[:, at.slot] = x
    return cells.reshape(B * at.windows, at.N, *rest)


def by_head(x: Any, p: WindowProblem, at: Layout, fill: float = 0.0) -> Any:
    """Lay `(B, *G, H, ...)` out as `(B * windows, H, N, ...)`."""
    axes = len(p.window)
    tokens = x.reshape(x.shape[0], prod(p.extents), *x.shape[axes + 1 :])
    return cut(tokens, at, fill).swapaxes(1, 2)


def bring(x: Any, at: Layout, due: Any) -> Any:
    """Bring windows `(B * windows, H, N, ...)` back to a map, and round them there."""
    x = x.swapaxes(1, 2)
    cells = x.reshape(due.shape[0], at.windows * at.N, *x.shape[2:])
    due[...] = cells[:, at.slot].reshape(due.shape)
    return due


class Form(NamedTuple):
    """A call by windows; numbers are of the dtype that is computed with.

    Attributes:
        at: Where tokens lie.
        q: `(M, H, N, D)`, in the call's dtype.
        k: Likewise.
        v: Likewise `(M, H, N, Dv)`.
        dtype: That is computed with.
        scale: A number, or `(H, 1, 1)`.
        bias: `(H, N, N)`, or `None`.
        region: `(windows, N)` of one map, if there is a shift.
        seen: `(M, N)`, if some keys are not seen by anybody.
        wrap_bias: Added to wrapped pairs; minus infinity hides them.
    """

    at: Layout
    q: Any
    k: Any
    v: Any
    dtype: str
    scale: Any
    bias: Any
    region: Any
    seen: Any
    wrap_bias: float

    def pieces(self) -> Iterator[tuple[slice, slice]]:
        """Cut the windows, and the queries of large ones, into pieces of some scores."""
        M, H, N, _ = self.q.shape
        whole = SCORES // max(1, H * N * N)
        few = N if whole else max(1, SCORES // max(1, H * N))
        for m in range(0, M if H else 0, max(1, whole)):
            for i in range(0, N, few):
                yield slice(m, m + max(1, whole)), slice(i, i + few)

    def scores(self, m: slice, i: slice) -> tuple[Any, Any, Any]:
        """Return `q k^T`, the scores, and which pairs are seen, or `None` if all are."""
        q, k = self.wide(self.q[m, :, i]), self.wide(self.k[m])
        dot = cupy.matmul(q, k.swapaxes(-1, -2))
        s = dot * self.scale
        if self.bias is not None:
            s = s + self.bias[:, i]
        seen = None if self.seen is None else self.seen[m, None, None, :]
        if self.region is not None:
            region = self.region[cupy.arange(m.start, m.start + s.shape[0]) % self.at.windows]
            wrapped = (region[:, i, None] != region[:, None])[:, None]
            if self.wrap_bias == -inf:
                seen = ~wrapped if seen is None else seen & ~wrapped
            else:
                s = s + cupy.where(wrapped, self.wrap_bias, 0.0).astype(self.dtype)
        return dot, s, seen

    def wide(self, x: Any) -> Any:
        """Return numbers of the dtype that is computed with."""
        return x.astype(self.dtype, copy=False)


def form_of(problem: WindowProblem) -> Form:
    """Lay a call out by windows."""
    p, at = problem, layout(problem)
    scale: Any = p.scale
    numbers = [p.q, p.bias, scale if p.scale_per_head else None]
    wide = any(x is not None and str(x.dtype) == "float64" for x in numbers)
    dtype = "float64" if wide else "float32"
    B, tokens = p.q.shape[0], prod(p.extents)
    seen = None
    if p.key_mask is not None or tokens < at.windows * at.N:
        shown = cupy.ones((B, tokens), bool)
        seen = cut(shown if p.key_mask is None else p.key_mask.reshape(B, tokens), at, fill=False)
    return Form(
        at,
        by_head(p.q, p, at),
        by_head(p.k, p, at),
        by_head(p.v, p, at),
        dtype,
        scale.astype(dtype).reshape(-1, 1, 1) if p.scale_per_head else scale,
        None if p.bias is None else p.bias.astype(dtype),
        cut(at.region[None], at) if any(p.shift) else None,
        seen,
        p.wrap_bias,
    )


def forward(problem: WindowProblem) -> Result:
    """Attend inside the windows."""
    p, f = problem, form_of(problem)
    out = cupy.zeros((*f.q.shape[:-1], f.v.shape[-1]), f.dtype)
    lse = cupy.full(f.q.shape[:-1], -inf, f.dtype)
    for m, i in f.pieces():
        _, s, seen = f.scores(m, i)
        if seen is not None:
            s = cupy.where(seen, s, cupy.asarray(-inf, f.dtype))
        top = s.max(axis=-1, keepdims=True)
        level = cupy.where(top == -inf, cupy.zeros_like(top), top)
        weights = cupy.exp(s - level)
        total = weights.sum(axis=-1, keepdims=True)
        nothing = total == 0  # was seen, and the sum of values is zero already (C5)
        total = cupy.where(nothing, cupy.ones_like(total), total)
        out[m, :, i] = cupy.matmul(weights, f.wide(f.v[m])) / total
        told = cupy.where(nothing, cupy.full_like(total, -inf), level + cupy.log(total))
        lse[m, :, i] = told[..., 0]
    if p.lse_dtype != f.dtype:
        # A finite one stays finite: minus infinity says that nothing was seen.
        most = float(np.finfo(p.lse_dtype).max)
        lse = cupy.where(cupy.isfinite(lse), cupy.clip(lse, -most, most), lse)
    due = empty_as(p.q, p.v.shape[-1])
    return Result(bring(out, f.at, due), bring(lse, f.at, cupy.empty(p.q.shape[:-1], p.lse_dtype)))


def backward(problem: WindowProblem, result: Result, dout: Any, dlse: Any) -> WindowGradients:
    """Pass gradients back (E1); those of a packed projection in one array (G1)."""
    p, f = problem, form_of(problem)
    out, dout = by_head(result.out, p, f.at), by_head(dout, p, f.at)
    lse = by_head(result.lse, p, f.at, fill=-inf)
    dlse = None if dlse is None else by_head(dlse, p, f.at)
    dq, dk, dv = (cupy.zeros(x.shape, f.dtype) for x in (f.q, f.k, f.v))
    dbias = None if f.bias is None else cupy.zeros_like(f.bias)
    dscale = cupy.zeros(f.q.shape[1], f.dtype) if p.scale_per_head else None
    for m, i in f.pieces():
        dot, s, seen = f.scores(m, i)
        level, asked = f.wide(lse[m, :, i])[..., None], f.wide(dout[m, :, i])
        delta = (asked * f.wide(out[m, :, i])).sum(axis=-1, keepdims=True)
        if dlse is not None:
            delta = delta - f.wide(dlse[m, :, i])[..., None]
        # A row that saw nothing has no weights, and so passes nothing finite on (C5).
        seeing = (level != -inf) & (s != -inf) if seen is None else seen & (level != -inf)
        zero = cupy.zeros((), f.dtype)
        level = cupy.where(level == -inf, zero, level)
        weights = cupy.exp(cupy.where(seeing, s - level, cupy.asarray(-inf, f.dtype)))
        ds = cupy.matmul(asked, f.wide(f.v[m]).swapaxes(-1, -2)) - delta
        ds = cupy.where(weights != 0, weights * ds, zero)
        dv[m] += cupy.matmul(weights.swapaxes(-1, -2), asked)
        dk[m] += cupy.matmul(ds.swapaxes(-1, -2), f.wide(f.q[m, :, i])) * f.scale
        dq[m, :, i] = cupy.matmul(ds, f.wide(f.k[m])) * f.scale
        if dbias is not None:
            dbias[:, i] += ds.sum(axis=0)
        if dscale is not None:
            dscale += (ds * cupy.where(ds != 0, dot, zero)).sum(axis=(0, 2, 3))
    return _settled(p, f.at, (dq, dk, dv), dbias, dscale)


def _settled(
    p: WindowProblem, at: Layout, made: tuple[Any, Any, Any], dbias: Any, dscale: Any
) -> WindowGradients:
    """Round gradients, each once, to where they are due."""
    due = [empty_as(x) for x in ((p.q, p.k, p.v) if p.qkv is None else (p.qkv,))]
    parts = due if p.qkv is None else [due[0][..., n, :, :] for n in range(3)]
    for x, to in zip(made, parts, strict=True):
        bring(x, at, to)
    if dbias is not None:
        dbias = settle(empty_as(p.bias), dbias)
    if dscale is not None:
        dscale = dscale.astype(p.scale.dtype)  # type: ignore[union-attr]
    return gradients(due, dbias, dscale)


def gradients(due: Sequence[Any], dbias: Any, dscale: Any) -> WindowGradients:
    """Name gradients: of a packed projection the one, or of q, k and v (G1)."""
    if len(due) == 1:
        return WindowGradients(None, None, None, dbias, dscale, due[0])
    dq, dk, dv = due
    return WindowGradients(dq, dk, dv, dbias, dscale)
