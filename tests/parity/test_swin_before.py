"""Swin version 1 as transformers cut it before 5.9: the installed one, or what stands in for it."""

import copy
import importlib.util
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers.models.swin
from torch import Tensor, nn
from transformers import SwinConfig
from transformers.models.swin import modeling_swin

import attnref
from attnref.integrations import accelerate, restore, sources

from .models import equal, forwards, outcome
from .test_models import GRIDS, same

WORDINGS = {
    "SwinLayer.forward": {"4.40": "b92df6ea6935", "4.42": "fe693ae88230", "5.0": "be6544e6d606"},
    "SwinLayer.set_shift_and_window_size": {"4.40": "993a305af03d", "4.42": "aa7a6ee2d609"},
    "SwinLayer.get_attn_mask": {
        "4.40": "7851d4b5c6d2",
        "4.42": "d92af173cc9b",
        "4.53": "dfc0247f586d",
    },
    "SwinLayer.maybe_pad": {"4.40": "92c2f7144880"},
    "SwinSelfAttention.forward": {
        "4.40": "ebfae31c96f9",
        "4.54": "b96bd61ac6fd",
        "5.0": "141f23b8f4e1",
    },
    "SwinAttention.forward": {"4.40": "1645f4c1bd28", "5.0": "d711851ee635"},
    "window_partition": {"4.40": "2946bf9ae99f", "5.9": "ad458c13f938"},
}
"""Every function whose meaning was taken over, with the release that each wording came with."""


