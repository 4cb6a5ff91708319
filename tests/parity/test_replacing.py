"""What `accelerate` does to a model, says of it and undoes."""

import copy
import io
import pickle
from typing import Any

import attnref_torch
import pytest
import timm
import torch
from torch import nn
from transformers import DonutSwinConfig, DonutSwinModel

import attnref
from attnref.integrations import accelerate, replaced, replacing, restore, sources

from .models import MODELS, made, outcome, output


def attended(model: nn.Module, x: torch.Tensor) -> set[str]:
    """Return which backends a model attends on."""
    with attnref.trace() as ran:
        output(model, x)
    return {r.backend for r in ran if r.operation == "window_attention"}


def test_the_report_names_every_module() -> None:
    """By its name in the model, with the class that it was of."""
    model, _ = made("timm Swin", (8, 8), 4)
    report = accelerate(model, backend="torch")

    kind = "timm.models.swin_transformer.SwinTransformerBlock"
    names = [f"layers.{stage}.blocks.{block}" for stage in (0, 1) for block in (0, 1)]
    assert dict.fromkeys(names, kind) == report.replaced
    lines = ["4 of 4 modules of window attention run on attnref, by torch."]
    assert [*lines, *(f"  {name}  {kind}" for name in names)] == str(report).splitlines()


def test_the_report_says_when_and_why_not() -> None:
    """What stays, and what runs the library's code now and then."""
    model, _ = made("timm Swin", (8, 8), 4, depths=(2,), attn_drop_rate=0.25)
    model.layers[0].blocks[1].forward = lambda x: x
    report = accelerate(model)

    kind = "timm.models.swin_transformer.SwinTransformerBlock"
    assert [
        "1 of 2 modules of window attention run on attnref, by the first backend that can.",
        f"  layers.0.blocks.0  {kind}",
        "                       but not in training, where attn.attn_drop is 0.25: there is no "
        "dropout in attnref yet",
        "  layers.0.blocks.1  kept: its forward was replaced by something else already",
    ] == str(report).splitlines()


def test_without_a_backend_the_preference_order_decides() -> None:
    """As everywhere (H1)."""
    model, x = made("torchvision Swin", (8, 8), 4)
    report = accelerate(model)

    assert report.backend is None
    assert {"torch"} == attended(model, x)


def test_a_backend_object_is_taken() -> None:
    """As everywhere."""
    model, x = made("torchvision Swin", (8, 8), 4)
    report = accelerate(model, backend=attnref_torch.backend)

    assert "by torch." in str(report)
    assert {"torch"} == attended(model, x)


def test_a_second_call_changes_the_backend_alone() -> None:
    """And one undo undoes both."""
    model, x = made("transformers Swin V2", (8, 8), 4)
    kinds = [type(m) for m in model.modules()]
    first = accelerate(model, backend="torch")
    second = accelerate(model, backend="numpy")

    assert first.replaced == second.replaced
    assert {"numpy"} == attended(model, x)
    assert tuple(second.replaced) == restore(model)
    assert kinds == [type(m) for m in model.modules()]
    assert () == restore(model)


def test_a_named_backend_runs_or_says_why_not() -> None:
    """Nothing falls back to another backend."""
    model, x = made("torchvision Swin", (8, 8), 4)
    accelerate(model, backend="torch")
    model, x = model.to("meta"), x.to("meta")

    with pytest.raises(attnref.UnsupportedError, match="backend 'torch' cannot run this call"):
        output(model, x)


@pytest.mark.parametrize("name", list(MODELS))
def test_copies_and_pickles_attend_likewise(name: str) -> None:
    """A copy is of its own; nothing in it belongs to the first."""
    model, x = made(name, (8, 8), 4)
    accelerate(model, backend="torch")
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copied = {
        "deepcopy": copy.deepcopy(model),
        "pickle": pickle.loads(pickle.dumps(model)),
        "torch.save": torch.load(file, weights_only=False),
    }
    expected = output(model, x)
    restore(model)

    for how, other in copied.items():
        assert {"torch"} == attended(other, x), how
        assert torch.equal(expected, output(other, x)), how
    assert set() == attended(model, x)


