"""Padded batches: `attention` in rows."""

from functools import partial, reduce
from operator import and_
from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnref.problem import AttentionGradients, AttentionProblem, Result, Window
from attnref.spec.visibility import in_window, within
from attnref_jax import rows
from attnref_jax.compiling import compiled
from attnref_jax.precision import cap, compute_dtype, lse_like, number
from attnref_jax.rows import Arrays, Call, Rows


class Options(NamedTuple):
    """What shapes a call and has no gradient; to `jit`, an absent one is part of the type."""

    scale: float
    window: Window
    offset: int | jax.Array
    softcap: float | None
    mask: jax.Array | None
    q_lens: jax.Array | None
    kv_lens: jax.Array | None


def forward(problem: AttentionProblem) -> Result:
    """Attend."""
    return Result(*_forward(*_parts(problem)))


def backward(
    problem: AttentionProblem, result: Result, dout: jax.Array, dlse: jax.Array | None
) -> AttentionGradients:
    """Pass gradients back."""
    gradients = _backward(*_parts(problem), Rows(*result), dout, dlse)
    return rows.named(AttentionGradients, gradients)


def _parts(p: AttentionProblem) -> tuple[Arrays, Options]:
    inputs = rows.inputs_of(p)
    dtype = compute_dtype(inputs.values())
    options = Options(
        scale=number(p.scale, dtype),
        window=p.window,
        offset=p.offset,
        softcap=cap(p.softcap, dtype),
        mask=p.mask,
        q_lens=p.q_lens,
        kv_lens=p.kv_lens,
    )
    return inputs, options


@compiled
def _forward(inputs: Arrays, options: Options) -> Rows:
    out, lse = rows.forward(_laid_out(inputs, options))
    return Rows(out.astype(inputs["q"].dtype), lse_like(lse, inputs["q"]))


@compiled
def _backward(
    inputs: Arrays, options: Options, given: Rows, dout: jax.Array, dlse: jax.Array | None
) -> Arrays:
    return rows.backward(partial(_laid_out, options=options), inputs, given, dout, dlse)


def _laid_out(inputs: Arrays, options: Options) -> Call:
    dtype = compute_dtype(inputs.values())
    x = {name: array.astype(dtype) for name, array in inputs.items()}
    return Call(
        q=x["q"],
        k=x["k"],
        v=x["v"],
        scale=options.scale,
        seen=_seen(options, x["q"].shape[2], x["k"].shape[2]),
        bias=x.get("bias"),
        softcap=options.softcap,
        sink=_sinks(x.get("sinks"), options, x["q"].shape[2]),
    )


def _seen(options: Options, Sq: int, Sk: int) -> jax.Array | None:
    """Intersect every constraint that was given (C1 to C4)."""
    i, j = jnp.arange(Sq)[:, None], jnp.arange(Sk)
    constraints = [] if options.mask is None else [options.mask]
    if options.window != (None, None):
        p = i + _per_entry(options.offset)
        constraints.append(in_window(p, j, *options.window))
    if options.q_lens is not None:
        constraints.append(within(i, _per_entry(options.q_lens)))
    if options.kv_lens is not None:
        constraints.append(within(j, _per_entry(options.kv_lens)))
    return reduce(and_, constraints) if constraints else None


def _sinks(sinks: jax.Array | None, options: Options, Sq: int) -> jax.Array | None:
    """Give every real row its head's sink: those past a length have none (D4)."""
    if sinks is None or options.q_lens is None:
        return None if sinks is None else sinks[:, None]
    real = within(jnp.arange(Sq), _per_entry(options.q_lens)[..., 0])
    return jnp.where(real, sinks[:, None], -jnp.inf)


def _per_entry(x: int | jax.Array) -> jax.Array:
    """Let a number per batch entry meet scores; positions are 64-bit (C3)."""
    return jnp.asarray(x, jnp.int64)[..., None, None, None]
