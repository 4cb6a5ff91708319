"""The backend called `reference`: a problem, unpacked into calls of the specification.

It reads any array from any device, computes in float64 whatever came in, and rounds once
at the end (A6). It is the oracle of every other backend, and runs only when named.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from attnref import arrays
from attnref.arrays import Array
from attnref.backend import not_understood, refuse
from attnref.errors import Reason
from attnref.problem import (
    AnyProblem,
    AttentionGradients,
    AttentionProblem,
    Gradients,
    MergeGradients,
    MergeProblem,
    Problem,
    Result,
    SoftmaxGradients,
    SoftmaxProblem,
    TableGradients,
    TableProblem,
    VarlenProblem,
    WindowGradients,
    WindowProblem,
)
from attnref.spec import attention, gradients, packed, softmax, windows

_ROWS = frozenset({"gradients", "grouped heads", "q_offset", "sinks", "softcap", "window"})
_MAPS = frozenset(
    {
        "1-D",
        "2-D",
        "3-D",
        "bias",
        "gradients",
        "key_mask",
        "qkv",
        "scale per head",
        "shift",
        "wrap_bias",
    }
)
UNDERSTOOD = {
    "attention": _ROWS | {"bias", "kv_lens", "mask", "q_lens"},
    "attention_varlen": _ROWS,
    "window_attention": _MAPS,
    "softmax": {"gradients"},
    "merge": {"gradients"},
    "relative_position_bias": {"gradients"},
}
"""Every operation and feature that the specification has."""


class Reference:
    """The specification as a backend."""

    name = "reference"
    library = "any"
    masked_nonfinite = True

    def available(self) -> Sequence[Reason]:
        """Return nothing: NumPy is all it needs."""
        return []

    def unsupported(self, problem: Problem) -> Sequence[Reason]:
        """Refuse what has no values, and calls of a later version than the specification."""
        reasons = not_understood(problem, UNDERSTOOD)
        if problem.device == "meta":
            reasons.append(Reason("device", "tensors on meta have no values", limit=None))
        return reasons

    def forward(self, problem: AnyProblem) -> Result:
        """Compute in float64 and round once."""
        refuse(self, problem)
        with np.errstate(all="ignore"):
            exact = exact_forward(problem)
        out = rounded(exact.out, problem.dtype, getattr(problem, problem.main))
        if exact.lse is None:
            return Result(out)
        like = getattr(problem, problem.main)
        lse = within_range(exact.lse, problem.lse_dtype)
        return Result(out, rounded(lse, problem.lse_dtype, like, order=None))

    def backward(
        self, problem: AnyProblem, result: Result, dout: Array, dlse: Array | None = None
    ) -> Gradients:
        """Compute in float64 and round once."""
        refuse(self, problem)
        given = Result(*(None if x is None else wide(x) for x in result))
        above = None if dlse is None else wide(dlse)
        with np.errstate(all="ignore"):
            exact = exact_backward(problem, given, wide(dout), above)
        inputs = {f"d{name}": getattr(problem, name) for name in problem.differentiable}
        done = {
            name: None if x is None else rounded(x, arrays.dtype_name(inputs[name]), inputs[name])
            for name, x in exact._asdict().items()
        }
        return type(exact)(**done)

    def from_numpy(self, x: np.ndarray) -> Array:
        """Return the array itself."""
        return x

    def to_numpy(self, x: Array) -> np.ndarray:
        """Return the values."""
        return arrays.to_numpy(x)


backend = Reference()


def wide(x: Array) -> np.ndarray:
    """Return floating values as float64, and integers and booleans as they are."""
    values = arrays.to_numpy(x)
    name = arrays.dtype_name(values)
    return values if name.startswith(("int", "bool")) else values.astype(np.float64, order="C")


def rounded(x: np.ndarray, dtype: str, like: Array, order: str | None = "like") -> Array:
    """Round once, in the memory order, library and device of an input (A1, A6)."""
    with np.errstate(all="ignore"):
        axes = arrays.memory_order(like) if order and x.ndim == like.ndim else tuple(range(x.ndim))
        near = to_odd(x) if dtype == "bfloat16" else x
        y = np.asarray(near).transpose(*axes).astype(arrays.numpy_dtype(dtype), order="C")
    return arrays.from_numpy(y.transpose(*np.argsort(axes)), like)


def within_range(x: np.ndarray, dtype: str) -> np.ndarray:
    """Bring finite log-sum-exps into a dtype's range: minus infinity sees nothing (A3)."""
    limit = float(np.finfo(dtype).max)
    return np.where(np.isfinite(x), np.clip(x, -limit, limit), x)


