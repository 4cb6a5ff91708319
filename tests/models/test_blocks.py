"""Building blocks, against torch's layers of the same name."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from attnref.models import blocks

RNG = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    """Draw a float64 array."""
    return RNG.normal(size=shape)


def close(actual, expected):
    """Hold NumPy's result to torch's."""
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-12, atol=1e-12)


def test_an_affine_map_is_a_linear_layer_with_or_without_bias():
    """What is not among the parameters is not added."""
    x, w, b = draw(2, 3, 5), draw(4, 5), draw(4)
    of = functional.linear

    close(
        blocks.affine({"a.weight": w, "a.bias": b}, "a", x), of(*map(torch.from_numpy, (x, w, b)))
    )
    close(blocks.affine({"a.weight": w}, "a", x), of(*map(torch.from_numpy, (x, w))))


def test_heads_are_split_and_joined_in_one_order():
    """A projection that is the identity three times gives the tokens back, head by head."""
    x = draw(2, 3, 8)
    p = {"a.qkv.weight": np.concatenate([np.eye(8)] * 3), "a.output.weight": np.eye(8)}

    q, k, v = blocks.project(p, "a", x, heads=4)

    assert (2, 3, 4, 2) == q.shape == k.shape
    assert np.array_equal(x[..., 2:4], q[:, :, 1])
    assert np.array_equal(x, blocks.join_heads(p, "a", v))


def test_layer_norm_is_that_of_torch():
    """Mean, variance, scale and bias, over the last axis."""
    x, w, b = draw(2, 3, 5), draw(5), draw(5)
    expected = functional.layer_norm(
        *map(torch.from_numpy, (x,)), (5,), *map(torch.from_numpy, (w, b)), 1e-3
    )

    close(blocks.layer_norm({"n.weight": w, "n.bias": b}, "n", x, 1e-3), expected)


def test_unit_vectors_are_those_of_torch_and_zero_stays_zero():
    """Nothing is divided by zero."""
    x = draw(3, 4)
    x[1] = 0

    close(blocks.unit(x), functional.normalize(torch.from_numpy(x), dim=-1))


def test_patches_are_a_convolution_whose_stride_is_its_size():
    """Every pixel is read once, in the kernel's order."""
    image, kernel, bias = draw(2, 8, 12, 3), draw(5, 3, 4, 4), draw(5)
    x = torch.from_numpy(np.moveaxis(image, -1, 1))
    expected = functional.conv2d(x, torch.from_numpy(kernel), torch.from_numpy(bias), stride=4)

    actual = blocks.patches({"patches.weight": kernel, "patches.bias": bias}, image)

    close(actual, expected.movedim(1, -1))


def test_quarters_go_down_before_they_go_right():
    """The order in which published merging weights expect four tokens."""
    x = np.arange(16.0).reshape(1, 4, 4, 1)

    actual = blocks.quarters(x)

    assert [0, 4, 1, 5] == actual[0, 0, 0].tolist()
    assert [10, 14, 11, 15] == actual[0, 1, 1].tolist()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("extent", [(6, 8), (5, 7), (1, 2)], ids=str)
def test_convolutions_are_those_of_torch(extent, stride):
    """Plain and depth-wise, on even and odd maps; and point-wise."""
    image, plain, deep = draw(2, *extent, 3), draw(5, 3, 3, 3), draw(3, 1, 3, 3)
    point = draw(5, 3, 1, 1)
    x = torch.from_numpy(np.moveaxis(image, -1, 1))
    of = functional.conv2d
    p = {"a.weight": plain, "b.weight": deep, "c.weight": point}

    expected = of(x, torch.from_numpy(plain), stride=stride, padding=1)
    close(blocks.convolve(p, "a", image, stride), expected.movedim(1, -1))
    expected = of(x, torch.from_numpy(deep), stride=stride, padding=1, groups=3)
    close(blocks.convolve_depthwise(p, "b", image, stride), expected.movedim(1, -1))
    expected = of(x, torch.from_numpy(point))
    close(blocks.convolve_pointwise(p, "c", image), expected.movedim(1, -1))
