"""Faults of clauses C5 and C6: rows that see nothing, and what is not finite."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref_conformance.dense import Dense, Piece
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.honest import State, Tiled


@breaks("C5")
class EmptyRowsAverage(Tiled):
    """Gives rows that see nothing the mean of the values."""

    def rows(self, d: Dense, dtype: str) -> Any:
        seen = np.broadcast_to(d.seen, (*d.q.shape[:-1], d.k.shape[-2]))
        nothing = ~seen.any(axis=-1, keepdims=True)
        return super().rows(replace(d, seen=seen | nothing), dtype)


@breaks("C5")
class EmptyRowsNan(Tiled):
    """Divides by an empty sum."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        return np.where((state.l == 0)[..., None], np.nan, out).astype(out.dtype), lse


@breaks("C5")
class EmptyRowsLsePlus(Tiled):
    """Marks rows that see nothing by plus infinity."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        return out, np.where(state.l == 0, np.inf, lse).astype(lse.dtype)


@breaks("C6")
class NanHidden(Tiled):
    """Takes a NaN for an empty row."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        return np.nan_to_num(out), np.where(np.isnan(lse), -np.inf, lse)


@breaks("C6")
class NanSpread(Tiled):
    """Lets one row's NaN into the next."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        bad = np.isnan(out)
        if out.shape[-2] > 1:
            bad = bad | np.roll(bad, 1, axis=-2)
        return np.where(bad, np.nan, out).astype(out.dtype), lse


@breaks("C5")
class EmptyByTheMaximum(Tiled):
    """Calls a row empty whose maximum, which skips NaN, was never raised."""

    def maximum(self, m: np.ndarray, s: np.ndarray) -> np.ndarray:
        return np.fmax(m, np.fmax.reduce(s, axis=-1, initial=-np.inf)).astype(m.dtype)

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        nothing = state.m == -np.inf
        empty = np.where(nothing, -np.inf, lse).astype(lse.dtype)
        return np.where(nothing[..., None], 0, out).astype(out.dtype), empty


@breaks("C5")
class EmptyRowsLseFinite(Tiled):
    """Marks rows that see nothing by the smallest finite number."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        return out, np.maximum(lse, np.finfo(lse.dtype).min)


@breaks("C5")
class EmptyRowsNanInBackward(Tiled):
    """Hides by a product, on the way back, what is not a number."""

    def weights_again(self, d: Dense, at: slice, lse: np.ndarray) -> np.ndarray:
        s = np.where(self.seen(d, at), self.score(d, at), -np.inf).astype(d.q.dtype)
        return np.exp(s - lse[..., None])

    def piece_gradients(self, piece: Piece, d: Dense, *rest: Any) -> None:
        out, dout, lse, dlse, total, dtype = rest
        dlse = np.where(lse == -np.inf, 0, dlse).astype(dlse.dtype)
        super().piece_gradients(piece, d, out, dout, lse, dlse, total, dtype)


@breaks("C6")
class NanByProduct(Tiled):
    """Multiplies what nobody sees by a weight of zero."""

    def weigh(self, p: np.ndarray, s: np.ndarray, v: np.ndarray) -> np.ndarray:
        return p @ v


@breaks("C6")
class InfinityCutOff(Tiled):
    """Reads infinite values as the largest finite number."""

    def narrow(self, d: Dense, acc: np.dtype[Any]) -> Dense:
        d = super().narrow(d, acc)
        largest = np.finfo(np.float16).max
        return replace(d, v=np.where(np.isinf(d.v), np.sign(d.v) * largest, d.v).astype(acc))
