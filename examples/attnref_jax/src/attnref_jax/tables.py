"""Relative position bias: one table row per displacement of two tokens (G6)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from attnref.problem import Result, TableGradients, TableProblem
from attnref_jax.compiling import compiled
from attnref_jax.precision import compute_dtype


def forward(problem: TableProblem) -> Result:
    """Look up the bias of every pair."""
    return Result(_forward(problem.window, problem.table))


def backward(problem: TableProblem, dbias: jax.Array) -> TableGradients:
    """Add up what equal displacements say."""
    return TableGradients(_backward(problem.window, problem.table, dbias))


@partial(compiled, static_argnums=0)
def _forward(window: tuple[int, ...], table: jax.Array) -> jax.Array:
    return _wide(table, window).astype(table.dtype)


@partial(compiled, static_argnums=0)
def _backward(window: tuple[int, ...], table: jax.Array, dbias: jax.Array) -> jax.Array:
    _, differentiated = jax.vjp(partial(_wide, window=window), table)
    (dtable,) = differentiated(dbias.astype(compute_dtype([table])))
    return dtable


def _wide(table: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """Widen before the lookup, so that its derivative sums in the compute dtype (E3)."""
    rows = table.astype(compute_dtype([table]))[displacements(window)]
    return jnp.moveaxis(rows, -1, 0)


def displacements(window: tuple[int, ...]) -> np.ndarray:
    """Return the table row of every pair: query minus key, row-major."""
    tokens = np.indices(window).reshape(len(window), -1)
    shape = [2 * w - 1 for w in window]
    d = [x[:, None] - x + w - 1 for w, x in zip(window, tokens, strict=True)]
    return np.asarray(np.ravel_multi_index(d, shape))
