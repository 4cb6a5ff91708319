"""Bytes that layers move, one array at a time, and what options add to the stored matrix."""

import numpy as np
import pytest

from attnref.cost import (
    Attention,
    Convolution,
    Embedding,
    Linear,
    Norm,
    Pointwise,
    Setting,
    Step,
)
from attnref.problem import Sizes

X, Y, W = 7 * 3, 7 * 5, 3 * 5
MAP, RESULT, KERNEL = 2 * 6 * 4 * 3, 2 * 3 * 2 * 5, 9 * 3 * 5

LAYERS: dict[str, tuple[Step, int, int]] = {
    # Forward: x, weight and bias to y. Backward: dy twice with weight and x; dx, dweight, dbias.
    "linear": (Linear(rows=7, inputs=3, outputs=5), X + W + 5 + Y, 2 * Y + W + X + X + W + 5),
    "linear, tied, no bias": (
        Linear(rows=7, inputs=3, outputs=5, bias=False, tied=True),
        X + W + Y, 2 * Y + 2 * W + 2 * X,
    ),
    "convolution": (
        Convolution(B=2, G=(6, 4), inputs=3, outputs=5, kernel=(3, 3), stride=(2, 2),
                    padding=(1, 1)),
        MAP + KERNEL + 5 + RESULT, 2 * RESULT + 2 * KERNEL + 2 * MAP + 5,
    ),
    # x, dy and scale and shift in; dx and gradients of both out.
    "norm": (Norm(rows=7, columns=3), 2 * X + 6, 3 * X + 12),
    "activation": (Pointwise(numbers=X), 2 * X, 3 * X),
    "residual": (Pointwise(numbers=X, operands=2, kept=0), 3 * X, 3 * X),
    # Rows in and out. The gradient is as large as the table, and rows of it are added to.
    "embedding": (Embedding(rows=7, entries=50, columns=3), 2 * X, 3 * X + 150),
}  # fmt: skip


@pytest.mark.parametrize(("step", "forward", "backward"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_layers_move_each_array_once(step: Step, forward: int, backward: int, dtype: str) -> None:
    """Inputs and parameters are read, results and gradients written."""
    setting = Setting(dtype=dtype)
    for way, expected in (("forward", forward), ("backward", backward)):
        cost = getattr(step, way)(setting)
        assert setting.itemsize * expected == cost.tiled.bytes == cost.untiled.bytes


SIZES = Sizes(2, 6, 2, 40, 50, 8, 4)
SCORES = 2 * 6 * 40 * 50


@pytest.mark.parametrize(
    ("options", "forward", "backward", "beside"),
    [
        ({"window": (None, 0)}, 2, 2, 0),
        ({"q_lens": (1, 2)}, 2, 2, 0),
        ({"kv_lens": (1, 2)}, 2, 2, 0),
        ({"mask": np.ones((40, 50), bool)}, 2, 2, 40 * 50),
        ({"bias": (6, 40, 50)}, 2, 1, 2 * 6 * 40 * 50),
        ({"softcap": True}, 2, 3, 0),
        ({"softcap": True, "bias": (50,), "window": (3, 3)}, 6, 6, 2 * 50),
    ],
    ids=["window", "q_lens", "kv_lens", "mask", "bias", "softcap", "all"],
)
def test_options_pass_over_the_stored_matrix(
    options: dict[str, object], forward: int, backward: int, beside: int
) -> None:
    """Each reads and writes the scores forward; its gradient passes over theirs."""
    half = Setting(dtype="float16")
    plain, call = Attention(sizes=SIZES), Attention(sizes=SIZES, **options)
    more = call.forward(half).untiled.bytes - plain.forward(half).untiled.bytes
    assert 2 * SCORES * forward + beside == more
    more = call.backward(half).untiled.bytes - plain.backward(half).untiled.bytes
    assert 2 * SCORES * backward + beside == more


def test_gradients_of_capped_scores_compute_the_tangent_again() -> None:
    """Tiles: an exponential and a tangent for each visible pair; stored weights need neither."""
    call = Attention(sizes=SIZES, softcap=True, window=(None, 0))
    assert 2 * call.pairs == call.backward().tiled.exponentials == call.forward().tiled.exponentials
    assert 2 * call.all_pairs == call.forward().untiled.exponentials
    assert 0 == call.backward().untiled.exponentials
    assert call.pairs * (3 * 8 + 2 * 4) == call.backward().tiled.multiply_adds
