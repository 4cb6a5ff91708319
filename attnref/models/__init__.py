"""The models that attention is for, as references to read.

Each model is one page of functions over a mapping from names to arrays, around calls of
`attnref.attention` and `attnref.window_attention`: one word, `backend=`, runs the whole
model on another backend.
"""

from attnref.models import bert, gpt2
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
from attnref.models.loading import ParameterMismatch, load
from attnref.models.parameters import count, initialise, shapes
from attnref.models.presets import PRESETS, preset

__all__ = [
    "PRESETS",
    "BERTConfig",
    "Config",
    "ConvConfig",
    "GPT2Config",
    "HybridConfig",
    "ParameterMismatch",
    "SwinConfig",
    "SwinV2Config",
    "ViTConfig",
    "bert",
    "count",
    "gpt2",
    "initialise",
    "load",
    "preset",
    "shapes",
]
