"""Small models with loud parameters: biases and scales are drawn too, so that they matter."""

from typing import Any

import numpy as np

from attnref.models import (
    BERTConfig,
    Config,
    ConvConfig,
    GPT2Config,
    HybridConfig,
    SwinConfig,
    SwinV2Config,
    ViTConfig,
    initialise,
)

TEXT: dict[str, Any] = {
    "vocabulary": 13,
    "positions": 16,
    "width": 8,
    "layers": 2,
    "heads": 2,
    "hidden": 12,
}
BODY: dict[str, Any] = {"width": 8, "layers": 2, "heads": 2, "hidden": 12, "classes": 3}
STAGES: dict[str, Any] = {
    "patch": 1,
    "width": 8,
    "depths": (2, 1),
    "heads": (1, 2),
    "window": 4,
    "classes": 3,
}
SMALL: dict[str, Config] = {
    "gpt2": GPT2Config(**TEXT),
    "bert": BERTConfig(**TEXT, words=True),
    "vit": ViTConfig(image=(8, 12), patch=4, **BODY),
    "vit, parallel": ViTConfig(image=(8, 12), patch=4, **BODY, parallel=True),
    "vit, query and key norms": ViTConfig(image=(8, 12), patch=4, **BODY, qk_norm=True),
    "vit, no bias": ViTConfig(image=(8, 12), patch=4, **BODY, qkv_bias=False, norm_bias=False),
    "vit, mean": ViTConfig(image=(8, 12), patch=4, **BODY, pool="mean"),
    "vit, no class token": ViTConfig(
        image=(8, 12), patch=4, **BODY, pool="mean", class_token=False
    ),
    "swin": SwinConfig(image=(8, 16), **STAGES),
    "swin, second version": SwinV2Config(image=(8, 16), **STAGES, bias_hidden=6),
    "hybrid": HybridConfig(stem=(4, 6), body=ViTConfig(image=(2, 3), patch=1, channels=6, **BODY)),
    "conv": ConvConfig(image=(8, 12), widths=(4, 6), classes=3),
    "conv, separable": ConvConfig(image=(8, 12), widths=(4, 6), classes=3, separable=True),
}
"""A small model of every kind."""


def parameters(config: Config, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Draw a model's parameters, none of them at its beginning."""
    rng = np.random.default_rng(0)
    drawn = initialise(config, rng, "float64")
    return {n: (x + 0.3 * rng.normal(size=x.shape)).astype(dtype) for n, x in drawn.items()}


def question(config: Config) -> np.ndarray:
    """Draw what a model can be asked: token ids or images."""
    rng = np.random.default_rng(1)
    if isinstance(config, GPT2Config | BERTConfig):
        return rng.integers(0, config.vocabulary, (2, 9))
    return rng.normal(size=(2, *config.image, 3))
