"""Faults of clauses D3 and D5: merging parts, and softmax on its own."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref.problem import Result
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.honest import Tiled


@breaks("D3")
class MergeBySigmoid(Tiled):
    """Merges by a difference of log-sum-exps, which is NaN for nothing."""

    def merged(self, p: Any) -> Result:
        acc = self.accumulator(p)
        a, b = p.out_a.astype(acc), p.out_b.astype(acc)
        w = 1 / (1 + np.exp(p.lse_b - p.lse_a))
        lse = p.lse_a - np.log(w)
        return Result(self.finished(w[..., None] * a + (1 - w)[..., None] * b, p.out_a), lse)


@breaks("D3")
class MergeInHalf(Tiled):
    """Merges in half precision."""

    def merged(self, p: Any) -> Result:
        out, lse = super().merged(p)
        return Result(out.astype(np.float16).astype(out.dtype), lse)


@breaks("D5")
class SoftmaxWithoutMaximum(Tiled):
    """Exponentiates the scores as they are."""

    def softmax(self, p: Any) -> np.ndarray:
        e = np.exp(p.x.astype(self.accumulator(p)))
        total = e.sum(axis=p.axis, keepdims=True)
        return np.asarray(e / np.where(total == 0, 1, total))


@breaks("D5")
class SoftmaxOfNothingIsUniform(Tiled):
    """Gives a slice of minus infinities equal weights."""

    def softmax(self, p: Any) -> np.ndarray:
        y = super().softmax(p)
        nothing = (p.x == -np.inf).all(axis=p.axis, keepdims=True)
        return np.where(nothing, 1 / max(p.x.shape[p.axis], 1), y).astype(y.dtype)


@breaks("D3")
class MergeMaximumFromZero(Tiled):
    """Measures both parts from zero at least."""

    def merged(self, p: Any) -> Result:
        acc = self.accumulator(p)
        m = np.maximum(np.maximum(p.lse_a, p.lse_b), 0)
        a, b = (np.exp(lse - m)[..., None] for lse in (p.lse_a, p.lse_b))
        l = np.where(a + b == 0, 1, a + b).astype(acc)
        out = (a * p.out_a.astype(acc) + b * p.out_b.astype(acc)) / l
        return Result(self.finished(out, p.out_a), (m + np.log(a + b)[..., 0]).astype(acc))


@breaks("D3")
class MergeWeightsSwapped(Tiled):
    """Weighs each part by the other's log-sum-exp."""

    def merged(self, p: Any) -> Result:
        return super().merged(replace(p, lse_a=p.lse_b, lse_b=p.lse_a))


@breaks("D3")
class MergeOfNothingIsNan(Tiled):
    """Divides by the weight of two empty parts."""

    def merged(self, p: Any) -> Result:
        out, lse = super().merged(p)
        return Result(np.where((lse == -np.inf)[..., None], np.nan, out).astype(out.dtype), lse)


@breaks("D3")
class MergeGradientWithoutDifference(Tiled):
    """Passes to a part's log-sum-exp its share of the whole's, and nothing of the values."""

    def merge_gradients(self, p: Any, result: Result, dout: Any, dlse: Any) -> Any:
        done = super().merge_gradients(p, result, dout, dlse)
        w = [np.where(x == -np.inf, 0, np.exp(x - result.lse)) for x in (p.lse_a, p.lse_b)]
        shares = [(share * dlse).astype(dlse.dtype) for share in w]
        return done._replace(dlse_a=shares[0], dlse_b=shares[1])


@breaks("D3")
class MergeInPlainOrder(Tiled):
    """Returns merged values in C order whatever order they had."""

    def merged(self, p: Any) -> Result:
        out, lse = super().merged(p)
        return Result(np.ascontiguousarray(out), lse)


@breaks("D5")
class SoftmaxByTiles(Tiled):
    """Normalises each tile on its own."""

    def softmax(self, p: Any) -> np.ndarray:
        if p.tile is None:
            return super().softmax(p)
        parts = []
        for at in Tiled(tile=p.tile).tiles(p.x.shape[p.axis]):
            one = np.take(p.x, range(*at.indices(p.x.shape[p.axis])), p.axis)
            parts.append(super().softmax(replace(p, x=one)))
        return np.concatenate(parts, p.axis)


@breaks("D5")
class SoftmaxOfTheLastAxis(Tiled):
    """Takes the last axis whatever was asked."""

    def softmax(self, p: Any) -> np.ndarray:
        return super().softmax(replace(p, axis=p.x.ndim - 1))


@breaks("D5")
class SoftmaxNanSpreads(Tiled):
    """Lets one slice's NaN into every other."""

    def softmax(self, p: Any) -> np.ndarray:
        y = super().softmax(p)
        return np.full_like(y, np.nan) if np.isnan(y).any() else y


@breaks("D5")
class SoftmaxInfinityTakesAll(Tiled):
    """Gives a score of infinity the whole weight."""

    def softmax(self, p: Any) -> np.ndarray:
        y = super().softmax(p)
        top = np.isposinf(p.x).any(axis=p.axis, keepdims=True)
        return np.where(top, np.isposinf(p.x), y).astype(y.dtype)


@breaks("D5")
class SoftmaxGradientWithoutSum(Tiled):
    """Forgets what normalisation takes back."""

    def backward(self, problem: Any, result: Result, dout: Any, dlse: Any = None) -> Any:
        done: Any = super().backward(problem, result, dout, dlse)
        if problem.operation != "softmax":
            return done
        return done._replace(dx=(result.out * dout).astype(problem.x.dtype))
