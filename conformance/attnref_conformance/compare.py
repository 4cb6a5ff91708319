"""Whether an array is the one that was expected: shape, dtype, order, special values, error.

The comparer knows no tolerance of its own. It is under test for every way to be wrong.
"""

from dataclasses import dataclass

import numpy as np

from attnref import arrays
from attnref.arrays import Array
from attnref_conformance.oracle import Expected
from attnref_conformance.profiles import UNDERFLOW, UNIT_ROUNDOFF
from attnref_conformance.status import Element


@dataclass(frozen=True)
class Comparison:
    """What comparing one array said.

    Attributes:
        problem: What is wrong, in one sentence; empty if nothing is.
        utilisation: The largest error divided by its limit; 0 where all is exact.
        error: The largest absolute error.
        bias: The mean error divided by the mean absolute error, where an error is positive
            if the result is too large in magnitude: 1 if all are, -1 if all are too small,
            as after truncation, and near 0 if they go both ways.
        ulp: The largest error in units in the last place, of the result's dtype at the exact
            value. Counted where the limit is less than the value: where sums cancel it is
            not, and no digit is promised that could be the last.
        dtype: The dtype that the array must have.
        elements: How many elements were compared.
        element: The worst element, if it is wrong.
    """

    problem: str = ""
    utilisation: float = 0.0
    error: float = 0.0
    bias: float = 0.0
    ulp: float = 0.0
    dtype: str = ""
    elements: int = 0
    element: Element | None = None


def compare(
    name: str, native: Array, values: np.ndarray, expected: Expected, order: tuple[int, ...]
) -> Comparison:
    """Compare a backend's array, and its values, with what was expected in this order."""
    form = _form(name, native, expected, order)
    if form:
        return Comparison(form)
    got = values.astype(np.float64)
    special, element = _special(name, got, expected)
    if special:
        return Comparison(special, element=element)
    both = np.isfinite(expected.value) & np.isfinite(got)
    if expected.rows:
        both &= np.isfinite(expected.value).all(axis=-1, keepdims=True)
    if not both.any():
        return Comparison()
    exact = np.where(both, expected.value, 0.0)
    difference = np.where(both, got, 0.0) - exact
    error = np.abs(difference)
    bound = np.broadcast_to(expected.bound, error.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error > 0, error / bound, 0.0)
    ratio = np.where(np.isnan(ratio), np.inf, ratio)  # no limit is no permission
    worst = np.unravel_index(int(ratio.argmax()), ratio.shape)
    utilisation, n = float(ratio[worst]), int(both.sum())
    text, element = "", None
    if utilisation > 1:
        digits = 17 if expected.dtype == "float64" else 9
        element = Element(
            name,
            tuple(int(i) for i in worst),
            f"{got[worst]:.{digits}g}",
            f"{expected.value[worst]:.{digits}g}",
            f"{error[worst]:.3g}",
            f"{bound[worst]:.3g}",
            int((ratio > 1).sum()),
            n,
        )
        text = _past(element)
    return Comparison(
        text,
        utilisation,
        float(error.max()),
        bias=float((difference * np.sign(exact)).sum() / (error.sum() or 1.0)),
        ulp=float(np.max(error / _last_place(exact, bound, expected.dtype))),
        dtype=expected.dtype,
        elements=n,
        element=element,
    )


def _past(e: Element) -> str:
    """Say which element is past its limit."""
    at = ", ".join(map(str, e.at))
    return (
        f"{e.array}[{at}] is {e.got} and must be {e.expected} within {e.limit}: "
        f"off by {e.error}; {e.wrong} of {e.of} elements are past their limit"
    )


def _last_place(exact: np.ndarray, bound: np.ndarray, dtype: str) -> np.ndarray:
    """Return the unit in the last place of every element; infinite where no digit is promised."""
    _, exponent = np.frexp(exact)
    unit = np.maximum(np.ldexp(UNIT_ROUNDOFF[dtype], exponent), UNDERFLOW[dtype])
    return np.where(bound < np.abs(exact), unit, np.inf)


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


def _special(name: str, got: np.ndarray, expected: Expected) -> tuple[str, Element | None]:
    """Say which special value is not what it must be, and where; empty if none."""
    want = expected.value
    if expected.rows:
        spoiled = ~np.isfinite(want).all(axis=-1)
        wrong = spoiled != ~np.isfinite(got).all(axis=-1)
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            verb = "must be" if spoiled[at] else "must not be"
            text = f"row {at} of {name} {verb} non-finite: {int(wrong.sum())} rows are wrong"
            here = (want if spoiled[at] else got)[at]
            return text, _strange(name, (*at, int(np.isfinite(here).argmin())), got, want, wrong)
        return "", None
    finite = np.isfinite(want)
    # NaN and +inf are interchangeable marks of a spoiled value; minus infinity is a value.
    same = np.where(finite, np.isfinite(got), ~np.isfinite(got))
    same &= (want == -np.inf) == (got == -np.inf)
    if same.all():
        return "", None
    at = tuple(int(i) for i in np.argwhere(~same)[0])
    text = f"{name}{list(at)} is {got[at]} and must be {want[at]}; {int((~same).sum())} such"
    return text, _strange(name, at, got, want, ~same)


def _strange(
    name: str, at: tuple[int, ...], got: np.ndarray, want: np.ndarray, wrong: np.ndarray
) -> Element:
    """Describe an element that is special and must not be, or the other way round."""
    values = (f"{got[at]:.9g}", f"{want[at]:.9g}")
    return Element(name, at, *values, "not a number", "0", int(wrong.sum()), wrong.size)
