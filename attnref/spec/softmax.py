r"""
# Softmax, by tiles

A row of scores need not be held whole. Read it a tile at a time and carry three
things: the largest score so far `m`, the sum of exponentials `l` measured from that
maximum, and the values weighted by the same exponentials `acc`. When a larger score
turns up, what was carried is rescaled to the new maximum. At the end

$$\mathrm{out} = \mathrm{acc} / l, \qquad \mathrm{lse} = m + \log l.$$

This is all there is to FlashAttention's forward pass. Everything else in this
chapter follows from one fact: two states of disjoint keys `merge` into the state of
their union. The order of tiles, their sizes, and whether the parts were computed in
one loop or on two machines do not matter beyond rounding (D1).

A row that saw nothing has an empty sum. That, and never the running maximum, is how
emptiness is told: a maximum can be a NaN that somebody must hear about (C5, C6).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class State(NamedTuple):
    """What is known of each row after some of its keys."""

    m: Float[np.ndarray, "*rows"]
    """The largest score seen; minus infinity if none."""
    l: Float[np.ndarray, "*rows"]  # the letter of the equation
    """The sum of `exp(s - m)` over the keys seen."""
    acc: Float[np.ndarray, "*rows Dv"]
    """The sum of `exp(s - m) * v` over the keys seen."""


class Rows(NamedTuple):
    """Finished rows."""

    out: Float[np.ndarray, "*rows Dv"]
    lse: Float[np.ndarray, "*rows"]


def exp_from(
    m: float | Float[np.ndarray, "*rows"], s: Float[np.ndarray, "*rows n"]
) -> Float[np.ndarray, "*rows n"]:
    r"""
    Measure scores from a maximum.

    $$e^{s - m}$$

    A score of minus infinity gives exactly zero, also where the maximum itself is
    minus infinity and the difference would be NaN.
    """
    return np.exp(s - np.where(m == -np.inf, 0.0, m)[..., None])


def weigh(
    p: Float[np.ndarray, "*rows n"],
    s: Float[np.ndarray, "*rows n"],
    v: Float[np.ndarray, "*b n Dv"],
) -> Float[np.ndarray, "*rows Dv"]:
    r"""
    Sum the values that a row sees.

    $$\sum_{j : s_j \ne -\infty} p_j\, v_j$$

    The sum runs over visible keys only. A product with a zero weight would not do:
    zero times NaN is NaN, and what a row may not see must not reach it. What it does
    see must: a visible value that is not finite makes the sum NaN (C6).
    """
    finite = np.isfinite(v)
    if finite.all():
        return p @ v
    poisoned = (s != -np.inf).astype(np.float64) @ ~finite > 0
    return np.where(poisoned, np.nan, p @ np.where(finite, v, 0.0))


def empty(rows: tuple[int, ...], Dv: int) -> State:
    """Make the state that has seen nothing, the identity of `merge` (D1)."""
    return State(np.full(rows, -np.inf), np.zeros(rows), np.zeros((*rows, Dv)))


def from_tile(s: Float[np.ndarray, "*rows n"], v: Float[np.ndarray, "*b n Dv"]) -> State:
    r"""
    Make the state that has seen one tile.

    $$m = \max_j s_j, \quad l = \sum_j e^{s_j - m}, \quad
    \mathrm{acc} = \sum_j e^{s_j - m} v_j$$

    Invisible keys arrive with a score of minus infinity (B4).
    """
    m = s.max(axis=-1, initial=-np.inf)
    p = exp_from(m, s)
    return State(m, p.sum(axis=-1), weigh(p, s, v))


def from_sink(sink: Float[np.ndarray, "*rows"], Dv: int) -> State:
    """
    Make the state that has seen a sink: one logit whose value is zero.

    A sink takes weight and gives nothing. A sink of minus infinity is none; one that is
    NaN or plus infinity is a score like any other, and makes its rows NaN (C6, D4).
    """
    seen = np.where(sink == -np.inf, 0.0, 1.0)
    return State(sink, seen, np.zeros((*sink.shape, Dv)))


def merge(x: State, y: State) -> State:
    r"""
    Join the states of two disjoint sets of keys.

    $$m = \max(m_x, m_y), \quad
    l = e^{m_x - m} l_x + e^{m_y - m} l_y, \quad
    \mathrm{acc} = e^{m_x - m} \mathrm{acc}_x + e^{m_y - m} \mathrm{acc}_y$$
    """
    m = np.maximum(x.m, y.m)
    base = np.where(m == -np.inf, 0.0, m)
    wx, wy = np.exp(x.m - base), np.exp(y.m - base)
    acc = wx[..., None] * x.acc + wy[..., None] * y.acc
    return State(m, wx * x.l + wy * y.l, acc)


def update(state: State, s: Float[np.ndarray, "*rows n"], v: Float[np.ndarray, "*b n Dv"]) -> State:
    """Show the rows one more tile."""
    return merge(state, from_tile(s, v))


def finish(state: State) -> Rows:
    r"""
    Turn a state into results.

    $$\mathrm{out} = \mathrm{acc} / l, \qquad \mathrm{lse} = m + \log l$$

    The logarithm is the natural one (D2). An empty sum gives zero and minus infinity
    (C5).
    """
    nothing = state.l == 0
    l = np.where(nothing, 1.0, state.l)
    return Rows(
        out=state.acc / l[..., None],
        lse=np.where(nothing, -np.inf, state.m + np.log(l)),
    )


def merge_rows(a: Rows, b: Rows) -> Rows:
    """
    Join finished rows of two disjoint sets of keys.

    A finished row is a state whose sum is one, measured from its log-sum-exp. A part
    that saw nothing is `(0, -inf)` and changes nothing, on either side (D3).
    """
    x, y = (State(r.lse, np.where(r.lse == -np.inf, 0.0, 1.0), r.out) for r in (a, b))
    return finish(merge(x, y))


def merge_rows_backward(
    dout: Float[np.ndarray, "*rows Dv"],
    dlse: Float[np.ndarray, "*rows"],
    part: Rows,
    whole: Rows,
) -> Rows:
    r"""
    Pass a merged row's gradient to one of its parts.

    $$w = e^{\mathrm{lse}_{part} - \mathrm{lse}}, \quad
    d\mathrm{out}_{part} = w\, d\mathrm{out}, \quad
    d\mathrm{lse}_{part} = w\, (d\mathrm{lse} +
    d\mathrm{out} \cdot (\mathrm{out}_{part} - \mathrm{out}))$$

    A part that saw nothing has no weight and receives nothing (D3).
    """
    nothing = part.lse == -np.inf
    w = np.where(nothing, 0.0, np.exp(part.lse - np.where(nothing, 0.0, whole.lse)))
    along = (dout * (part.out - whole.out)).sum(axis=-1)
    return Rows(
        out=np.where(nothing[..., None], 0.0, w[..., None] * dout),
        lse=np.where(nothing, 0.0, w * (dlse + along)),
    )


def softmax(
    x: Float[np.ndarray, "..."], axis: int = -1, tile: int | None = None
) -> Float[np.ndarray, "..."]:
    r"""
    Turn scores along an axis into weights.

    $$y_j = e^{x_j - m} / l$$

    Softmax is attention whose values nobody asked for: the state is carried through
    the tiles with values of size zero. The tile never changes the meaning. A slice of
    minus infinities gives zeros; a NaN or plus infinity spoils its own slice and no
    other (D5).
    """
    x = np.moveaxis(x, axis, -1)
    n = x.shape[-1]
    state, nowhere = empty(x.shape[:-1], 0), np.zeros((n, 0))
    tile = tile or max(n, 1)
    for j in range(0, n, tile):
        state = update(state, x[..., j : j + tile], nowhere[j : j + tile])
    l = np.where(state.l == 0, 1.0, state.l)
    return np.moveaxis(exp_from(state.m, x) / l[..., None], -1, axis)


def softmax_backward(
    dy: Float[np.ndarray, "..."], y: Float[np.ndarray, "..."], axis: int = -1
) -> Float[np.ndarray, "..."]:
    r"""
    Pass a gradient back through softmax.

    $$dx_j = y_j\, (dy_j - \sum_k y_k\, dy_k)$$
    """
    return y * (dy - (y * dy).sum(axis=axis, keepdims=True))
