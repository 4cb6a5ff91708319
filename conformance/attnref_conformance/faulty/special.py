"""Faults of clauses C5 and C6: rows that see nothing, and what is not finite."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref_conformance.dense import Dense
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
