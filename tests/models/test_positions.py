"""Position tables at other resolutions, against torch's own interpolation."""

import numpy as np
import pytest
import torch

from attnref.errors import InvalidProblem
from attnref.models import ViTConfig, resized, vit
from attnref.models.positions import weights

from .drawn import SMALL, parameters

TORCH = {
    "timm": {"antialias": True, "align_corners": False},
    "huggingface": {"antialias": False, "align_corners": False},
    "torchvision": {"antialias": False, "align_corners": True},
}


@pytest.mark.parametrize("like", TORCH)
@pytest.mark.parametrize("new", [1, 3, 5, 7, 8, 14, 20], ids="to {}".format)
def test_weights_are_those_of_torchs_interpolation(like, new):
    """Larger, smaller and equal, along one axis, number by number."""
    rows = torch.eye(7, dtype=torch.float64)[:, None, :, None].expand(7, 1, 7, 4)
    theirs = torch.nn.functional.interpolate(rows, (new, 4), mode="bicubic", **TORCH[like])
    expected = theirs[:, 0, :, 0].numpy().T

    actual = weights(7, new, like)

    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(actual.sum(axis=1), 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_resized_model_takes_images_of_the_other_size(library):
    """The class token keeps its place, the table its dtype and its library."""
    config = SMALL["vit"]
    p = parameters(config)
    given = p if library == "numpy" else {n: torch.from_numpy(x) for n, x in p.items()}

    larger, other = resized(given, config, image=(16, 20))

    table = np.asarray(larger["positions"])
    assert np.array_equal(p["positions"][0], table[0])
    assert (21, 8) == table.shape
    assert np.float32 == table.dtype
    assert (4, 5) == other.grid
    pixels = np.zeros((1, 16, 20, 3), np.float32)
    image = pixels if library == "numpy" else torch.from_numpy(pixels)
    assert (1, 3) == tuple(vit.logits(larger, other, image, backend="numpy").shape)


def test_a_table_of_the_same_size_is_the_same_table():
    """Nothing is smoothed where nothing changes."""
    config = SMALL["vit, no class token"]
    p = parameters(config)

    same, _ = resized(p, config, image=config.image)

    np.testing.assert_allclose(same["positions"], p["positions"], rtol=0, atol=1e-6)


def test_what_cannot_be_resized_is_refused():
    """Patches stay whole, and a way of resizing has a name."""
    with pytest.raises(InvalidProblem, match="image 10 is not a multiple of patch 4"):
        resized({}, SMALL["vit"], image=(8, 10))
    with pytest.raises(InvalidProblem, match="like is one of timm, huggingface, torchvision"):
        weights(7, 8, "keras")
    assert ViTConfig().grid == (14, 14)
