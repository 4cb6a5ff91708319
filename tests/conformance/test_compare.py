"""The comparer: it fails on each violated condition alone, and passes when none is."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from attnref_conformance.compare import Comparison, compare
from attnref_conformance.oracle import Expected
from attnref_conformance.status import Element

SHAPE = (2, 3, 5)
PLAIN = (0, 1, 2)
VALUE = np.random.default_rng(0).integers(-8, 9, SHAPE) / 4.0
WANT = Expected(VALUE, np.full(SHAPE, 2.0**-10), "float32", None)


def judged(got: np.ndarray, want: Expected = WANT, order: tuple[int, ...] = PLAIN) -> Comparison:
    """Compare an array that is its own values."""
    return compare("out", got, got, want, order)


def at(index: tuple[int, ...], value: float, x: np.ndarray = VALUE) -> np.ndarray:
    """Return a copy with another value in one place."""
    changed = x.copy()
    changed[index] = value
    return changed


def single(x: np.ndarray = VALUE) -> np.ndarray:
    """Round to the dtype that is wanted."""
    return x.astype(np.float32)


def test_what_was_expected_passes() -> None:
    """Where nothing is wrong, nothing is found."""
    assert Comparison(dtype="float32", elements=30) == judged(single())


def test_something_that_is_no_array_fails() -> None:
    """A list of numbers is not an array."""
    assert (
        "out is a list, not an array" == compare("out", VALUE.tolist(), VALUE, WANT, PLAIN).problem
    )


def test_another_shape_fails() -> None:
    """A shape is compared whole, and not up to broadcasting."""
    assert "out has shape (2, 3, 1) and must have (2, 3, 5)" == (judged(single()[..., :1]).problem)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_another_dtype_fails(dtype: str) -> None:
    """A more precise dtype is wrong too."""
    assert f"out is {dtype} and must be float32" == judged(VALUE.astype(dtype)).problem


@pytest.mark.parametrize("order", [(0, 2, 1), (2, 0, 1), (1, 0, 2)])
def test_another_memory_order_fails(order: tuple[int, ...]) -> None:
    """An array in C order is not in any other, and the other way round."""
    inverse = np.argsort(order)
    other = np.ascontiguousarray(single().transpose(order)).transpose(inverse)
    assert f"out lies in memory as (0, 1, 2) and must lie as {order}" == (
        judged(single(), order=order).problem
    )
    assert f"out lies in memory as {order} and must lie as (0, 1, 2)" == (judged(other).problem)
    assert "" == judged(other, order=order).problem


def test_a_view_with_gaps_fails() -> None:
    """The right order of axes is not enough: a result is dense."""
    gaps = np.zeros((2, 3, 10), np.float32)[..., ::2]
    gaps[...] = VALUE
    assert "lies in memory as" in judged(gaps).problem


def test_axes_of_length_one_have_no_order() -> None:
    """Where an axis of length one lies cannot be told, and does not matter."""
    value = VALUE[:, :1]
    want = replace(WANT, value=value, bound=np.zeros(value.shape))
    assert "" == judged(single(value.copy()), want, (1, 0, 2)).problem
    assert "" == judged(single(value.copy()), want, (0, 2, 1)).problem


def test_empty_arrays_have_no_order() -> None:
    """An array without elements has its shape and dtype, and nothing else."""
    value = np.zeros((2, 0, 5))
    assert Comparison() == judged(single(value), Expected(value, value, "float32", None))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_special_value_where_a_finite_one_belongs_fails(value: float) -> None:
    """NaN is no wildcard, and neither is infinity."""
    problem = judged(single(at((1, 2, 3), value))).problem
    assert f"out[1, 2, 3] is {value} and must be {VALUE[1, 2, 3]}; 1 such" == problem


@pytest.mark.parametrize(
    ("wanted", "got", "fine"),
    [
        (-np.inf, -np.inf, True),
        (-np.inf, np.inf, False),
        (-np.inf, np.nan, False),
        (-np.inf, -1e30, False),
        (np.inf, -np.inf, False),
        (np.nan, -np.inf, False),
        (np.nan, 0.0, False),
        (np.inf, 1e30, False),
        (np.nan, np.nan, True),
        (np.nan, np.inf, True),
        (np.inf, np.nan, True),
    ],
    ids=str,
)
def test_special_values_are_compared_exactly(wanted: float, got: float, fine: bool) -> None:
    """Minus infinity is a value; NaN and infinity are two marks of a spoiled one."""
    want = replace(WANT, value=at((0, 1, 2), wanted))
    assert fine == (not judged(single(at((0, 1, 2), got)), want).problem)


def test_a_row_that_must_be_spoiled_fails_if_it_is_not() -> None:
    """A NaN that was lost is found by its row."""
    want = replace(WANT, value=at((1, 0, 3), np.nan), rows=True)
    assert "row (1, 0) of out must be non-finite: 1 rows are wrong" == (
        judged(single(), want).problem
    )


def test_a_row_that_must_not_be_spoiled_fails_if_it_is() -> None:
    """A NaN that spread is found by its row."""
    want = replace(WANT, rows=True)
    assert "row (0, 2) of out must not be non-finite: 1 rows are wrong" == (
        judged(single(at((0, 2, 4), np.inf)), want).problem
    )


def test_any_element_may_spoil_a_row() -> None:
    """Which element of a spoiled row is non-finite is nobody's business."""
    want = replace(WANT, value=at((1, 0, 3), np.nan), rows=True)
    assert Comparison(dtype="float32", elements=25) == judged(single(at((1, 0, 0), np.inf)), want)


