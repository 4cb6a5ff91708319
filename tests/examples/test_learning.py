"""The training examples: gradients that are right, and losses that fall.

How well the models learn in the end is on `docs/models.md`; here each is run for moments.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from attnref.models import initialise, vit

EXAMPLES = Path(__file__).parents[2] / "examples" / "learning"
BACKENDS = ["reference", "numpy", "torch"]

pytestmark = pytest.mark.no_cover  # thousands of steps through the same lines


@pytest.fixture
def example(monkeypatch):
    """Import an example by name, which is a script and no package."""

    def of(name: str) -> ModuleType:
        monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return of


def images(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw images of as many kinds as there are digits: a bright pixel for each."""
    labels = np.arange(n) % 10
    pixels = np.random.default_rng(0).normal(0, 0.1, (n, 8, 8, 1)).astype(np.float32)
    pixels.reshape(n, 64)[np.arange(n), 6 * labels] += 2
    return pixels, labels


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_written_by_hand_are_those_of_torch(example, backend):
    """Every parameter of the block, against torch's tape through the same page of the model."""
    block = example("one_block")
    p = initialise(block.CONFIG, np.random.default_rng(0), "float64")
    p = {n: x + 0.1 * np.random.default_rng(1).normal(size=x.shape) for n, x in p.items()}
    pixels, labels = images(6)
    tensors = {n: torch.from_numpy(x).requires_grad_() for n, x in p.items()}
    found = vit.logits(tensors, block.CONFIG, torch.from_numpy(pixels).double(), backend="torch")
    expected = torch.nn.functional.cross_entropy(found, torch.from_numpy(labels))
    expected.backward()

    loss, gradients = block.loss_and_gradients(p, pixels.astype(np.float64), labels, backend)

    assert expected.item() == pytest.approx(loss, rel=1e-12)
    assert set(p) == set(gradients)
    for name, x in tensors.items():
        np.testing.assert_allclose(gradients[name], x.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_a_block_learns_in_plain_numpy(example):
    """A few epochs tell ten kinds of image apart."""
    pixels, labels = images(640)

    run = example("one_block").train((pixels, labels) * 2, "numpy", seed=0, epochs=5)

    assert run["accuracies"][-1] > 0.9
    assert 50 == len(run["losses"])


@pytest.mark.parametrize("model", ["vit", "swin"])
def test_torch_trains_models_through_every_backend(example, model):
    """Losses fall, and they are the same losses whoever computes attention."""
    digits = example("digits")
    pixels, labels = map(torch.from_numpy, images(256))
    data = digits.Digits(pixels, labels, pixels, labels)

    config = digits.MODELS[model]
    runs = [digits.train(config, data, backend, seed=0, epochs=2) for backend in BACKENDS]

    losses = np.array([run["losses"] for run in runs])
    assert (losses[:, -2:].mean(axis=1) < losses[:, :2].mean(axis=1)).all()
    np.testing.assert_allclose(losses, np.broadcast_to(losses[-1], losses.shape), rtol=1e-2)


def test_images_move_by_a_pixel_and_no_further(example):
    """What comes in from the edge is paper."""
    digits = example("digits")
    pixel = torch.full((200, 8, 8, 1), -1.0)
    pixel[:, 0, 4] = 1.0

    moved = digits.shifted(pixel, torch.Generator().manual_seed(0))[..., 0]

    places = {tuple(p) for p in moved.argwhere().tolist() if moved[tuple(p)] > 0}
    assert {(r, c) for _, r, c in places} == {(r, c) for r in (0, 1) for c in (3, 4, 5)}
    assert (moved.min(dim=0).values >= -1).all()


def test_the_zen_is_read_without_being_printed(example, capsys):
    """Its text, its letters and back."""
    zen = example("zen")
    text = zen.Text.of(zen.zen())

    assert zen.zen() == text.read(text.ids.tolist())
    assert text.read(text.ids[:18].tolist()) == "The Zen of Python,"
    assert "" == capsys.readouterr().out


def test_a_small_gpt2_begins_to_learn_the_zen(example):
    """Twenty steps take it below guessing."""
    zen = example("zen")
    text = zen.Text.of(zen.zen())

    p, losses = zen.train(text, "numpy", steps=20)

    assert np.log(len(text.letters)) > np.mean(losses[-3:])
    assert all(x.requires_grad for x in p.values())
