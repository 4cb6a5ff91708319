"""Functions of one number, against arbitrary precision and against torch."""

import mpmath
import numpy as np
import pytest
import torch

from attnref.models.arithmetic import erf, gelu, gelu_tanh, sigmoid

HERE = np.linspace(-6, 6, 401)


def exactly(function, x):
    """Evaluate a function of mpmath at every number."""
    return np.array([float(function(mpmath.mpf(float(v)))) for v in x])


@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-15), ("float32", 5e-7)])
def test_the_error_function_is_within_its_stated_bound(dtype, limit):
    """float64 is exact to the last place; float32 has 1.5e-7 and its own roundings."""
    x = HERE.astype(dtype)

    actual = erf(x)

    assert dtype == actual.dtype
    np.testing.assert_allclose(actual, exactly(mpmath.erf, x), rtol=0, atol=limit)


def test_torch_is_asked_for_its_own_error_function():
    """So that it can be differentiated."""
    x = torch.linspace(-3, 3, 50, dtype=torch.float64, requires_grad=True)

    erf(x).sum().backward()

    expected = 2 / np.pi**0.5 * np.exp(-(x.detach().numpy() ** 2))
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("ours", "form"), [(gelu, "none"), (gelu_tanh, "tanh")], ids=["erf", "tanh"]
)
def test_both_forms_of_gelu_are_those_of_torch(ours, form):
    """One is exact, the other GPT-2's approximation; they differ by 5e-4."""
    expected = torch.nn.functional.gelu(torch.from_numpy(HERE), approximate=form).numpy()

    np.testing.assert_allclose(ours(HERE), expected, rtol=0, atol=1e-14)
    assert 1e-4 < abs(gelu(HERE) - gelu_tanh(HERE)).max() < 5e-4


def test_the_sigmoid_does_not_overflow():
    """Far out it is zero or one, without a warning."""
    x = np.array([-1e4, -1.0, 0.0, 1.0, 1e4])

    np.testing.assert_allclose(sigmoid(x), [0, 1 / (1 + np.e), 0.5, np.e / (1 + np.e), 1])
