"""What a call must return, and how far an answer may be from it.

The values are the specification's, in float64 on exactly the stored inputs, rounded
nowhere. The limits are those of `attnref_conformance.bounds`. In float64 the oracle has no
more digits than the judged: both may be off by the bound, so the limit is twice that.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from attnref import arrays
from attnref.problem import (
    AnyProblem,
    AttentionProblem,
    MergeProblem,
    Result,
    SoftmaxProblem,
    TableProblem,
    WindowProblem,
)
from attnref.reference import exact_backward, exact_forward, wide
from attnref.spec import gradients, windows
from attnref_conformance import bounds
from attnref_conformance.bounds import GradientBounds
from attnref_conformance.dense import Piece, pieces
from attnref_conformance.profiles import UNDERFLOW, UNIT_ROUNDOFF, Arithmetic


@dataclass(frozen=True)
class Expected:
    """One array that a call must return.

    Attributes:
        value: The exact result, float64.
        bound: The largest absolute error an honest computation may have, per element.
        dtype: The dtype that the result must have.
        follows: The input whose memory order it must have; `None` for C order.
        rows: Non-finite values spoil a whole row: any non-finite element of the row will
            do.
    """

    value: np.ndarray
    bound: np.ndarray
    dtype: str
    follows: str | None
    rows: bool = False


def forward(problem: AnyProblem, u: Arithmetic) -> tuple[Result, dict[str, Expected]]:
    """Return the exact result of a problem, and what must come back."""
    with np.errstate(all="ignore"):
        exact = exact_forward(problem)
        out, lse = _forward_bounds(problem, exact, u)
    twice = _as_precise(problem)
    follows = None if isinstance(problem, TableProblem) else problem.main
    rows = not isinstance(problem, SoftmaxProblem | TableProblem)
    expected = {"out": Expected(exact.out, twice * out, problem.dtype, follows, rows=rows)}
    if exact.lse is not None:
        expected["lse"] = Expected(exact.lse, twice * lse, problem.lse_dtype, None)
    return exact, expected


def backward(
    problem: AnyProblem, result: Result, dout: np.ndarray, dlse: np.ndarray | None, u: Arithmetic
) -> dict[str, Expected]:
    """Return the gradients that must come back."""
    with np.errstate(all="ignore"):
        dlse64 = None if dlse is None else wide(dlse)
        exact = exact_backward(problem, result, wide(dout), dlse64)
        limits = _backward_bounds(problem, result, wide(dout), dlse64, exact, u)
    expected = {}
    for name, value in exact._asdict().items():
        if value is None:
            continue
        source = getattr(problem, name[1:])
        dtype = arrays.dtype_name(source)
        limit = bounds.rounded(
            _as_precise(problem) * limits[name], value, UNIT_ROUNDOFF[dtype], UNDERFLOW[dtype]
        )
        expected[name] = Expected(value, limit, dtype, name[1:])
    return expected


def _as_precise(problem: AnyProblem) -> int:
    """Return 2 where the oracle is no more precise than what it judges, else 1."""
    return 2 if problem.dtype == "float64" else 1


def _forward_bounds(p: AnyProblem, exact: Result, u: Arithmetic) -> tuple[Any, Any]:
    match p:
        case SoftmaxProblem():
            return bounds.softmax_bound(wide(p.x), exact.out, p.axis, u), None
        case TableProblem():
            return np.zeros_like(exact.out), None
        case MergeProblem():
            parts = [(wide(p.out_a), wide(p.lse_a)), (wide(p.out_b), wide(p.lse_b))]
            return bounds.merge_bounds(parts, exact.lse, exact.out, u)
    out, lse = np.zeros_like(exact.out), np.zeros_like(exact.lse)
    for piece in pieces(p):
        rows, sums = piece.rows(exact.out), piece.lse(exact.lse)
        limits = bounds.forward_bounds(piece.dense, rows, sums, u)
        piece.put("out", out, limits[0])
        piece.put("lse", lse, limits[1])
    return out, lse


def _backward_bounds(
    p: AnyProblem,
    result: Result,
    dout: np.ndarray,
    dlse: np.ndarray | None,
    exact: Any,
    u: Arithmetic,
) -> dict[str, np.ndarray]:
    out, lse = result
    match p:
        case SoftmaxProblem():
            return {"dx": bounds.softmax_gradient_bound(dout, out, p.axis, u)}
        case TableProblem():
            count = windows.relative_position_bias_backward(np.ones_like(dout), p.window)
            size = windows.relative_position_bias_backward(np.abs(dout), p.window)
            return {"dtable": bounds.sum_error(count, u.acc) * size}
        case MergeProblem():
            assert dlse is not None
            parts = [(wide(p.out_a), wide(p.lse_a)), (wide(p.out_b), wide(p.lse_b))]
            limits = [bounds.merge_gradient_bounds(dout, dlse, a, (out, lse), u) for a in parts]
            return dict(zip(exact._fields, [x for pair in limits for x in pair], strict=True))
    dlse = np.zeros(lse.shape) if dlse is None else dlse
    summed: dict[str, np.ndarray] = {n: np.zeros(x.shape) for n, x in _inputs(p).items()}
    for piece in pieces(p):
        g = bounds.backward_bounds(
            piece.dense,
            piece.rows(out),
            piece.lse(lse),
            piece.rows(dout),
            piece.lse(dlse),
            u,
            tokens=_tokens(p),
        )
        _add(summed, piece, g, u)
    if isinstance(p, WindowProblem) and p.qkv is not None:
        summed["dqkv"] = np.stack([summed[n] for n in ("dq", "dk", "dv")], axis=-3)
    return summed


def _tokens(p: AnyProblem) -> int:
    """Count the rows of one head."""
    return int(p.q.shape[0] * p.q.shape[2] if isinstance(p, AttentionProblem) else p.q.shape[0])


def _inputs(p: AnyProblem) -> dict[str, Any]:
    """Name the gradients of a problem after its inputs."""
    named = {"dq": p.q, "dk": p.k, "dv": p.v}
    for name in ("bias", "sinks", "scale"):
        x = getattr(p, name, None)
        if arrays.library(x) is not None:
            named[f"d{name}"] = x
    return named


def _add(summed: dict[str, np.ndarray], piece: Piece, g: GradientBounds, u: Arithmetic) -> None:
    """Sum a piece's bounds over grouped heads, broadcasts, and the pieces before it."""
    Hq, Hkv = piece.dense.q.shape[1], piece.problem.k.shape[1]
    group = Hq // Hkv if Hkv and not isinstance(piece.problem, WindowProblem) else 1
    extra = bounds.sum_error(group, u.acc)
    piece.put("dq", summed["dq"], g.dq)
    piece.put("dk", summed["dk"], g.dk + extra * g.size.dk)
    piece.put("dv", summed["dv"], g.dv + extra * g.size.dv)
    if "dbias" in summed:
        shape = summed["dbias"].shape
        n = g.dS.size / max(int(np.prod(shape)), 1)
        size = gradients.sum_to(g.size.dS, shape)
        summed["dbias"] = gradients.sum_to(g.dS, shape) + bounds.sum_error(n, u.acc) * size
    if "dscale" in summed:
        n = g.dscale.size / max(g.dscale.shape[1], 1)
        size = g.size.dscale.sum(axis=(0, 2, 3))
        summed["dscale"] = g.dscale.sum(axis=(0, 2, 3)) + bounds.sum_error(n, u.acc) * size
    if "dsinks" in summed and g.dsinks is not None:
        summed["dsinks"] += g.dsinks
