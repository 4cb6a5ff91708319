"""Joining finished rows of disjoint keys: the two parts are the keys of a row (D3)."""

from functools import partial

import jax
import jax.numpy as jnp

from attnref.problem import MergeGradients, MergeProblem, Result
from attnref_jax import rows
from attnref_jax.compiling import compiled
from attnref_jax.precision import compute_dtype
from attnref_jax.rows import Arrays, Rows, Sums


def forward(problem: MergeProblem) -> Result:
    """Weigh each part by its share of the sum; an empty part has none."""
    return Result(*_forward(problem.arrays))


def backward(
    problem: MergeProblem, result: Result, dout: jax.Array, dlse: jax.Array | None
) -> MergeGradients:
    """Pass a merged row's gradient to both of its parts, as `rows` does to its keys."""
    gradients = _backward(problem.arrays, Rows(*result), dout, dlse)
    return rows.named(MergeGradients, gradients)


@compiled
def _forward(inputs: Arrays) -> Rows:
    m = jnp.maximum(inputs["lse_a"], inputs["lse_b"])
    m = jnp.where(m == -jnp.inf, 0, m)
    out, lse = rows.finished(_measured(inputs, m), m)
    return Rows(out.astype(inputs["out_a"].dtype), lse)


@compiled
def _backward(inputs: Arrays, given: Rows, dout: jax.Array, dlse: jax.Array | None) -> Arrays:
    m, _, said = rows.told(given, dout, dlse, compute_dtype(inputs.values()))
    _, differentiated = jax.vjp(partial(_measured, m=m), inputs)
    (gradients,) = differentiated(said)
    return gradients


def _measured(inputs: Arrays, m: jax.Array) -> Sums:
    """Sum weighted values, and weights, measured from `m`."""
    dtype = compute_dtype(inputs.values())
    a, b = jnp.exp(inputs["lse_a"] - m), jnp.exp(inputs["lse_b"] - m)
    out_a, out_b = (inputs[name].astype(dtype) for name in ("out_a", "out_b"))
    return Sums(a[..., None] * out_a + b[..., None] * out_b, a + b)
