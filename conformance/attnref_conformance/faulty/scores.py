"""Faults of clause family B: scale, soft cap, bias, selection."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref_conformance.dense import Dense
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.honest import Tiled


@breaks("B1")
class ScaleByValueSize(Tiled):
    """Takes the default scale from the size of the values."""

    def product(self, d: Dense, at: slice) -> np.ndarray:
        wrong = 1.0 / max(d.v.shape[-1], 1) ** 0.5
        usual = np.isclose(d.scale.ravel()[0], 1.0 / max(d.q.shape[-1], 1) ** 0.5)
        return super().product(replace(d, scale=np.full_like(d.scale, wrong)) if usual else d, at)


@breaks("B1")
class ScaleSignLost(Tiled):
    """Ignores the sign of the scale."""

    def product(self, d: Dense, at: slice) -> np.ndarray:
        return super().product(replace(d, scale=np.abs(d.scale)), at)


@breaks("B1")
class ScaleInHalf(Tiled):
    """Rounds the scale to half precision."""

    def product(self, d: Dense, at: slice) -> np.ndarray:
        rough = d.scale.astype(np.float16).astype(d.scale.dtype)
        return super().product(replace(d, scale=rough), at)


@breaks("B2")
class CapIgnored(Tiled):
    """Ignores the soft cap."""

    def cap(self, a: np.ndarray, softcap: float | None) -> np.ndarray:
        return a


@breaks("B2")
class CapAfterBias(Tiled):
    """Caps the biased score."""

    def score(self, d: Dense, at: slice) -> np.ndarray:
        return self.cap(self.biased(self.product(d, at), d, at), d.softcap)


@breaks("B2")
class CapGradientForgotten(Tiled):
    """Passes gradients through the soft cap unchanged."""

    def through_cap(self, dS: np.ndarray, d: Dense, at: slice) -> np.ndarray:
        return dS


@breaks("B3")
class BiasTransposed(Tiled):
    """Reads a square bias key-major."""

    def biased(self, c: np.ndarray, d: Dense, at: slice) -> np.ndarray:
        if d.bias is not None and d.bias.ndim > 1 and d.bias.shape[-1] == d.bias.shape[-2]:
            d = replace(d, bias=d.bias.mT)
        return super().biased(c, d, at)


@breaks("B3")
class BiasGradientNotSummed(Tiled):
    """Keeps one batch entry's bias gradient instead of the sum."""

    def add_shared(
        self, d: Dense, at: slice, dS: np.ndarray, dA: np.ndarray, total: dict[str, np.ndarray]
    ) -> None:
        first = np.where(np.arange(dS.shape[0])[:, None, None, None] == 0, dS, 0)
        super().add_shared(d, at, first.astype(dS.dtype), dA, total)


@breaks("B4")
class LargeNegativeMask(Tiled):
    """Adds a large negative number instead of selecting."""

    def rows(self, d: Dense, dtype: str) -> Any:
        hidden = np.where(d.seen, 0.0, -1e4).astype(d.q.dtype)
        bias = hidden if d.bias is None else hidden + np.maximum(d.bias, -1e4)
        return super().rows(replace(d, seen=np.ones_like(d.seen), bias=bias), dtype)