def to_odd(x: np.ndarray) -> np.ndarray:
    """Return x in float32, so that rounding it to bfloat16 rounds x once.

    ml_dtypes converts by way of float32, and two roundings to nearest are not one. An
    inexact number is therefore cut off and marked in its last bit, which breaks ties.
    """
    y = x.astype(np.float32)
    far = np.abs(y.astype(np.float64)) > np.abs(x)
    cut = np.where(far, np.nextafter(y, np.float32(0)), y)
    inexact = np.isfinite(x) & (cut.astype(np.float64) != x)
    odd: np.ndarray = cut.view(np.uint32) | inexact
    return odd.view(np.float32)


def options(problem: Problem, *names: str) -> dict[str, Any]:
    """Return the named fields of a problem, arrays as NumPy arrays."""
    given = {name: getattr(problem, name) for name in names}
    is_array = arrays.library
    return {n: wide(x) if is_array(x) is not None else x for n, x in given.items()}


def _attention_options(p: AttentionProblem) -> dict[str, Any]:
    offset = p.offset if isinstance(p.offset, int) else wide(p.offset)
    names = ("scale", "window", "mask", "bias", "softcap", "sinks", "q_lens", "kv_lens")
    return {**options(p, *names), "q_offset": offset}


def _varlen_options(p: VarlenProblem) -> dict[str, Any]:
    offset = p.offset if isinstance(p.offset, int) else wide(p.offset)
    return {**options(p, "scale", "window", "softcap", "sinks"), "q_offset": offset}


def _window_options(p: WindowProblem) -> dict[str, Any]:
    return options(p, "window", "shift", "scale", "bias", "key_mask", "wrap_bias")


def exact_forward(problem: AnyProblem) -> Result:
    """Run the specification in float64, without rounding anything."""
    match problem:
        case AttentionProblem(q=q, k=k, v=v):
            return Result(
                *attention.attention(wide(q), wide(k), wide(v), **_attention_options(problem))
            )
        case VarlenProblem(q=q, k=k, v=v, cu_q=cu_q, cu_k=cu_k):
            return Result(
                *packed.attention_varlen(
                    *map(wide, (q, k, v, cu_q, cu_k)), **_varlen_options(problem)
                )
            )
        case WindowProblem(q=q, k=k, v=v):
            return Result(
                *windows.window_attention(wide(q), wide(k), wide(v), **_window_options(problem))
            )
        case MergeProblem(out_a=out_a, lse_a=lse_a, out_b=out_b, lse_b=lse_b):
            return Result(
                *softmax.merge_rows(
                    softmax.Rows(wide(out_a), wide(lse_a)), softmax.Rows(wide(out_b), wide(lse_b))
                )
            )
        case SoftmaxProblem(x=x, axis=axis, tile=tile):
            return Result(softmax.softmax(wide(x), axis, tile))
        case TableProblem(table=table, window=window):
            return Result(windows.relative_position_bias(wide(table), window))
    raise AssertionError(problem)


def exact_backward(
    problem: AnyProblem, result: Result, dout: np.ndarray, dlse: np.ndarray | None
) -> Gradients:
    """Run the specification's gradients in float64, without rounding anything."""
    out, lse = result
    dlse = np.zeros(1) if lse is None else np.zeros(lse.shape) if dlse is None else dlse
    match problem:
        case AttentionProblem(q=q, k=k, v=v):
            return AttentionGradients(
                *gradients.attention_backward(
                    dout, dlse, wide(q), wide(k), wide(v), out, lse, **_attention_options(problem)
                )
            )
        case VarlenProblem(q=q, k=k, v=v, cu_q=cu_q, cu_k=cu_k):
            return AttentionGradients(
                *packed.attention_varlen_backward(
                    dout,
                    dlse,
                    wide(q),
                    wide(k),
                    wide(v),
                    out,
                    lse,
                    wide(cu_q),
                    wide(cu_k),
                    **_varlen_options(problem),
                )
            )
        case WindowProblem(q=q, k=k, v=v):
            g = windows.window_attention_backward(
                dout, dlse, wide(q), wide(k), wide(v), out, lse, **_window_options(problem)
            )
            dscale = g.dscale if problem.scale_per_head else None
            if problem.qkv is None:
                return WindowGradients(g.dq, g.dk, g.dv, g.dbias, dscale)
            dqkv = np.stack([g.dq, g.dk, g.dv], axis=-3)
            return WindowGradients(None, None, None, g.dbias, dscale, dqkv)
        case MergeProblem(out_a=out_a, lse_a=lse_a, out_b=out_b, lse_b=lse_b):
            whole = softmax.Rows(out, lse)
            parts = [softmax.Rows(wide(o), wide(e)) for o, e in ((out_a, lse_a), (out_b, lse_b))]
            a, b = (softmax.merge_rows_backward(dout, dlse, part, whole) for part in parts)
            return MergeGradients(*a, *b)
        case SoftmaxProblem(axis=axis):
            return SoftmaxGradients(softmax.softmax_backward(dout, out, axis))
        case TableProblem(window=window):
            return TableGradients(windows.relative_position_bias_backward(dout, window))
    raise AssertionError(problem)
