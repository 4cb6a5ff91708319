r"""The bias of a window's pairs from a table of displacements, and its gradient (G6).

**Counted.** `N^2` numbers of a head are written, or read, once; the table is a few kilobytes
and stays in the cache.

A pair's row in the table is the row-major index of its displacement `query - key`, counted
from the most negative one. The gradient goes the other way: a program owns rows of the table,
and for every query there is at most one key at that displacement. So nobody adds to anybody
else's sum, and it comes out the same every time (E3).
"""

from math import prod

import torch
import triton
import triton.language as tl

from attnref.problem import Result, TableGradients, TableProblem
from attnref_triton.launch import Launch
from attnref_triton.layout import empty_as

BLOCK = 256
"""Pairs, or rows of the table, of a program."""


def forward(problem: TableProblem) -> Result:
    """Look up the bias of every pair."""
    N = prod(problem.window)
    bias = problem.table.new_empty((problem.table.shape[1], N, N))
    look_up(problem, bias).run()
    return Result(bias)


def backward(problem: TableProblem, dbias: torch.Tensor) -> TableGradients:
    """Add up what all pairs of equal displacement say."""
    dtable = empty_as(problem.table)
    add_up(problem, dbias, dtable).run()
    return TableGradients(dtable)


def look_up(problem: TableProblem, bias: torch.Tensor) -> Launch:
    """Make the launch that fills in a bias."""
    H, N, _ = bias.shape
    table = problem.table
    arguments = {"table": table, "bias": bias, "strides": table.stride(), "heads": H}
    return Launch(position_kernel, (H * triton.cdiv(N * N, BLOCK),), {**arguments, **_cut(problem)})


def add_up(problem: TableProblem, dbias: torch.Tensor, dtable: torch.Tensor) -> Launch:
    """Make the launch that fills in a table's gradient."""
    R, H = dtable.shape
    strides = (*dbias.stride(), *dtable.stride())
    arguments = {"dbias": dbias, "dtable": dtable, "strides": strides, "heads": H}
    grid = (H * triton.cdiv(R, BLOCK),)
    return Launch(position_gradient_kernel, grid, {**arguments, **_cut(problem)})


def _cut(problem: TableProblem) -> dict[str, object]:
    window = (1,) * (3 - len(problem.window)) + problem.window
    return {"WINDOW": window, "BLOCK": BLOCK}


@triton.jit(do_not_specialize=["strides", "heads"])
def position_kernel(table, bias, strides, heads, WINDOW: tl.constexpr, BLOCK: tl.constexpr):
    """Write the bias of `BLOCK` pairs of one head."""
    N: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    head = tl.program_id(0) % heads
    pair = tl.program_id(0) // heads * BLOCK + tl.arange(0, BLOCK)
    i = pair // N
    j = pair % N
    d0 = i // (WINDOW[1] * WINDOW[2]) - j // (WINDOW[1] * WINDOW[2]) + (WINDOW[0] - 1)
    d1 = i // WINDOW[2] % WINDOW[1] - j // WINDOW[2] % WINDOW[1] + (WINDOW[1] - 1)
    d2 = i % WINDOW[2] - j % WINDOW[2] + (WINDOW[2] - 1)
    row = (d0 * (2 * WINDOW[1] - 1) + d1) * (2 * WINDOW[2] - 1) + d2
    real = pair < N * N
    at_row = row.to(tl.int64) * strides[0] + tl.cast(head, tl.int64) * strides[1]
    x = tl.load(table + at_row, mask=real, other=0.0)
    tl.store(bias + tl.cast(head, tl.int64) * N * N + pair, x, mask=real)


@triton.jit(do_not_specialize=["strides", "heads"])
def position_gradient_kernel(
    dbias, dtable, strides, heads, WINDOW: tl.constexpr, BLOCK: tl.constexpr
):
    """Add up the pairs of `BLOCK` displacements of one head, one query after another."""
    N: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    A1: tl.constexpr = 2 * WINDOW[1] - 1
    A2: tl.constexpr = 2 * WINDOW[2] - 1
    head = tl.cast(tl.program_id(0) % heads, tl.int64)
    row = tl.program_id(0) // heads * BLOCK + tl.arange(0, BLOCK)
    real = row < (2 * WINDOW[0] - 1) * A1 * A2
    d0 = row // (A1 * A2) - (WINDOW[0] - 1)
    d1 = row // A2 % A1 - (WINDOW[1] - 1)
    d2 = row % A2 - (WINDOW[2] - 1)
    total = tl.zeros([BLOCK], tl.float32)
    for i in range(N):
        j0 = i // (WINDOW[1] * WINDOW[2]) - d0
        j1 = i // WINDOW[2] % WINDOW[1] - d1
        j2 = i % WINDOW[2] - d2
        there = (j0 >= 0) & (j0 < WINDOW[0]) & (j1 >= 0) & (j1 < WINDOW[1])
        there = there & (j2 >= 0) & (j2 < WINDOW[2])
        j = (j0 * WINDOW[1] + j1) * WINDOW[2] + j2
        pointers = dbias + head * strides[0] + tl.cast(i, tl.int64) * strides[1]
        x = tl.load(pointers + j.to(tl.int64) * strides[2], mask=real & there, other=0.0)
        total += x.to(tl.float32)
    to = dtable + row.to(tl.int64) * strides[3] + head * strides[4]
    tl.store(to, total.to(dtable.dtype.element_ty), mask=real)
