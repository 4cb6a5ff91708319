"""Attention whose scores are known to be small: no maximum, and so no whole rows.

Powers of two up to `2^40` are ordinary numbers of float32, and so are sums of them. Where no
score can be larger, nothing has to be taken off before the exponential: one pass less over
the scores, and tiles of keys are small enough to stay in a cache.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from .blocks import Block, stacked
from .precision import ready, widened
from .rows import LOG2E, MILD, Finished
from .scores import is_binary
from .sequences import Head

Visible = Bool[np.ndarray, "#group #rows #keys"]

ROWS, KEYS = 512, 512
"""Queries of a strip, and keys of a tile."""

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
    size = np.abs(head.values.v)
    most, least = size.max(initial=0), np.where(size == 0, VALUES, size).min(initial=VALUES)
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


class Rooms(NamedTuple):
    """Memory that one strip after another uses: it is warm, and asked of the system once.

    Attributes:
        weights: Of a tile.
        weighed: What they give.
    """

    weights: Float[np.ndarray, " weights"]
    weighed: Float[np.ndarray, " weighed"]

    @classmethod
    def of(cls, head: Head) -> "Rooms":
        """Allocate what the tiles of a head fit into."""
        rows = max(ROWS, head.q.shape[0])
        sizes = rows * min(KEYS, len(head.k)), rows * head.values.v.shape[1]
        return cls(*(np.empty(size, head.dtype) for size in sizes))


def attend_mildly(head: Head, block: Block, rooms: Rooms) -> Finished:
    """Attend in one strip, tile by tile of keys; it depends on nothing outside its arguments."""
    q = ready(stacked(head.q[:, block.rows]), head.dtype) * head.dtype.type(head.scale * LOG2E)
    v, group, n = head.values.v, head.q.shape[0], block.rows.stop - block.rows.start
    l = np.zeros(group * n, head.dtype)
    out = np.zeros((group * n, v.shape[1]), head.dtype)
    weighed, ones = rooms.weighed[: out.size].reshape(out.shape), np.ones(KEYS, head.dtype)
    for tile in block.tiles(KEYS):
        k = head.k[tile.keys]
        p = rooms.weights[: len(q) * len(k)].reshape(len(q), len(k))
        np.exp2(np.matmul(q, k.mT, out=p), out=p)
        _hide(p.reshape(group, n, len(k)), tile.visible)
        l += p @ ones[: len(k)]  # twice as fast as a sum
        out += np.matmul(p, v[tile.keys], out=weighed)
    if head.sinks is not None:
        l += np.repeat(np.exp2(head.sinks * head.dtype.type(LOG2E)), n)
    nothing = l == 0
    l[nothing] = 1
    out /= l[:, None]
    if head.sinks is None:
        alone, key = _alone(block)
        rows = np.broadcast_to(alone, (group, n)).reshape(-1)
        out[rows] = v[block.keys][np.broadcast_to(key, (group, n)).reshape(-1)[rows]]
    lse = np.where(nothing, -np.inf, np.log(l))
    return Finished(out.reshape(group, n, v.shape[1]), lse.reshape(group, n))


def _hide(p: Float[np.ndarray, "group rows keys"], seen: Visible | None) -> None:
    """Give no weight to the keys of a tile that somebody may not see; a mild one is finite."""
    if seen is not None:
        p *= seen


def _alone(
    block: Block,
) -> tuple[Bool[np.ndarray, "#group #rows"], Int[np.ndarray, "#group #rows"]]:
    """Tell which rows see a single key, and which of the block's; those have its value, to the bit.

    A sum divided by its only weight might not give it back.
    """
    seen, whole, keys = block.visible, block.seen_by_all, block.keys.stop - block.keys.start
    if seen is None or keys == 0 or whole > 1:
        return np.full((1, 1), keys == 1), np.zeros((1, 1), int)
    seen = np.broadcast_to(seen, (*seen.shape[:-1], keys - whole))
    first = np.zeros(seen.shape[:-1], int) if whole else seen.argmax(axis=-1)
    return seen.sum(axis=-1) + whole == 1, first
