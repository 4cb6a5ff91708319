r"""Softmax along one axis, and its gradient.

**Counted.** A row of `n` numbers is read twice and written once, the second time from the
cache while it still holds it; the arithmetic is nothing beside that. The gradient reads
`y` and `dy` twice and writes `dx` once.

**The naive form** reads a row three times: for its maximum, for its sum, for the result.

**The kernel** makes one pass of the first two by the tiled state of the specification:
a maximum and the sum belonging to it, rescaled whenever the maximum rises. A program holds
as many rows as fill a tile, so that short rows do not leave it idle. The tile that a caller
may ask for never changes the meaning, and is not needed here (D5).
"""

import torch
import triton
import triton.language as tl

from attnref.problem import Result, SoftmaxGradients, SoftmaxProblem
from attnref_triton.launch import over_rows
from attnref_triton.layout import in_order_of
from attnref_triton.tiles import INF, LOG2E

ELEMENTS = 4096
"""Numbers in a tile."""


def forward(problem: SoftmaxProblem) -> Result:
    """Weigh along an axis."""
    x = _rows(problem.x, problem.axis)
    y = torch.empty_like(x)
    over_rows(softmax_kernel, x, {"x": x, "y": y}, ELEMENTS).run()
    return Result(_back(y, problem))


def backward(problem: SoftmaxProblem, result: Result, dy: torch.Tensor) -> SoftmaxGradients:
    """Pass a gradient back from the weights alone."""
    y, dy = (_rows(x, problem.axis) for x in (result.out, dy))
    dx = torch.empty_like(y)
    over_rows(softmax_gradient_kernel, y, {"y": y, "dy": dy, "dx": dx}, ELEMENTS).run()
    return SoftmaxGradients(_back(dx, problem))


@triton.jit(do_not_specialize=["rows", "columns"])
def softmax_kernel(x, y, rows, columns, LINES: tl.constexpr, BLOCK: tl.constexpr):
    """Weigh `LINES` rows."""
    r = tl.program_id(0) * LINES + tl.arange(0, LINES)
    line = r.to(tl.int64)[:, None] * columns
    c = tl.arange(0, BLOCK)[None, :]
    m = tl.full([LINES], -INF, tl.float32)
    l = tl.zeros([LINES], tl.float32)
    for start in range(0, columns, BLOCK):
        here = (r < rows)[:, None] & (start + c < columns)
        s = tl.load(x + line + start + c, mask=here, other=-INF).to(tl.float32)
        m_new = tl.maximum(m, tl.max(s, axis=1))
        level = tl.where(m_new == -INF, 0.0, m_new)
        l = l * tl.exp2((m - level) * LOG2E) + tl.sum(tl.exp2((s - level[:, None]) * LOG2E), axis=1)
        m = m_new
    level = tl.where(m == -INF, 0.0, m)
    l = tl.where(l == 0, 1.0, l)
    for start in range(0, columns, BLOCK):
        here = (r < rows)[:, None] & (start + c < columns)
        s = tl.load(x + line + start + c, mask=here, other=-INF).to(tl.float32)
        p = tl.exp2((s - level[:, None]) * LOG2E) / l[:, None]
        tl.store(y + line + start + c, p.to(y.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=["rows", "columns"])
def softmax_gradient_kernel(y, dy, dx, rows, columns, LINES: tl.constexpr, BLOCK: tl.constexpr):
    """Compute `y (dy - sum(y dy))` of `LINES` rows."""
    r = tl.program_id(0) * LINES + tl.arange(0, LINES)
    line = r.to(tl.int64)[:, None] * columns
    c = tl.arange(0, BLOCK)[None, :]
    along = tl.zeros([LINES], tl.float32)
    for start in range(0, columns, BLOCK):
        here = (r < rows)[:, None] & (start + c < columns)
        p = tl.load(y + line + start + c, mask=here, other=0.0).to(tl.float32)
        g = tl.load(dy + line + start + c, mask=here, other=0.0).to(tl.float32)
        along += tl.sum(p * g, axis=1)
    for start in range(0, columns, BLOCK):
        here = (r < rows)[:, None] & (start + c < columns)
        p = tl.load(y + line + start + c, mask=here, other=0.0).to(tl.float32)
        g = tl.load(dy + line + start + c, mask=here, other=0.0).to(tl.float32)
        tl.store(
            dx + line + start + c, (p * (g - along[:, None])).to(dx.dtype.element_ty), mask=here
        )


def _rows(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Make contiguous rows of the axis."""
    x = x.movedim(axis, -1)
    return x.reshape(x.numel() // max(x.shape[-1], 1), x.shape[-1]).contiguous()


def _back(y: torch.Tensor, problem: SoftmaxProblem) -> torch.Tensor:
    x = problem.x
    return in_order_of(x, y.view(x.movedim(problem.axis, -1).shape).movedim(-1, problem.axis))
