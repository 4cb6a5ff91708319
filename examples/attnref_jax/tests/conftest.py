"""What the tests share: both of JAX's precisions, and inputs."""

from collections.abc import Callable, Iterator

import jax
import numpy as np
import pytest


@pytest.fixture(params=[False, True], ids=["x32", "x64"])
def x64(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Run a test under JAX's default of 32 bits, and under 64."""
    with jax.enable_x64(request.param):
        yield request.param


@pytest.fixture
def draw() -> Callable[..., np.ndarray]:
    """Draw normal numbers, float32, the same ones in every run."""
    rng = np.random.default_rng(0)
    return lambda *shape: rng.normal(size=shape).astype(np.float32)
