"""What the tests of the specification share."""

from collections.abc import Callable, Iterator

import jaxtyping
import numpy as np
import pytest

Loss = Callable[[np.ndarray], float]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Let infinities and NaN through without warnings: they are what is tested."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """Give every test the same numbers in every run."""
    return np.random.default_rng(20240607)


@pytest.fixture
def slope(monkeypatch: pytest.MonkeyPatch) -> Callable[[Loss, np.ndarray], np.ndarray]:
    """Differentiate a loss numerically, by central differences in float64."""

    def differentiate(loss: Loss, x: np.ndarray, h: float = 1e-5) -> np.ndarray:
        loss(x)  # shapes are checked here, and are the same wherever x moves
        gradient = np.zeros(x.shape)
        with monkeypatch.context() as checked:
            checked.setattr(jaxtyping.config, "jaxtyping_disable", True)
            for at in np.ndindex(x.shape):
                up, down = x.copy(), x.copy()
                up[at] += h
                down[at] -= h
                gradient[at] = (loss(up) - loss(down)) / (2 * h)
        return gradient

    return differentiate
