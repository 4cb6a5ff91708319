"""Named arithmetic profiles: what is rounded where.

A backend chooses a profile by the attribute `profile`, never a number. The judge derives
every limit from it.
"""

from dataclasses import dataclass

UNIT_ROUNDOFF = {
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float32": 2.0**-24,
    "float64": 2.0**-53,
}
"""Largest relative error of rounding to nearest."""

UNDERFLOW = {
    "float16": 2.0**-25,
    "bfloat16": 2.0**-126,
    "float32": 2.0**-126,
    "float64": 2.0**-1022,
}
"""Largest absolute error near zero: half a subnormal step of float16, which computes with
them everywhere; elsewhere the smallest normal number, because flushing to zero is allowed."""

DEFAULT = "ieee"
"""The profile of a backend that names none."""


@dataclass(frozen=True)
class Profile:
    """What an implementation rounds between input and output.

    Attributes:
        name: What a backend writes.
        meaning: One sentence for the report.
        rounds_weights: Weights and dS are rounded to a half input dtype before the
            products that consume them.
        product: Unit roundoff of the factors of float32 products; 0 if they enter whole.
    """

    name: str
    meaning: str
    rounds_weights: bool = False
    product: float = 0.0


PROFILES = {
    p.name: p
    for p in (
        Profile(
            "ieee",
            "Half precisions compute in float32, the others in their own; one rounding at the end.",
        ),
        Profile(
            "half-weights",
            "As ieee, but weights and dS are rounded to a half input dtype before their product.",
            rounds_weights=True,
        ),
        Profile(
            "tf32",
            "As half-weights, and float32 products round their factors to TF32.",
            rounds_weights=True,
            product=2.0**-11,
        ),
    )
}
"""Every profile by name."""


@dataclass(frozen=True)
class Arithmetic:
    """A profile, applied to one dtype: the numbers that the bounds are made of.

    Attributes:
        acc: Unit roundoff of the accumulator.
        out: Unit roundoff of results in the input's dtype.
        lse: Unit roundoff of the log-sum-exp.
        weight: Unit roundoff of stored weights; 0 if they stay in the accumulator.
        product: Unit roundoff of the factors of a product; 0 if they enter whole.
        underflow: Absolute error of the accumulator near zero.
        weight_underflow: Absolute error of a weight near zero.
        out_underflow: Absolute error of a result near zero.
    """

    acc: float
    out: float
    lse: float
    weight: float
    product: float
    underflow: float
    weight_underflow: float
    out_underflow: float


def arithmetic(profile: str, dtype: str) -> Arithmetic:
    """Apply a named profile to a dtype.

    Raises:
        KeyError: No profile has this name.

    Example:
        >>> arithmetic("half-weights", "float16").weight == 2.0**-11
        True
    """
    p = PROFILES[profile]
    half = dtype in ("float16", "bfloat16")
    wide = "float64" if dtype == "float64" else "float32"
    stored = dtype if half and p.rounds_weights else wide
    return Arithmetic(
        acc=UNIT_ROUNDOFF[wide],
        out=UNIT_ROUNDOFF[dtype],
        lse=UNIT_ROUNDOFF[wide],
        weight=UNIT_ROUNDOFF[dtype] if half and p.rounds_weights else 0.0,
        product=p.product if dtype == "float32" else 0.0,
        underflow=UNDERFLOW[wide],
        weight_underflow=UNDERFLOW[stored],
        out_underflow=UNDERFLOW[dtype],
    )
