"""Merging two finished parts of every row, a warp for each."""

from typing import Any

import cupy
import numpy as np

from attnref.problem import MergeGradients, MergeProblem, Result
from attnref_cupy import compiling
from attnref_cupy.launching import Launch
from attnref_cupy.layout import in_order_of, lined_up
from attnref_cupy.structures import TYPES


def forward(problem: MergeProblem) -> Result:
    """Join two parts of every row."""
    p = problem
    a, b, lse_a, lse_b = (lined_up(x) for x in (p.out_a, p.out_b, p.lse_a, p.lse_b))
    out, lse = cupy.empty(a.shape, a.dtype), cupy.empty(lse_a.shape, lse_a.dtype)
    launch("merge", a, b, lse_a, lse_b, out, lse).run()
    return Result(in_order_of(p.out_a, out), lse)


def backward(problem: MergeProblem, result: Result, dout: Any, dlse: Any) -> MergeGradients:
    """Pass a merged row's gradient to both parts."""
    p = problem
    a, b, out, dout = (lined_up(x) for x in (p.out_a, p.out_b, result.out, dout))
    lse_a, lse_b, lse = (lined_up(x) for x in (p.lse_a, p.lse_b, result.lse))
    da, db = cupy.empty(a.shape, a.dtype), cupy.empty(b.shape, b.dtype)
    dlse_a, dlse_b = (cupy.empty(x.shape, x.dtype) for x in (lse_a, lse_b))
    given = np.uint64(0) if dlse is None else lined_up(dlse)
    rows = (lse_a, lse_b, lse, given)
    launch("merge_gradient", a, b, out, dout, *rows, da, db, dlse_a, dlse_b).run()
    return MergeGradients(
        in_order_of(p.out_a, da),
        in_order_of(p.lse_a, dlse_a),
        in_order_of(p.out_b, db),
        in_order_of(p.lse_b, dlse_b),
    )


def launch(name: str, *arrays: Any) -> Launch:
    """Give every row of contiguous arrays a warp."""
    a, lse = arrays[0], arrays[2 if name == "merge" else 4]
    rows, columns = lse.size, a.shape[-1]
    of = (TYPES[a.dtype.name], TYPES[lse.dtype.name])
    kernel = compiling.kernel("merging.cu", name, *of)
    return Launch(kernel, -(-rows // 4), 128, (*arrays, np.int64(rows), np.int64(columns)))
