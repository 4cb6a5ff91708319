"""Many short sequences at once: one product for all heads of some batch entries.

A head of a few tokens is less work than asking for it. Where all entries of a batch are
alike, with no lengths or offsets of their own, they are stacked instead of visited. Query
heads stand apart by the key/value head that they share: `(n, Hkv, group, Sq, Sk)`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from attnref.spec.visibility import in_window

from .blocks import ELEMENTS
from .precision import compute_dtype, number, widened
from .rows import LOG2E, Values, finish
from .scores import Scores, is_binary, scored
from .sequences import Call

MOST = 2**14
"""Scores of a head up to which it counts as short."""


class Stack(NamedTuple):
    """Some batch entries, in the compute dtype.

    Attributes:
        q: Queries.
        k: Keys.
        v: Values.
        bias: As it broadcasts.
        visible: Likewise; `None` if all see all.
        sinks: Of every head.
        scale: Multiplies the products.
        softcap: Bound of the scores.
    """

    q: Float[np.ndarray, "n Hkv group Sq D"]
    k: Float[np.ndarray, "n Hkv 1 Sk D"]
    v: Float[np.ndarray, "n Hkv 1 Sk Dv"]
    bias: Float[np.ndarray, "#n #Hkv #group #Sq #Sk"] | None
    visible: Bool[np.ndarray, "#n #Hkv #group #Sq #Sk"] | None
    sinks: Float[np.ndarray, "Hkv group 1"] | None
    scale: float
    softcap: float | None

    def scores(self, q: np.ndarray, scale: float | None) -> Scores:
        """Score every pair."""
        return scored(q @ self.k.mT, scale, self.softcap, self.bias, self.visible)


def is_short(call: Call) -> bool:
    """Tell whether a call is one of several short sequences that are alike."""
    (B, Hq, Sq, _), Sk = call.q.shape, call.k.shape[2]
    if len(call.places) != B or B * Hq <= 1 or Sq * Sk > MOST:
        return False
    whole = (Sq, Sk, call.places[0].bounds)
    return all((p.rows.stop, p.keys.stop, p.bounds) == whole for p in call.places)


def entries(call: Call) -> list[slice]:
    """Cut the batch into entries whose scores are made at once."""
    (B, Hq, Sq, _), Sk = call.q.shape, call.k.shape[2]
    step = max(1, ELEMENTS // max(1, Hq * Sq * Sk))
    return [slice(b, min(b + step, B)) for b in range(0, B, step)]


def by_group(x: np.ndarray, call: Call) -> np.ndarray:
    """Part query heads, on the second axis, by the key/value head they share: a view."""
    Hq, Hkv = call.q.shape[1], call.k.shape[1]
    apart = (1, 1) if x.shape[1] == 1 != Hq else (Hkv, Hq // Hkv)
    return x.reshape(len(x), *apart, *x.shape[2:])


def stack(call: Call, at: slice) -> Stack:
    """Stack some entries."""
    dtype, cap, sinks = compute_dtype(call.q), call.softcap, call.sinks
    q, k, v = (widened(x[at], dtype) for x in (call.q, call.k, call.v))
    bias = None if call.bias is None else widened(by_group(_of(call.bias, at), call), dtype)
    if sinks is not None:
        sinks = widened(sinks, dtype).reshape(k.shape[1], -1, 1)
    return Stack(
        by_group(q, call),
        k[:, :, None],
        v[:, :, None],
        bias,
        _visible(call, at),
        sinks,
        number(call.scale, dtype),
        None if cap is None else number(cap, dtype, least=float(np.finfo(dtype).tiny)),
    )


def attend(call: Call, at: slice, out: np.ndarray, lse: np.ndarray) -> None:
    """Attend in some entries, and write their rows `(B, Hq, Sq, ...)`."""
    s = stack(call, at)
    binary = is_binary(s.bias, s.softcap, s.scale)
    q = s.q * s.q.dtype.type(s.scale * LOG2E) if binary else s.q
    scores = s.scores(q, None if binary else s.scale).s
    rows = finish(scores, Values.of(s.v), s.sinks, binary=binary)
    out[at] = rows.out.reshape(out[at].shape)
    lse[at] = rows.lse.reshape(lse[at].shape)


def _visible(call: Call, at: slice) -> Bool[np.ndarray, "..."] | None:
    """Intersect window and mask; `None` if neither hides anything."""
    mask = None if call.mask is None else by_group(_of(call.mask, at), call)
    left, right = call.places[0].bounds
    if (left, right) == (None, None):
        return mask
    i, j = np.arange(call.q.shape[2])[:, None], np.arange(call.k.shape[2])
    near = in_window(i, j, left, right)
    return near if mask is None else near & mask


def _of(x: np.ndarray, at: slice) -> np.ndarray:
    return x if len(x) == 1 else x[at]
