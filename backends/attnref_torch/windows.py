"""Window attention in the common form: every window is an entry of the batch.

The map is not padded, rolled and cut. Clause G2 says for each token in which window it
falls and where in it, and that is one index per token: a scatter lays the tokens out by
windows, a gather brings rows back, and what no token is scattered to is the padding.
"""

from math import prod
from typing import NamedTuple

import torch

from attnref.problem import (
    Result,
    TableGradients,
    TableProblem,
    WindowGradients,
    WindowProblem,
)
from attnref_torch.backward import backward as call_backward
from attnref_torch.call import Call, Pairs
from attnref_torch.forward import forward as call_forward
from attnref_torch.rounding import lse_of, rounded, rounded_if_any, wide


class Layout(NamedTuple):
    """Where the tokens of a map lie in its windows.

    Attributes:
        slot: `(tokens,)`: the window, then the place in it, row-major.
        region: `(tokens,)`: tokens of one window with different numbers are wrapped.
        windows: How many windows a map has.
        N: How many places a window has.
    """

    slot: torch.Tensor
    region: torch.Tensor
    windows: int
    N: int


def layout(problem: WindowProblem) -> Layout:
    """Find every token's window, place and region, axis by axis (G2)."""
    index = [torch.zeros(1, dtype=torch.int64, device=problem.q.device)] * 3
    windows = 1
    for g, w, s in zip(problem.extents, problem.window, problem.shift, strict=True):
        n = -(-g // w)
        x = torch.arange(g, dtype=torch.int64, device=problem.q.device) - s
        axis = ((x // w) % n, x % w, x // w + 1)
        index = [
            (whole[:, None] * base + mine).flatten()
            for whole, mine, base in zip(index, axis, (n, w, n + 1), strict=True)
        ]
        windows *= n
    window, place, region = index
    N = prod(problem.window)
    return Layout(window * N + place, region, windows, N)


def cut(x: torch.Tensor, at: Layout, fill: float = 0.0) -> torch.Tensor:
    """Lay a map `(B, tokens, ...)` out by windows, `(B * windows, N, ...)`."""
    B, _, *rest = x.shape
    cells = x.new_full((B, at.windows * at.N, *rest), fill)
    return cells.index_copy_(1, at.slot, x).reshape(B * at.windows, at.N, *rest)


def joined(x: torch.Tensor, at: Layout, shape: tuple[int, ...]) -> torch.Tensor:
    """Bring windows `(B * windows, H, N, ...)` back to a map of the given shape."""
    x = x.transpose(1, 2)
    cells = x.reshape(shape[0], at.windows * at.N, *x.shape[2:])
    return cells.index_select(1, at.slot).reshape(shape)


def forward(problem: WindowProblem) -> Result:
    """Attend inside the windows."""
    p, at = problem, layout(problem)
    out, lse = call_forward(common(p, at))
    out = joined(out, at, (*p.q.shape[:-1], p.v.shape[-1]))
    return Result(rounded(out, p.q), lse_of(joined(lse, at, p.q.shape[:-1]), p.q))


def backward(
    problem: WindowProblem,
    result: Result,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
) -> WindowGradients:
    """Pass gradients back; those of a packed projection in one tensor (G1)."""
    p, at, lse = problem, layout(problem), result.lse
    assert lse is not None  # the core asks for it where gradients follow
    g = call_backward(
        common(p, at),
        _by_head(result.out, p, at),
        _by_head(lse, p, at, fill=-torch.inf),
        _by_head(dout, p, at),
        None if dlse is None else _by_head(dlse, p, at),
    )
    dbias = rounded_if_any(None if g.dbias is None else g.dbias[0], p.bias)
    dscale = rounded_if_any(g.dscale, None if isinstance(p.scale, float) else p.scale)
    dq, dk, dv = (
        joined(dx, at, x.shape) for dx, x in zip((g.dq, g.dk, g.dv), (p.q, p.k, p.v), strict=True)
    )
    if p.qkv is not None:
        dqkv = rounded(torch.stack((dq, dk, dv), dim=-3), p.qkv)
        return WindowGradients(None, None, None, dbias, dscale, dqkv)
    dq, dk, dv = rounded(dq, p.q), rounded(dk, p.k), rounded(dv, p.v)
    return WindowGradients(dq, dk, dv, dbias, dscale)


def common(problem: WindowProblem, at: Layout) -> Call:
    """Bring the problem to the common form."""
    p = problem
    dtype = wide(p.q, p.bias, None if isinstance(p.scale, float) else p.scale)
    B, tokens = p.q.shape[0], at.slot.shape[0]
    region = cut(at.region.expand(B, -1), at) if any(p.shift) else None
    real = None
    if p.key_mask is not None or tokens < at.windows * at.N:
        shown = p.q.new_ones((B, tokens), dtype=torch.bool)
        real = cut(shown if p.key_mask is None else p.key_mask.reshape(B, tokens), at)
    bias = None if p.bias is None else p.bias.to(dtype)
    # A tensor, because `where` would read a number as float32 whatever is asked of it.
    penalty = torch.full((), p.wrap_bias, dtype=torch.float64, device=p.q.device).to(dtype)

    def pairs(b: slice, i: slice) -> Pairs:
        seen = None if real is None else real[b, None, None]
        added = None if bias is None else bias[:, i]
        if region is not None:
            wrapped = (region[b, i, None] != region[b, None])[:, None]
            if p.wrap_bias == -torch.inf:
                seen = ~wrapped if seen is None else seen & ~wrapped
            else:
                wrap = torch.where(wrapped, penalty, 0.0)
                added = wrap if added is None else added + wrap
        return Pairs(slice(0, at.N), seen, added)

    return Call(
        q=_by_head(p.q, p, at),
        k=_by_head(p.k, p, at),
        v=_by_head(p.v, p, at),
        scale=p.scale if isinstance(p.scale, float) else p.scale.to(dtype),
        pairs=pairs,
        dtype=dtype,
        bias_shape=None if p.bias is None else (1, *p.bias.shape),
    )


def _by_head(x: torch.Tensor, p: WindowProblem, at: Layout, fill: float = 0.0) -> torch.Tensor:
    """Lay `(B, *G, H, ...)` out as `(B * windows, H, N, ...)`."""
    axes = len(p.window)
    tokens = x.reshape(x.shape[0], at.slot.shape[0], *x.shape[axes + 1 :])
    return cut(tokens, at, fill).transpose(1, 2)


def displacements(window: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Find the table row of every two tokens of a window, `(N, N)` (G6)."""
    index = torch.zeros((1, 1), dtype=torch.int64, device=device)
    for w in window:
        x = torch.arange(w, dtype=torch.int64, device=device)
        d = x[:, None] - x + w - 1
        index = index[:, None, :, None] * (2 * w - 1) + d[:, None]
        index = index.reshape(index.shape[0] * w, index.shape[2] * w)
    return index


def table_forward(problem: TableProblem) -> Result:
    """Look up the bias of every pair."""
    index = displacements(problem.window, problem.table.device)
    return Result(problem.table[index].permute(2, 0, 1).contiguous())


def table_backward(problem: TableProblem, dbias: torch.Tensor) -> TableGradients:
    """Add up what equal displacements say, before anything is rounded (E3)."""
    table = problem.table
    index = displacements(problem.window, table.device).flatten()
    said = dbias.to(wide(table)).permute(1, 2, 0).flatten(0, 1)
    total = torch.zeros(table.shape, dtype=said.dtype, device=table.device)
    return TableGradients(rounded(total.index_add_(0, index, said), table))