@pytest.mark.parametrize("name", list(MODELS))
def test_weights_that_are_loaded_later_count(name: str) -> None:
    """Nothing of the weights is kept elsewhere."""
    model, x = made(name, (8, 8), 4, heads=8)
    accelerate(model, backend="torch")
    output(model, x)
    other, _ = made(name, (8, 8), 4, loud=True)
    model.load_state_dict(other.state_dict())

    torch.testing.assert_close(output(other, x), output(model, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errs_no_more_than_the_model_does(name: str, dtype: torch.dtype) -> None:
    """Against the same weights in double precision; a model converted after it was changed."""
    model, x = made(name, (14, 14), 7)
    accelerate(model, backend="torch")
    x = x.to(dtype)
    half = copy.deepcopy(model).to(dtype)
    exact = output(half.double(), x.double())
    half = half.to(dtype)
    ours = output(half, x)
    restore(half)
    theirs = output(half, x)

    assert dtype == ours.dtype
    assert (ours - exact).norm() <= 1.5 * (theirs - exact).norm()


@pytest.mark.parametrize("name", list(MODELS))
def test_autocast_gives_what_it_gave(name: str) -> None:
    """Within its own error; attnref computes in float32 whatever the inputs are."""
    model, x = made(name, (14, 14), 7, dtype=torch.float32)
    exact = outcome(model.double(), x.double())["output"]
    model = model.float()
    with torch.autocast("cpu", torch.bfloat16):
        theirs = outcome(model, x)["output"]
        accelerate(model, backend="torch")
        ours = outcome(model, x)["output"]

    assert theirs.dtype == ours.dtype
    assert (ours - exact).norm() <= 1.5 * (theirs - exact).norm()


def test_a_model_without_window_attention_is_refused() -> None:
    """The error says what was looked for, and what to do."""
    with pytest.raises(attnref.InvalidProblem) as refused:
        accelerate(timm.create_model("vit_tiny_patch16_224", depth=1))

    lines = str(refused.value).splitlines()
    assert "VisionTransformer holds no window attention." == lines[0]
    looked_for = [*replacing.REPLACEABLE, *replacing.NOT_REPLACEABLE]
    assert [f"  looked for  {path}" for path in looked_for] == lines[1:-1]
    assert lines[-1].startswith("  hint ")


@pytest.mark.parametrize("function", [accelerate, restore])
def test_only_a_module_is_a_model(function: Any) -> None:
    """A class is not built yet."""
    with pytest.raises(attnref.InvalidProblem, match="model is a type; it must be a torch module"):
        function(nn.Linear)


def test_an_unknown_backend_changes_nothing() -> None:
    """It is looked up before anything is replaced."""
    model, x = made("timm Swin", (8, 8), 4)
    with pytest.raises(attnref.UnknownBackend, match="no backend is called 'tritn'"):
        accelerate(model, backend="tritn")

    assert set() == attended(model, x)


@pytest.mark.parametrize("backend", [3, type(attnref_torch.backend)])
def test_only_a_backend_is_a_backend(backend: Any) -> None:
    """Neither a number nor a class is."""
    model, _ = made("timm Swin", (8, 8), 4)
    with pytest.raises(attnref.InvalidProblem, match="it must be a name or a backend object"):
        accelerate(model, backend=backend)


def test_a_subclass_is_kept() -> None:
    """Nobody knows what it changes."""
    model, _ = made("timm Swin", (8, 8), 4)

    class Own(type(model.layers[0].blocks[0])):
        pass

    model.layers[0].blocks[0].__class__ = Own
    (name, reason), *others = accelerate(model).kept.items()

    assert ([], "layers.0.blocks.0", "subclass") == (others, name, reason.code)
    assert str(reason) == (
        "Own descends from timm.models.swin_transformer.SwinTransformerBlock and may attend "
        "otherwise"
    )


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("class", "attn.softmax is a LogSoftmax and would be passed by as a Softmax"),
        ("forward", "the forward of attn.softmax was replaced already"),
    ],
)
def test_a_block_with_a_part_of_ones_own_is_kept(how: str, sentence: str) -> None:
    """Replacing the block would pass the part by."""
    model, _ = made("timm Swin", (8, 8), 4)
    attn = model.layers[0].blocks[0].attn
    if how == "class":
        attn.softmax = nn.LogSoftmax(dim=-1)
    else:
        attn.softmax.forward = lambda x: x
    (reason,) = accelerate(model).kept.values()

    assert ("part", "attn.softmax", sentence) == (reason.code, reason.field, str(reason))


def test_code_that_was_not_compared_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of a library may mean something else by the same name."""
    model, x = made("timm Swin", (8, 8), 4)
    kind = type(model.layers[0].blocks[0].attn)
    monkeypatch.setattr(sources, "fingerprint", lambda f: None if f is kind.forward else "x")
    report = accelerate(model)

    assert {} == report.replaced
    assert set() == attended(model, x)
    assert "of the installed timm is none of the versions that attnref was compared with" in str(
        report
    )


def test_a_library_without_the_names_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older version may have the class and not what it is made of."""
    path = "timm.models.swin_transformer.SwinTransformerBlock"
    monkeypatch.setitem(replacing.REPLACEABLE, path, ("timm_swin.Missing",))
    model, _ = made("timm Swin", (8, 8), 4)
    reasons = {str(reason) for reason in accelerate(model).kept.values()}

    assert {"version"} == {reason.code for reason in accelerate(model).kept.values()}
    assert all("the installed timm is none of the versions that are known" in r for r in reasons)


def test_copies_of_swin_are_reported() -> None:
    """Known by name, and kept."""
    config = DonutSwinConfig(image_size=16, embed_dim=16, depths=[1], num_heads=[2], window_size=2)
    report = accelerate(DonutSwinModel(config))

    assert ({}, {"class"}) == (report.replaced, {r.code for r in report.kept.values()})


def test_a_class_that_was_changed_since_is_not_undone() -> None:
    """Sharding makes a class of its own; undoing ours would undo that."""
    model, _ = made("timm Swin", (8, 8), 4)
    accelerate(model)

    class Sharded(type(model.layers[0].blocks[0])):
        pass

    model.layers[0].blocks[0].__class__ = Sharded
    with pytest.raises(attnref.InvalidProblem, match=r"layers\.0\.blocks\.0 is of Sharded"):
        restore(model)
    assert ["subclass"] == [r.code for r in accelerate(model).kept.values()]


def test_a_model_may_be_a_block() -> None:
    """Any module will do."""
    model, _ = made("torchvision Swin", (8, 8), 4)
    attention = model.features[1][0].attn
    report = accelerate(attention, backend="torch")

    assert [""] == list(report.replaced)
    assert isinstance(attention, replaced.Replaced)
