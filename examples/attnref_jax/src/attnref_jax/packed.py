"""Packed sequences: `attention_varlen` in rows, as one batch entry.

All tokens share one axis, and a query sees a key only if their sequences agree.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from attnref.problem import AttentionGradients, Result, VarlenProblem, Window
from attnref.spec.visibility import in_window, within
from attnref_jax import rows
from attnref_jax.compiling import compiled
from attnref_jax.precision import cap, compute_dtype, lse_like, number
from attnref_jax.rows import Arrays, Call, Rows


class Options(NamedTuple):
    """What shapes a call and has no gradient."""

    scale: float
    window: Window
    offset: int | jax.Array
    softcap: float | None
    cu_q: jax.Array
    cu_k: jax.Array


class Places(NamedTuple):
    """Which sequence each token belongs to, and where in it the token stands."""

    sequence: jax.Array
    local: jax.Array


def forward(problem: VarlenProblem) -> Result:
    """Attend inside each sequence."""
    return Result(*_forward(*_parts(problem)))


def backward(
    problem: VarlenProblem, result: Result, dout: jax.Array, dlse: jax.Array | None
) -> AttentionGradients:
    """Pass gradients back; sinks belong to every sequence."""
    gradients = _backward(*_parts(problem), Rows(*result), dout, dlse)
    return rows.named(AttentionGradients, gradients)


def _parts(p: VarlenProblem) -> tuple[Arrays, Options]:
    inputs = rows.inputs_of(p)
    dtype = compute_dtype(inputs.values())
    options = Options(
        scale=number(p.scale, dtype),
        window=p.window,
        offset=p.offset,
        softcap=cap(p.softcap, dtype),
        cu_q=p.cu_q,
        cu_k=p.cu_k,
    )
    return inputs, options


@compiled
def _forward(inputs: Arrays, options: Options) -> Rows:
    out, lse = rows.forward(_laid_out(inputs, options))
    q = inputs["q"]
    return Rows(out.swapaxes(0, 1).astype(q.dtype), lse_like(lse, q))


@compiled
def _backward(
    inputs: Arrays, options: Options, given: Rows, dout: jax.Array, dlse: jax.Array | None
) -> Arrays:
    given, dout = Rows(given.out.swapaxes(0, 1), given.lse), dout.swapaxes(0, 1)
    return rows.backward(partial(_laid_out, options=options), inputs, given, dout, dlse)


def _laid_out(inputs: Arrays, options: Options) -> Call:
    dtype = compute_dtype(inputs.values())
    q, k, v = (inputs[name].astype(dtype).swapaxes(0, 1) for name in ("q", "k", "v"))
    mine, theirs = _places(options.cu_q, q.shape[1]), _places(options.cu_k, k.shape[1])
    real = within(mine.sequence, options.cu_q.shape[0] - 1)
    together = real[:, None] & (mine.sequence[:, None] == theirs.sequence)
    p = mine.local + _offset_of(options.offset, mine)
    sinks = inputs.get("sinks")
    if sinks is not None:
        sinks = jnp.where(real, sinks.astype(dtype)[:, None], -jnp.inf)
    return Call(
        q=q,
        k=k,
        v=v,
        scale=options.scale,
        seen=together & in_window(p[:, None], theirs.local, *options.window),
        softcap=options.softcap,
        sink=sinks,
    )


def _places(cu: jax.Array, tokens: int) -> Places:
    """Place the tokens; those past the last offset get the sequence after the last."""
    cu = cu.astype(jnp.int64)
    t = jnp.arange(tokens)
    sequence = jnp.searchsorted(cu[1:], t, side="right")
    return Places(sequence, t - cu[sequence])


def _offset_of(offset: int | jax.Array, mine: Places) -> jax.Array:
    """Give every query its sequence's offset, and zero to those of none."""
    offset = jnp.asarray(offset, jnp.int64)
    return jnp.pad(offset, (0, 1))[mine.sequence] if offset.ndim else offset
