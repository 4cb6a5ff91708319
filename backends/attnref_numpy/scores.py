"""From products to scores: scale, cap, bias, and hiding by selection (B1 to B4)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from .blocks import Block
from .precision import widened
from .sequences import Head, part


class Scores(NamedTuple):
    """Scores, and what their gradient needs of the soft cap.

    Attributes:
        s: The scores, minus infinity where invisible.
        t: `tanh(a / cap)`; `None` without a cap.
    """

    s: Float[np.ndarray, "*rows Sk"]
    t: Float[np.ndarray, "*rows Sk"] | None


def head_scores(head: Head, block: Block, q: Float[np.ndarray, "rows D"]) -> Scores:
    """Score a block of one head: stacked rows give scores `(group, rows, keys)`.

    The group's queries are stacked, so that one product serves all that share a key.
    """
    group, n = head.q.shape[0], block.rows.stop - block.rows.start
    products = q @ head.k[block.keys].mT
    s = products.reshape(group, n, products.shape[-1])
    bias = head.bias
    if bias is not None:
        bias = widened(part(bias, slice(None), block.rows, block.keys), head.dtype)
    return scored(s, head.scale, head.softcap, bias, block.visible)


def scored(
    s: Float[np.ndarray, "*rows Sk"],
    scale: float | Float[np.ndarray, "H 1 1"],
    softcap: float | None,
    bias: Float[np.ndarray, "..."] | None,
    visible: Bool[np.ndarray, "..."] | None,
) -> Scores:
    """Turn products into scores, in the array that holds them."""
    s *= scale
    t = None
    if softcap is not None:
        s /= softcap
        t = np.tanh(s, out=s)
        s = t * softcap
    if bias is not None:
        s += bias
    if visible is not None:
        np.copyto(s, -np.inf, where=~visible)
    return Scores(s, t)
