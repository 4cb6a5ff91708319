"""Faults of clauses D1 and D2: the running state of a row, and its log-sum-exp."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref_conformance.dense import Dense
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.honest import State, Tiled


@breaks("D1")
class DroppedRescale(Tiled):
    """Forgets to shrink what was carried when the maximum rises."""

    def rescale(self, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        return np.ones_like(new)


@breaks("D1")
class RescaleOnlyTheSum(Tiled):
    """Shrinks the sum and not the values."""

    def update(self, state: State, s: np.ndarray, v: np.ndarray, dtype: str) -> State:
        new = super().update(state, s, v, dtype)
        shrink = self.rescale(state.m, new.m)[..., None]
        return State(new.m, new.l, new.acc + (1 - shrink) * state.acc)


@breaks("D1")
class MaximumFromZero(Tiled):
    """Starts the running maximum at zero."""

    def maximum(self, m: np.ndarray, s: np.ndarray) -> np.ndarray:
        return np.maximum(super().maximum(m, s), 0).astype(m.dtype)


@breaks("D1")
class LastTileSkipped(Tiled):
    """Leaves out the tail."""

    def tiles(self, Sk: int) -> list[slice]:
        return [at for at in super().tiles(Sk) if at.stop <= Sk] or super().tiles(Sk)


@breaks("D2")
class LseInBaseTwo(Tiled):
    """Returns the logarithm to base two."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        return out, (lse / np.log(2)).astype(lse.dtype)


@breaks("D2")
class LseWithoutMaximum(Tiled):
    """Forgets the maximum in the log-sum-exp."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        m = np.where(np.isfinite(state.m), state.m, 0)
        return out, (lse - m).astype(lse.dtype)


@breaks("D1")
class EmptyTileNan(Tiled):
    """Forgets that a row may have seen nothing so far."""

    def rescale(self, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        return np.exp(old - new)


@breaks("D1")
class MaximumOfTheBlock(Tiled):
    """Shares one maximum among all rows of a block."""

    def maximum(self, m: np.ndarray, s: np.ndarray) -> np.ndarray:
        own = super().maximum(m, s)
        return np.broadcast_to(own.max(axis=-1, keepdims=True, initial=-np.inf), own.shape)


@breaks("D1")
class LateMaximum(Tiled):
    """Measures a tile from the maximum of those before it."""

    def maximum(self, m: np.ndarray, s: np.ndarray) -> np.ndarray:
        return np.where(m == -np.inf, super().maximum(m, s), m).astype(m.dtype)


@breaks("D1")
class PaddingCounted(Tiled):
    """Fills the last tile up with scores of zero."""

    def update(self, state: State, s: np.ndarray, v: np.ndarray, dtype: str) -> State:
        new = super().update(state, s, v, dtype)
        padding = self.tile - s.shape[-1]
        extra = padding * self.exponentials(np.zeros_like(s[..., :1]), new.m)[..., 0]
        return State(new.m, (new.l + extra).astype(new.l.dtype), new.acc) if padding else new


@breaks("D1")
class TilesOverlap(Tiled):
    """Counts the first key of every tile but the first twice."""

    def tiles(self, Sk: int) -> list[slice]:
        return [slice(max(at.start - 1, 0), at.stop) for at in super().tiles(Sk)]


@breaks("D1")
class HalvesAveraged(Tiled):
    """Attends to two halves of the keys apart, and takes the mean."""

    def rows(self, d: Dense, dtype: str) -> Any:
        half = d.k.shape[-2] // 2
        out, lse = super().rows(d, dtype)
        if half < 64:
            return out, lse
        seen = np.broadcast_to(d.seen, (*d.q.shape[:-1], d.k.shape[-2]))
        first = np.arange(d.k.shape[-2]) < half
        left, _ = super().rows(replace(d, seen=seen & first), dtype)
        right, _ = super().rows(replace(d, seen=seen & ~first), dtype)
        return ((left + right) / 2).astype(out.dtype), lse


@breaks("D1")
class LastQueriesUnwritten(Tiled):
    """Leaves the queries past the last whole block of 64 unwritten."""

    def rows(self, d: Dense, dtype: str) -> Any:
        out, lse = super().rows(d, dtype)
        n = out.shape[-2]
        if n > 64:
            out[..., n // 64 * 64 :, :] = 0
        return out, lse


@breaks("D1")
class KeysPastThe4096th(Tiled):
    """Counts tiles in too few bits."""

    def tiles(self, Sk: int) -> list[slice]:
        return super().tiles(min(Sk, 4096))


@breaks("D2")
class LseInHalf(Tiled):
    """Keeps the log-sum-exp in half precision on its way out."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        return out, lse.astype(np.float16).astype(lse.dtype)


@breaks("D2")
class LogarithmWithEpsilon(Tiled):
    """Adds a small number before it takes the logarithm."""

    def finish(self, state: State, d: Dense) -> Any:
        out, _ = super().finish(state, d)
        lse = state.m + np.log(state.l + np.asarray(1e-3, state.l.dtype))
        return out, np.where(state.l == 0, -np.inf, lse).astype(state.l.dtype)


@breaks("B3")
class RescalesByARoundedProduct(Tiled):
    """Rescales by a rounded product's error in every tile, where a maximum stays, too."""

    def exponentials(self, s: np.ndarray, m: np.ndarray) -> np.ndarray:
        return self._power(s, m[..., None])

    def rescale(self, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        return self._power(old, new)

    def _power(self, x: np.ndarray, m: np.ndarray) -> np.ndarray:
        unit = m.dtype.type(np.log2(np.e))
        level = np.where(m == -np.inf, 0.0, m).astype(m.dtype) * unit
        wide = x.astype(np.longdouble) * unit - level
        return np.exp2(wide.astype(m.dtype))
