"""Attention whose scores are known to be small: no maximum, and so no whole rows.

Powers of two up to `2^40` are ordinary numbers of float32, and so are sums of them. Where no
score can be larger, nothing has to be taken off before the exponential: one pass less over
the scores, and tiles of keys are small enough to stay in a cache.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Int

from .blocks import Block, stacked
from .precision import ready, widened
from .rows import LOG2E, MILD, Finished
from .scores import is_binary
from .sequences import Head

Visible = Bool[np.ndarray, "#group #rows #keys"]

ROWS, KEYS = 512, 512
"""Queries of a block, and keys of a tile."""

VALUES = 2.0**60
"""The largest value, and the inverse of the smallest, that mild weights may multiply."""

VANISHING = 1e-30
"""Squares below it may have lost what they are made of."""


def is_mild(head: Head) -> bool:
    """Tell whether every score's power of two is an ordinary number, and so is every product.

    No score exceeds the product of two norms. What is not finite is not mild either, and
    neither are values so large or small that they need the weights to be shares.
    """
    if not is_binary(head.bias, head.softcap, head.scale) or head.values.spoiled is not None:
        return False
    if head.bounds != (None, None):
        return False  # rows of a few keys more than the last ones: one product each is faster
    size = np.abs(head.values.v)
    least, most = size.min(where=size > 0, initial=VALUES), size.max(initial=0)
    if not 1 / VALUES <= least <= most <= VALUES and most > 0:
        return False
    sink = 0.0 if head.sinks is None else float(np.abs(head.sinks).max(initial=0))
    longest = _longest(widened(head.q, head.dtype)) * _longest(head.k)
    return max(abs(head.scale) * longest, sink) * LOG2E < MILD


def _longest(x: Float[np.ndarray, "... D"]) -> float:
    """Return the largest norm of a row; infinity if squares are too small to tell."""
    square = float(np.einsum("...d,...d->...", x, x).max(initial=0))
    if square < VANISHING:
        return math.inf if x.any() else 0.0
    return math.sqrt(square)


def attend_mildly(head: Head, block: Block) -> Finished:
    """Attend in one block, tile by tile of keys; it depends on nothing outside its arguments."""
    q = ready(stacked(head.q[:, block.rows]), head.dtype) * head.dtype.type(head.scale * LOG2E)
    k, v = head.k[block.keys], head.values.v[block.keys]
    group, n = head.q.shape[0], block.rows.stop - block.rows.start
    l = np.zeros(group * n, head.dtype)
    out = np.zeros((group * n, v.shape[1]), head.dtype)
    for first in range(0, len(k), KEYS):
        tile = slice(first, min(first + KEYS, len(k)))
        p = q @ k[tile].mT
        np.exp2(p, out=p)
        _hide(p.reshape(group, n, p.shape[1]), block.visible, tile)
        l += np.einsum("ij->i", p)  # the letter of the equation
        out += p @ v[tile]
    if head.sinks is not None:
        l += np.repeat(np.exp2(head.sinks * head.dtype.type(LOG2E)), n)
    nothing = l == 0
    l[nothing] = 1
    out /= l[:, None]
    if head.sinks is None:
        alone, key = _alone(block.visible, len(k))
        rows = np.broadcast_to(alone, (group, n)).reshape(-1)
        out[rows] = v[np.broadcast_to(key, (group, n)).reshape(-1)[rows]]
    lse = np.where(nothing, -np.inf, np.log(l))
    return Finished(out.reshape(group, n, v.shape[1]), lse.reshape(group, n))


def _hide(p: Float[np.ndarray, "group rows keys"], seen: Visible | None, tile: slice) -> None:
    """Give no weight to the keys of a tile that a mask hides."""
    if seen is not None:
        np.copyto(p, 0, where=~(seen[..., tile] if seen.shape[-1] > 1 else seen))


def _alone(
    seen: Visible | None, keys: int
) -> tuple[Bool[np.ndarray, "#group #rows"], Int[np.ndarray, "#group #rows"]]:
    """Tell which rows see a single key, and which; those have its value, to the bit.

    A sum divided by its only weight might not give it back.
    """
    if seen is None or keys == 0:
        return np.full((1, 1), keys == 1), np.zeros((1, 1), int)
    seen = np.broadcast_to(seen, (*seen.shape[:-1], keys))
    return seen.sum(axis=-1) == 1, seen.argmax(axis=-1)
