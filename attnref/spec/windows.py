r"""
# Windows and shifted windows

On a map, a sentence, an image or a video, attention between all pairs costs the
square of the number of places. Windows keep it linear: the map, of one to three spatial
axes (G1), is cut into equal boxes and each token attends inside its own. Every second
layer shifts the cut, so that what was a border becomes an interior and news can cross.

The shift is a roll of the map. A roll carries tokens across the far edge to the near
one, and windows there hold tokens that were never neighbours. Such pairs are *wrapped*.
By default they do not see each other; published models add a finite bias instead, and
that is expressible too (G3).

Per axis of extent $g$, window $w$ and shift $s$, a token at $x$ has

$$\text{region } r = \lfloor (x - s) / w \rfloor, \qquad
\text{place } (x - s) \bmod w, \qquad
\text{window } r \bmod \lceil g / w \rceil.$$

Tokens share a window if their windows agree on every axis, and a pair is wrapped if
their regions differ on any (G2).
"""

from math import prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from .attention import dense
from .gradients import dense_backward, sum_to
from .softmax import Rows

Extents = tuple[int, ...]
"""One number per spatial axis."""


class WindowGradients(NamedTuple):
    """The gradients of `window_attention`; `None` where there was no such input."""

    dq: Float[np.ndarray, "B *G H D"]
    dk: Float[np.ndarray, "B *G H D"]
    dv: Float[np.ndarray, "B *G H Dv"]
    dbias: Float[np.ndarray, "H N N"] | None
    dscale: Float[np.ndarray, " H"]


