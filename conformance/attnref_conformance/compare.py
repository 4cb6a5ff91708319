"""Whether an array is the one that was expected: shape, dtype, order, special values, error.

The comparer knows no tolerance of its own. It is under test for every way to be wrong.
"""

from dataclasses import dataclass

import numpy as np

from attnref import arrays
from attnref.arrays import Array
from attnref_conformance.oracle import Expected


@dataclass(frozen=True)
class Comparison:
    """What comparing one array said.

    Attributes:
        problem: What is wrong, in one sentence; empty if nothing is.
        utilisation: The largest error divided by its limit; 0 where all is exact.
        error: The largest absolute error.
        bias: The mean signed error divided by its standard error; large means that the
            rounding leans to one side.
    """

    problem: str = ""
    utilisation: float = 0.0
    error: float = 0.0
    bias: float = 0.0


def compare(
    name: str, native: Array, values: np.ndarray, expected: Expected, order: tuple[int, ...]
) -> Comparison:
    """Compare a backend's array, and its values, with what was expected in this order."""
    form = _form(name, native, expected, order)
    if form:
        return Comparison(form)
    got = values.astype(np.float64)
    special = _special(name, got, expected)
    if special:
        return Comparison(special)
    both = np.isfinite(expected.value) & np.isfinite(got)
    if expected.rows:
        both &= np.isfinite(expected.value).all(axis=-1, keepdims=True)
    if not both.any():
        return Comparison()
    difference = np.where(both, got, 0.0) - np.where(both, expected.value, 0.0)
    error = np.abs(difference)
    bound = np.broadcast_to(expected.bound, error.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error > 0, error / bound, 0.0)
    ratio = np.where(np.isnan(ratio), np.inf, ratio)  # no limit is no permission
    worst = np.unravel_index(int(ratio.argmax()), ratio.shape)
    utilisation, largest = float(ratio[worst]), float(error.max())
    n = int(both.sum())
    mean, spread = float(difference[both].mean()), float(difference[both].std())
    bias = mean / (spread / n**0.5) if spread else np.copysign(np.inf, mean) if mean else 0.0
    text = ""
    if utilisation > 1:
        at = ", ".join(str(int(i)) for i in worst)
        text = (
            f"{name}[{at}] is {got[worst]:.9g} and must be {expected.value[worst]:.9g} "
            f"within {float(bound[worst]):.3g}: off by {float(error[worst]):.3g}; "
            f"{int((ratio > 1).sum())} of {n} elements are past their limit"
        )
    return Comparison(text, utilisation, largest, bias)


def _form(name: str, native: Array, expected: Expected, order: tuple[int, ...]) -> str:
    """Say what is wrong with the array itself; empty if nothing is."""
    if arrays.library(native) is None:
        return f"{name} is a {type(native).__name__}, not an array"
    shape = tuple(native.shape)
    if shape != expected.value.shape:
        return f"{name} has shape {shape} and must have {expected.value.shape}"
    dtype = arrays.dtype_name(native)
    if dtype != expected.dtype:
        return f"{name} is {dtype} and must be {expected.dtype}"
    if 0 not in shape and _strided(native) and not _in_order(native, order):
        found = arrays.memory_order(native)
        return f"{name} lies in memory as {found} and must lie as {order}"
    return ""


def _strided(native: Array) -> bool:
    return hasattr(native, "strides") or hasattr(native, "stride")


def _in_order(native: Array, order: tuple[int, ...]) -> bool:
    """Tell whether the array is dense in the given order; short axes do not matter."""
    strides = native.stride() if callable(getattr(native, "stride", None)) else native.strides
    long = [a for a in order if native.shape[a] > 1]
    step = 1 if callable(getattr(native, "stride", None)) else native.dtype.itemsize
    for axis in reversed(long):
        if strides[axis] != step:
            return False
        step *= native.shape[axis]
    return True


def _special(name: str, got: np.ndarray, expected: Expected) -> str:
    """Say which special value is not what it must be; empty if none."""
    want = expected.value
    if expected.rows:
        spoiled = ~np.isfinite(want).all(axis=-1)
        wrong = spoiled != ~np.isfinite(got).all(axis=-1)
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            verb = "must be" if spoiled[at] else "must not be"
            return f"row {at} of {name} {verb} non-finite: {int(wrong.sum())} rows are wrong"
        return ""
    finite = np.isfinite(want)
    # NaN and +inf are interchangeable marks of a spoiled value; minus infinity is a value.
    same = np.where(finite, np.isfinite(got), ~np.isfinite(got))
    same &= (want == -np.inf) == (got == -np.inf)
    if same.all():
        return ""
    at = tuple(int(i) for i in np.argwhere(~same)[0])
    return f"{name}{list(at)} is {got[at]} and must be {want[at]}; {int((~same).sum())} such"
