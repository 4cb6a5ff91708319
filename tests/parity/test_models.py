"""A model on attnref is the model: output and gradients, on maps of every kind."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torchvision.models.swin_transformer import ShiftedWindowAttentionV2

import attnref
from attnref.integrations import accelerate, maps, restore

from .models import MODELS, breaks, made, outcome, stages

GRIDS = {
    "a map that the window divides": ((8, 8), 4),
    "a map of two windows and a half": ((10, 6), 4),
    "9 x 14 tokens": ((9, 14), 7),
    "an axis that is one window": ((8, 4), 4),
    "a map smaller than the window": ((3, 3), 4),
    "windows of four tokens": ((6, 7), 2),
}

LIMITS = {torch.float32: (1e-5, 1e-6), torch.float64: (1e-8, 1e-13)}
"""What a number may be off by: a part of its tensor's largest, and of the largest of all.

Loud weights make a million times as much of a rounded double on its way through a model.
"""

CASES = [
    (name, grid)
    for name in MODELS
    for grid, (extents, window) in GRIDS.items()
    if not breaks(name, extents, window)
]

THEIRS = {("transformers Swin V2", (8, 4)): 1, ("transformers Swin V2", (10, 6)): 1}
"""Layers that shift across an axis of one window, which attnref does not."""


def same(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> None:
    """Compare by name; a gradient that ought to vanish is noise of the largest's size."""
    assert expected.keys() == actual.keys()
    relative, absolute = LIMITS[expected["output"].dtype]
    largest = max(x.abs().max().item() for n, x in expected.items() if n != "output")
    for name, x in expected.items():
        floor = 0.0 if name == "output" else absolute * largest
        limit = relative * x.abs().max().item() + floor
        assert (x - actual[name]).abs().max().item() <= limit, name


@pytest.mark.parametrize("loud", [False, True], ids=["plain weights", "loud weights"])
@pytest.mark.parametrize(
    ("backend", "train"),
    [("torch", False), ("torch", True), ("numpy", True)],
    ids=["torch in evaluation", "torch in training", "numpy in training"],
)
@pytest.mark.parametrize(("name", "grid"), CASES)
def test_outputs_and_gradients_are_the_models_own(
    name: str, grid: str, backend: str, train: bool, loud: bool
) -> None:
    """And every block attends on attnref, but for those that cannot."""
    extents, window = GRIDS[grid]
    model, x = made(name, extents, window, loud=loud)
    model.train(train)
    expected = outcome(model, x)
    report = accelerate(model, backend=backend)
    with attnref.trace() as ran:
        actual = outcome(model, x)

    same(expected, actual)
    attended = [r for r in ran if (r.operation, r.direction) == ("window_attention", "forward")]
    blocks = len(report.replaced)
    assert (2 * len(stages(name, extents, window)), {}) == (blocks, report.kept)
    assert [backend] * (blocks - THEIRS.get((name, extents), 0)) == [r.backend for r in attended]


@pytest.mark.parametrize("name", list(MODELS))
def test_the_specification_agrees(name: str) -> None:
    """The slowest backend, on the map where padding and shift meet."""
    model, x = made(name, (5, 6), 4, loud=True)
    expected = outcome(model, x)
    accelerate(model, backend="reference")

    same(expected, outcome(model, x))


@pytest.mark.parametrize("backend", ["torch", "numpy"])
@pytest.mark.parametrize("name", list(MODELS))
def test_single_precision_holds_to_1e_5(name: str, backend: str) -> None:
    """On a map like that of 224 pixels: 14 x 14, then 7 x 7."""
    model, x = made(name, (14, 14), 7, dtype=torch.float32)
    expected = outcome(model, x)
    accelerate(model, backend=backend)

    same(expected, outcome(model, x))


@pytest.mark.parametrize("name", [n for n in MODELS if n != "transformers Swin V2"])
def test_loud_weights_hear_the_wrap(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden pairs are not pairs at -100, so the comparisons above can fail."""
    model, x = made(name, *GRIDS["windows of four tokens"], loud=True)
    expected = outcome(model, x)["output"]
    monkeypatch.setattr(maps, "WRAP_BIAS", -torch.inf)
    accelerate(model, backend="torch")

    assert (expected - outcome(model, x)["output"]).abs().max() > 1e-6


@pytest.mark.parametrize("name", list(MODELS))
def test_what_is_undone_is_the_same_to_the_bit(name: str) -> None:
    """Nothing is left behind: neither classes, nor attributes, nor names of weights."""
    model, x = made(name, (8, 8), 4)
    before = outcome(model, x)
    kinds = [type(m) for m in model.modules()]
    keys = list(model.state_dict())
    attributes = [set(vars(m)) for m in model.modules()]
    accelerate(model)
    held = list(model.state_dict())
    restore(model)
    after = outcome(model, x)

    assert kinds == [type(m) for m in model.modules()]
    assert attributes == [set(vars(m)) for m in model.modules()]
    assert keys == held == list(model.state_dict())
    assert all(torch.equal(x, after[n]) for n, x in before.items())


@pytest.mark.parametrize("wrap_bias", [-torch.inf, maps.WRAP_BIAS / 2], ids=["hidden", "once"])
def test_transformers_adds_the_mask_twice(
    wrap_bias: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One token alone in its region turns from itself, and to three at -200 as much."""
    model, _ = made("transformers Swin V2", (4, 4), 2, depths=(2,))
    layer = model.encoder.layers[0].blocks[1]
    attention = layer.attention.self
    attention.query.weight.data.zero_()
    attention.query.bias.data.fill_(1.0)
    attention.key.weight.data.zero_()
    attention.key.weight.data[:, 0] = 1.0
    attention.logit_scale.data.fill_(5.0)
    x = torch.randn(1, 16, 16, dtype=torch.float64)
    x[..., 0] = 1.0
    x[:, 0, 0] = -1.0
    (expected,) = layer(x, (4, 4))
    accelerate(model, backend="torch")
    torch.testing.assert_close((expected,), layer(x, (4, 4)), rtol=1e-9, atol=1e-9)
    monkeypatch.setattr(maps, "WRAP_BIAS", wrap_bias)

    assert (expected - layer(x, (4, 4))[0]).abs().max() > 1e-2


@pytest.mark.parametrize("how", ["without biases", "with biases added apart"])
@pytest.mark.parametrize("name", ["timm Swin", "timm Swin V2"])
def test_other_projections_of_timm(name: str, how: str) -> None:
    """Biases of queries, keys and values may be none, or be added to the projection."""
    options = {"qkv_bias": False} if how == "without biases" else {}
    model, x = made(name, (9, 14), 7, **options)
    for block in model.modules():
        if hasattr(block, "qkv_bias_separate"):
            block.qkv_bias_separate = how == "with biases added apart"
    expected = outcome(model, x)
    accelerate(model, backend="torch")

    same(expected, outcome(model, x))


def test_torchvisions_attention_without_biases() -> None:
    """No model of torchvision leaves them out; the module may."""
    torch.manual_seed(0)
    attention = ShiftedWindowAttentionV2(16, [4, 4], [2, 2], 2, qkv_bias=False).double()
    x = torch.randn(2, 6, 9, 16, dtype=torch.float64)
    expected = outcome(attention, x)
    accelerate(attention, backend="torch")

    same(expected, outcome(attention, x))
