"""
# Packed sequences

Sequences of unequal length need not be padded. They lie end to end along one axis of
tokens, and prefix sums say where each begins: sequence `n` owns the tokens from
`cu[n]` up to `cu[n + 1]`. No token sees another sequence. A sequence may be empty, and
tokens past the last offset belong to nobody (F1).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .attention import attention
from .gradients import AttentionGradients, attention_backward
from .softmax import Rows


def sequences(
    cu_q: Int[np.ndarray, " n"],
    cu_k: Int[np.ndarray, " n"],
    q_offset: int | Int[np.ndarray, " n-1"],
) -> Iterator[tuple[slice, slice, int]]:
    """Walk the sequences: their queries, their keys, their alignment."""
    offsets = np.broadcast_to(np.asarray(q_offset, np.int64), len(cu_q) - 1)
    for n, offset in enumerate(offsets):
        yield slice(cu_q[n], cu_q[n + 1]), slice(cu_k[n], cu_k[n + 1]), int(offset)


def heads_first(x: Float[np.ndarray, "T H D"]) -> Float[np.ndarray, "1 H T D"]:
    """Turn packed tokens into a batch of one."""
    return x.swapaxes(0, 1)[None]


def attention_varlen(
    q: Float[np.ndarray, "Tq Hq D"],
    k: Float[np.ndarray, "Tk Hkv D"],
    v: Float[np.ndarray, "Tk Hkv Dv"],
    cu_q: Int[np.ndarray, " n"],
    cu_k: Int[np.ndarray, " n"],
    *,
    q_offset: int | Int[np.ndarray, " n-1"] = 0,
    **options: Any,
) -> Rows:
    """
    Attend inside each sequence.

    Rows past the last offset give zero and minus infinity (F1).
    """
    Tq, Hq, _ = q.shape
    out, lse = np.zeros((Tq, Hq, v.shape[-1])), np.full((Hq, Tq), -np.inf)
    for queries, keys, offset in sequences(cu_q, cu_k, q_offset):
        rows = attention(
            *(heads_first(x) for x in (q[queries], k[keys], v[keys])),
            q_offset=offset,
            **options,
        )
        out[queries], lse[:, queries] = rows.out[0].swapaxes(0, 1), rows.lse[0]
    return Rows(out, lse)


def attention_varlen_backward(
    dout: Float[np.ndarray, "Tq Hq Dv"],
    dlse: Float[np.ndarray, "Hq Tq"],
    q: Float[np.ndarray, "Tq Hq D"],
    k: Float[np.ndarray, "Tk Hkv D"],
    v: Float[np.ndarray, "Tk Hkv Dv"],
    out: Float[np.ndarray, "Tq Hq Dv"],
    lse: Float[np.ndarray, "Hq Tq"],
    cu_q: Int[np.ndarray, " n"],
    cu_k: Int[np.ndarray, " n"],
    *,
    q_offset: int | Int[np.ndarray, " n-1"] = 0,
    sinks: Float[np.ndarray, " Hq"] | None = None,
    **options: Any,
) -> AttentionGradients:
    """
    Pass gradients back through `attention_varlen`.

    Sinks belong to every sequence, so what the sequences say to them is added up.
    """
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    dsinks = None if sinks is None else np.zeros(sinks.shape)
    for queries, keys, offset in sequences(cu_q, cu_k, q_offset):
        g = attention_backward(
            heads_first(dout[queries]),
            dlse[None, :, queries],
            heads_first(q[queries]),
            heads_first(k[keys]),
            heads_first(v[keys]),
            heads_first(out[queries]),
            lse[None, :, queries],
            q_offset=offset,
            sinks=sinks,
            **options,
        )
        dq[queries], dk[keys], dv[keys] = (x[0].swapaxes(0, 1) for x in g[:3])
        if dsinks is not None and g.dsinks is not None:
            dsinks += g.dsinks
    return AttentionGradients(dq, dk, dv, None, dsinks)
