"""Arguments of attention, over padded batches and packed sequences."""

import operator
from typing import Any, Literal

import numpy as np

from attnref.arrays import Array, host_values
from attnref.checks import Call
from attnref.normalize.arguments import if_array, noted, scale_of
from attnref.problem import AttentionProblem, VarlenProblem, Window

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
    options = {
        "mask": mask,
        "bias": bias,
        "sinks": sinks,
        "q_lens": q_lens,
        "kv_lens": kv_lens,
        "q_offset": if_array(q_offset),
    }
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
    return noted(
        AttentionProblem(
            q=q,
            k=k,
            v=v,
            mask=mask,
            bias=bias,
            sinks=sinks,
            q_lens=q_lens,
            kv_lens=kv_lens,
            scale=scale_of(call, scale, D),
            softcap=_softcap(call, softcap),
            window=bounds,
            q_offset=_alignment(
                call,
                q_offset,
                bounds,
                B,
                unclear=unclear if lens or Sq != Sk else "",
                end="end" if lens else Sk - Sq,
            ),
        ),
        with_lse=with_lse,
    )


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
    call = Call(_VARLEN_LETTERS, given, {"sinks": sinks, "q_offset": if_array(q_offset)})
    call.together()
    call.rank("q", "k", "v", "cu_q", "cu_k")
    _check_qkv(call, heads=1, tokens=0)
    call.agree_in_size("cu_q", 0, "cu_k", 0, "{} entries")
    call.offsets("cu_q", q.shape[0], "q")
    call.offsets("cu_k", k.shape[0], "k")
    call.floats("sinks")
    call.shaped("sinks", (q.shape[1],), "D4")
    bounds = _bounds(call, window, causal=causal)
    return noted(
        VarlenProblem(
            q=q,
            k=k,
            v=v,
            cu_q=cu_q,
            cu_k=cu_k,
            sinks=sinks,
            scale=scale_of(call, scale, q.shape[2]),
            softcap=_softcap(call, softcap),
            window=bounds,
            q_offset=_alignment(
                call,
                q_offset,
                bounds,
                cu_q.shape[0] - 1,
                unclear="" if cu_k is cu_q else "cu_k is not cu_q",
                end="end",
            ),
            max_q=_longest(call, "max_q", max_q, "cu_q"),
            max_k=_longest(call, "max_k", max_k, "cu_k"),
        ),
        with_lse=with_lse,
    )


def _check_qkv(call: Call, *, heads: int, tokens: int) -> None:
    call.floats("q", "k", "v")
    call.agree_in_dtype("q", "k", "v")
    call.agree_in_size("q", -1, "k", -1, "a head size of {}")
    call.agree_in_size("k", tokens, "v", tokens, "{} keys")
    call.agree_in_size("k", heads, "v", heads, "{} heads")
    call.heads(call.given["q"].shape[heads], call.given["k"].shape[heads])
    if call.given["k"].ndim == 4:  # noqa: PLR2004  # (B, Hkv, Sk, D)
        call.agree_in_size("k", 0, "v", 0, "a batch of {}")


def _longest(call: Call, name: str, value: object, cu: str) -> int | None:
    """A hint that the prefix sums, where the host holds them, do not contradict (F1)."""
    if value is None:
        return None
    n = call.whole(name, value, "F1", least=0)
    steps = host_values(call.given[cu])
    longest = 0 if steps is None else int(np.diff(steps).max(initial=0))
    if longest > n:
        call.wrong(
            f"{name} is {n}, and the longest sequence of {cu} has {longest} tokens.",
            cu,
            clause="F1",
        )
    return n


def _softcap(call: Call, softcap: object) -> float | None:
    if softcap is None:
        return None
    return call.number("softcap", softcap, "B2", positive=True, off="; None is off")


def _bounds(call: Call, window: object, *, causal: object) -> Window:
    causal = call.flag("causal", causal, "C2")
    if window is None:
        window = (None, None)
    if not isinstance(window, tuple | list) or len(window) != 2:  # noqa: PLR2004
        call.wrong(
            f"window is {window!r}; it must be a pair (left, right).",
            clause="C2",
            hint="None leaves a side unbounded",
        )
    left, right = (
        None if n is None else _bound(call, f"window's {side} bound", n)
        for side, n in zip(("left", "right"), window, strict=True)
    )
    return left, 0 if causal else right


def _bound(call: Call, name: str, n: object) -> int:
    hint = "None leaves a side unbounded"
    return call.near(name, call.whole(name, n, "C2", least=0, hint=hint), "C2", hint)


def _alignment(call: Call, q_offset: Any, bounds: Window, B: int, *, unclear: str, end: Any) -> Any:
    """Resolve where the first query stands; zero where that cannot matter (C3)."""
    choices = "q_offset='start' lines up the first positions, q_offset='end' the last"
    resolved = q_offset
    if if_array(q_offset) is not None:
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
            call.wrong(
                f"q_offset is {q_offset!r}; it must be an integer, an integer array, "
                "'start' or 'end'.",
                clause="C3",
            )
    if bounds == (None, None):
        return 0
    if q_offset is None and unclear:
        call.wrong(
            f"causal or a window needs q_offset, because {unclear}.",
            "q",
            "k",
            "q_lens",
            "kv_lens",
            "cu_q",
            "cu_k",
            clause="C3",
            hint=choices,
        )
    return 0 if resolved is None else resolved


def _listed(values: Any) -> list[int]:
    return [] if values is None else values.tolist()