def test_the_rest_of_a_spoiled_row_is_not_compared() -> None:
    """A spoiled row has no numbers, and its neighbours still have."""
    want = replace(WANT, value=at((1, 0, 3), np.nan), rows=True)
    got = at((1, 0, 0), 7.0, at((1, 0, 1), np.nan))
    assert "" == judged(single(got), want).problem
    assert "out[1, 1, 0] is" in judged(single(at((1, 1, 0), 7.0, got)), want).problem


@pytest.mark.parametrize("sign", [-1, 1])
def test_an_error_inside_the_bound_passes_and_one_outside_fails(sign: int) -> None:
    """The limit itself is allowed, and the next number is not."""
    inside = VALUE[0, 0, 0] + sign * 2.0**-10
    outside = VALUE[0, 0, 0] + sign * (2.0**-10 + 2.0**-20)
    assert 1.0 == judged(single(at((0, 0, 0), inside))).utilisation
    assert "" == judged(single(at((0, 0, 0), inside))).problem
    assert "out[0, 0, 0] is" in judged(single(at((0, 0, 0), outside))).problem


def test_a_bound_of_zero_means_exact() -> None:
    """Where no error is allowed, the smallest one fails."""
    want = replace(WANT, bound=np.zeros(SHAPE))
    assert Comparison(dtype="float32", elements=30) == judged(single(), want)
    off = at((0, 0, 0), np.nextafter(np.float32(VALUE[0, 0, 0]), np.float32(9)))
    assert "within 0:" in judged(single(off), want).problem


def test_a_bound_that_is_not_a_number_permits_nothing() -> None:
    """A limit that could not be computed is no permission."""
    want = replace(WANT, bound=np.full(SHAPE, np.nan))
    assert "" == judged(single(), want).problem
    assert "within nan" in judged(single(at((0, 0, 0), 9.0)), want).problem


def test_the_bound_is_that_of_the_element() -> None:
    """One element's generous limit does not pay for another's error."""
    want = replace(WANT, bound=at((0, 0, 0), 100.0, np.full(SHAPE, 2.0**-10)))
    assert "" == judged(single(at((0, 0, 0), 50.0)), want).problem
    assert "out[0, 0, 1] is" in judged(single(at((0, 0, 1), 50.0)), want).problem


def test_the_worst_element_is_named() -> None:
    """The message says which element is worst, by how much, and how many are."""
    got = at((1, 2, 4), 8.0, at((0, 1, 0), 3.0))
    assert (
        f"out[1, 2, 4] is 8 and must be {VALUE[1, 2, 4]:.9g} within 0.000977: "
        f"off by {8 - VALUE[1, 2, 4]:.3g}; 2 of 30 elements are past their limit"
    ) == judged(single(got)).problem


def test_utilisation_is_the_largest_share_of_a_limit() -> None:
    """It is not the share of the largest error."""
    bound = at((0, 0, 0), 2.0, np.full(SHAPE, 2.0**-4))
    got = at((0, 0, 0), VALUE[0, 0, 0] + 1.0, at((0, 0, 1), VALUE[0, 0, 1] + 2.0**-5))
    found = judged(single(at((1, 0, 0), VALUE[1, 0, 0] + 2.0**-4 * 0.75, got)),
                   replace(WANT, bound=bound))  # fmt: skip
    assert (0.75, 1.0) == (found.utilisation, found.error)


def test_bias_shows_rounding_that_leans_to_one_side() -> None:
    """It is the mean error over the mean absolute error, outwards being positive."""
    value = np.where(VALUE == 0, 1.0, VALUE)
    want, out = replace(WANT, value=value), np.sign(value) * 2.0**-12
    both = np.resize([1, -1], SHAPE)
    most = np.resize([1, 1, -1], SHAPE)
    assert [0.0, 1.0, -1.0] == [judged(single(value + out * x), want).bias for x in (both, 1, -1)]
    assert pytest.approx(1 / 3) == judged(single(value + out * most), want).bias


@pytest.mark.parametrize(
    ("dtype", "step"), [("float16", 2.0**-10), ("float32", 2.0**-23), ("float64", 2.0**-52)]
)
def test_ulp_is_the_largest_error_in_units_in_the_last_place(dtype: str, step: float) -> None:
    """Between one and two the unit is the machine's epsilon."""
    value = np.full(SHAPE, 1.25)
    want = Expected(value, np.full(SHAPE, 1.0), dtype, None)
    got = at((0, 0, 1), 1.25 - step, at((1, 2, 3), 1.25 + 3 * step, value)).astype(dtype)
    assert 3.0 == judged(got, want).ulp


