"""Window attention: many windows at once, gathered from the map where they lie."""

from math import prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from attnref.problem import Result, WindowProblem

from .lattice import Chunk, chunks
from .precision import compute_dtype, number, widened, zeros
from .rows import LOG2E, MILD, Finished, Values, finish
from .scores import MODERATE, scored
from .threads import spread


class Gathered(NamedTuple):
    """One chunk of windows, in the compute dtype.

    Attributes:
        q: Queries.
        k: Keys.
        v: Values.
        scale: Of all heads, or of each.
        bias: Of all windows.
        apart: True for wrapped pairs; `None` if there are none.
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
    def of(
        cls, problem: WindowProblem, chunk: Chunk, bias: Float[np.ndarray, "H N N"] | None
    ) -> "Gathered":
        """Gather a chunk; the bias is in the compute dtype already."""
        dtype = compute_dtype(problem.q)
        q, k, v = (widened(chunk.gather(x), dtype) for x in (problem.q, problem.k, problem.v))
        scale = problem.scale
        if problem.scale_per_head:
            scale = widened(problem.scale[chunk.heads, None, None], dtype)  # type: ignore[index]
        else:
            scale = number(scale, dtype)
        apart = _apart(chunk)
        return cls(
            q,
            k,
            v,
            scale,
            None if bias is None else bias[chunk.heads],
            apart,
            _visible(problem, chunk, apart),
            number(problem.wrap_bias, dtype),
        )

    def scores(self, products: Float[np.ndarray, "n h N N"]) -> Float[np.ndarray, "n h N N"]:
        """Turn products into scores, in place; the wrap bias is added once (G3)."""
        return self.hidden(self.raised(scored(products, self.scale, None, self.bias, None).s))

    def raised(
        self, s: Float[np.ndarray, "n h N N"], unit: float = 1.0
    ) -> Float[np.ndarray, "n h N N"]:
        """Add the wrap bias, in place, unless it hides."""
        if self.apart is not None and self.wrap != -np.inf:
            np.add(s, self.wrap * unit, out=s, where=self.apart)
        return s

    def hidden(
        self, s: Float[np.ndarray, "n h N N"], nothing: float = -np.inf
    ) -> Float[np.ndarray, "n h N N"]:
        """Put `nothing` where nobody is seen, in place."""
        if self.visible is not None:
            np.copyto(s, nothing, where=~self.visible)
        return s


def forward(problem: WindowProblem) -> Result:
    """Attend inside every window; each token is written once, padding never."""
    q, bias = problem.q, bias_of(problem)
    out = zeros(q, shape=(*q.shape[:-1], problem.v.shape[-1]))
    wanted = problem.with_lse or problem.with_gradients
    lse = np.zeros(q.shape[:-1], compute_dtype(q)) if wanted else None
    binary = _is_moderate(problem, bias)
    if binary and bias is not None:
        bias = bias * bias.dtype.type(LOG2E)

    def work(chunk: Chunk) -> None:
        g = Gathered.of(problem, chunk, bias)
        rows = _attend(g) if binary else finish(g.scores(g.q @ g.k.mT), Values.of(g.v))
        chunk.put(out, rows.out)
        if lse is not None:
            chunk.put(lse, rows.lse)

    spread(work, chunks(problem), scores_of(problem))
    return Result(out, lse)


def bias_of(problem: WindowProblem) -> Float[np.ndarray, "H N N"] | None:
    """Bring the bias to the compute dtype."""
    return None if problem.bias is None else widened(problem.bias, compute_dtype(problem.q))


def scores_of(problem: WindowProblem) -> int:
    """Count the scores of a call."""
    return problem.q.size // max(problem.q.shape[-1], 1) * prod(problem.window)


def _is_moderate(problem: WindowProblem, bias: np.ndarray | None) -> bool:
    """Tell whether what makes scores is far from the end of its dtype, or is that end."""
    made_of = [np.array(problem.wrap_bias), *([] if bias is None else [bias])]
    made_of.append(np.asarray(problem.scale))
    return all(((np.abs(x) < MODERATE) | (x == -np.inf)).all() for x in made_of)


def _attend(g: Gathered) -> Finished:
    """Weigh by powers of two, and where all scores are mild without taking a maximum off.

    The scale is spent on the queries, which were copied anyway.
    """
    g.q[...] *= g.scale * g.q.dtype.type(LOG2E)
    s = _binary(g)
    if not (s.size and s.min() > -MILD and s.max() < MILD):
        return finish(g.hidden(s), Values.of(g.v), binary=True)
    rows = _finish_mild(s, g)
    # A value that is not finite is heard by all who see it, and by nobody else (C6).
    return (
        rows
        if np.isfinite(rows.out.sum())
        else finish(g.hidden(_binary(g)), Values.of(g.v), binary=True)
    )


def _binary(g: Gathered) -> Float[np.ndarray, "n h N N"]:
    """Multiply scaled queries by keys, and add what is added."""
    s = g.q @ g.k.mT
    if g.bias is not None:
        s += g.bias
    return g.raised(s, LOG2E)


def _finish_mild(s: Float[np.ndarray, "n h N N"], g: Gathered) -> Finished:
    """Weigh the values by mild scores, which are overwritten.

    Weights are shares before they meet the values: those may be as large or small as they
    like, and where a row sees a single key its value comes back to the bit (A6).
    """
    p = g.hidden(np.exp2(s, out=s), 0)
    l = np.einsum("...j->...", p)
    nothing = l == 0
    l[nothing] = 1
    p /= l[..., None]
    return Finished(p @ g.v, np.where(nothing, -np.inf, np.log(l)))


def _apart(chunk: Chunk) -> np.ndarray | None:
    """Tell which pairs met only because the map was rolled, if any did."""
    if (chunk.turned == chunk.turned[:, :1]).all():
        return None
    return (chunk.turned[:, :, None] != chunk.turned[:, None, :])[:, None]


def _visible(problem: WindowProblem, chunk: Chunk, apart: np.ndarray | None) -> np.ndarray | None:
    """Hide padding, masked keys and, unless they have a bias, wrapped pairs."""
    keys = chunk.real
    if problem.key_mask is not None:
        keys = keys & chunk.gather_mask(problem.key_mask)
    keys = keys[:, None, None, :]
    if apart is not None and problem.wrap_bias == -np.inf:
        return keys & ~apart
    return None if keys.all() else keys
