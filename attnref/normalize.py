"""From a user's arguments to a problem: every argument error is raised here.

One function per public operation. Each checks what the caller gave, resolves every
default, and returns the frozen description that the rest of attnref works with.
"""

import math
import operator
from dataclasses import replace
from numbers import Real
from typing import Any, Literal, TypeVar

from attnref import arrays
from attnref.arrays import Array
from attnref.checks import Call
from attnref.problem import (
    AttentionProblem,
    MergeProblem,
    Problem,
    SoftmaxProblem,
    TableProblem,
    VarlenProblem,
    Window,
    WindowProblem,
    split_qkv,
)

P = TypeVar("P", bound=Problem)

_ATTENTION_LETTERS = {
    "q": "(B, Hq, Sq, D)",
    "k": "(B, Hkv, Sk, D)",
    "v": "(B, Hkv, Sk, Dv)",
    "mask": "broadcasts to (B, Hq, Sq, Sk)",
    "bias": "broadcasts to (B, Hq, Sq, Sk)",
    "sinks": "(Hq,)",
    "q_lens": "(B,)",
    "kv_lens": "(B,)",
    "q_offset": "(B,)",
}

_VARLEN_LETTERS = {
    "q": "(Tq, Hq, D)",
    "k": "(Tk, Hkv, D)",
    "v": "(Tk, Hkv, Dv)",
    "cu_q": "(sequences + 1,)",
    "cu_k": "(sequences + 1,)",
    "sinks": "(Hq,)",
    "q_offset": "(sequences,)",
}


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float | None = None,
    causal: bool = False,
    window: Window | None = None,
    q_offset: int | Array | Literal["start", "end"] | None = None,
    mask: Array | None = None,
    bias: Array | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,
    q_lens: Array | None = None,
    kv_lens: Array | None = None,
    with_lse: bool = False,
) -> AttentionProblem:
    """Describe a call of `attention`; see `attnref.api` for the arguments."""
    options = {"mask": mask, "bias": bias, "sinks": sinks, "q_lens": q_lens,
               "kv_lens": kv_lens, "q_offset": _if_array(q_offset)}  # fmt: skip
    call = Call(_ATTENTION_LETTERS, {"q": q, "k": k, "v": v}, options)
    call.together()
    call.rank("q", "k", "v")
    _check_qkv(call, heads=1, tokens=2)
    B, Hq, Sq, D = q.shape
    Sk = k.shape[2]
    call.agree_in_size("q", 0, "k", 0, "a batch of {}")
    call.boolean("mask", "C1", "an additive mask is a bias: attention(..., bias=mask)")
    call.broadcasts("mask", (B, Hq, Sq, Sk), "C1")
    call.floats("bias", "sinks")
    call.broadcasts("bias", (B, Hq, Sq, Sk), "B3")
    call.shaped("sinks", (Hq,), "D4")
    call.lengths("q_lens", B, Sq)
    call.lengths("kv_lens", B, Sk)
    bounds = _bounds(call, window, causal=causal)
    lens = q_lens is not None or kv_lens is not None
    unclear = "there are lengths" if lens else f"there are {Sq} queries and {Sk} keys"
    return _noted(AttentionProblem(
        q=q, k=k, v=v, mask=mask, bias=bias, sinks=sinks, q_lens=q_lens, kv_lens=kv_lens,
        scale=_scale(call, scale, D),
        softcap=_softcap(call, softcap),
        window=bounds,
        q_offset=_alignment(call, q_offset, bounds, B, unclear=unclear if lens or Sq != Sk else "",
                            end="end" if lens else Sk - Sq),
    ), with_lse=with_lse)  # fmt: skip


