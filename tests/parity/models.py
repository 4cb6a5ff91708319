"""Small models of every kind, with weights that make every convention matter.

Published weights hide much: after a score of -100 nothing is left of a pair, so that
minus infinity would do as well. *Loud* weights let biases and cosines outweigh it.
"""

from collections.abc import Callable
from typing import Any

import timm
import torch
from packaging.version import Version
from torch import Tensor, nn
from torchvision.models import swin_transformer
from torchvision.models.video.swin_transformer import SwinTransformer3d
from transformers import SwinConfig, SwinModel, Swinv2Config, Swinv2Model

import attnref

Extents = tuple[int, ...]
Make = Callable[..., nn.Module]

PATCH = 2
CLASSES = 40

OLD_TIMM = Version(timm.__version__) < Version("1.0.31")


def _timm(name: str) -> Make:
    def make(grid: Extents, window: int, depths: Extents, heads: int, **options: Any) -> nn.Module:
        if name.startswith("swinv2") and OLD_TIMM and any(g % window for g in grid):
            # Such a version 2 cannot be built for one map, only for maps of any size.
            options["strict_img_size"] = False
        return timm.create_model(
            name,
            img_size=tuple(PATCH * g for g in grid),
            patch_size=PATCH,
            window_size=window,
            depths=depths,
            num_heads=(heads,) * len(depths),
            embed_dim=16,
            num_classes=CLASSES,
            drop_path_rate=0.1,
            **options,
        )

    return make


def _torchvision(**kinds: Any) -> Make:
    def make(_: Extents, window: int, depths: Extents, heads: int, **options: Any) -> nn.Module:
        return swin_transformer.SwinTransformer(
            [PATCH, PATCH], 16, list(depths), [heads] * len(depths), [window, window],
            num_classes=CLASSES, **kinds, **options,
        )  # fmt: skip

    return make


def _video(grid: Extents, window: int, depths: Extents, heads: int, **options: Any) -> nn.Module:
    frames = [1] * (3 - len(grid)) + [2] * (len(grid) - 2)
    patches = [*frames, PATCH, PATCH]
    return SwinTransformer3d(
        patches,
        16,
        list(depths),
        [heads] * len(depths),
        [2, window, window],
        num_classes=CLASSES,
        **options,
    )


def _transformers(config: type, model: type) -> Make:
    def make(grid: Extents, window: int, depths: Extents, heads: int, **options: Any) -> nn.Module:
        return model(
            config(
                image_size=tuple(PATCH * g for g in grid),
                patch_size=PATCH,
                window_size=window,
                depths=list(depths),
                num_heads=[heads] * len(depths),
                embed_dim=16,
                drop_path_rate=0.1,
                attn_implementation=options.pop("attention", None),
                **options,
            )
        )

    return make


MODELS: dict[str, Make] = {
    "timm Swin": _timm("swin_tiny_patch4_window7_224"),
    "timm Swin V2": _timm("swinv2_tiny_window8_256"),
    "timm Swin V2 cr": _timm("swinv2_cr_tiny_224"),
    "torchvision Swin": _torchvision(),
    "torchvision Swin V2": _torchvision(
        block=swin_transformer.SwinTransformerBlockV2,
        downsample_layer=swin_transformer.PatchMergingV2,
    ),
    "torchvision video Swin": _video,
    "transformers Swin": _transformers(SwinConfig, SwinModel),
    "transformers Swin V2": _transformers(Swinv2Config, Swinv2Model),
}


def stages(name: str, grid: Extents, window: int) -> tuple[Extents, ...]:
    """Return the maps of one stage or two: on a second, smaller than the window, some break."""
    second = tuple(-(-g // 2) for g in grid)
    return (grid,) if breaks(name, second, window) else (grid, second)


def breaks(name: str, grid: Extents, window: int) -> bool:
    """Tell whether a model fails by itself on a map.

    Version 1 of transformers then shrinks the window and not the table of biases. Version 2
    of timm rounded a second map down before 1.0.31, and divided zero by zero in windows of
    one token.
    """
    if name == "timm Swin V2" and OLD_TIMM:
        return min(grid) < 3
    return name == "transformers Swin" and min(grid) < window


def made(
    name: str,
    grid: Extents,
    window: int,
    *,
    loud: bool = False,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> tuple[nn.Module, Tensor]:
    """Make a model with random weights, and a batch of two for a grid of tokens."""
    torch.manual_seed(0)
    depths = (2,) * len(stages(name, grid, window))
    # Two channels per head let cosines reach -1 and 1.
    heads = 8 if loud else 2
    model = MODELS[name](grid, window, **{"depths": depths, "heads": heads, **options})
    for parameter_name, parameter in model.named_parameters():
        _draw(parameter_name, parameter.data, loud=loud)
    frames = (4,) if "video" in name else ()
    size = (*frames, *(PATCH * g for g in grid))
    return model.to(dtype).eval(), torch.randn(2, 3, *size, dtype=dtype)


def _draw(name: str, values: Tensor, *, loud: bool) -> None:
    """Draw weights that let signals through, and loud biases and scales if so wanted."""
    if name.endswith("relative_position_bias_table"):
        values.normal_(std=200.0 if loud else 0.5)
    elif name.endswith("logit_scale"):
        # Some heads are beyond the largest scale, exp(4.6), where no gradient passes.
        scales = torch.linspace(4.0, 5.0, values.numel()) if loud else torch.ones(values.numel())
        values.copy_(scales.reshape(values.shape))
    elif values.ndim > 1:
        # Continuous biases are 16 at most, and loud ones are that or nothing.
        gain = 10.0 if loud and name.endswith(("cpb_mlp.2.weight", "bias_mlp.2.weight")) else 1.0
        values.normal_(std=gain * values[0].numel() ** -0.5)
    elif name.endswith("weight"):
        values.normal_(mean=1.0, std=0.1)
    else:
        values.normal_(std=0.1)


def output(model: nn.Module, x: Tensor, **options: Any) -> Tensor:
    """Return the one tensor that a model's output is about."""
    found = model(x, **options)
    return found if isinstance(found, Tensor) else found.last_hidden_state


def outcome(model: nn.Module, x: Tensor, seed: int = 1) -> dict[str, Tensor]:
    """Return the output, and the gradients of the input and of all parameters."""
    parameters = dict(model.named_parameters())
    given = {"input": x.detach().requires_grad_(), **parameters}
    torch.manual_seed(seed)
    out = output(model, given["input"])
    weights = torch.randn(out.shape, dtype=torch.float64).to(out.dtype)
    found = torch.autograd.grad((out * weights).sum(), list(given.values()), allow_unused=True)
    gradients = dict(zip(given, found, strict=True))
    return {"output": out.detach()} | {n: g for n, g in gradients.items() if g is not None}


def forwards(call: Callable[[], Any]) -> int:
    """Count the calls of window attention on attnref."""
    with attnref.trace() as ran:
        call()
    return sum((r.operation, r.direction) == ("window_attention", "forward") for r in ran)


def equal(x: Any, y: Any) -> bool:
    """Compare outcomes to the bit."""
    return x.keys() == y.keys() and all(torch.equal(x[n], y[n]) for n in x)
