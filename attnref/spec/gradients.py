r"""
# Gradients

Training asks how a loss changes with every input. The weights that the forward pass
formed are gone, and they are not needed: the log-sum-exp of a row is enough to form
any weight again, $P_{ij} = e^{s_{ij} - \mathrm{lse}_i}$, one tile or one machine at a
time.

Two numbers per row carry what the rest of the row has to say: $\delta_i =
\mathrm{dout}_i \cdot \mathrm{out}_i$, the part of the gradient that normalisation
takes back, and $\mathrm{dlse}_i$, the gradient of the log-sum-exp itself, for callers
who merge partial results.

The given `out` and `lse` are used even if they come from a larger, merged problem.
The result is then the contribution of this part, which is what a ring of machines
needs (E2).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from .attention import keep, sink_rows
from .scores import repeat_heads, similarity, soft_cap, sum_heads
from .visibility import visible


class ScoreGradients(NamedTuple):
    """The gradients of `dense`, before heads and broadcasts are summed."""

    dq: Float[np.ndarray, "B Hq Sq D"]
    dk: Float[np.ndarray, "B Hq Sk D"]
    dv: Float[np.ndarray, "B Hq Sk Dv"]
    dS: Float[np.ndarray, "B Hq Sq Sk"]
    """The gradient of the biased score, and so of a bias of full shape."""
    dscale: Float[np.ndarray, "B Hq Sq Sk"]
    """What each pair says about the scale that multiplied it."""


class AttentionGradients(NamedTuple):
    """The gradients of `attention`; `None` where there was no such input."""

    dq: Float[np.ndarray, "B Hq Sq D"]
    dk: Float[np.ndarray, "B Hkv Sk D"]
    dv: Float[np.ndarray, "B Hkv Sk Dv"]
    dbias: Float[np.ndarray, "..."] | None
    dsinks: Float[np.ndarray, " Hq"] | None


def weights(
    s: Float[np.ndarray, "B Hq Sq Sk"],
    lse: Float[np.ndarray, "B Hq Sq"],
    seen: Bool[np.ndarray, "B #Hq Sq Sk"],
) -> Float[np.ndarray, "B Hq Sq Sk"]:
    r"""
    Form the weights again.

    $$P_{ij} = e^{s_{ij} - \mathrm{lse}_i}$$

    Invisible positions weigh zero, and so does all of a row whose log-sum-exp is minus
    infinity: it saw nothing, and no gradient passes through it (C5, E1).
    """
    live = (lse != -np.inf)[..., None]
    return np.where(seen & live, np.exp(s - np.where(live, lse[..., None], 0.0)), 0.0)


def row_delta(
    dout: Float[np.ndarray, "*rows Dv"], out: Float[np.ndarray, "*rows Dv"]
) -> Float[np.ndarray, "*rows"]:
    r"""
    Find what normalisation takes back.

    $$\delta_i = \sum_d \mathrm{dout}_{id}\, \mathrm{out}_{id}$$
    """
    return (dout * out).sum(axis=-1)


def sum_to(x: Float[np.ndarray, "..."], shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """Sum over the axes along which something of `shape` was broadcast (B3)."""
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    stretched = [a for a, (n, m) in enumerate(zip(shape, x.shape, strict=True)) if n != m]
    return np.asarray(x.sum(axis=tuple(stretched), keepdims=True))


def dense_backward(
    dout: Float[np.ndarray, "B Hq Sq Dv"],
    dlse: Float[np.ndarray, "B Hq Sq"],
    q: Float[np.ndarray, "B Hq Sq D"],
    k: Float[np.ndarray, "B Hq Sk D"],
    v: Float[np.ndarray, "B Hq Sk Dv"],
    out: Float[np.ndarray, "B Hq Sq Dv"],
    lse: Float[np.ndarray, "B Hq Sq"],
    seen: Bool[np.ndarray, "B #Hq Sq Sk"],
    *,
    scale: float | Float[np.ndarray, "#H 1 1"],
    softcap: float | None = None,
    bias: Float[np.ndarray, "..."] | None = None,
) -> ScoreGradients:
    r"""
    Pass gradients back through `dense`.

    $$dv = P^\top \mathrm{dout}, \qquad
    dS = P\, (\mathrm{dout}\, v^\top - \delta + \mathrm{dlse})$$

    $$dA = dS\, (1 - (c / \kappa)^2), \qquad
    dq = \tau\, dA\, k, \qquad dk = \tau\, dA^\top q$$

    Invisible positions are left out by selection, so that nothing they hold can reach
    a sum. `dlse` counts only where the log-sum-exp is finite (E1).
    """
    similar = similarity(q, k, 1.0)
    c = soft_cap(scale * similar, softcap)
    P = weights(c if bias is None else c + bias, lse, seen)
    taken = row_delta(dout, out) - np.where(lse == -np.inf, 0.0, dlse)
    dS = np.where(P > 0, P * (dout @ v.mT - taken[..., None]), 0.0)
    dA = dS if softcap is None else dS * (1.0 - (c / softcap) ** 2)
    return ScoreGradients(
        dq=scale * dA @ k,
        dk=(scale * dA).mT @ q,
        dv=P.mT @ dout,
        dS=dS,
        dscale=np.where(P > 0, dA * similar, 0.0),
    )


def sink_gradient(
    sink: Float[np.ndarray, "B Hq Sq"],
    lse: Float[np.ndarray, "B Hq Sq"],
    delta: Float[np.ndarray, "B Hq Sq"],
    dlse: Float[np.ndarray, "B Hq Sq"],
) -> Float[np.ndarray, " Hq"]:
    r"""
    Pass gradients back to the sinks.

    $$d\mathrm{sink}_h = \sum_{b, i} e^{\mathrm{sink}_h - \mathrm{lse}_i}
    (\mathrm{dlse}_i - \delta_i)$$

    A sink's value is zero, so it appears in no product with `dout` (D4).
    """
    live = lse != -np.inf
    weight = np.where(live, np.exp(sink - np.where(live, lse, 0.0)), 0.0)
    return np.where(live, weight * (dlse - delta), 0.0).sum(axis=(0, 2))


def attention_backward(
    dout: Float[np.ndarray, "B Hq Sq Dv"],
    dlse: Float[np.ndarray, "B Hq Sq"],
    q: Float[np.ndarray, "B Hq Sq D"],
    k: Float[np.ndarray, "B Hkv Sk D"],
    v: Float[np.ndarray, "B Hkv Sk Dv"],
    out: Float[np.ndarray, "B Hq Sq Dv"],
    lse: Float[np.ndarray, "B Hq Sq"],
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
) -> AttentionGradients:
    """
    Pass gradients back through `attention`.

    What several query heads say to a shared key/value head is added up, and so is what
    a broadcast bias is told at every place it was broadcast to (B3, E3). Gradients past
    a length are zero (C4).
    """
    B, Hq, Sq, _ = q.shape
    Hkv, Sk = k.shape[1:3]
    seen = visible(
        B, Sq, Sk, window=window, q_offset=q_offset, mask=mask, q_lens=q_lens, kv_lens=kv_lens
    )
    q, dout, out = (keep(x, q_lens) for x in (q, dout, out))
    lse, dlse = keep(lse, q_lens), keep(dlse, q_lens)
    k, v = (repeat_heads(keep(x, kv_lens), Hq) for x in (k, v))
    g = dense_backward(dout, dlse, q, k, v, out, lse, seen, scale=scale, softcap=softcap, bias=bias)
    sink = sink_rows(sinks, B, Sq, q_lens)
    return AttentionGradients(
        dq=g.dq,
        dk=sum_heads(g.dk, Hkv),
        dv=sum_heads(g.dv, Hkv),
        dbias=None if bias is None else sum_to(g.dS, bias.shape),
        dsinks=None if sink is None else sink_gradient(sink, lse, row_delta(dout, out), dlse),
    )
