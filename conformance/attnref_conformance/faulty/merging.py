"""Faults of clauses D3 and D5: merging parts, and softmax on its own."""

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
