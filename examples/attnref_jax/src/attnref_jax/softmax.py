"""Softmax along any axis (D5)."""

from functools import partial

import jax
import jax.numpy as jnp

from attnref.problem import Result, SoftmaxGradients, SoftmaxProblem
from attnref_jax.compiling import compiled
from attnref_jax.precision import compute_dtype


def forward(problem: SoftmaxProblem) -> Result:
    """Weigh each slice; XLA chooses its own tiles, which a tile asked for may not change."""
    return Result(_forward(problem.x, axis=problem.axis))


def backward(problem: SoftmaxProblem, result: Result, dout: jax.Array) -> SoftmaxGradients:
    """Return `y (dy - sum(y dy))`: the weights are given, and what they came from is not."""
    return SoftmaxGradients(_backward(result.out, dout, axis=problem.axis))


@partial(compiled, static_argnames="axis")
def _forward(x: jax.Array, *, axis: int) -> jax.Array:
    wide = x.astype(compute_dtype([x]))
    m = wide.max(axis=axis, keepdims=True, initial=-jnp.inf)
    p = jnp.exp(wide - jnp.where(m == -jnp.inf, 0, m))
    l = p.sum(axis=axis, keepdims=True)
    return (p / jnp.where(l == 0, 1, l)).astype(x.dtype)


@partial(compiled, static_argnames="axis")
def _backward(y: jax.Array, dy: jax.Array, *, axis: int) -> jax.Array:
    dtype = compute_dtype([y])
    y_, dy_ = y.astype(dtype), dy.astype(dtype)
    return (y_ * (dy_ - (y_ * dy_).sum(axis=axis, keepdims=True))).astype(y.dtype)
