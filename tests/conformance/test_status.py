"""What is kept of an outcome, and read back."""

import json
from typing import Any

import pytest
from attnref_conformance.status import Element, Outcome, Status

WORST = Element("lse", (0, 1), "nan", "-inf", "not a number", "0", 2, 6)
PLAIN: dict[str, Any] = {
    "id": "C5-case[float32]",
    "clause": "C5",
    "level": 2,
    "operation": "attention",
    "dtype": "float32",
    "features": ("bias", "mask"),
    "status": Status.PASS,
}


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"utilisation": 0.25, "ratio": 1.5, "ulp": 3.0, "bias": -0.5, "elements": 9, "length": 37},
        {"status": Status.FAIL, "message": "lse is wrong", "element": WORST, "call": "x = 1\n"},
        {"status": Status.UNSUPPORTED, "codes": ("head",), "reasons": ("too large",)},
        {"determinism": "bitwise", "seconds": 0.5},
    ],
    ids=["plain", "numbers", "failure", "declined", "measured"],
)
def test_an_outcome_survives_its_report(about: dict[str, Any]) -> None:
    """What JSON keeps of it is all of it."""
    outcome = Outcome(**{**PLAIN, **about})
    assert outcome == Outcome.from_json(json.loads(json.dumps(outcome.as_json())))


def test_what_is_not_said_is_not_kept() -> None:
    """A report of thousands of cases holds no defaults."""
    assert set(PLAIN) == set(Outcome(**PLAIN).as_json())


def test_numbers_are_kept_to_three_digits() -> None:
    """More would be noise, and reports would not compare."""
    assert 0.123 == Outcome(**PLAIN, utilisation=0.123456).as_json()["utilisation"]
