"""The published sizes, by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from attnref.errors import InvalidProblem, did_you_mean
from attnref.models.configurations import (
    BERTConfig,
    Config,
    ConvConfig,
    GPT2Config,
    HybridConfig,
    SwinConfig,
    SwinV2Config,
    ViTConfig,
)

PRESETS: Mapping[str, Config] = MappingProxyType(
    {
        "gpt2": GPT2Config(),
        "gpt2-medium": GPT2Config(width=1024, layers=24, heads=16, hidden=4096),
        "gpt2-large": GPT2Config(width=1280, layers=36, heads=20, hidden=5120),
        "gpt2-xl": GPT2Config(width=1600, layers=48, heads=25, hidden=6400),
        "bert-base-uncased": BERTConfig(),
        "bert-large-uncased": BERTConfig(width=1024, layers=24, heads=16, hidden=4096),
        "all-minilm-l6-v2": BERTConfig(width=384, layers=6, hidden=1536),
        "vit-s16": ViTConfig(width=384, heads=6, hidden=1536),
        "vit-b16": ViTConfig(),
        "vit-b32": ViTConfig(patch=32),
        "vit-l16": ViTConfig(width=1024, layers=24, heads=16, hidden=4096),
        "vit-h14": ViTConfig(patch=14, width=1280, layers=32, heads=16, hidden=5120),
        "vit-22b": ViTConfig(
            patch=14,
            width=6144,
            layers=48,
            heads=48,
            hidden=24576,
            parallel=True,
            qk_norm=True,
            qkv_bias=False,
            norm_bias=False,
        ),
        "swin-tiny": SwinConfig(),
        "swin-small": SwinConfig(depths=(2, 2, 18, 2)),
        "swin-base": SwinConfig(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
        "swin-large": SwinConfig(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48)),
        "swinv2-tiny": SwinV2Config(),
        "swinv2-small": SwinV2Config(depths=(2, 2, 18, 2)),
        "swinv2-base": SwinV2Config(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
        "hybrid-b16": HybridConfig(),
        "conv": ConvConfig(),
        "conv-separable": ConvConfig(separable=True),
    }
)
"""Every published size by its name."""

_BODY: dict[str, Any] = {"width": 64, "layers": 3, "heads": 4, "hidden": 128}
_STAGES: dict[str, Any] = {
    "image": (32, 32),
    "patch": 2,
    "width": 32,
    "depths": (2, 2),
    "heads": (2, 4),
    "window": 4,
    "classes": 10,
}
MINIATURES: Mapping[str, Config] = MappingProxyType(
    {
        "gpt2": GPT2Config(vocabulary=97, positions=64, **_BODY),
        "bert": BERTConfig(vocabulary=97, positions=64, **_BODY),
        "vit": ViTConfig(image=(32, 32), patch=4, classes=10, **_BODY),
        "vit-22b": ViTConfig(
            image=(32, 32),
            patch=4,
            classes=10,
            parallel=True,
            qk_norm=True,
            qkv_bias=False,
            norm_bias=False,
            **_BODY,
        ),
        "swin": SwinConfig(**_STAGES),
        "swinv2": SwinV2Config(**_STAGES, bias_hidden=64),
        "hybrid": HybridConfig(
            stem=(16, 32), body=ViTConfig(image=(8, 8), patch=1, channels=32, classes=10, **_BODY)
        ),
    }
)
"""A small model of every kind that attends; what backends are tried on."""


def preset(name: str) -> Config:
    """Return a published configuration.

    Args:
        name: A key of `PRESETS`.

    Returns:
        The configuration; `dataclasses.replace` makes another of it.

    Raises:
        InvalidProblem: There is none of this name.

    Example:
        >>> preset("swin-tiny").depths
        (2, 2, 6, 2)
    """
    if name not in PRESETS:
        raise InvalidProblem(
            f"no model is called {name!r}.{did_you_mean(name, tuple(PRESETS))}",
            see="attnref.models.presets",
            hint=f"one of {', '.join(PRESETS)}",
        )
    return PRESETS[name]
