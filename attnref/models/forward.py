"""Any model by its configuration: one function for all."""

from functools import singledispatch
from typing import Any

from attnref import dispatch
from attnref.arrays import Array
from attnref.backend import Backend
from attnref.models import bert, convolutional, gpt2, swin, vit
from attnref.models.configurations import (
    BERTConfig,
    Config,
    ConvConfig,
    GPT2Config,
    HybridConfig,
    SwinConfig,
    ViTConfig,
)
from attnref.models.parameters import Parameters


def forward(
    config: Config,
    parameters: Parameters,
    inputs: Array,
    *,
    backend: str | Backend | None = None,
) -> Array:
    """Run any model on a batch.

    Args:
        config: Says which model.
        parameters: As `shapes(config)` lists them.
        inputs: Token ids `(B, S)`, or images `(B, height, width, channels)`.
        backend: Who computes attention; the one switch.

    Returns:
        GPT-2's logits `(B, S, V)`, BERT's states `(B, S, C)`, or the logits of classes
        `(B, classes)`.

    Raises:
        InvalidProblem: The model cannot take these inputs.
        ParameterMismatch: The parameters are not those of the configuration.

    Example:
        >>> import numpy as np
        >>> from attnref.models import ViTConfig, forward, initialise
        >>> config = ViTConfig(image=(8, 8), patch=4, width=8, layers=1, heads=2, hidden=16)
        >>> parameters = initialise(config, np.random.default_rng(0))
        >>> forward(config, parameters, np.ones((1, 8, 8, 3)), backend="reference").shape
        (1, 1000)
    """
    return _forward(config, parameters, inputs, backend)


@singledispatch
def _forward(config: Any, *_: Any) -> Array:
    raise TypeError(f"{type(config).__name__} is no configuration of attnref.models")


@_forward.register
def _(config: GPT2Config, p: Parameters, x: Array, backend: str | Backend | None) -> Array:
    return gpt2.logits(p, config, x, backend=backend)


@_forward.register
def _(config: BERTConfig, p: Parameters, x: Array, backend: str | Backend | None) -> Array:
    return bert.states(p, config, x, backend=backend)


@_forward.register
def _(config: ViTConfig, p: Parameters, x: Array, backend: str | Backend | None) -> Array:
    return vit.logits(p, config, x, backend=backend)


@_forward.register
def _(config: SwinConfig, p: Parameters, x: Array, backend: str | Backend | None) -> Array:
    return swin.logits(p, config, x, backend=backend)


@_forward.register
def _(config: HybridConfig, p: Parameters, x: Array, backend: str | Backend | None) -> Array:
    return convolutional.hybrid_logits(p, config, x, backend=backend)


@_forward.register
def _(config: ConvConfig, p: Parameters, x: Array, backend: str | Backend | None) -> Array:
    # Nobody computes attention here, and a name that nobody has is a mistake all the same.
    dispatch.asked_for(backend)
    return convolutional.logits(p, config, x)
