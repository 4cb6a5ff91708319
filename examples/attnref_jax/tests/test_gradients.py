"""JAX differentiates; what it is asked to differentiate is ours to get right."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attnref_jax import rows

import attnref

Draw = Callable[..., np.ndarray]


def test_gradients_of_parts_add_up_to_those_of_the_whole(draw: Draw) -> None:
    """Each part is given the merged out and lse, and returns its contribution (E2)."""
    q, k, v, dout = draw(1, 4, 9, 8), draw(1, 2, 12, 8), draw(1, 2, 12, 6), draw(1, 4, 9, 6)
    dlse = draw(1, 4, 9)
    out, lse = attnref.attention_with_lse(q, k, v, backend="jax")
    whole, first, second = (
        attnref.attention_backward(
            dout, q, k[:, :, at], v[:, :, at], out, lse, dlse=dlse, backend="jax"
        )
        for at in (slice(None), slice(0, 5), slice(5, None))
    )

    np.testing.assert_allclose(whole.dq, first.dq + second.dq, rtol=1e-4, atol=1e-5)
    for name in ("dk", "dv"):
        parts = np.concatenate([getattr(first, name), getattr(second, name)], axis=2)
        np.testing.assert_allclose(getattr(whole, name), parts, rtol=1e-4, atol=1e-5)


def test_measured_from_lse_the_sums_have_the_gradients_of_the_results(draw: Draw) -> None:
    """The short derivatives of `rows` are those of its `forward`, sinks and cap included."""
    q, k, v, bias = draw(4, 9, 8), draw(2, 12, 8), draw(2, 12, 6), draw(4, 9, 12)
    inputs = {"q": q, "k": k, "v": v, "bias": bias, "sinks": draw(4)}
    dout, dlse = draw(4, 9, 6), draw(4, 9)

    def lay_out(x: dict[str, Any]) -> rows.Call:
        sink = x["sinks"][:, None]
        return rows.Call(x["q"], x["k"], x["v"], 0.3, None, x["bias"], 1.5, sink)

    given, differentiated = jax.vjp(lambda x: rows.forward(lay_out(x)), inputs)
    (expected,) = differentiated(rows.Rows(jnp.asarray(dout), jnp.asarray(dlse)))
    actual = rows.backward(lay_out, inputs, given, dout, dlse)

    for name, gradient in expected.items():
        np.testing.assert_allclose(gradient, actual[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_nothing_past_a_length_reaches_a_gradient(draw: Draw) -> None:
    """NaN past a length is not multiplied by zero, which would keep it (C4)."""
    q, k, v, dout = (draw(2, 2, 7, 4) for _ in range(4))
    lengths = {"q_lens": np.array([7, 3]), "kv_lens": np.array([2, 7])}
    out, lse = (np.array(x) for x in attnref.attention_with_lse(q, k, v, **lengths, backend="jax"))
    expected = attnref.attention_backward(dout, q, k, v, out, lse, **lengths, backend="jax")
    for x in (q, dout, out, lse):
        x[1, :, 3:] = np.nan
    for x in (k, v):
        x[0, :, 2:] = np.nan
    actual = attnref.attention_backward(dout, q, k, v, out, lse, **lengths, backend="jax")

    for a, b in zip(expected[:3], actual[:3], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("scale", [0.5, np.array([0.5, 2.0], np.float32)], ids=["one", "per head"])
def test_windows_agree_with_the_reference(draw: Draw, scale: Any) -> None:
    """Packed, shifted, padded, biased: one gather, differentiated (G1, G5, G6)."""
    qkv, bias = draw(2, 5, 7, 3, 2, 8), draw(2, 6, 6)
    options = {"window": (2, 3), "shift": (1, 2), "bias": bias, "scale": scale}
    dout = draw(2, 5, 7, 2, 8)
    expected, actual = (
        attnref.window_attention_qkv_backward(
            dout,
            qkv,
            *attnref.window_attention_qkv_with_lse(qkv, **options, backend="reference"),
            **options,
            backend=name,
        )
        for name in ("reference", "jax")
    )

    for name, gradient in expected._asdict().items():
        mine = getattr(actual, name)
        assert (gradient is None) == (mine is None)
        if gradient is not None:
            np.testing.assert_allclose(gradient, mine, rtol=1e-4, atol=1e-5, err_msg=name)
