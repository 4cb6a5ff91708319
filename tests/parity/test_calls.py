"""Calls that need what attnref does not have run the library's own code, to the bit."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor
from transformers import AttentionInterface

import attnref
from attnref.integrations import accelerate, restore

from .models import MODELS, equal, forwards, made, outcome, output

DROPOUT = {
    "timm Swin": {"attn_drop_rate": 0.3},
    "timm Swin V2": {"attn_drop_rate": 0.3},
    "timm Swin V2 cr": {"attn_drop_rate": 0.3},
    "torchvision Swin": {"attention_dropout": 0.3},
    "torchvision Swin V2": {"attention_dropout": 0.3},
    "torchvision video Swin": {"attention_dropout": 0.3},
    "transformers Swin": {"attention_probs_dropout_prob": 0.3},
    "transformers Swin V2": {"attention_probs_dropout_prob": 0.3},
}


@pytest.mark.parametrize("name", list(MODELS))
def test_dropout_of_weights_is_the_librarys(name: str) -> None:
    """In training alone; the report said so."""
    model, x = made(name, (9, 14), 7, **DROPOUT[name])
    model.train()
    expected = outcome(model, x)
    report = accelerate(model, backend="torch")

    assert equal(expected, outcome(model, x))
    assert 0 == forwards(lambda: output(model, x))
    assert report.replaced.keys() == report.except_when.keys()
    (reason, *_) = report.except_when.values()
    assert ("dropout", 0.0) == (reason.code, reason.limit)
    assert "is 0.3: there is no dropout in attnref yet" in str(reason)
    model.eval()
    assert len(report.replaced) == forwards(lambda: output(model, x))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("timm Swin", "layers.0.blocks.1.attn"),
        ("timm Swin", "layers.0.blocks.1.attn.softmax"),
        ("timm Swin V2", "layers.0.blocks.1.attn.attn_drop"),
        ("timm Swin V2 cr", "stages.0.blocks.1.attn.attn_drop"),
        ("transformers Swin", "encoder.layers.0.blocks.1.attention"),
        ("transformers Swin V2", "encoder.layers.0.blocks.1.attention.self"),
    ],
)
@pytest.mark.parametrize(
    "register",
    ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"],
)
def test_a_hook_is_called(name: str, part: str, register: str) -> None:
    """Who waits for attention weights gets them, from the one block that is asked."""
    model, x = made(name, (8, 8), 4)
    report = accelerate(model, backend="torch")
    heard: list[Any] = []
    hook = getattr(model.get_submodule(part), register)(lambda *given: heard.append(given))
    theirs = forwards(lambda: outcome(model, x))
    hook.remove()

    assert (len(report.replaced) - 1, 1) == (theirs, len(heard))
    assert len(report.replaced) == forwards(lambda: output(model, x))


@pytest.mark.parametrize("name", ["transformers Swin", "transformers Swin V2"])
@pytest.mark.parametrize("how", ["argument", "configuration"])
def test_attention_weights_are_returned(name: str, how: str) -> None:
    """`output_attentions` runs the library's code."""
    model, x = made(name, (8, 8), 4, attention="eager")
    told = {"output_attentions": True} if how == "argument" else {}
    model.config.output_attentions = how == "configuration"
    expected = model(x, **told).attentions
    accelerate(model, backend="torch")
    actual = model(x, **told).attentions

    assert len(expected) == len(actual) > 0
    assert all(map(torch.equal, expected, actual))


def test_attention_of_ones_own_is_called() -> None:
    """A function registered with transformers is not replaced by another meaning."""
    called = []

    def own(module: nn.Module, q: Any, k: Any, v: Any, mask: Any, **_: Any) -> Any:
        called.append(module)
        return v.transpose(1, 2), None

    AttentionInterface.register("own", own)
    model, x = made("transformers Swin", (8, 8), 4)
    accelerate(model, backend="torch")
    model.set_attn_implementation("own")

    assert 0 == forwards(lambda: output(model, x))
    assert 4 == len(called)


def test_unknown_arguments_of_attention_reach_it() -> None:
    """What transformers hands through to its attention functions is not understood here."""
    model, x = made("transformers Swin", (8, 8), 4)
    accelerate(model, backend="torch")

    assert 0 == forwards(lambda: output(model, x, is_causal=False))
    assert 4 == forwards(lambda: output(model, x, output_hidden_states=True))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_plain_attentions_of_transformers_are_replaced(attention: str) -> None:
    """They mean the same thing."""
    model, x = made("transformers Swin", (8, 8), 4, attention=attention)
    accelerate(model, backend="torch")

    assert 4 == forwards(lambda: output(model, x))


