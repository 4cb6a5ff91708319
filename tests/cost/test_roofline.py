"""Ceilings, layers that cannot be, and what importing loads."""

import subprocess
import sys
from pathlib import Path

import pytest

from attnref.cost import Convolution, Roofline, Work
from attnref.errors import InvalidProblem


def test_the_ridge_parts_what_is_bound_by_bytes_from_what_is_bound_by_operations() -> None:
    """Either ceiling holds on its side, and both at the ridge."""
    machine = Roofline(operations=1000.0, bytes=10.0)
    assert 100.0 == machine.ridge
    assert 10.0 == machine.attainable(1.0)
    assert 1000.0 == machine.attainable(100.0) == machine.attainable(1e9)
    low, high = Work(multiply_adds=50, bytes=10), Work(multiply_adds=5000, bytes=10)
    assert ("bytes", 1.0) == (machine.bound(low), machine.seconds(low))
    assert ("operations", 10.0) == (machine.bound(high), machine.seconds(high))
    assert low.operations / machine.seconds(low) == machine.attainable(low.intensity)


def test_exponentials_may_be_a_ceiling() -> None:
    """Where other units compute them; without one they cost nothing."""
    work = Work(multiply_adds=50, bytes=1, exponentials=400)
    machine = Roofline(operations=100.0, bytes=10.0, exponentials=20.0)
    assert ("exponentials", 20.0) == (machine.bound(work), machine.seconds(work))
    assert 1.0 == Roofline(operations=100.0, bytes=10.0).seconds(work)


@pytest.mark.parametrize("name", ["operations", "bytes", "exponentials"])
@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_ceiling_is_a_positive_number(name: str, rate: float) -> None:
    """And says which one is not."""
    rates = {"operations": 1.0, "bytes": 1.0, "exponentials": 1.0, name: rate}
    with pytest.raises(InvalidProblem) as error:
        Roofline(**rates)
    assert f"{name} is {rate} in a second; a ceiling must be a finite positive number." == str(
        error.value
    )


def test_what_moves_nothing_has_no_intensity() -> None:
    """Zero, and no division by it."""
    assert 0.0 == Work().intensity == Work(multiply_adds=1).intensity
    assert 2.0 == Work(multiply_adds=1, bytes=1).intensity


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"groups": 4}, "inputs is 6, which is not a multiple of 4 groups."),
        ({"groups": 3}, "outputs is 10, which is not a multiple of 3 groups."),
        ({"kernel": (3, 7)}, "the kernel is 7 on axis 1, and the map with its padding is 5."),
        ({"kernel": (9, 3), "padding": (1, 1)},
         "the kernel is 9 on axis 0, and the map with its padding is 8."),
    ],
    ids=["inputs", "outputs", "kernel", "padding"],
)  # fmt: skip
def test_convolutions_that_cannot_be_are_refused(options: dict[str, object], said: str) -> None:
    """With the axis and both numbers."""
    given = {"B": 1, "G": (6, 5), "inputs": 6, "outputs": 10, "kernel": (3, 3), **options}
    with pytest.raises(InvalidProblem) as error:
        Convolution(**given)
    assert said == str(error.value)


def test_importing_the_cost_model_loads_numpy_only(tmp_path: Path) -> None:
    """No library that a table may not need."""
    code = "import sys, attnref.cost, attnref.cost.page; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "numpy" in loaded
    assert not {"torch", "matplotlib", "rich", "ml_dtypes", "pytest"} & loaded
