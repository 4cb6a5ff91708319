"""Window attention: many windows at once, gathered from the map where they lie."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from attnref.problem import Result, WindowProblem

from .lattice import Chunk, chunks
from .precision import compute_dtype, number, widened, zeros
from .rows import Values, finish
from .scores import scored


class Gathered(NamedTuple):
    """One chunk of windows, in the compute dtype.

    Attributes:
        q: Queries.
        k: Keys.
        v: Values.
        scale: Of all heads, or of each.
        bias: Of all windows.
        apart: True for wrapped pairs; `None` without a shift.
        visible: Who sees whom; `None` if all see all.
        wrap: Added to wrapped pairs.
    """

    q: Float[np.ndarray, "n h N D"]
    k: Float[np.ndarray, "n h N D"]
    v: Float[np.ndarray, "n h N Dv"]
    scale: float | Float[np.ndarray, "h 1 1"]
    bias: Float[np.ndarray, "h N N"] | None
    apart: Bool[np.ndarray, "n 1 N N"] | None
    visible: Bool[np.ndarray, "n 1 #N N"] | None
    wrap: float

    @classmethod
    def of(cls, problem: WindowProblem, chunk: Chunk) -> "Gathered":
        """Gather a chunk."""
        dtype = compute_dtype(problem.q)
        q, k, v = (chunk.gather(x) for x in (problem.q, problem.k, problem.v))
        scale = problem.scale
        if problem.scale_per_head:
            scale = widened(problem.scale[chunk.heads, None, None], dtype)  # type: ignore[index]
        else:
            scale = number(scale, dtype)
        bias = problem.bias
        apart = _apart(problem, chunk)
        return cls(
            widened(q, dtype),
            widened(k, dtype),
            widened(v, dtype),
            scale,
            None if bias is None else widened(bias[chunk.heads], dtype),
            apart,
            _visible(problem, chunk, apart),
            number(problem.wrap_bias, dtype),
        )

    def scores(self, products: Float[np.ndarray, "n h N N"]) -> Float[np.ndarray, "n h N N"]:
        """Turn products into scores, in place; the wrap bias is added once (G3)."""
        scored(products, self.scale, None, self.bias, None)
        if self.apart is not None and self.wrap != -np.inf:
            np.add(products, self.wrap, out=products, where=self.apart)
        if self.visible is not None:
            np.copyto(products, -np.inf, where=~self.visible)
        return products


def forward(problem: WindowProblem) -> Result:
    """Attend inside every window; each token is written once, padding never."""
    q = problem.q
    out = zeros(q, shape=(*q.shape[:-1], problem.v.shape[-1]))
    lse = np.zeros(q.shape[:-1], compute_dtype(q))
    for chunk in chunks(problem):
        g = Gathered.of(problem, chunk)
        rows = finish(g.scores(g.q @ g.k.mT), Values.of(g.v))
        chunk.put(out, rows.out)
        chunk.put(lse, rows.lse)
    return Result(out, lse)


def _apart(problem: WindowProblem, chunk: Chunk) -> np.ndarray | None:
    """Tell which pairs met only because the map was rolled."""
    if not any(problem.shift):
        return None
    return (chunk.turned[:, :, None] != chunk.turned[:, None, :])[:, None]


def _visible(problem: WindowProblem, chunk: Chunk, apart: np.ndarray | None) -> np.ndarray | None:
    """Hide padding, masked keys and, unless they have a bias, wrapped pairs."""
    keys = chunk.real
    if problem.key_mask is not None:
        keys = keys & problem.key_mask[chunk.tokens]
    keys = keys[:, None, None, :]
    if apart is not None and problem.wrap_bias == -np.inf:
        return keys & ~apart
    return None if keys.all() else keys
