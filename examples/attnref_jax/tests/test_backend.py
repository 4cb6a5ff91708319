"""What a caller sees: arrays in, arrays of the same kind out, and reasons."""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attnref_jax import backend

import attnref
from attnref.problem import AttentionProblem

Draw = Callable[..., np.ndarray]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_jax_arrays_come_back_for_jax_arrays(draw: Draw, dtype: str) -> None:
    """The result is a JAX array on the same device, in the same dtype (H3)."""
    q, k, v = (jnp.asarray(draw(1, 2, 5, 8), dtype) for _ in range(3))
    out, lse = attnref.attention_with_lse(q, k, v, causal=True, backend="jax")

    assert isinstance(out, jax.Array)
    assert (dtype, "float32") == (str(out.dtype), str(lse.dtype))
    assert q.device == out.device == lse.device


def test_numpy_arrays_come_back_for_numpy_arrays(draw: Draw) -> None:
    """NumPy arrays reach the backend by its name, and the results may be written to (H3)."""
    q, k, v = draw(1, 2, 5, 8), draw(1, 2, 7, 8), draw(1, 2, 7, 4)
    out = attnref.attention(q, k, v, backend="jax")
    expected = attnref.attention(q, k, v, backend="reference")

    assert isinstance(out, np.ndarray)
    assert out.flags.writeable
    np.testing.assert_allclose(expected, out, rtol=1e-5, atol=1e-6)


def test_installing_the_backend_changes_no_result(draw: Draw) -> None:
    """Unnamed it does not run, not even for JAX arrays (H1)."""
    q = jnp.asarray(draw(1, 2, 5, 8))
    said = attnref.explain(attnref.attention, q, q, q)

    assert said.runs is None
    assert () == said.reasons["jax"]
    with attnref.prefer("jax"), attnref.trace() as ran:
        attnref.attention(q, q, q)
    assert ["attention forward on jax"] == [str(r) for r in ran]


def test_float64_needs_a_switch_of_jax(draw: Draw) -> None:
    """Without it JAX would compute in float32, and say nothing (A6)."""
    q = draw(1, 2, 5, 8).astype(np.float64)
    with jax.enable_x64(False):
        refused = attnref.explain(attnref.attention, q, q, q, backend="jax").reasons["jax"]
    with jax.enable_x64(True):
        out = attnref.attention(q, q, q, backend="jax")

    assert ["x64"] == [reason.code for reason in refused]
    assert 'jax.config.update("jax_enable_x64", True)' in refused[0].sentence
    assert np.float64 == out.dtype


@pytest.mark.usefixtures("x64")
def test_positions_are_64_bit(draw: Draw) -> None:
    """An offset beyond 32 bits is not cut, whatever JAX's default is (C3)."""
    q = draw(2, 1, 4, 8)
    offset = np.array([2**40, -(2**40)])
    out, lse = attnref.attention_with_lse(q, q, q, causal=True, q_offset=offset, backend="jax")

    np.testing.assert_array_equal([True, False], np.isfinite(lse).all(axis=(1, 2)))
    np.testing.assert_array_equal(0, out[1])


def test_other_devices_are_a_reason(draw: Draw) -> None:
    """What was judged on the CPU only is offered on the CPU only."""

    class OnGpu(AttentionProblem):
        device = "cuda:0"

    q = jnp.asarray(draw(1, 2, 5, 8))
    (reason,) = backend.unsupported(OnGpu(q=q, k=q, v=q, scale=1.0))

    assert ("device", "cpu") == (reason.code, reason.limit)
    assert "runs on the CPU, and these arrays are on cuda:0" == str(reason)


def test_without_jax_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package may be there without JAX, and is then listed and not loaded."""
    monkeypatch.setattr(sys.modules["attnref_jax.backend"], "find_spec", lambda _: None)

    assert ["JAX is not installed: pip install jax"] == [str(r) for r in backend.available()]


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap])
def test_a_traced_array_is_told_apart(draw: Draw, transform: Callable[..., Any]) -> None:
    """attnref is called with arrays, and inside a transformation there are none."""
    with pytest.raises(attnref.InvalidProblem, match="traced by jax"):
        transform(lambda q: attnref.attention(q, q, q, backend="jax").sum())(draw(1, 2, 5, 8))
