r"""
# Scores

Before anything can be weighed, every query is compared with every key. The result
is one number per pair, the score, and four things shape it: a scale, an optional
soft cap, an optional bias, and the rule that lets several query heads share one
key/value head.

The order is fixed. The cap comes before the bias because a cap bounds what the
model computed, not what its author added: capping last would turn a bias of minus
infinity into a finite score and make a hidden position visible.
"""

import numpy as np
from jaxtyping import Float


def repeat_heads(x: Float[np.ndarray, "B Hkv S D"], Hq: int) -> Float[np.ndarray, "B Hq S D"]:
    r"""
    Give every query head the key/value head that it reads.

    $$h_{kv} = \lfloor h / (H_q / H_{kv}) \rfloor$$

    Consecutive query heads share a key/value head (A2).
    """
    Hkv = x.shape[1]
    group = Hq // Hkv if Hkv else 1
    return np.repeat(x, group, axis=1)


def sum_heads(x: Float[np.ndarray, "B Hq S D"], Hkv: int) -> Float[np.ndarray, "B Hkv S D"]:
    r"""
    Add up what the query heads of a group say to their key/value head.

    This is the transpose of `repeat_heads`, and so its gradient (E3).
    """
    B, Hq, S, D = x.shape
    group = Hq // Hkv if Hkv else 1
    return x.reshape(B, Hkv, group, S, D).sum(axis=2)


def similarity(
    q: Float[np.ndarray, "*b Sq D"],
    k: Float[np.ndarray, "*b Sk D"],
    scale: float | Float[np.ndarray, "#H 1 1"],
) -> Float[np.ndarray, "*b Sq Sk"]:
    r"""
    Compare every query with every key.

    $$a_{ij} = \tau \sum_d q_{id}\, k_{jd}$$

    The scale multiplies the accumulated sum, neither `q` nor `k` before it, so that
    a negative scale is as good as any other (B1). Windows may have a scale per head, which
    broadcasts over the pairs of its head (G6).
    """
    return scale * (q @ k.mT)


def soft_cap(a: Float[np.ndarray, "*b Sq Sk"], cap: float | None) -> Float[np.ndarray, "*b Sq Sk"]:
    r"""
    Bound a score smoothly.

    $$c = \kappa \tanh(a / \kappa)$$

    Without a cap the score passes unchanged (B2).
    """
    return a if cap is None else cap * np.tanh(a / cap)


def scores(
    q: Float[np.ndarray, "*b Sq D"],
    k: Float[np.ndarray, "*b Sk D"],
    *,
    scale: float | Float[np.ndarray, "#H 1 1"],
    softcap: float | None,
    bias: Float[np.ndarray, "..."] | None,
) -> Float[np.ndarray, "*b Sq Sk"]:
    r"""
    Scale, cap, then add the bias.

    $$s_{ij} = c_{ij} + \mathrm{bias}_{ij}$$

    The bias broadcasts to the shape of the scores by NumPy's rules. A bias of minus
    infinity gives its position no weight at all, whatever the score (B3, B4).
    """
    c = soft_cap(similarity(q, k, scale), softcap)
    return c if bias is None else c + bias
