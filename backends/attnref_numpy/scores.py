"""From products to scores: scale, cap, bias, and hiding by selection (B1 to B4)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from .blocks import Block
from .precision import widened
from .sequences import Head, part

MODERATE = 1e30
"""What makes a score may be multiplied by log2 e up to here."""


def is_binary(bias: np.ndarray | None, softcap: float | None, scale: float) -> bool:
    """Tell whether a scale may be spent on the queries, and the exponential's base with it."""
    return bias is None and softcap is None and abs(scale) < MODERATE


class Scores(NamedTuple):
    """Scores, and what their gradient needs of the soft cap.

    Attributes:
        s: The scores, minus infinity where invisible.
        t: `tanh(a / cap)`; `None` without a cap.
    """

    s: Float[np.ndarray, "*rows Sk"]
    t: Float[np.ndarray, "*rows Sk"] | None


def head_scores(
    head: Head,
    block: Block,
    q: Float[np.ndarray, "rows D"],
    scale: float | None,
    room: Float[np.ndarray, " room"] | None = None,
) -> Scores:
    """Score a block of one head: stacked rows give scores `(group, rows, keys)`.

    The group's queries are stacked, so that one product serves all that share a key. Memory
    that is used again is several times faster than what the system has yet to hand out.
    Without a `scale` the queries were multiplied by it.
    """
    group, n = head.q.shape[0], block.rows.stop - block.rows.start
    k = head.k[block.keys]
    products = None if room is None else room[: len(q) * len(k)].reshape(len(q), len(k))
    products = np.matmul(q, k.mT, out=products)
    s = products.reshape(group, n, products.shape[-1])
    return scored(s, scale, head.softcap, bias_of(head, block), block.visible, block.ragged)


def bias_of(head: Head, block: Block) -> Float[np.ndarray, "#group #rows #keys"] | None:
    """Bring a block's part of the bias to the compute dtype."""
    if head.bias is None:
        return None
    return widened(part(head.bias, slice(None), block.rows, block.keys), head.dtype)


def scored(
    s: Float[np.ndarray, "*rows Sk"],
    scale: float | Float[np.ndarray, "H 1 1"] | None,
    softcap: float | None,
    bias: Float[np.ndarray, "..."] | None,
    visible: Bool[np.ndarray, "..."] | None,
    ragged: slice = slice(None),
) -> Scores:
    """Turn products into scores, in the array that holds them; only `ragged` keys are hidden."""
    if scale is not None:
        s *= scale
    t = None
    if softcap is not None:
        s /= softcap
        t = np.tanh(s, out=s)
        s = t * softcap
    if bias is not None:
        s += bias
    if visible is not None:
        np.copyto(s[..., ragged], -np.inf, where=~visible)
    return Scores(s, t)
