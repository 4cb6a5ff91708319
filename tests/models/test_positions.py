"""Position tables at other resolutions, against torch's own interpolation."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from attnref.errors import InvalidProblem
from attnref.models import ViTConfig, forward, resized, vit
from attnref.models.choices import sides
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


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_hybrid_is_resized_as_its_body_is(library):
    """The stem takes any image, and the table is that of its map."""
    config = SMALL["hybrid"]
    p = parameters(config)
    given = p if library == "numpy" else {n: torch.from_numpy(x) for n, x in p.items()}
    body = {n.removeprefix("body."): x for n, x in given.items() if n.startswith("body.")}
    expected, _ = resized(body, config.body, image=(4, 5))

    larger, other = resized(given, config, image=(16, 20))

    assert (16, 20) == other.image
    assert np.array_equal(expected["positions"], larger["body.positions"])
    pixels = np.zeros((1, 16, 20, 3), np.float32)
    image = pixels if library == "numpy" else torch.from_numpy(pixels)
    assert (1, 3) == tuple(forward(other, larger, image, backend="numpy").shape)


def test_a_table_of_bfloat16_stays_one():
    """Whatever the dtype, the sums are made in float64 and rounded once."""
    config = SMALL["vit"]
    p = {n: torch.from_numpy(x).to(torch.bfloat16) for n, x in parameters(config).items()}
    wide = {n: x.to(torch.float64) for n, x in p.items()}

    narrow, _ = resized(p, config, image=(16, 20))
    expected, _ = resized(wide, config, image=(16, 20))

    assert torch.equal(expected["positions"].to(torch.bfloat16), narrow["positions"])


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("swin", "replace(config, image=...) and keep the parameters"),
        ("swin, second version", "replace(config, image=...) and keep the parameters"),
        ("gpt2", "resized() is for ViT and the hybrid"),
        ("bert", "resized() is for ViT and the hybrid"),
        ("conv", "it takes images of any size as it is"),
    ],
)
def test_a_model_without_such_a_table_is_refused_by_its_name(name, advice):
    """And the error says what to do instead."""
    config = SMALL[name]

    with pytest.raises(InvalidProblem) as error:
        resized(parameters(config), config, image=(16, 16))

    fact, _, hint = str(error.value).splitlines()
    assert f"a {type(config).__name__} has no table of places in an image." == fact
    assert hint.endswith(advice)


def test_a_swin_takes_other_images_with_the_same_parameters():
    """As the hint says."""
    config = SMALL["swin"]

    larger = replace(config, image=(16, 16))

    assert (1, 3) == forward(
        larger, parameters(config), np.zeros((1, 16, 16, 3), np.float32), backend="numpy"
    ).shape


def test_what_cannot_be_resized_is_refused():
    """Patches stay whole, and a way of resizing has a name."""
    for image in ((-4, 8), (0, 0)):
        with pytest.raises(InvalidProblem, match=re.escape(f"image is {image}.")):
            resized(parameters(SMALL["vit"]), SMALL["vit"], image=image)
    for image in ((-4, 8), (0, 0), (8.5, 8), (8,), 8):
        with pytest.raises(InvalidProblem, match=re.escape(f"image is {image}.")):
            sides(image)
    assert (8, 12) == sides([8, 12])
    with pytest.raises(InvalidProblem, match="image 18 is not a multiple of the stem's stride 4"):
        resized(parameters(SMALL["hybrid"]), SMALL["hybrid"], image=(16, 18))
    with pytest.raises(InvalidProblem, match="image 10 is not a multiple of patch 4"):
        resized({}, SMALL["vit"], image=(8, 10))
    with pytest.raises(InvalidProblem, match="like is one of timm, huggingface, torchvision"):
        weights(7, 8, "keras")
    assert ViTConfig().grid == (14, 14)
