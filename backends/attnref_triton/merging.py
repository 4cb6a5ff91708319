r"""Merging two finished parts of the same rows, and its gradient (D3).

**Counted.** Two rows of `Dv` are read and one is written, `6 Dv` bytes in half precision
for some four operations each: bound by memory, and one pass over it.

    m     = max(lse_a, lse_b)
    w     = exp(lse - m)                 0 where a part saw nothing
    out   = (w_a out_a + w_b out_b) / (w_a + w_b)
    lse   = m + log(w_a + w_b)

Backward, with the weights `exp(lse_a - lse)`: `dout_a = w_a dout` and
`dlse_a = w_a (dlse + dout . (out_a - out))`, one pass for both parts.

Numbers of a row are columns of one from the start. Loaded as a vector, they would be brought
from one layout to the other through shared memory, which every warp writes: with the same
values, and yet a race to those who look for them.
"""

import math

import torch
import triton
import triton.language as tl

from attnref.problem import MergeGradients, MergeProblem, Result
from attnref_triton.launch import over_rows
from attnref_triton.layout import in_order_of
from attnref_triton.tiles import INF, LN2, LOG2E

ELEMENTS = 2048
"""Numbers in a tile."""


def forward(problem: MergeProblem) -> Result:
    """Join two parts of every row."""
    p = problem
    a, b = _rows(p.out_a), _rows(p.out_b)
    out, lse = torch.empty_like(a), torch.empty_like(p.lse_a, memory_format=torch.contiguous_format)
    arrays = {"a": a, "b": b, "lse_a": p.lse_a.reshape(-1), "lse_b": p.lse_b.reshape(-1)}
    over_rows(merge_kernel, a, {**arrays, "out": out, "lse": lse}, ELEMENTS).run()
    return Result(in_order_of(p.out_a, out.view(p.out_a.shape)), lse)


def backward(
    problem: MergeProblem, result: Result, dout: torch.Tensor, dlse: torch.Tensor | None
) -> MergeGradients:
    """Pass a merged row's gradient to both parts."""
    p = problem
    whole = result.lse
    assert whole is not None  # a merge always has one
    a, b, out, dout = (_rows(x) for x in (p.out_a, p.out_b, result.out, dout))
    da, db = torch.empty_like(a), torch.empty_like(b)
    lse_a, lse_b, lse = (x.reshape(-1) for x in (p.lse_a, p.lse_b, whole))
    dlse_a, dlse_b = torch.empty_like(lse_a), torch.empty_like(lse_b)
    arrays = {
        "a": a,
        "b": b,
        "out": out,
        "dout": dout,
        "da": da,
        "db": db,
        "lse_a": lse_a,
        "lse_b": lse_b,
        "lse": lse,
        "dlse_a": dlse_a,
        "dlse_b": dlse_b,
        "dlse": None if dlse is None else dlse.reshape(-1),
    }
    over_rows(merge_gradient_kernel, a, arrays, ELEMENTS).run()
    return MergeGradients(
        in_order_of(p.out_a, da.view(p.out_a.shape)),
        in_order_of(p.lse_a, dlse_a.view(p.lse_a.shape)),
        in_order_of(p.out_b, db.view(p.out_b.shape)),
        in_order_of(p.lse_b, dlse_b.view(p.lse_b.shape)),
    )


@triton.jit
def share(lse, whole):
    """Return the weight of a part in the whole."""
    return tl.where(lse == -INF, 0.0, tl.exp2((lse - tl.where(lse == -INF, 0.0, whole)) * LOG2E))


@triton.jit(do_not_specialize=["rows", "columns"])
def merge_kernel(
    a, b, lse_a, lse_b, out, lse, rows, columns, LINES: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Merge `LINES` rows."""
    r = tl.program_id(0) * LINES + tl.arange(0, LINES)[:, None]
    real = r < rows
    e_a = tl.load(lse_a + r, mask=real, other=-INF)
    e_b = tl.load(lse_b + r, mask=real, other=-INF)
    m = tl.maximum(e_a, e_b)
    level = tl.where(m == -INF, 0.0, m)
    w_a = tl.exp2((e_a - level) * LOG2E)
    w_b = tl.exp2((e_b - level) * LOG2E)
    l = w_a + w_b
    nothing = l == 0
    l = tl.where(nothing, 1.0, l)
    tl.store(lse + r, tl.where(nothing, -INF, level + tl.log2(l) * LN2), mask=real)
    line = r.to(tl.int64) * columns
    c = tl.arange(0, BLOCK)[None, :]
    for start in range(0, columns, BLOCK):
        here = real & (start + c < columns)
        x = tl.load(a + line + start + c, mask=here, other=0.0).to(tl.float32)
        y = tl.load(b + line + start + c, mask=here, other=0.0).to(tl.float32)
        o = (x * w_a + y * w_b) / l
        tl.store(out + line + start + c, o.to(out.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=["rows", "columns"])
def merge_gradient_kernel(
    a, b, out, dout, lse_a, lse_b, lse, dlse, da, db, dlse_a, dlse_b, rows, columns,
    LINES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pass the gradients of `LINES` rows to both parts."""
    r = tl.program_id(0) * LINES + tl.arange(0, LINES)[:, None]
    real = r < rows
    whole = tl.load(lse + r, mask=real, other=0.0)
    w_a = share(tl.load(lse_a + r, mask=real, other=-INF), whole)
    w_b = share(tl.load(lse_b + r, mask=real, other=-INF), whole)
    line = r.to(tl.int64) * columns
    c = tl.arange(0, BLOCK)[None, :]
    along_a = tl.zeros([LINES, 1], tl.float32)
    along_b = tl.zeros([LINES, 1], tl.float32)
    for start in range(0, columns, BLOCK):
        here = real & (start + c < columns)
        g = tl.load(dout + line + start + c, mask=here, other=0.0).to(tl.float32)
        o = tl.load(out + line + start + c, mask=here, other=0.0).to(tl.float32)
        x = tl.load(a + line + start + c, mask=here, other=0.0).to(tl.float32)
        y = tl.load(b + line + start + c, mask=here, other=0.0).to(tl.float32)
        along_a += tl.sum(g * (x - o), axis=1, keep_dims=True)
        along_b += tl.sum(g * (y - o), axis=1, keep_dims=True)
        tl.store(da + line + start + c, (w_a * g).to(da.dtype.element_ty), mask=here)
        tl.store(db + line + start + c, (w_b * g).to(db.dtype.element_ty), mask=here)
    if dlse is not None:
        given = tl.load(dlse + r, mask=real, other=0.0)
        along_a += given
        along_b += given
    tl.store(dlse_a + r, w_a * along_a, mask=real)
    tl.store(dlse_b + r, w_b * along_b, mask=real)


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).contiguous()
