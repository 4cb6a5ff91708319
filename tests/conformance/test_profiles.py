"""Arithmetic profiles: what each one rounds, in every dtype."""

import pytest
from attnref_conformance.case import DTYPES
from attnref_conformance.profiles import (
    DEFAULT,
    PROFILES,
    UNDERFLOW,
    UNIT_ROUNDOFF,
    Arithmetic,
    arithmetic,
)

HALF = ("float16", "bfloat16")


def test_the_unit_roundoffs_are_those_of_the_formats() -> None:
    """A format of p digits rounds by half a unit in the last place."""
    digits = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
    assert {d: 2.0**-p for d, p in digits.items()} == UNIT_ROUNDOFF


def test_the_default_profile_is_the_strictest() -> None:
    """A backend that names no profile rounds once, at the end."""
    assert "ieee" == DEFAULT
    assert (False, 0.0) == (PROFILES[DEFAULT].rounds_weights, PROFILES[DEFAULT].product)


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_found_by_their_own_name(name: str) -> None:
    """What a backend writes is what the report shows, with a sentence."""
    assert name == PROFILES[name].name
    assert PROFILES[name].meaning.endswith(".")


@pytest.mark.parametrize("dtype", DTYPES)
def test_ieee_accumulates_in_float32_or_wider(dtype: str) -> None:
    """Half precisions compute in float32, the others in their own (A6)."""
    wide = "float64" if dtype == "float64" else "float32"
    assert Arithmetic(
        acc=UNIT_ROUNDOFF[wide],
        out=UNIT_ROUNDOFF[dtype],
        lse=UNIT_ROUNDOFF[wide],
        weight=0.0,
        product=0.0,
        underflow=UNDERFLOW[wide],
        weight_underflow=UNDERFLOW[wide],
        out_underflow=UNDERFLOW[dtype],
    ) == arithmetic("ieee", dtype)


@pytest.mark.parametrize("dtype", HALF)
def test_half_weights_rounds_weights_to_a_half_input_dtype(dtype: str) -> None:
    """The weights are as coarse as the input, and everything else is as before."""
    rounded, plain = arithmetic("half-weights", dtype), arithmetic("ieee", dtype)
    assert (UNIT_ROUNDOFF[dtype], UNDERFLOW[dtype]) == (
        rounded.weight,
        rounded.weight_underflow,
    )
    assert (plain.acc, plain.out, plain.lse, plain.product) == (
        rounded.acc,
        rounded.out,
        rounded.lse,
        rounded.product,
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_half_weights_changes_nothing_in_wider_dtypes(dtype: str) -> None:
    """There is nothing to round to."""
    assert arithmetic("ieee", dtype) == arithmetic("half-weights", dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tf32_rounds_the_factors_of_float32_alone(dtype: str) -> None:
    """Half precisions fit into TF32, and float64 does not go there."""
    assert (2.0**-11 if dtype == "float32" else 0.0) == arithmetic("tf32", dtype).product
    assert arithmetic("half-weights", dtype).weight == arithmetic("tf32", dtype).weight


def test_an_unknown_profile_is_an_error() -> None:
    """There is no profile to fall back to."""
    with pytest.raises(KeyError, match="fast-and-loose"):
        arithmetic("fast-and-loose", "float32")
