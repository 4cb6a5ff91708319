"""ViT, Swin and Swin V2 of `attnref.models` compute what those of three libraries compute."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import timm
import torch
import transformers
from timm.layers import LayerNorm2d, resample_abs_pos_embed
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from timm.models.vision_transformer_hybrid import HybridEmbed
from torch import nn
from torchvision import models as torchvision
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.vision_transformer import interpolate_embeddings

from attnref.models import (
    HybridConfig,
    SwinConfig,
    SwinV2Config,
    ViTConfig,
    convolutional,
    initialise,
    load,
    resized,
    swin,
    vit,
)

from .drawn_models import BACKENDS, LIMIT, in_numpy, loud, pixels

SMALL = {"image": (32, 32), "patch": 8, "width": 32, "layers": 3, "heads": 4, "hidden": 128}
STAGES = {"image": (32, 32), "patch": 2, "width": 16, "window": 4, "classes": 5}
BIASLESS = partial(nn.LayerNorm, eps=1e-6, bias=False)

every_backend = pytest.mark.parametrize("backend", BACKENDS)


def timm_vit(**options) -> nn.Module:
    """Make a small ViT of timm."""
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=5, **options
    )


def huggingface_vit() -> nn.Module:
    """Make a small ViT of transformers."""
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=3,
        num_attention_heads=4, intermediate_size=128, layer_norm_eps=1e-6, num_labels=5,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


VITS: dict[str, tuple[str, Callable[[], nn.Module], dict]] = {
    "timm": ("timm", timm_vit, {}),
    "timm, query and key norms": ("timm", partial(timm_vit, qk_norm=True), {"qk_norm": True}),
    "timm, parallel": (
        "timm",
        partial(timm_vit, block_fn=ParallelScalingBlock),
        {"parallel": True},
    ),
    "timm, no bias in projections": (
        "timm",
        partial(timm_vit, qkv_bias=False),
        {"qkv_bias": False},
    ),
    "timm, no bias in norms": (
        "timm",
        partial(timm_vit, norm_layer=BIASLESS),
        {"norm_bias": False},
    ),
    "timm, all of ViT-22B": (
        "timm",
        partial(
            timm_vit,
            block_fn=ParallelScalingBlock,
            qk_norm=True,
            qkv_bias=False,
            norm_layer=BIASLESS,
        ),
        {"parallel": True, "qk_norm": True, "qkv_bias": False, "norm_bias": False},
    ),
    "timm, mean of patches": ("timm", partial(timm_vit, global_pool="avg"), {"pool": "mean"}),
    "timm, no class token": (
        "timm",
        partial(timm_vit, global_pool="avg", class_token=False),
        {"pool": "mean", "class_token": False},
    ),
    "huggingface": ("huggingface", huggingface_vit, {}),
    "torchvision": (
        "torchvision",
        lambda: torchvision.VisionTransformer(32, 8, 3, 4, 32, 128, num_classes=5),
        {},
    ),
}


def first(output):
    """Return the logits of whatever a library returns."""
    return getattr(output, "logits", output).detach().numpy()


@every_backend
@pytest.mark.parametrize(("source", "make", "options"), VITS.values(), ids=VITS)
def test_vit_gives_the_logits_of_its_library(source, make, options, backend):
    """Every logit agrees, with the same random weights."""
    theirs, config = loud(make()), ViTConfig(**SMALL, classes=5, **options)
    ours, channels_first = pixels(32, 32)
    parameters = load(config, in_numpy(theirs.state_dict()), source=source)
    expected = first(theirs(channels_first))

    actual = vit.logits(parameters, config, ours, backend=backend)

    np.testing.assert_allclose(actual, expected, rtol=0, atol=LIMIT)


@pytest.mark.parametrize("extent", [(48, 48), (24, 40), (16, 16), (96, 64)], ids=str)
def test_position_tables_are_resized_as_by_each_library(extent):
    """timm smooths, Hugging Face does not, torchvision keeps corners."""
    torch.manual_seed(0)
    config = ViTConfig(**{**SMALL, "image": (32, 32)}, classes=0)
    table = torch.randn(1, 17, 32)
    parameters = {**initialise(config, np.random.default_rng(0)), "positions": table[0].numpy()}
    grid = [n // 8 for n in extent]

    timms = resample_abs_pos_embed(table, grid)
    ours, _ = resized(parameters, config, image=extent, like="timm")
    np.testing.assert_allclose(ours["positions"], timms[0].numpy(), rtol=0, atol=1e-5)

    if extent[0] == extent[1]:
        state = {"encoder.pos_embedding": table}
        theirs = interpolate_embeddings(extent[0], 8, state)["encoder.pos_embedding"]
        ours, _ = resized(parameters, config, image=extent, like="torchvision")
        np.testing.assert_allclose(ours["positions"], theirs[0].numpy(), rtol=0, atol=1e-5)


def test_vit_of_another_resolution_gives_the_logits_of_transformers():
    """The table is resized and the model runs, as with `interpolate_pos_encoding`."""
    theirs, config = loud(huggingface_vit()), ViTConfig(**SMALL, classes=5)
    ours, channels_first = pixels(48, 40)
    parameters = load(config, in_numpy(theirs.state_dict()), source="huggingface")
    expected = first(theirs(channels_first, interpolate_pos_encoding=True))

    larger, config = resized(parameters, config, image=(48, 40), like="huggingface")
    actual = vit.logits(larger, config, ours, backend="numpy")

    np.testing.assert_allclose(actual, expected, rtol=0, atol=LIMIT)


def timm_swin(kind: type[nn.Module]) -> nn.Module:
    """Make a small Swin or Swin V2 of timm."""
    return kind(
        img_size=32, patch_size=2, embed_dim=16, depths=(2, 3), num_heads=(2, 4),
        window_size=4, num_classes=5,
    )  # fmt: skip


def huggingface_swin() -> nn.Module:
    """Make a small Swin of transformers."""
    config = transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=16, depths=[2, 3], num_heads=[2, 4],
        window_size=4, num_labels=5,
    )  # fmt: skip
    return transformers.SwinForImageClassification(config)


def torchvision_swin(**kinds) -> nn.Module:
    """Make a small Swin or Swin V2 of torchvision."""
    return torchvision.SwinTransformer([2, 2], 16, [2, 3], [2, 4], [4, 4], num_classes=5, **kinds)


SWINS: dict[str, tuple[str, Callable[[], nn.Module], type[SwinConfig]]] = {
    "timm": ("timm", partial(timm_swin, SwinTransformer), SwinConfig),
    "timm, second version": ("timm", partial(timm_swin, SwinTransformerV2), SwinV2Config),
    "huggingface": ("huggingface", huggingface_swin, SwinConfig),
    "torchvision": ("torchvision", torchvision_swin, SwinConfig),
    "torchvision, second version": (
        "torchvision",
        partial(torchvision_swin, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2),
        SwinV2Config,
    ),
}


@every_backend
@pytest.mark.parametrize(("source", "make", "kind"), SWINS.values(), ids=SWINS)
def test_swin_gives_the_logits_of_its_library(source, make, kind, backend):
    """Every logit agrees: windows, shifts, merging, and what is added to wrapped pairs."""
    theirs, config = loud(make()), kind(**STAGES, depths=(2, 3), heads=(2, 4))
    ours, channels_first = pixels(32, 32)
    parameters = load(config, in_numpy(theirs.state_dict()), source=source)
    expected = first(theirs(channels_first))

    actual = swin.logits(parameters, config, ours, backend=backend)

    np.testing.assert_allclose(actual, expected, rtol=0, atol=LIMIT)


@every_backend
def test_a_hybrid_gives_the_logits_of_timms(backend):
    """Convolutions in front of timm's ViT, joined by its `HybridEmbed`."""
    stem = nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(i, o, 3, 2, 1, bias=False), LayerNorm2d(o), nn.GELU())
            for i, o in ((3, 8), (8, 16))
        )
    )
    embed = partial(HybridEmbed, backbone=stem)
    theirs = loud(
        VisionTransformer(
            img_size=32,
            patch_size=1,
            embed_dim=32,
            depth=3,
            num_heads=4,
            num_classes=5,
            embed_layer=embed,
        )
    )
    body = ViTConfig(**{**SMALL, "image": (8, 8), "patch": 1}, channels=16, classes=5)
    config = HybridConfig(stem=(8, 16), body=body)
    state = in_numpy(theirs.state_dict())
    parameters = {
        f"body.{n}": x
        for n, x in load(body, state, source="timm", ignore=["patch_embed.backbone."]).items()
    }
    for n in range(2):
        parameters[f"stem.{n}.weight"] = state[f"patch_embed.backbone.{n}.0.weight"]
        for kind in ("weight", "bias"):
            parameters[f"stem.{n}.norm.{kind}"] = state[f"patch_embed.backbone.{n}.1.{kind}"]
    parameters = load(config, parameters)
    ours, channels_first = pixels(32, 32)
    expected = first(theirs(channels_first))

    actual = convolutional.hybrid_logits(parameters, config, ours, backend=backend)

    np.testing.assert_allclose(actual, expected, rtol=0, atol=LIMIT)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_files_that_transformers_saves_are_read(kind, tmp_path):
    """A safetensors file holds the same parameters, under the names of published files."""
    theirs = loud(huggingface_vit() if kind == "vit" else huggingface_swin())
    config = (
        ViTConfig(**SMALL, classes=5)
        if kind == "vit"
        else SwinConfig(**STAGES, depths=(2, 3), heads=(2, 4))
    )
    theirs.save_pretrained(tmp_path)
    expected = load(config, in_numpy(theirs.state_dict()), source="huggingface")

    actual = load(config, tmp_path / "model.safetensors", source="huggingface")

    assert list(expected) == list(actual)
    assert all(np.array_equal(expected[name], actual[name]) for name in expected)


def test_another_librarys_state_dict_is_refused():
    """timm's ViT is not torchvision's, though it computes the same."""
    config = ViTConfig(**SMALL, classes=5)

    with pytest.raises(ValueError, match="the state dict is not ViT of torchvision"):
        load(
            config,
            in_numpy(timm.create_model("vit_tiny_patch16_224").state_dict()),
            source="torchvision",
        )
