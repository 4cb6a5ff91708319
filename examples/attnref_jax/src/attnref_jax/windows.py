"""Window attention in rows: the windows of a map are an axis before the heads.

The map is not padded, rolled and cut. Clause G2 says for each place of each window which
token stands there, and that is one index per place. JAX differentiates a gather by itself,
so the gradients of packed projections, of biases and of scales come for nothing.
"""

from functools import partial
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnref.problem import Result, WindowGradients, WindowProblem, split_qkv
from attnref_jax import rows
from attnref_jax.compiling import compiled
from attnref_jax.precision import compute_dtype, lse_like, number
from attnref_jax.rows import Arrays, Call, Rows


class Map(NamedTuple):
    """How windows lie on a map: what is compiled for, one number per spatial axis."""

    extents: tuple[int, ...]
    window: tuple[int, ...]
    shift: tuple[int, ...]


class Places(NamedTuple):
    """Where the tokens of a map go.

    Attributes:
        token: `(windows, N)`: who stands at a place; the number of tokens where nobody does.
        turned: `(windows, N)`: one bit per axis, set where the token came round the edge.
        slot: `(tokens,)`: the place of each token, windows and places counted as one.
    """

    token: np.ndarray | jax.Array
    turned: np.ndarray | jax.Array
    slot: np.ndarray | jax.Array


class Options(NamedTuple):
    """What shapes a call and has no gradient; no `scale` if it is an input.

    Places are handed in, and not written into the program: XLA would fold them for minutes
    on a large map.
    """

    places: Places
    scale: float | None
    wrap_bias: float | None
    key_mask: jax.Array | None


def forward(problem: WindowProblem) -> Result:
    """Attend inside the windows."""
    return Result(*_forward(*_parts(problem)))


def backward(
    problem: WindowProblem, result: Result, dout: jax.Array, dlse: jax.Array | None
) -> WindowGradients:
    """Pass gradients back; those of a packed projection in one array (G1)."""
    gradients = _backward(*_parts(problem), Rows(*result), dout, dlse)
    return rows.named(WindowGradients, gradients)


def _parts(p: WindowProblem) -> tuple[Map, Arrays, Options]:
    inputs = rows.inputs_of(p)
    dtype = compute_dtype(inputs.values())
    scale = None if p.scale_per_head else number(p.scale, dtype)
    hidden = p.wrap_bias == -np.inf
    wrap_bias = None if hidden else number(p.wrap_bias, dtype)
    at = Map(p.extents, p.window, p.shift)
    return at, inputs, Options(places(at), scale, wrap_bias, p.key_mask)


@partial(compiled, static_argnums=0)
def _forward(at: Map, inputs: Arrays, options: Options) -> Rows:
    out, lse = rows.forward(_laid_out(inputs, at, options))
    q = split_qkv(inputs["qkv"])["q"] if "qkv" in inputs else inputs["q"]
    out, lse = (_on_map(x, at, options.places) for x in (out, lse))
    return Rows(out.astype(q.dtype), lse_like(lse, q))


@partial(compiled, static_argnums=0)
def _backward(
    at: Map,
    inputs: Arrays,
    options: Options,
    given: Rows,
    dout: jax.Array,
    dlse: jax.Array | None,
) -> Arrays:
    by_window = partial(_by_window, at=at, places=options.places)
    given = Rows(by_window(given.out), by_window(given.lse, fill=-jnp.inf))
    dlse = None if dlse is None else by_window(dlse)
    lay_out = partial(_laid_out, at=at, options=options)
    return rows.backward(lay_out, inputs, given, by_window(dout), dlse)


def _laid_out(inputs: Arrays, at: Map, options: Options) -> Call:
    dtype = compute_dtype(inputs.values())
    x = {name: array.astype(dtype) for name, array in inputs.items()}
    if "qkv" in x:
        x |= split_qkv(x["qkv"])
    bias, apart = x.get("bias"), _apart(at, options.places)
    if options.wrap_bias is not None and apart is not None:
        wrap = jnp.where(apart, options.wrap_bias, 0).astype(dtype)
        bias = wrap if bias is None else bias + wrap
        apart = None
    q, k, v = (_by_window(x[name], at, options.places) for name in ("q", "k", "v"))
    scale = x["scale"][:, None, None] if options.scale is None else options.scale
    return Call(q, k, v, scale, _seen(at, apart, options), bias)


def _apart(at: Map, places: Places) -> jax.Array | None:
    """Tell which pairs met only because the map was rolled, `(windows, 1, N, N)` (G2)."""
    turned = places.turned
    return (turned[:, None, :, None] != turned[:, None, None]) if any(at.shift) else None


def _seen(at: Map, apart: jax.Array | None, options: Options) -> jax.Array:
    """Hide padding, masked keys, and pairs that are apart (G3, G5, G6)."""
    tokens = prod(at.extents)
    seen = options.places.token < tokens
    if options.key_mask is not None:
        seen = _taken(options.key_mask.reshape(-1, tokens), options.places, False)
    seen = seen[..., None, None, :]
    return seen if apart is None else seen & ~apart


def _by_window(x: jax.Array, at: Map, places: Places, fill: float = 0) -> jax.Array:
    """Lay `(B, *G, H, ...)` out as `(B, windows, H, N, ...)`, padding filled."""
    axes = len(at.extents)
    tokens = x.reshape(x.shape[0], prod(at.extents), *x.shape[axes + 1 :])
    return _taken(tokens, places, fill).swapaxes(2, 3)


def _taken(tokens: jax.Array, places: Places, fill: float) -> jax.Array:
    return jnp.take(tokens, places.token, axis=1, mode="fill", fill_value=fill)


def _on_map(x: jax.Array, at: Map, places: Places) -> jax.Array:
    """Bring `(B, windows, H, N, ...)` back to `(B, *G, H, ...)`."""
    B, windows, H, N, *rest = x.shape
    cells = x.swapaxes(2, 3).reshape(B, windows * N, H, *rest)
    return cells[:, places.slot].reshape(B, *at.extents, H, *rest)


def places(at: Map) -> Places:
    """Find every token's window and place, axis by axis.

    Rolled by the shift, place `t` of an axis holds the token `(t + s) mod n`, where `n` is
    the padded extent (G2, G5).
    """
    token = turned = np.zeros((1, 1), np.int64)
    real = np.ones((1, 1), bool)
    for axis, (g, w, s) in enumerate(zip(*at, strict=True)):
        n = -(-g // w) * w
        x = ((np.arange(n) + s) % n).reshape(-1, w)
        token = _paired(token * g, x)
        turned = _paired(turned, (x < s) << axis)
        real = _paired(real, x < g, np.logical_and)
    tokens = prod(at.extents)
    token = np.where(real, token, tokens)
    slot = np.argsort(token, axis=None, kind="stable")[:tokens]
    return Places(token, turned, slot)


def _paired(outer: np.ndarray, inner: np.ndarray, combine: np.ufunc = np.add) -> np.ndarray:
    """Combine `(windows, N)` of the axes so far with that of the next."""
    (W, N), (w, n) = outer.shape, inner.shape
    pairs = combine(outer[:, None, :, None], inner[None, :, None])
    return np.asarray(pairs).reshape(W * w, N * n)
