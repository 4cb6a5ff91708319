"""Programs are made once per shape, and not kept for ever."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attnref_jax import compiling, rows

import attnref

Draw = Callable[..., np.ndarray]


def test_numbers_are_no_reason_to_compile_again(
    draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of the same shapes runs what an earlier one compiled."""
    seen, compute = [], rows.forward
    monkeypatch.setattr(rows, "forward", lambda call: seen.append(call) or compute(call))
    q = jnp.asarray(draw(1, 2, 11, 8))
    attnref.attention(q, q, q, window=(3, 1), softcap=2.0, backend="jax")
    attnref.attention(q, q, q, window=(1, 2), softcap=3.0, scale=0.5, backend="jax")

    assert 1 == len(seen)


def test_only_so_many_programs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit every program is let go, and the results are the same."""
    monkeypatch.setattr(compiling, "PROGRAMS", 2)
    shapes: list[int] = []

    @compiling.compiled
    def double(x: jax.Array) -> jax.Array:
        shapes.append(len(x))
        return 2 * x

    totals = [int(double(jnp.ones(n)).sum()) for n in (1, 2, 1, 3, 1, 1)]

    assert [2, 4, 2, 6, 2, 2] == totals
    assert [1, 2, 1, 3, 1] == shapes
