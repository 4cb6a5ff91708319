"""The models that attention is for, as references to read.

Each model is one page of functions over a mapping from names to arrays, around calls of
`attnref.attention` and `attnref.window_attention`: one word, `backend=`, runs the whole
model on another backend.
"""

from attnref.models import bert, convolutional, gpt2, swin, vit
from attnref.models.comparing import Call, Comparison, compare
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
from attnref.models.fitting import ParameterMismatch
from attnref.models.forward import forward
from attnref.models.loading import load
from attnref.models.parameters import count, initialise, shapes
from attnref.models.positions import resized
from attnref.models.presets import MINIATURES, PRESETS, preset

__all__ = [
    "MINIATURES",
    "PRESETS",
    "BERTConfig",
    "Call",
    "Comparison",
    "Config",
    "ConvConfig",
    "GPT2Config",
    "HybridConfig",
    "ParameterMismatch",
    "SwinConfig",
    "SwinV2Config",
    "ViTConfig",
    "bert",
    "compare",
    "convolutional",
    "count",
    "forward",
    "gpt2",
    "initialise",
    "load",
    "preset",
    "resized",
    "shapes",
    "swin",
    "vit",
]