@pytest.fixture(name="before")
def _before(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the old modules; a newer transformers looks as if it had them, for one test."""
    if hasattr(modeling_swin, "SwinSelfAttention"):
        return modeling_swin
    name, path = modeling_swin.__name__, Path(__file__).with_name("swin_before.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(transformers.models.swin, "modeling_swin", module)
    for which in ("transformers_swin", "transformers_swin4"):
        # Set and deleted, so that whatever a test imports is forgotten after it.
        monkeypatch.setitem(sys.modules, f"attnref.integrations.{which}", module)
        monkeypatch.delitem(sys.modules, f"attnref.integrations.{which}")
    monkeypatch.setattr(sources, "fingerprint", lambda f: WORDINGS[f.__qualname__]["4.40"])
    return module


class Blocks(nn.Module):
    """Two layers, the second shifted, on a map of channels."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, *asked: Any, **named: Any) -> Tensor:
        G = tuple(x.shape[2:])
        x = x.flatten(2).mT
        for layer in self.layers:
            (x, *_) = layer(x, G, *asked, **named)
        return x


def made(
    before: ModuleType, grid: str, *, loud: bool = False, **options: Any
) -> tuple[Blocks, Tensor]:
    """Make two layers with random weights, and a batch of two maps."""
    G, window = GRIDS[grid]
    torch.manual_seed(0)
    config = SwinConfig(window_size=window, drop_path_rate=0.0, **options)
    shifts = (0, window // 2)
    blocks = Blocks([before.SwinLayer(config, 16, G, 2, shift_size=s) for s in shifts])
    for name, parameter in blocks.named_parameters():
        std = 200.0 if loud and name.endswith("table") else 0.3
        nn.init.normal_(parameter, std=std)
    return blocks.double().eval(), torch.randn(2, 16, *G, dtype=torch.float64)


GRID = "9 x 14 tokens"


@pytest.mark.parametrize("loud", [False, True], ids=["plain weights", "loud weights"])
@pytest.mark.parametrize(
    ("backend", "train"),
    [("torch", False), ("torch", True), ("numpy", True), ("reference", True)],
    ids=["torch in evaluation", "torch in training", "numpy in training", "the specification"],
)
@pytest.mark.parametrize("grid", [g for g in GRIDS if "smaller" not in g])
def test_outputs_and_gradients_are_the_layers_own(
    grid: str, backend: str, train: bool, loud: bool, before: ModuleType
) -> None:
    """And both layers attend on attnref."""
    blocks, x = made(before, grid, loud=loud)
    blocks.train(train)
    theirs = copy.deepcopy(blocks)
    expected = outcome(theirs, x)
    report = accelerate(blocks, backend=backend)
    with attnref.trace() as ran:
        actual = outcome(blocks, x)

    same(expected, actual)
    path = "transformers.models.swin.modeling_swin.SwinLayer"
    assert ({"layers.0": path, "layers.1": path}, {}) == (report.replaced, report.kept)
    assert [backend] * 2 == [r.backend for r in ran if r.direction == "forward"]
    cuts = [(each.window_size, each.shift_size) for each in theirs.layers]
    assert cuts == [(each.window_size, each.shift_size) for each in blocks.layers]


def test_what_is_undone_is_the_same_to_the_bit(before: ModuleType) -> None:
    """Nothing is left behind."""
    blocks, x = made(before, GRID)
    expected = outcome(blocks, x)
    accelerate(blocks)

    assert ("layers.0", "layers.1") == restore(blocks)
    assert equal(expected, outcome(blocks, x))
    assert {before.SwinLayer} == set(map(type, blocks.layers))


def test_a_second_call_changes_the_backend_alone(before: ModuleType) -> None:
    """What is replaced is known again."""
    blocks, x = made(before, GRID)
    first, second = accelerate(blocks, backend="numpy"), accelerate(blocks, backend="torch")
    with attnref.trace() as ran:
        blocks(x)

    assert first.replaced == second.replaced
    assert ["torch"] * 2 == [r.backend for r in ran]


@pytest.mark.parametrize("how", ["by name", "by place"])
def test_a_shift_across_one_window_is_the_librarys(how: str, before: ModuleType) -> None:
    """Told to cut always, a layer rolls a map within its one window; attnref never does (G4)."""
    blocks, x = made(before, "an axis that is one window", loud=True)
    places = len(signature(before.SwinLayer.forward).parameters) - 3
    by_place = (*[None] * (places - 1), True)
    asked, named = (by_place, {}) if how == "by place" else ((), {"always_partition": True})
    expected = blocks(x, *asked, **named)
    accelerate(blocks, backend="torch")

    torch.testing.assert_close(expected, blocks(x, *asked, **named), rtol=1e-9, atol=1e-9)
    assert 1 == forwards(lambda: blocks(x, *asked, **named))
    assert 2 == forwards(lambda: blocks(x))
    assert 0 == blocks.layers[1].shift_size


def test_a_request_is_the_librarys(before: ModuleType) -> None:
    """Weights of attention, and before transformers 5 a mask of heads."""
    masks = {"head_mask": torch.tensor([0.0, 2.0]).double().view(1, 2, 1, 1)}
    takes = signature(before.SwinLayer.forward).parameters
    asks = [{"output_attentions": True}, *([masks] if "head_mask" in takes else [])]
    for asked in asks:
        blocks, x = made(before, GRID)
        expected = blocks(x, **asked)
        tokens = x.flatten(2).mT
        returned = blocks.layers[0](tokens, GRIDS[GRID][0], **asked)
        accelerate(blocks, backend="torch")

        assert torch.equal(expected, blocks(x, **asked)), asked
        assert 0 == forwards(lambda: blocks(x, **asked)), asked  # noqa: B023
        found = blocks.layers[0](tokens, GRIDS[GRID][0], **asked)
        assert len(returned) == len(found) == (2 if "output_attentions" in asked else 1)
        assert all(map(torch.equal, returned, found)), asked
        assert 2 == forwards(lambda: blocks(x)), asked  # noqa: B023


def test_dropout_of_weights_is_the_librarys(before: ModuleType) -> None:
    """In training alone; the report said so."""
    blocks, x = made(before, GRID, attention_probs_dropout_prob=0.3)
    blocks.train()
    expected = outcome(blocks, x)
    report = accelerate(blocks, backend="torch")

    assert equal(expected, outcome(blocks, x))
    assert 0 == forwards(lambda: blocks(x))
    assert {"attention.self.dropout"} == {r.field for r in report.except_when.values()}
    assert 2 == forwards(lambda: blocks.eval()(x))


@pytest.mark.parametrize("part", ["attention", "attention.self", "attention.self.dropout"])
def test_a_hook_is_called(part: str, before: ModuleType) -> None:
    """Who waits for attention weights gets them, from the one layer that is asked."""
    blocks, x = made(before, GRID)
    accelerate(blocks, backend="torch")
    heard: list[Any] = []
    module = blocks.layers[1].get_submodule(part)
    hook = module.register_forward_hook(lambda *given: heard.append(given))

    assert (1, 1) == (forwards(lambda: blocks(x)), len(heard))
    hook.remove()
    assert 2 == forwards(lambda: blocks(x))


def failing(blocks: Blocks, x: Tensor) -> str:
    """Return what a call fails with."""
    with pytest.raises(RuntimeError) as failed:
        blocks(x)
    return str(failed.value)


def shrunk(blocks: Blocks, x: Tensor) -> Tensor:
    """Take a map smaller than the window, which shrinks the window and not the table."""
    del blocks
    return x[..., :3, :3]


def pruned(blocks: Blocks, x: Tensor) -> Tensor:
    """Give a layer a table of more heads than it has."""
    attention = blocks.layers[0].attention.self
    table = attention.relative_position_bias_table
    attention.relative_position_bias_table = nn.Parameter(table.new_zeros(len(table), 3))
    return x


@pytest.mark.parametrize("change", [shrunk, pruned], ids=["a smaller map", "more heads"])
def test_a_table_that_does_not_fit_fails_as_it_did(
    change: Callable[[Blocks, Tensor], Tensor], before: ModuleType
) -> None:
    """The library's failure, and not another."""
    blocks, x = made(before, GRID)
    x = change(blocks, x)
    expected = failing(copy.deepcopy(blocks), x)
    accelerate(blocks, backend="torch")

    assert expected == failing(blocks, x)


def test_every_wording_is_of_a_release(before: ModuleType) -> None:
    """A print that no release has would let code in that nobody read."""
    blocks, _ = made(before, GRID)
    accelerate(blocks)
    known = type(blocks.layers[0]).sources

    expected = {name: set(since.values()) for name, since in WORDINGS.items()}
    assert expected == {f.__qualname__: set(prints) for f, prints in known.items()}


def test_code_that_was_not_compared_is_kept(
    before: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both layers stay, with the name of what is new."""
    blocks, _ = made(before, GRID)
    print_ = sources.fingerprint
    new = before.SwinLayer.get_attn_mask
    monkeypatch.setattr(sources, "fingerprint", lambda f: "new" if f is new else print_(f))
    kept = accelerate(blocks).kept

    assert ["version"] * 2 == [reason.code for reason in kept.values()]
    assert all("SwinLayer.get_attn_mask of the installed" in str(r) for r in kept.values())


def test_a_third_form_is_kept(before: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason says what each of the two known ones lacks."""
    blocks, _ = made(before, GRID)
    monkeypatch.delattr(before, "SwinSelfAttention")
    monkeypatch.delitem(sys.modules, "attnref.integrations.transformers_swin4", raising=False)
    (reason, _) = accelerate(blocks).kept.values()

    assert "version" == reason.code
    assert "cyclic_shift" in str(reason) or "sdpa_attention" in str(reason)
    assert "SwinSelfAttention" in str(reason)
