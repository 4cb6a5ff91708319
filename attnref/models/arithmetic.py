r"""The functions of one number that models use, and where array libraries keep theirs.

A model is written once, for NumPy's arrays, torch's tensors and whatever else names things
as NumPy does. Methods and operators need no library; what is a function is looked up in
the library of its argument.
"""

from importlib import import_module
from math import erf as exact_erf
from math import pi
from typing import Any

import numpy as np
from jaxtyping import Float

from attnref import arrays
from attnref.arrays import Array


def namespace(x: Array) -> Any:
    """Return the module that has functions for arrays such as `x`."""
    name = arrays.library(x) or "numpy"
    return import_module({"jax": "jax.numpy"}.get(name, name))


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""Let a number through as far as a normal variable would stay below it.

    $$x \, \Phi(x) = \frac x 2 \left(1 + \mathrm{erf}\, \frac x {\sqrt 2}\right)$$
    """
    return 0.5 * x * (1.0 + erf(x * 0.5**0.5))


def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""Approximate `gelu` to about 5e-4, as GPT-2 does.

    $$\frac x 2 \left(1 + \tanh\left(\sqrt{2 / \pi}\, (x + 0.044715\, x^3)\right)\right)$$
    """
    return 0.5 * x * (1.0 + namespace(x).tanh((2 / pi) ** 0.5 * (x + 0.044715 * (x * x * x))))


def sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""Squeeze a number between zero and one: $(1 + \tanh(x / 2)) / 2$, which cannot overflow."""
    return 0.5 + 0.5 * namespace(x).tanh(0.5 * x)


def erf(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the error function, in the precision of the argument.

    A library that has one is asked for it, and torch can then differentiate it. NumPy has
    none. Its float64 numbers go to `math.erf`, one by one. For narrower ones a formula is
    within 1.5e-7 and a few roundings of float32, absolutely.

    Source:
        M. Abramowitz and I. A. Stegun, "Handbook of Mathematical Functions", 7.1.26.
    """
    library = namespace(x)
    if hasattr(library, "erf"):
        return library.erf(x)
    if arrays.dtype_name(x) == "float64":
        return arrays.from_numpy(_erf_exact(arrays.to_numpy(x)), x)
    t = 1.0 / (1.0 + 0.3275911 * abs(x))
    rest = 1.061405429
    for c in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        rest = rest * t + c
    return library.sign(x) * (1.0 - rest * t * library.exp(-x * x))


_erf_exact = np.vectorize(exact_erf, otypes=[np.float64])