@pytest.mark.parametrize(
    "name", ["timm Swin", "timm Swin V2", "timm Swin V2 cr", "transformers Swin"]
)
def test_a_shift_across_one_window_is_the_librarys(name: str) -> None:
    """Told to cut always, they roll a map within its one window; attnref never does (G4)."""
    always = {"always_partition": True}
    built, told = ({}, always) if name == "transformers Swin" else (always, {})
    model, x = made(name, (8, 4), 4, loud=True, depths=(2,), **built)
    expected = output(model, x, **told)
    accelerate(model, backend="torch")

    torch.testing.assert_close(expected, output(model, x, **told), rtol=1e-9, atol=1e-9)
    assert 1 == forwards(lambda: output(model, x, **told))


def test_what_was_remembered_is_still_remembered() -> None:
    """A small map makes version 1 of transformers drop its shift for good."""
    model, x = made("transformers Swin", (14, 14), 7, depths=(2,))
    small = torch.randn(2, 3, 14, 14, dtype=torch.float64)
    other = copy.deepcopy(model)
    accelerate(other, backend="torch")
    for each in (model, other):
        output(each, small)

    torch.testing.assert_close(output(model, x), output(other, x), rtol=1e-9, atol=1e-9)
    fresh, _ = made("transformers Swin", (14, 14), 7, depths=(2,))
    assert (output(fresh, x) - output(other, x)).abs().max() > 1e-3


def test_a_table_that_does_not_fit_fails_as_it_did() -> None:
    """Version 1 of transformers shrinks the window on a small map, and not the table."""
    model, _ = made("transformers Swin", (8, 8), 4, depths=(2,))
    small = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    failures = []
    for each in (copy.deepcopy(model), model):
        if each is model:
            accelerate(each, backend="torch")
        with pytest.raises(RuntimeError) as failed:
            output(each, small)
        failures.append(str(failed.value))

    assert failures[0] == failures[1]


@pytest.mark.parametrize("name", ["timm Swin", "timm Swin V2", "timm Swin V2 cr"])
@pytest.mark.parametrize("grid", [(8, 8), (12, 9), (4, 7)])
def test_maps_of_any_size(name: str, grid: tuple[int, int]) -> None:
    """A timm model that takes any image masks the map that it meets."""
    model, _ = made(name, (8, 8), 4, strict_img_size=False)
    x = torch.randn(2, 3, *(2 * g for g in grid), dtype=torch.float64)
    expected = outcome(model, x)
    accelerate(model, backend="torch")

    torch.testing.assert_close(expected, outcome(model, x), rtol=1e-9, atol=1e-9)


def test_a_mask_of_another_map_is_timms() -> None:
    """A block that was built for one size, and is called with another, fails as it did."""
    model, _ = made("timm Swin", (8, 8), 4)
    block = model.layers[0].blocks[1]
    x = torch.randn(1, 12, 12, 16, dtype=torch.float64)
    with pytest.raises(RuntimeError) as expected:
        block(x)
    accelerate(model, backend="torch")
    with pytest.raises(RuntimeError) as actual:
        block(x)

    assert str(expected.value) == str(actual.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.* is deprecated")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", ["timm Swin", "torchvision Swin", "torchvision Swin V2"])
def test_tracers_follow_the_librarys_code(name: str) -> None:
    """Feature extractors and `torch.jit.trace` give what they gave."""
    model, x = made(name, (8, 8), 4)
    accelerate(model, backend="torch")
    traced = torch.jit.trace(model, x, check_trace=False)
    with attnref.trace() as ran:
        found = traced(x)

    assert [] == ran
    restore(model)
    torch.testing.assert_close(output(model, x), found)


def test_features_are_extracted_by_name() -> None:
    """torchvision's extractor keeps attention whole, and so it does here."""
    model, x = made("torchvision Swin", (8, 8), 4)
    expected = create_feature_extractor(model, ["features.1"])(x)
    accelerate(model, backend="torch")

    torch.testing.assert_close(expected, create_feature_extractor(model, ["features.1"])(x))
