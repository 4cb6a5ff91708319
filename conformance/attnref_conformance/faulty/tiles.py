"""Faults of clauses D1 and D2: the running state of a row, and its log-sum-exp."""

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