def test_what_cancels_has_no_last_place() -> None:
    """Where the limit is larger than the value, no digit is promised."""
    value = np.array([1e-30, 5.0])
    want = Expected(value, np.array([1e-6, 1e-6]), "float32", None)
    assert 0.0 == judged(np.array([2.0**-22, 5.0], np.float32), want, (0,)).ulp


def test_the_elements_compared_are_counted() -> None:
    """Special values are not among them."""
    want = replace(WANT, value=at((0, 0, 0), -np.inf))
    assert 29 == judged(single(want.value), want).elements


def test_a_wrong_element_is_quoted() -> None:
    """Reports show it without taking a sentence apart."""
    got = judged(single(at((1, 2, 4), 8.0, at((0, 1, 0), 3.0)))).element
    exact = f"{VALUE[1, 2, 4]:.9g}"
    off = f"{8 - VALUE[1, 2, 4]:.3g}"
    assert Element("out", (1, 2, 4), "8", exact, off, "0.000977", 2, 30) == got
    assert judged(single()).element is None


def test_a_wrong_special_value_is_quoted() -> None:
    """Its error is no number."""
    want = replace(WANT, value=at((0, 1, 2), -np.inf))
    expected = Element("out", (0, 1, 2), "-6.338253e+29", "-inf", "not a number", "0", 1, 30)
    assert expected == judged(single(at((0, 1, 2), -(2.0**99))), want).element


@pytest.mark.parametrize(("wanted", "got"), [(1.5, np.nan), (np.nan, 1.5)], ids=["nan", "lost"])
def test_a_wrong_row_is_quoted_by_an_element(wanted: float, got: float) -> None:
    """The first that is not finite, or must not be."""
    want = replace(WANT, value=at((1, 0, 3), wanted), rows=True)
    found = judged(single(at((1, 0, 3), got)), want).element
    quoted = (f"{got:.9g}", f"{wanted:.9g}")
    assert Element("out", (1, 0, 3), *quoted, "not a number", "0", 1, 6) == found


def test_nothing_finite_to_compare_passes() -> None:
    """Where every value is special, comparing them was enough."""
    nothing = np.full(SHAPE, -np.inf)
    assert Comparison() == judged(single(nothing), replace(WANT, value=nothing))


@pytest.mark.parametrize(("dtype", "said"), [("float32", 0.1), ("float64", 0.1)])
def test_a_wrong_value_is_said_in_all_of_its_digits(dtype: str, said: float) -> None:
    """Nine digits tell any two float32 apart, seventeen any two float64."""
    got = np.full(SHAPE, said, dtype)
    found = judged(got, replace(WANT, dtype=dtype)).element
    digits = {"float32": ("0.100000001", "-0.333333333"), "float64": (f"{said:.17g}",)}[dtype]
    third = replace(WANT, value=np.full(SHAPE, -1 / 3), dtype=dtype)
    assert found is not None
    assert digits[0] == found.got
    element = judged(got, third).element
    assert element is not None
    assert f"{-1 / 3:.{17 if dtype == 'float64' else 9}g}" == element.expected


def test_elements_past_their_limit_are_counted() -> None:
    """What is at its limit is not past it; how far past does not matter."""
    limit = 2.0**-10
    off = np.zeros(SHAPE)
    off[0, 0, :4] = limit, limit / 2, 1.5 * limit, 5 * limit
    element = judged(single(VALUE + off)).element
    assert element is not None
    assert ((0, 0, 3), 2, 30) == (element.at, element.wrong, element.of)


def test_no_last_place_is_counted_where_the_limit_is_the_value() -> None:
    """A digit is promised only where the limit is less than the value."""
    value = np.ones(SHAPE)
    for bound, counted in ((1.0, False), (0.999, True)):
        want = replace(WANT, value=value, bound=np.full(SHAPE, bound))
        assert counted == (judged(single(value + 2.0**-10), want).ulp > 0)


def test_where_nothing_is_finite_nothing_is_compared() -> None:
    """Special values are not counted among the elements."""
    value = np.full(SHAPE, np.nan)
    found = judged(single(value), replace(WANT, value=value))
    assert ("", 0, 0.0) == (found.problem, found.elements, found.utilisation)


def test_what_was_found_does_not_change() -> None:
    """A comparison is a value."""
    with pytest.raises(FrozenInstanceError):
        judged(single()).error = 1.0  # type: ignore[misc]


def test_the_first_of_several_special_values_is_named() -> None:
    """By row where a row is spoiled, by element elsewhere."""
    got = single(at((0, 1, 2), np.nan, at((1, 2, 4), np.nan)))
    assert "row (0, 1) of out" in judged(got, replace(WANT, rows=True)).problem
    assert "out[0, 1, 2] is nan" in judged(got).problem


def test_strides_of_other_libraries_are_counted_in_elements() -> None:
    """A dense tensor is in order, its transpose is not."""
    import torch

    x = torch.from_numpy(single())
    want = replace(WANT, value=VALUE)
    assert "" == compare("out", x, single(), want, PLAIN).problem
    other = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert "lies in memory as" in compare("out", other, single(), want, PLAIN).problem
    assert "" == compare("out", other, single(), want, (2, 0, 1)).problem