def counts(G: Extents, window: Extents) -> Extents:
    r"""
    Count the windows along each axis.

    $$\lceil g / w \rceil$$

    Extents need not be multiples of the window: the map is padded at its far end (G5).
    """
    return tuple(-(-g // w) for g, w in zip(G, window, strict=True))


def effective_shift(G: Extents, window: Extents, shift: Extents) -> Extents:
    """
    Drop the shift where there is nothing to shift across.

    Along an axis that one window covers, the shift is zero. The window itself never
    shrinks (G4).
    """
    return tuple(0 if w >= g else s for g, w, s in zip(G, window, shift, strict=True))


def partition(x: np.ndarray, window: Extents, shift: Extents) -> np.ndarray:
    """
    Cut a map `(B, *G, ...)` into windows `(B * windows, N, ...)`.

    First pad at the far end, then roll by the negative shift, then cut from the origin
    (G2, G5). Windows and the tokens in them are in row-major order.
    """
    axes = len(window)
    B, G, rest = x.shape[0], x.shape[1 : axes + 1], x.shape[axes + 1 :]
    n = counts(G, window)
    far = [(0, c * w - g) for c, w, g in zip(n, window, G, strict=True)]
    x = np.pad(x, [(0, 0), *far, *[(0, 0)] * len(rest)])
    x = np.roll(x, [-s for s in shift], axis=tuple(range(1, axes + 1)))
    x = x.reshape(B, *(e for pair in zip(n, window, strict=True) for e in pair), *rest)
    outer, inner = range(1, 2 * axes + 1, 2), range(2, 2 * axes + 2, 2)
    x = x.transpose(0, *outer, *inner, *range(2 * axes + 1, x.ndim))
    return x.reshape(B * prod(n), prod(window), *rest)


def reverse(x: np.ndarray, G: Extents, window: Extents, shift: Extents) -> np.ndarray:
    """Put windows `(B * windows, N, ...)` back together: the inverse of `partition`."""
    axes, rest = len(window), x.shape[2:]
    n = counts(G, window)
    B = x.shape[0] // max(prod(n), 1)
    x = x.reshape(B, *n, *window, *rest)
    pairs = [a for i in range(axes) for a in (1 + i, 1 + axes + i)]
    x = x.transpose(0, *pairs, *range(2 * axes + 1, x.ndim))
    x = x.reshape(B, *(c * w for c, w in zip(n, window, strict=True)), *rest)
    x = np.roll(x, shift, axis=tuple(range(1, axes + 1)))
    return x[:, *(slice(g) for g in G)]


def wrapped(G: Extents, window: Extents, shift: Extents) -> Bool[np.ndarray, "windows N N"]:
    r"""
    Tell which pairs of a window met only because the map was rolled.

    $$\text{wrapped} = \exists\, \text{axis}: r_i \ne r_j$$
    """
    differ = np.zeros((1, 1, 1), bool)
    for axis, (g, w, s) in enumerate(zip(G, window, shift, strict=True)):
        padded = -(-g // w) * w
        line = [1] * len(G)
        line[axis] = padded
        region = ((np.arange(padded) - s) // w).reshape(1, *line)
        whole = (1, *(c * e for c, e in zip(counts(G, window), window, strict=True)))
        r = partition(np.broadcast_to(region, whole), window, shift)
        differ = differ | (r[:, :, None] != r[:, None, :])
    return differ


def allowed(
    G: Extents,
    window: Extents,
    shift: Extents,
    key_mask: Bool[np.ndarray, "B *G"],
    *,
    wrap: bool,
) -> Bool[np.ndarray, "maps 1 N N"]:
    """
    Tell who may see whom in every window.

    Padding holds no token, so it neither asks nor is seen; a token that `key_mask` hides
    is not seen but still asks (G5, G6). Wrapped pairs see each other only if `wrap` says so.
    """
    asks = partition(np.ones_like(key_mask), window, shift)[:, None, :, None]
    pairs = asks & partition(key_mask, window, shift)[:, None, None, :]
    if wrap:
        return pairs
    across = wrapped(G, window, shift)[:, None]
    return pairs & ~np.tile(across, (key_mask.shape[0], 1, 1, 1))


def relative_position_index(window: Extents) -> Int[np.ndarray, "N N"]:
    r"""
    Number the displacements between two tokens of a window.

    $$d_a = \text{query}_a - \text{key}_a, \qquad
    \text{index} = \mathrm{ravel}\,(d + w - 1) \text{ in } (2 w - 1)$$

    Queries come first and tokens are row-major, so equal displacements share an index
    (G6).
    """
    tokens = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij"), axis=-1)
    tokens = tokens.reshape(-1, len(window))
    d = tokens[:, None] - tokens[None, :] + np.array(window) - 1
    return np.ravel_multi_index(tuple(np.moveaxis(d, -1, 0)), [2 * w - 1 for w in window])


def relative_position_bias(
    table: Float[np.ndarray, "R H"], window: Extents
) -> Float[np.ndarray, "H N N"]:
    r"""
    Look up the bias of every pair of a window.

    $$\mathrm{bias}_{hij} = \mathrm{table}_{\mathrm{index}(i, j),\, h}$$
    """
    return np.moveaxis(table[relative_position_index(window)], -1, 0)


def relative_position_bias_backward(
    dbias: Float[np.ndarray, "H N N"], window: Extents
) -> Float[np.ndarray, "R H"]:
    """Add up what all pairs of equal displacement say to their table entry."""
    dtable = np.zeros((prod(2 * w - 1 for w in window), dbias.shape[0]))
    np.add.at(dtable, relative_position_index(window), np.moveaxis(dbias, 0, -1))
    return dtable


def pair_bias(
    G: Extents,
    window: Extents,
    shift: Extents,
    B: int,
    bias: Float[np.ndarray, "H N N"] | None,
    wrap_bias: float,
) -> Float[np.ndarray, "..."] | None:
    """
    Add the wrap bias, once, to the bias of wrapped pairs.

    Minus infinity is left to visibility; a finite number is a bias like any other and
    takes part in the log-sum-exp (G3).
    """
    if wrap_bias == -np.inf:
        return bias
    across = np.tile(wrapped(G, window, shift)[:, None], (B, 1, 1, 1))
    wrap = np.where(across, wrap_bias, 0.0)
    return wrap if bias is None else bias + wrap


def heads_first(x: np.ndarray, window: Extents, shift: Extents) -> np.ndarray:
    """Cut `(B, *G, H, D)` into windows and put the heads first: `(B', H, N, D)`."""
    return np.swapaxes(partition(x, window, shift), 1, 2)


def heads_last(x: np.ndarray, G: Extents, window: Extents, shift: Extents) -> np.ndarray:
    """Undo `heads_first`."""
    return reverse(np.swapaxes(x, 1, 2), G, window, shift)


def window_attention(
    q: Float[np.ndarray, "B *G H D"],
    k: Float[np.ndarray, "B *G H D"],
    v: Float[np.ndarray, "B *G H Dv"],
    *,
    window: Extents,
    shift: Extents,
    scale: float | Float[np.ndarray, " H"],
    bias: Float[np.ndarray, "H N N"] | None = None,
    key_mask: Bool[np.ndarray, "B *G"] | None = None,
    wrap_bias: float = -np.inf,
) -> Rows:
    """
    Attend inside shifted windows of a map.

    Maps have one to three spatial axes, each at least one long, with heads and sizes
    behind them; queries and keys have one shape, and values all of it but the size (G1).
    Pad, roll, cut, attend, put back: nothing else happens, and nothing remembers a
    previous call (G2, G7).
    """
    B, G = q.shape[0], q.shape[1:-2]
    shift = effective_shift(G, window, shift)
    key_mask = np.ones((B, *G), bool) if key_mask is None else key_mask
    q, k, v = (heads_first(x, window, shift) for x in (q, k, v))
    out, lse = dense(
        q,
        k,
        v,
        allowed(G, window, shift, key_mask, wrap=wrap_bias != -np.inf),
        scale=np.reshape(scale, (-1, 1, 1)),
        bias=pair_bias(G, window, shift, B, bias, wrap_bias),
    )
    return Rows(
        out=heads_last(out, G, window, shift),
        lse=heads_last(lse[..., None], G, window, shift)[..., 0],
    )


def window_attention_backward(
    dout: Float[np.ndarray, "B *G H Dv"],
    dlse: Float[np.ndarray, "B *G H"],
    q: Float[np.ndarray, "B *G H D"],
    k: Float[np.ndarray, "B *G H D"],
    v: Float[np.ndarray, "B *G H Dv"],
    out: Float[np.ndarray, "B *G H Dv"],
    lse: Float[np.ndarray, "B *G H"],
    *,
    window: Extents,
    shift: Extents,
    scale: float | Float[np.ndarray, " H"],
    bias: Float[np.ndarray, "H N N"] | None = None,
    key_mask: Bool[np.ndarray, "B *G"] | None = None,
    wrap_bias: float = -np.inf,
) -> WindowGradients:
    r"""
    Pass gradients back through `window_attention`.

    The bias is shared by every window and every map of the batch, so what they say is
    added up. A scale per head receives

    $$d\tau_h = \sum dA\, (q \cdot k).$$

    The wrap bias is a constant and receives nothing (G3, G6).
    """
    B, G = q.shape[0], q.shape[1:-2]
    shift = effective_shift(G, window, shift)
    key_mask = np.ones((B, *G), bool) if key_mask is None else key_mask
    dout, q, k, v, out = (heads_first(x, window, shift) for x in (dout, q, k, v, out))
    dlse, lse = (heads_first(x[..., None], window, shift)[..., 0] for x in (dlse, lse))
    g = dense_backward(
        dout,
        dlse,
        q,
        k,
        v,
        out,
        lse,
        allowed(G, window, shift, key_mask, wrap=wrap_bias != -np.inf),
        scale=np.reshape(scale, (-1, 1, 1)),
        bias=pair_bias(G, window, shift, B, bias, wrap_bias),
    )
    return WindowGradients(
        dq=heads_last(g.dq, G, window, shift),
        dk=heads_last(g.dk, G, window, shift),
        dv=heads_last(g.dv, G, window, shift),
        dbias=None if bias is None else sum_to(g.dS, bias.shape),
        dscale=g.dscale.sum(axis=(0, 2, 3)),
    )
