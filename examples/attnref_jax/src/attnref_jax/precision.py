"""Which dtype work is done in, and how arrays and numbers get there (A6).

Half precisions compute in float32. Inputs are widened inside the functions that JAX
differentiates, so that the derivative of the cast is the one rounding of a gradient.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np


def compute_dtype(arrays: Iterable[jax.Array]) -> np.dtype:
    """Return float64 if an array is float64, and float32 otherwise."""
    wide = any(x.dtype == np.float64 for x in arrays)
    return np.dtype(np.float64 if wide else np.float32)


def number(x: float, dtype: np.dtype) -> float:
    """Bring a finite number into the finite range of a dtype."""
    largest = float(np.finfo(dtype).max)
    return min(max(x, -largest), largest)


def cap(x: float | None, dtype: np.dtype) -> float | None:
    """Bring a soft cap into the range of a dtype, where it is divided by (B2)."""
    return None if x is None else max(number(x, dtype), float(np.finfo(dtype).tiny))


def clean(x: jax.Array) -> jax.Array:
    """Return zero where `x` is not finite: a zero weight does not hide NaN, a zero does."""
    return jnp.where(jnp.isfinite(x), x, 0)


def lse_like(lse: jax.Array, q: jax.Array) -> jax.Array:
    """Round a log-sum-exp: float64 for float64, else float32 (A3).

    A finite one stays finite, because minus infinity says that nothing was seen.
    """
    dtype = compute_dtype([q])
    largest = float(np.finfo(dtype).max)
    return jnp.where(jnp.isfinite(lse), jnp.clip(lse, -largest, largest), lse).astype(dtype)