def attention_varlen(
    q: Array,
    k: Array,
    v: Array,
    cu_q: Array,
    cu_k: Array,
    *,
    scale: float | None = None,
    causal: bool = False,
    window: Window | None = None,
    q_offset: int | Array | Literal["start", "end"] | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,
    max_q: int | None = None,
    max_k: int | None = None,
    with_lse: bool = False,
) -> VarlenProblem:
    """Describe a call of `attention_varlen`; see `attnref.api` for the arguments."""
    given = {"q": q, "k": k, "v": v, "cu_q": cu_q, "cu_k": cu_k}
    call = Call(_VARLEN_LETTERS, given, {"sinks": sinks, "q_offset": _if_array(q_offset)})
    call.together()
    call.rank("q", "k", "v", "cu_q", "cu_k")
    _check_qkv(call, heads=1, tokens=0)
    call.agree_in_size("cu_q", 0, "cu_k", 0, "{} entries")
    call.offsets("cu_q", q.shape[0], "q")
    call.offsets("cu_k", k.shape[0], "k")
    call.floats("sinks")
    call.shaped("sinks", (q.shape[1],), "D4")
    bounds = _bounds(call, window, causal=causal)
    return _noted(VarlenProblem(
        q=q, k=k, v=v, cu_q=cu_q, cu_k=cu_k, sinks=sinks,
        scale=_scale(call, scale, q.shape[2]),
        softcap=_softcap(call, softcap),
        window=bounds,
        q_offset=_alignment(call, q_offset, bounds, cu_q.shape[0] - 1,
                            unclear="" if cu_k is cu_q else "cu_k is not cu_q", end="end"),
        max_q=None if max_q is None else call.whole("max_q", max_q, "F1", least=0),
        max_k=None if max_k is None else call.whole("max_k", max_k, "F1", least=0),
    ), with_lse=with_lse)  # fmt: skip


def window_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    window: int | tuple[int, ...],
    shift: int | tuple[int, ...] = 0,
    bias: Array | None = None,
    key_mask: Array | None = None,
    scale: float | Array | None = None,
    wrap_bias: float = float("-inf"),
    with_lse: bool = False,
    qkv: Array | None = None,
) -> WindowProblem:
    """Describe a call of `window_attention`; see `attnref.api` for the arguments."""
    letters = {"q": "(B, *G, H, D)", "k": "(B, *G, H, D)", "v": "(B, *G, H, Dv)",
               "bias": "(H, N, N)", "key_mask": "(B, *G)", "scale": "(H,)"}  # fmt: skip
    options = {"bias": bias, "key_mask": key_mask, "scale": _if_array(scale)}
    call = Call(letters, {"q": q, "k": k, "v": v}, options)
    call.together()
    if not 4 <= q.ndim <= 6:  # noqa: PLR2004  # one to three spatial axes
        call.wrong(f"q has {q.ndim} axes and needs 4 to 6: one to three of them are spatial.",
                   "q", clause="G1")  # fmt: skip
    call.floats("q", "k", "v", "bias", "scale")
    call.agree_in_dtype("q", "k", "v")
    call.shaped("k", tuple(q.shape), "G1")
    call.shaped("v", (*q.shape[:-1], *v.shape[-1:]), "G1")
    B, *G, H, D = q.shape
    extents = _per_axis(call, "window", window, len(G), least=1)
    shifts = _per_axis(call, "shift", shift, len(G), least=0)
    for axis, (w, s, g) in enumerate(zip(extents, shifts, G, strict=True)):
        if s >= w:
            call.wrong(f"shift is {s} on axis {axis}, where the window is {w}; "
                       "it must be smaller.", "q", clause="G2")  # fmt: skip
        if g < 1:
            call.wrong(f"the map has extent {g} on axis {axis}; it must be at least 1.",
                       "q", clause="G1")  # fmt: skip
    N = math.prod(extents)
    call.shaped("bias", (H, N, N), "G6")
    call.boolean("key_mask", "G6", "pass key_mask != 0")
    call.shaped("key_mask", (B, *G), "G6")
    call.shaped("scale", (H,), "G6")
    return _noted(WindowProblem(
        q=q, k=k, v=v, bias=bias, key_mask=key_mask, qkv=qkv, window=extents,
        shift=tuple(0 if w >= g else s for w, s, g in zip(extents, shifts, G, strict=True)),
        scale=scale if "scale" in call.given else _scale(call, scale, D),
        wrap_bias=_wrap_bias(call, wrap_bias),
    ), with_lse=with_lse)  # fmt: skip


def window_attention_qkv(qkv: Array, **options: Any) -> WindowProblem:
    """Describe a call of `window_attention_qkv`; see `attnref.api` for the arguments."""
    call = Call({"qkv": "(B, *G, 3, H, D)"}, {"qkv": qkv})
    if not 5 <= qkv.ndim <= 7:  # noqa: PLR2004  # one to three spatial axes
        call.wrong(f"qkv has {qkv.ndim} axes and needs 5 to 7: one to three of them are spatial.",
                   "qkv", clause="G1")  # fmt: skip
    if qkv.shape[-3] != 3:  # noqa: PLR2004  # q, k and v
        call.wrong("qkv must hold q, k and v on its third axis from the end, which has length "
                   f"{qkv.shape[-3]}.", "qkv", clause="G1")  # fmt: skip
    return window_attention(**split_qkv(qkv), **options, qkv=qkv)


