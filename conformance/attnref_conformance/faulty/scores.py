"""Faults of clause family B: scale, soft cap, bias, selection."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref.problem import AttentionProblem
from attnref_conformance.dense import Dense
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.faulty.other import OtherAttention
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


@breaks("B1")
class ZeroScaleIsDefault(Tiled):
    """Takes a scale of zero for one that was not given."""

    def product(self, d: Dense, at: slice) -> np.ndarray:
        usual = d.q.shape[-1] ** -0.5 if d.q.shape[-1] else 1.0
        scale = np.where(d.scale == 0, usual, d.scale).astype(d.scale.dtype)
        return super().product(replace(d, scale=scale), at)


@breaks("B1")
class QueriesScaledInHalf(Tiled):
    """Rounds the scaled queries to half precision before their product."""

    def product(self, d: Dense, at: slice) -> np.ndarray:
        rough = (d.scale * d.q).astype(np.float16).astype(d.q.dtype)
        return np.asarray(rough @ d.k[..., at, :].mT)


@breaks("B2")
class CapByClipping(Tiled):
    """Cuts the scores off instead of bending them."""

    def cap(self, a: np.ndarray, softcap: float | None) -> np.ndarray:
        return a if softcap is None else np.clip(a, -softcap, softcap)


@breaks("B2")
class CapBeforeScale(Tiled):
    """Caps the product, and scales what is left."""

    def score(self, d: Dense, at: slice) -> np.ndarray:
        plain = super().product(replace(d, scale=np.ones_like(d.scale)), at)
        return self.biased((d.scale * self.cap(plain, d.softcap)).astype(plain.dtype), d, at)


@breaks("B2")
class CapFromATable(Tiled):
    """Takes the hyperbolic tangent from an instruction of eleven bits."""

    def cap(self, a: np.ndarray, softcap: float | None) -> np.ndarray:
        if softcap is None:
            return a
        rough = np.tanh(a / softcap).astype(np.float16).astype(a.dtype)
        return (softcap * rough).astype(a.dtype)


@breaks("B2")
class CapGradientOfTheBiased(Tiled):
    """Bends a gradient by the biased score instead of the capped one."""

    def through_cap(self, dS: np.ndarray, d: Dense, at: slice) -> np.ndarray:
        if d.softcap is None:
            return dS
        s = self.score(d, at)
        return (dS * (1 - (s / d.softcap) ** 2)).astype(dS.dtype)


@breaks("B3")
class BiasScaled(Tiled):
    """Scales the bias together with the product."""

    def biased(self, c: np.ndarray, d: Dense, at: slice) -> np.ndarray:
        if d.bias is not None:
            d = replace(d, bias=(d.scale * d.bias).astype(d.bias.dtype))
        return super().biased(c, d, at)


@breaks("B3")
class BiasOfTheFirstHead(OtherAttention):
    """Reads one head's bias for all."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        if p.bias is None or p.bias.ndim < 3:
            return p
        return replace(p, bias=np.broadcast_to(p.bias[..., :1, :, :], p.bias.shape))


@breaks("B3")
class BiasOfTheFirstEntry(OtherAttention):
    """Reads the first batch entry's bias for all."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        if p.bias is None or p.bias.ndim < 4:
            return p
        return replace(p, bias=np.broadcast_to(p.bias[:1], p.bias.shape))


@breaks("B3")
class BiasPastTheThousandth(Tiled):
    """Forgets the bias past the 1024th key."""

    def biased(self, c: np.ndarray, d: Dense, at: slice) -> np.ndarray:
        return super().biased(c, d, at) if at.start < 1024 else c


@breaks("B3")
class BiasGradientThroughTheCap(Tiled):
    """Bends the bias's gradient by the soft cap, which it never passed."""

    def add_shared(
        self, d: Dense, at: slice, dS: np.ndarray, dA: np.ndarray, total: dict[str, np.ndarray]
    ) -> None:
        super().add_shared(d, at, dA, dA, total)


@breaks("B3")
class BiasWithoutCap(Tiled):
    """Forgets the bias where there is a soft cap too."""

    def biased(self, c: np.ndarray, d: Dense, at: slice) -> np.ndarray:
        return c if d.softcap is not None else super().biased(c, d, at)


@breaks("B4")
class MinusInfinityMadeFinite(Tiled):
    """Reads minus infinity as the smallest finite number."""

    def biased(self, c: np.ndarray, d: Dense, at: slice) -> np.ndarray:
        s = super().biased(c, d, at)
        return np.maximum(s, np.finfo(s.dtype).min)


@breaks("B4")
class FiniteMinimumHidden(Tiled):
    """Takes very low scores for invisible ones."""

    def biased(self, c: np.ndarray, d: Dense, at: slice) -> np.ndarray:
        s = super().biased(c, d, at)
        return np.where(s < -1e30, -np.inf, s).astype(s.dtype)


@breaks("B4")
class MinusInfinityIsNan(Tiled):
    """Subtracts one minus infinity from another."""

    def exponentials(self, s: np.ndarray, m: np.ndarray) -> np.ndarray:
        return np.exp(s - m[..., None])
