"""What is particular to Swin V2: bounded cosines and a continuous table."""

from dataclasses import replace

import numpy as np
import pytest

import attnref
from attnref.models import swin
from attnref.models.swin import continuous_table, displacements, looked_up

from .drawn import SMALL, parameters, question

CONFIG = SMALL["swin, second version"]
SCALE = "stages.0.blocks.0.attention.scale"


def test_the_scale_of_cosines_is_bounded_by_a_hundred():
    """Beyond the logarithm of a hundred nothing changes; below it everything does."""
    p, x = parameters(CONFIG, "float64"), question(CONFIG)

    def logits(value: float) -> np.ndarray:
        return swin.logits({**p, SCALE: np.full(1, value)}, CONFIG, x, backend="numpy")

    assert np.array_equal(logits(np.log(100.0)), logits(9.0))
    assert not np.array_equal(logits(np.log(100.0)), logits(np.log(99.0)))


@pytest.mark.parametrize("window", [1, 2, 3])
def test_tables_are_looked_up_as_attnref_does(window):
    """Plain indexing, and the public function."""
    table = np.random.default_rng(0).normal(size=((2 * window - 1) ** 2, 2))
    expected = attnref.relative_position_bias(table, window=(window, window))

    assert np.array_equal(expected, looked_up(table, window))


def test_displacements_are_logarithmic_and_row_major():
    """The farthest is one, log2(1 + 8) / log2(8); the nearest is zero."""
    d = displacements(3, 3).reshape(5, 5, 2)

    edge = np.log2(9) / 3
    half = np.log2(5) / 3
    assert [-edge, -half, 0, half, edge] == pytest.approx(d[:, 0, 0].tolist())
    assert [-edge, -half, 0, half, edge] == pytest.approx(d[0, :, 1].tolist())


def test_a_window_of_one_has_one_displacement():
    """Nothing is divided by zero."""
    assert [[0.0, 0.0]] == displacements(1, 1).tolist()


def test_a_window_that_grows_asks_the_same_function_for_more():
    """Measured by the window that was trained, near displacements keep their bias."""
    large = replace(CONFIG, image=(16, 16), window=8, pretrained_window=4)
    p = parameters(CONFIG, "float64")
    name = "stages.0.blocks.0.attention.table"
    expected = continuous_table(p, CONFIG, name).reshape(7, 7)

    actual = continuous_table(p, large, name).reshape(15, 15)

    np.testing.assert_allclose(actual[4:-4, 4:-4], expected, rtol=1e-12)
    assert ((0 < actual) & (actual < 16)).all()
