"""Arguments of window attention and of its bias."""

import math
from numbers import Real
from typing import Any

from attnref.arrays import Array
from attnref.checks import Call
from attnref.normalize.arguments import if_array, noted, scale_of
from attnref.problem import TableProblem, WindowProblem, split_qkv


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
    letters = {
        "q": "(B, *G, H, D)",
        "k": "(B, *G, H, D)",
        "v": "(B, *G, H, Dv)",
        "bias": "(H, N, N)",
        "key_mask": "(B, *G)",
        "scale": "(H,)",
    }
    options = {"bias": bias, "key_mask": key_mask, "scale": if_array(scale)}
    call = Call(letters, {"q": q, "k": k, "v": v}, options)
    call.together()
    if not 4 <= q.ndim <= 6:  # noqa: PLR2004  # one to three spatial axes
        call.wrong(
            f"q has {q.ndim} axes and needs 4 to 6: one to three of them are spatial.",
            "q",
            clause="G1",
        )
    call.floats("q", "k", "v", "bias", "scale")
    call.agree_in_dtype("q", "k", "v")
    call.shaped("k", tuple(q.shape), "G1")
    call.shaped("v", (*q.shape[:-1], *v.shape[-1:]), "G1")
    B, *G, H, D = q.shape
    extents = _per_axis(call, "window", window, len(G), least=1)
    shifts = _per_axis(call, "shift", shift, len(G), least=0)
    for axis, (w, s, g) in enumerate(zip(extents, shifts, G, strict=True)):
        if s >= w:
            call.wrong(
                f"shift is {s} on axis {axis}, where the window is {w}; it must be smaller.",
                "q",
                clause="G2",
            )
        if g < 1:
            call.wrong(
                f"the map has extent {g} on axis {axis}; it must be at least 1.", "q", clause="G1"
            )
    N = math.prod(extents)
    call.shaped("bias", (H, N, N), "G6")
    call.boolean("key_mask", "G6")
    call.shaped("key_mask", (B, *G), "G6")
    call.shaped("scale", (H,), "G6")
    return noted(
        WindowProblem(
            q=q,
            k=k,
            v=v,
            bias=bias,
            key_mask=key_mask,
            qkv=qkv,
            window=extents,
            shift=tuple(0 if w >= g else s for w, s, g in zip(extents, shifts, G, strict=True)),
            scale=scale if "scale" in call.given else scale_of(call, scale, D),
            wrap_bias=_wrap_bias(call, wrap_bias),
        ),
        with_lse=with_lse,
    )


def window_attention_qkv(qkv: Array, **options: Any) -> WindowProblem:
    """Describe a call of `window_attention_qkv`; see `attnref.api` for the arguments."""
    call = Call({"qkv": "(B, *G, 3, H, D)"}, {"qkv": qkv})
    if not 5 <= qkv.ndim <= 7:  # noqa: PLR2004  # one to three spatial axes
        call.wrong(
            f"qkv has {qkv.ndim} axes and needs 5 to 7: one to three of them are spatial.",
            "qkv",
            clause="G1",
        )
    if qkv.shape[-3] != 3:  # noqa: PLR2004  # q, k and v
        call.wrong(
            "qkv must hold q, k and v on its third axis from the end, which has length "
            f"{qkv.shape[-3]}.",
            "qkv",
            clause="G1",
        )
    return window_attention(**split_qkv(qkv), **options, qkv=qkv)


def relative_position_bias(table: Array, *, window: tuple[int, ...]) -> TableProblem:
    """Describe a call of `relative_position_bias`."""
    letters = {"table": "(prod(2 * window - 1), H)"}
    call = Call(letters, {"table": table})
    call.rank("table")
    call.floats("table")
    if not isinstance(window, tuple | list) or not 1 <= len(window) <= 3:  # type: ignore[redundant-expr]  # noqa: PLR2004
        call.wrong(
            f"window is {window!r}; a table needs one extent per axis, for one to three axes.",
            "table",
            clause="G6",
            hint="window=(7, 7) for an image",
        )
    extents = _per_axis(call, "window", window, len(window), least=1)
    rows = math.prod(2 * w - 1 for w in extents)
    if rows != table.shape[0]:
        call.wrong(
            f"table has {table.shape[0]} rows; window {extents} has {rows} displacements.",
            "table",
            clause="G6",
        )
    return noted(TableProblem(table=table, window=extents))


def _per_axis(call: Call, name: str, value: object, axes: int, *, least: int) -> tuple[int, ...]:
    if isinstance(value, tuple | list):
        if len(value) != axes:
            call.wrong(
                f"{name} is {value!r} and the map has {axes} spatial axes.",
                "q",
                clause="G2",
                hint="an integer means every axis",
            )
        return tuple(call.whole(f"{name}[{a}]", n, "G2", least=least) for a, n in enumerate(value))
    return (call.whole(name, value, "G2", least=least),) * axes


def _wrap_bias(call: Call, value: object) -> float:
    if isinstance(value, Real) and value == -math.inf:
        return -math.inf
    return call.number("wrap_bias", value, "G3", off=", or -inf to hide wrapped pairs")