def relative_position_bias(
    table: Array, *, window: tuple[int, ...]
) -> TableProblem:
    """Describe a call of `relative_position_bias`."""
    letters = {"table": "(prod(2 * window - 1), H)"}
    call = Call(letters, {"table": table})
    call.rank("table")
    call.floats("table")
    if not isinstance(window, tuple | list) or not 1 <= len(window) <= 3:  # type: ignore[redundant-expr]  # noqa: PLR2004
        call.wrong(f"window is {window!r}; a table needs one extent per axis, for one to three "
                   "axes.", "table", clause="G6", hint="window=(7, 7) for an image")  # fmt: skip
    extents = _per_axis(call, "window", window, len(window), least=1)
    rows = math.prod(2 * w - 1 for w in extents)
    if rows != table.shape[0]:
        call.wrong(f"table has {table.shape[0]} rows; window {extents} has {rows} "
                   "displacements.", "table", clause="G6")  # fmt: skip
    return _noted(TableProblem(table=table, window=extents))


def softmax(x: Array, *, axis: int = -1, tile: int | None = None) -> SoftmaxProblem:
    """Describe a call of `softmax`."""
    call = Call({"x": "(...)"}, {"x": x})
    call.floats("x")
    try:
        at = operator.index(axis)
    except TypeError:
        at = x.ndim
    if not -x.ndim <= at < x.ndim:
        call.wrong(f"axis is {axis!r} and x has {x.ndim} axes.", "x", clause="D5")
    tile = None if tile is None else call.whole("tile", tile, "D5", least=1)
    return _noted(SoftmaxProblem(x=x, axis=at % x.ndim, tile=tile))


def merge(out_a: Array, lse_a: Array, out_b: Array, lse_b: Array) -> MergeProblem:
    """Describe a call of `merge`."""
    letters = {"out_a": "(..., Dv)", "lse_a": "(...)", "out_b": "(..., Dv)", "lse_b": "(...)"}
    given = {"out_a": out_a, "lse_a": lse_a, "out_b": out_b, "lse_b": lse_b}
    call = Call(letters, given)
    call.together()
    call.floats(*given)
    call.agree_in_dtype("out_a", "out_b")
    if out_a.ndim < 1:
        call.wrong("out_a has no axis of values.", "out_a", clause="D3")
    call.shaped("out_b", tuple(out_a.shape), "D3")
    for lse in ("lse_a", "lse_b"):
        call.shaped(lse, tuple(out_a.shape[:-1]), "D3")
        wide = "float64" if arrays.dtype_name(out_a) == "float64" else "float32"
        if arrays.dtype_name(given[lse]) != wide:
            call.wrong(f"{lse} is {arrays.dtype_name(given[lse])}; with out_a it is {wide}.",
                       "out_a", lse, clause="A3")  # fmt: skip
    return _noted(MergeProblem(**given))


def like(name: str, x: Array, shape: tuple[int, ...], dtype: str, of: Array, letters: str) -> None:
    """Check an array that a backward call takes beside the forward's arguments."""
    call = Call({name: letters}, {name: x})
    mine = (arrays.library(x), arrays.device(x))
    theirs = (arrays.library(of), arrays.device(of))
    if mine != theirs:
        call.wrong(f"{name} is a {mine[0]} array on {mine[1]}; the inputs are {theirs[0]} "
                   f"arrays on {theirs[1]}.", name, clause="H3")  # fmt: skip
    call.shaped(name, shape, "E1")
    if arrays.dtype_name(x) != dtype:
        call.wrong(f"{name} is {arrays.dtype_name(x)}; it must be {dtype}.", name, clause="A3")


def _if_array(x: object) -> Array | None:
    return x if arrays.library(x) is not None else None


