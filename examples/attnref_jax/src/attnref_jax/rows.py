r"""Rows of attention: one function, computed forward and differentiated backward.

Measure a row's scores from any number $m$:

$$l = \sum_j e^{s_j - m} \qquad a = \sum_j e^{s_j - m} v_j$$

Then $\mathrm{out} = a / l$ and $\mathrm{lse} = m + \log l$. `forward` measures from the
largest score, so that nothing overflows.

`backward` measures from the given `lse`. There $l = 1$, and the derivatives are short:

$$d\,\mathrm{out} = da - \mathrm{out}\, dl \qquad d\,\mathrm{lse} = dl$$

What the loss says to `out` and `lse` it therefore says to $a$ and $l$ as

$$\frac{\partial}{\partial a} = \mathrm{dout} \qquad
\frac{\partial}{\partial l} = \mathrm{dlse} - \mathrm{dout} \cdot \mathrm{out}$$

and from there on JAX differentiates by itself. If the given `out` and `lse` belong to a
larger problem, of which these keys are a part, then it is the parts' sums together that
make $l = 1$. The loss says the same to each, and what comes back is this part's
contribution (E2). Differentiating `out` and `lse` instead would normalise the part by
itself, and be wrong.

Scores are held whole, so memory grows with queries times keys.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnref.problem import Problem
from attnref_jax.precision import clean, compute_dtype

Arrays = dict[str, jax.Array]
"""Differentiable inputs by name; what comes back are their gradients."""


def inputs_of(problem: Problem) -> Arrays:
    """Take the inputs of a problem that have gradients."""
    return {name: problem.arrays[name] for name in problem.differentiable if name in problem.arrays}


class Call(NamedTuple):
    """Attention in rows. All arrays are in the compute dtype, and axes may precede `Hq`.

    Attributes:
        q: `(..., Hq, Sq, D)`.
        k: `(..., Hkv, Sk, D)`.
        v: `(..., Hkv, Sk, Dv)`.
        scale: A number, or `(Hq, 1, 1)`.
        seen: `True` where visible, broadcasts to `(..., Hq, Sq, Sk)`; `None` is all.
        bias: Broadcasts likewise.
        softcap: Bound of the scores.
        sink: Extra logit of each row, broadcasts to `(..., Hq, Sq)`.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    scale: float | jax.Array
    seen: jax.Array | None = None
    bias: jax.Array | None = None
    softcap: float | None = None
    sink: jax.Array | None = None


class Rows(NamedTuple):
    """Finished rows, `(..., Hq, Sq, Dv)` and `(..., Hq, Sq)`."""

    out: jax.Array
    lse: jax.Array


class Sums(NamedTuple):
    """Weighted values and weights of rows, or what a loss says to them."""

    a: jax.Array
    l: jax.Array


class Told(NamedTuple):
    """What a backward pass is told.

    Attributes:
        m: Where to measure from: the given log-sum-exp, and zero where there is none.
        live: False for rows that pass nothing.
        sums: What the loss says to the sums of each row.
    """

    m: jax.Array
    live: jax.Array
    sums: Sums


def forward(call: Call) -> Rows:
    """Attend."""
    s = scores(call)
    m = s.max(axis=-1, initial=-jnp.inf)
    if call.sink is not None:
        m = jnp.maximum(m, call.sink)
    m = jnp.where(m == -jnp.inf, 0, m)
    out, lse = finished(measured(call, s, m), m)
    return Rows(jnp.where(_meets_nonfinite(s, call.v), jnp.nan, out), lse)


def backward(
    lay_out: Callable[[Arrays], Call],
    inputs: Arrays,
    given: Rows,
    dout: jax.Array,
    dlse: jax.Array | None,
) -> Arrays:
    """Pass gradients back to the inputs that `lay_out` makes a call of.

    What is not finite is replaced first: past a length it may not matter (C4), and what it
    does elsewhere is unspecified (C6). Rows with `lse = -inf` pass nothing (E1).
    """
    m, live, said = told(given, dout, dlse, compute_dtype(inputs.values()))

    def sums(inputs: Arrays) -> Sums:
        call = lay_out(inputs)
        s = jnp.where(live[..., None], scores(call), -jnp.inf)
        if call.sink is not None:
            call = call._replace(sink=jnp.where(live, call.sink, -jnp.inf))
        return measured(call, s, m)

    factors = {n: clean(x) if n in ("q", "k", "v", "qkv") else x for n, x in inputs.items()}
    _, differentiated = jax.vjp(sums, factors)
    (gradients,) = differentiated(said)
    return gradients


def finished(sums: Sums, m: jax.Array) -> Rows:
    """Normalise sums measured from `m`; an empty one gives zeros and minus infinity (C5)."""
    a, l = sums
    empty = l == 0
    out = a / jnp.where(empty, 1, l)[..., None]
    return Rows(out, jnp.where(empty, -jnp.inf, m + jnp.log(l)))


def told(given: Rows, dout: jax.Array, dlse: jax.Array | None, dtype: np.dtype) -> Told:
    """Turn what a loss says to `out` and `lse` into what it says to the sums behind them."""
    live = jnp.isfinite(given.lse)
    m = jnp.where(live, given.lse, 0).astype(dtype)
    dout, out = (clean(x).astype(dtype) for x in (dout, given.out))
    dlse = jnp.zeros_like(m) if dlse is None else clean(dlse).astype(dtype)
    dl = jnp.where(live, dlse - (dout * out).sum(axis=-1), 0)
    return Told(m, live, Sums(dout, dl))


def scores(call: Call) -> jax.Array:
    """Scale, cap, add the bias, and hide by selection (B1 to B4)."""
    s = call.scale * by_group(call.q, call.k.mT)
    if call.softcap is not None:
        s = call.softcap * jnp.tanh(s / call.softcap)
    if call.bias is not None:
        s = s + call.bias
    return s if call.seen is None else jnp.where(call.seen, s, -jnp.inf)


def measured(call: Call, s: jax.Array, m: jax.Array) -> Sums:
    """Sum weighted values, and weights, measured from `m`; a sink weighs in (D4)."""
    p = jnp.exp(s - m[..., None])
    l = p.sum(axis=-1)
    if call.sink is not None:
        l = l + jnp.exp(call.sink - m)
    return Sums(by_group(p, clean(call.v)), l)


def _meets_nonfinite(s: jax.Array, v: jax.Array) -> jax.Array:
    """Tell which rows see a value that is not finite, `(..., Hq, Sq, 1)` (C6).

    A product would show it to all rows, since zero times infinity is NaN.
    """
    spoiled = ~jnp.isfinite(v).all(axis=-1, keepdims=True)
    return by_group((s != -jnp.inf).astype(s.dtype), spoiled.astype(s.dtype)) > 0


def by_group(x: jax.Array, y: jax.Array) -> jax.Array:
    """Multiply each query head of `x` with its key/value head of `y` (A2).

    The query heads of a group share an axis with their rows, so that the derivative by `y`
    adds the group up inside a product, in the compute dtype (E3).
    """
    *batch, Hq, n, D = x.shape
    Hkv = y.shape[-3]
    rows = x.reshape(*batch, Hkv, (Hq // Hkv if Hkv else 1) * n, D)
    product = jnp.matmul(rows, y, precision=jax.lax.Precision.HIGHEST)
    return product.reshape(*batch, Hq, n, y.shape[-1])


def named(kind: Callable[..., Any], gradients: Arrays) -> Any:
    """Name the gradients of the inputs that there were."""
    fields: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
    return kind(*(gradients.get(field.removeprefix("d")) for field in fields))
