r"""
# Attention

Scores, visibility and softmax, put together. It is written twice. `dense` takes a row
whole and is the definition; `tiled` reads the keys a tile at a time and never holds a
row of scores. They are the same function: a dense row *is* one tile, and states merge.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from .scores import repeat_heads, scores
from .softmax import Rows, empty, finish, from_sink, from_tile, merge, update
from .visibility import visible, within


def keep(
    x: Float[np.ndarray, "B H S *rest"], lens: Int[np.ndarray, " B"] | None
) -> Float[np.ndarray, "B H S *rest"]:
    """
    Put zeros where a sequence has ended.

    Positions past a length hold nobody's data, NaN included; zeros keep them from
    reaching a sum through a product with a zero weight (C4).
    """
    if lens is None:
        return x
    inside = within(np.arange(x.shape[2]), lens[:, None, None])
    return np.where(inside if x.ndim == 3 else inside[..., None], x, 0.0)  # noqa: PLR2004


def dense(
    q: Float[np.ndarray, "B Hq Sq D"],
    k: Float[np.ndarray, "B Hq Sk D"],
    v: Float[np.ndarray, "B Hq Sk Dv"],
    seen: Bool[np.ndarray, "B #Hq Sq Sk"],
    *,
    scale: float | Float[np.ndarray, "#H 1 1"],
    softcap: float | None = None,
    bias: Float[np.ndarray, "..."] | None = None,
    sink: Float[np.ndarray, "B Hq Sq"] | None = None,
) -> Rows:
    """
    Attend with every score of a row at hand.

    Invisible positions are removed by selection: their score becomes minus infinity
    whatever it was, NaN included (B4).
    """
    s = scores(q, k, scale=scale, softcap=softcap, bias=bias)
    state = from_tile(np.where(seen, s, -np.inf), v)
    if sink is not None:
        state = merge(from_sink(sink, v.shape[-1]), state)
    return finish(state)


def tiled(
    q: Float[np.ndarray, "B Hq Sq D"],
    k: Float[np.ndarray, "B Hq Sk D"],
    v: Float[np.ndarray, "B Hq Sk Dv"],
    seen: Bool[np.ndarray, "B #Hq Sq Sk"],
    *,
    tile: int,
    scale: float | Float[np.ndarray, "#H 1 1"],
    softcap: float | None = None,
    bias: Float[np.ndarray, "..."] | None = None,
    sink: Float[np.ndarray, "B Hq Sq"] | None = None,
) -> Rows:
    """
    Attend one tile of keys at a time.

    No row of scores is held. The result is that of `dense` up to rounding, for every
    tile (D1).
    """
    Sk, Dv = v.shape[-2:]
    state = empty(q.shape[:-1], Dv) if sink is None else from_sink(sink, Dv)
    if bias is not None:
        bias = np.broadcast_to(bias, (*q.shape[:-1], Sk))
    for j in range(0, Sk, tile):
        at = slice(j, j + tile)
        part = None if bias is None else bias[..., at]
        s = scores(q, k[..., at, :], scale=scale, softcap=softcap, bias=part)
        state = update(state, np.where(seen[..., at], s, -np.inf), v[..., at, :])
    return finish(state)


def sink_rows(
    sinks: Float[np.ndarray, " Hq"] | None,
    B: int,
    Sq: int,
    q_lens: Int[np.ndarray, " B"] | None,
) -> Float[np.ndarray, "B Hq Sq"] | None:
    """
    Give every real row its head's sink.

    Rows past a length are not real and have none: their log-sum-exp stays minus
    infinity (D4).
    """
    if sinks is None:
        return None
    real = within(
        np.arange(Sq), np.full((B, 1, 1), Sq) if q_lens is None else q_lens[:, None, None]
    )
    return np.where(real, sinks[:, None], -np.inf)


def attention(
    q: Float[np.ndarray, "B Hq Sq D"],
    k: Float[np.ndarray, "B Hkv Sk D"],
    v: Float[np.ndarray, "B Hkv Sk Dv"],
    *,
    scale: float,
    window: tuple[int | None, int | None] = (None, None),
    q_offset: int | Int[np.ndarray, " B"] = 0,
    mask: Bool[np.ndarray, "..."] | None = None,
    bias: Float[np.ndarray, "..."] | None = None,
    softcap: float | None = None,
    sinks: Float[np.ndarray, " Hq"] | None = None,
    q_lens: Int[np.ndarray, " B"] | None = None,
    kv_lens: Int[np.ndarray, " B"] | None = None,
    tile: int | None = None,
) -> Rows:
    r"""
    Attend, with every option.

    $$\mathrm{out}_i = \sum_{j \text{ visible}} e^{s_{ij} - \mathrm{lse}_i}\, v_j$$

    With a `tile` the keys are read that many at a time; the result is the same.
    """
    B, Hq, Sq, _ = q.shape
    seen = visible(
        B,
        Sq,
        k.shape[2],
        window=window,
        q_offset=q_offset,
        mask=mask,
        q_lens=q_lens,
        kv_lens=kv_lens,
    )
    q, k, v = keep(q, q_lens), keep(k, kv_lens), keep(v, kv_lens)
    k, v = repeat_heads(k, Hq), repeat_heads(v, Hq)
    sink = sink_rows(sinks, B, Sq, q_lens)
    if tile is None:
        return dense(q, k, v, seen, scale=scale, softcap=softcap, bias=bias, sink=sink)
    return tiled(q, k, v, seen, tile=tile, scale=scale, softcap=softcap, bias=bias, sink=sink)