def _check_qkv(call: Call, *, heads: int, tokens: int) -> None:
    call.floats("q", "k", "v")
    call.agree_in_dtype("q", "k", "v")
    call.agree_in_size("q", -1, "k", -1, "a head size of {}")
    call.agree_in_size("k", tokens, "v", tokens, "{} keys")
    call.agree_in_size("k", heads, "v", heads, "{} heads")
    call.heads(call.given["q"].shape[heads], call.given["k"].shape[heads])
    if call.given["k"].ndim == 4:  # noqa: PLR2004  # (B, Hkv, Sk, D)
        call.agree_in_size("k", 0, "v", 0, "a batch of {}")


def _scale(call: Call, scale: object, D: int) -> float:
    if scale is not None:
        return call.number("scale", scale, "B1")
    if D == 0:
        call.wrong("q has a head size of 0, so scale has no default.", "q", clause="A4",
                   hint="attention(..., scale=1.0)")  # fmt: skip
    return 1.0 / math.sqrt(D)


def _softcap(call: Call, softcap: object) -> float | None:
    if softcap is None:
        return None
    return call.number("softcap", softcap, "B2", positive=True, off="; None is off")


def _bounds(call: Call, window: object, *, causal: object) -> Window:
    causal = call.flag("causal", causal, "C2")
    if window is None:
        window = (None, None)
    if not isinstance(window, tuple | list) or len(window) != 2:  # noqa: PLR2004
        call.wrong(f"window is {window!r}; it must be a pair (left, right).", clause="C2",
                   hint="None leaves a side unbounded")  # fmt: skip
    left, right = (
        None if n is None else _bound(call, f"window's {side} bound", n)
        for side, n in zip(("left", "right"), window, strict=True)
    )
    return left, 0 if causal else right


def _bound(call: Call, name: str, n: object) -> int:
    hint = "None leaves a side unbounded"
    return call.near(name, call.whole(name, n, "C2", least=0, hint=hint), "C2", hint)


def _alignment(
    call: Call, q_offset: Any, bounds: Window, B: int, *, unclear: str, end: Any
) -> Any:
    """Resolve where the first query stands; zero where that cannot matter (C3)."""
    choices = "q_offset='start' lines up the first positions, q_offset='end' the last"
    resolved = q_offset
    if _if_array(q_offset) is not None:
        for b, n in enumerate(_listed(call.integers("q_offset", B, "C3"))):
            call.near(f"q_offset[{b}]", n, "C3")
    elif isinstance(q_offset, str):
        if q_offset not in ("start", "end"):
            call.wrong(f"q_offset is {q_offset!r}.", clause="C3", hint=choices)
        resolved = 0 if q_offset == "start" else end
    elif q_offset is not None:
        try:
            resolved = call.near("q_offset", operator.index(q_offset), "C3")
        except TypeError:
            resolved = None
        if resolved is None or isinstance(q_offset, bool):
            call.wrong(f"q_offset is {q_offset!r}; it must be an integer, an integer array, "
                       "'start' or 'end'.", clause="C3")  # fmt: skip
    if bounds == (None, None):
        return 0
    if q_offset is None and unclear:
        call.wrong(
            f"causal or a window needs q_offset, because {unclear}.",
            "q", "k", "q_lens", "kv_lens", "cu_q", "cu_k",
            clause="C3",
            hint=choices,
        )  # fmt: skip
    return 0 if resolved is None else resolved


def _listed(values: Any) -> list[int]:
    return [] if values is None else values.tolist()


def _per_axis(
    call: Call, name: str, value: object, axes: int, *, least: int
) -> tuple[int, ...]:
    if isinstance(value, tuple | list):
        if len(value) != axes:
            call.wrong(f"{name} is {value!r} and the map has {axes} spatial axes.",
                       "q", clause="G2", hint="an integer means every axis")  # fmt: skip
        return tuple(call.whole(f"{name}[{a}]", n, "G2", least=least) for a, n in enumerate(value))
    return (call.whole(name, value, "G2", least=least),) * axes


def _wrap_bias(call: Call, value: object) -> float:
    if isinstance(value, Real) and value == -math.inf:
        return -math.inf
    return call.number("wrap_bias", value, "G3", off=", or -inf to hide wrapped pairs")


def _noted(problem: P, *, with_lse: bool = False) -> P:
    """Note what the caller will read: gradients need the log-sum-exp."""
    named = problem.arrays
    gradients = any(arrays.needs_gradient(named[n]) for n in problem.differentiable if n in named)
    return replace(problem, with_lse=with_lse or gradients, with_gradients=gradients)
