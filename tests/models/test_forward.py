"""Every model on every backend, in NumPy and in torch, forward and back."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import attnref
from attnref.errors import InvalidProblem, UnknownBackend
from attnref.models import BERTConfig, ConvConfig, GPT2Config, forward, shapes

from .drawn import SMALL, parameters, question

every_model = pytest.mark.parametrize("name", SMALL)


@every_model
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_backends_agree_with_the_reference(name, backend):
    """One word runs the whole model elsewhere, and it means the same."""
    config = SMALL[name]
    p, x = parameters(config, "float64"), question(config)
    expected = forward(config, p, x, backend="reference")

    with attnref.trace() as ran:
        actual = forward(config, p, x, backend=backend)

    assert {backend} >= {call.backend for call in ran}
    assert bool(ran) != isinstance(config, ConvConfig)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


@every_model
@pytest.mark.parametrize("backend", ["reference", "numpy", "torch"])
def test_torch_differentiates_every_parameter(name, backend):
    """Gradients through attnref's backward are those of finite differences."""
    config = SMALL[name]
    p, x = parameters(config, "float64"), question(config)
    tensors = {n: torch.from_numpy(v.copy()).requires_grad_() for n, v in p.items()}

    def loss(given) -> torch.Tensor:  # every output counts, none like its neighbour
        found = forward(config, given, torch.from_numpy(x), backend=backend).reshape(-1)
        return (found * torch.linspace(-1, 1, len(found), dtype=torch.float64)).sum()

    loss(tensors).backward()

    rng = np.random.default_rng(0)
    way = {n: torch.from_numpy(rng.normal(size=v.shape)) for n, v in p.items()}
    unread = {n for n, t in tensors.items() if t.grad is None}
    assert all(n.startswith(("pooler", "words")) for n in unread)
    expected = sum(float((t.grad * way[n]).sum()) for n, t in tensors.items() if n not in unread)
    with torch.no_grad():
        ahead = loss({n: t + 1e-6 * way[n] for n, t in tensors.items()})
        behind = loss({n: t - 1e-6 * way[n] for n, t in tensors.items()})
    assert expected == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-5, abs=1e-6)


@every_model
def test_every_parameter_matters(name):
    """What is listed is read: another value gives another result."""
    config = SMALL[name]
    p, x = parameters(config, "float64"), question(config)
    first = forward(config, p, x, backend="numpy")
    idle = []
    for n in shapes(config):
        rng = np.random.default_rng(5)
        other = forward(config, {**p, n: p[n] + rng.normal(size=p[n].shape)}, x, backend="numpy")
        if np.array_equal(first, other):
            idle.append(n)
    assert all(n.startswith(("pooler", "words")) for n in idle)


@every_model
def test_an_empty_batch_gives_an_empty_result(name):
    """The first axis is as long as it was, and the others as ever."""
    config = SMALL[name]
    p, x = parameters(config), question(config)
    full = forward(config, p, x if x.dtype.kind == "i" else x.astype(np.float32), backend="numpy")

    for backend in ("reference", "numpy", "torch"):
        assert (0, *full.shape[1:]) == forward(config, p, x[:0], backend=backend).shape


@pytest.mark.parametrize("name", ["gpt2", "bert"])
@pytest.mark.parametrize("ids", [[[], []], np.zeros((2, 0), int)], ids=["lists", "an array"])
def test_texts_without_tokens_have_no_states(name, ids):
    """Nothing is predicted of nothing."""
    config = SMALL[name]

    assert (2, 0) == forward(config, parameters(config), ids, backend="numpy").shape[:2]


@pytest.mark.parametrize("backend", ["nope", 3], ids=["a name that nobody has", "a number"])
@every_model
def test_a_backend_that_is_none_is_refused_by_every_model(name, backend):
    """Also by the one that calls no attention."""
    config = SMALL[name]

    with pytest.raises((UnknownBackend, InvalidProblem), match=r"backend"):
        forward(config, parameters(config), question(config), backend=backend)


@pytest.mark.parametrize("kind", ["vit", "swin", "hybrid", "conv"])
def test_images_are_of_the_parameters_library_and_dtype(kind):
    """Nothing is moved or converted unasked; NumPy widens by itself, and torch does not."""
    config = SMALL[kind]
    p, x = parameters(config), question(config)
    tensors = {n: torch.from_numpy(v) for n, v in p.items()}
    facts = {
        "image is numpy float64, and the parameters are torch float32.": (tensors, x),
        "image is torch float64, and the parameters are numpy float32.": (p, torch.from_numpy(x)),
        "image is torch float64, and the parameters are torch float32.": (
            tensors,
            torch.from_numpy(x),
        ),
    }

    for fact, (given, image) in facts.items():
        with pytest.raises(InvalidProblem) as error:
            forward(config, given, image)
        assert fact == str(error.value).splitlines()[0]
    assert (2, 3) == forward(config, p, x, backend="numpy").shape


def test_something_else_is_no_configuration():
    """The error says what was given instead."""
    with pytest.raises(TypeError, match="dict is no configuration"):
        forward({}, {}, np.zeros((1, 2)))


SIZES = {
    "vit": "the image is 8x8, and the position table is for 8x12.",
    "hybrid": "the image is 8x8, and the model is for 8x12.",
    "swin": "image 8x12 has 6 tokens along an axis of stage 1, which is not a multiple of "
    "window 4.",
}


@pytest.mark.parametrize(("name", "fact"), SIZES.items(), ids=SIZES)
def test_a_size_that_the_model_cannot_take_is_refused_with_its_numbers(name, fact):
    """Nothing is cut, padded or resized unasked."""
    config = SMALL[name]
    extent = (8, 12) if name == "swin" else (8, 8)

    with pytest.raises(InvalidProblem) as error:
        forward(config, parameters(config), np.zeros((1, *extent, 3), np.float32))

    assert fact == str(error.value).splitlines()[0]


@pytest.mark.parametrize(
    "image",
    [np.zeros((1, 3, 8, 12)), np.zeros((8, 12, 3)), [[1.0]], np.zeros((1, 0, 8, 3))],
    ids=["channels first", "no batch", "a list", "no pixels"],
)
@pytest.mark.parametrize(
    "name", [n for n, c in SMALL.items() if not isinstance(c, GPT2Config | BERTConfig)]
)
def test_what_is_no_batch_of_images_is_refused(name, image):
    """Channels come last, as on every map here."""
    with pytest.raises(InvalidProblem) as error:
        forward(SMALL[name], parameters(SMALL[name]), image)

    assert "images must be (B, height, width, 3), channels last." in str(error.value)


@pytest.mark.parametrize("name", ["vit", "swin", "conv"])
def test_without_classes_a_model_gives_what_a_head_would_read(name):
    """Features and head are the logits."""
    config = SMALL[name]
    p, x = parameters(config, "float64"), question(config)
    expected = forward(config, p, x, backend="numpy")

    headless = {n: v for n, v in p.items() if not n.startswith("head.")}

    features = forward(replace(config, classes=0), headless, x, backend="numpy")

    actual = features @ p["head.weight"].T + p["head.bias"]
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
