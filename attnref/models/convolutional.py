r"""Convolutions: in front of a transformer, and in place of one.

A layer is a convolution, a norm over channels and a GELU. A plain three by three
convolution reads all channels of nine neighbours at once; separated, first each channel
reads its nine neighbours (depth-wise), then each place its channels (point-wise):

$$y_o = \sum_{i, p, q} W_{oipq}\, x_{i, p, q} \qquad \text{or} \qquad
y_o = \sum_i P_{oi} \sum_{p, q} K_{ipq}\, x_{i, p, q}.$$

The hybrid halves the map a few times so, and a ViT reads the result, place by place.

Sources: T. Xiao et al., "Early convolutions help transformers see better", 2021;
A. Howard et al., "MobileNets", 2017.
"""

from collections.abc import Mapping

from jaxtyping import Float

from attnref.arrays import Array
from attnref.backend import Backend
from attnref.errors import InvalidProblem
from attnref.models import inputs, vit
from attnref.models.arithmetic import gelu
from attnref.models.blocks import (
    affine,
    convolve,
    convolve_depthwise,
    convolve_pointwise,
    layer_norm,
)
from attnref.models.configurations import ConvConfig, HybridConfig
from attnref.models.fitting import fits
from attnref.models.parameters import Parameters

Map = Float[Array, "B h w C"]


def hybrid_logits(
    parameters: Parameters,
    config: HybridConfig,
    image: Float[Array, "B height width channels"],
    *,
    backend: str | Backend | None = None,
) -> Float[Array, "B classes"]:
    """Classify images with convolutions, then a ViT on their map.

    Args:
        parameters: As `shapes(config)` lists them.
        config: The model.
        image: Images `(B, height, width, channels)` of the configuration's size.
        backend: Who computes attention.

    Returns:
        The logits `(B, classes)`; without classes, what a head would read.

    Raises:
        InvalidProblem: The image is of another size.
        ParameterMismatch: The parameters are not those of the configuration.

    Example:
        >>> import numpy as np
        >>> from attnref.models import HybridConfig, ViTConfig, convolutional, initialise
        >>> small = {"width": 8, "layers": 1, "heads": 2, "hidden": 8}
        >>> body = ViTConfig(image=(2, 2), patch=1, channels=8, **small)
        >>> config = HybridConfig(stem=(4, 8), body=body)
        >>> parameters = initialise(config, np.random.default_rng(0))
        >>> pixels = np.ones((1, *config.image, 3), np.float32)
        >>> convolutional.hybrid_logits(parameters, config, pixels, backend="numpy").shape
        (1, 1000)
    """
    fits(config, parameters)
    size = inputs.image(image, config.channels, parameters)
    if size != config.image:
        raise InvalidProblem(
            f"the image is {size[0]}x{size[1]}, and the model is for "
            f"{config.image[0]}x{config.image[1]}.",
            see="attnref.models.convolutional",
            hint="resized(parameters, config, image=(height, width)) makes another table",
        )
    x = image
    for n in range(len(config.stem)):
        x = _activate(parameters, f"stem.{n}", convolve(parameters, f"stem.{n}", x, 2), config)
    return vit.logits(_part(parameters, "body."), config.body, x, backend=backend)


def _part(p: Parameters, prefix: str) -> Mapping[str, Array]:
    """Return the parameters of a part, by the names that it has for them."""
    return {n.removeprefix(prefix): x for n, x in p.items() if n.startswith(prefix)}


def logits(
    parameters: Parameters, config: ConvConfig, image: Float[Array, "B height width channels"]
) -> Float[Array, "B classes"]:
    """Classify images of any size with convolutions alone.

    Args:
        parameters: As `shapes(config)` lists them.
        config: The model.
        image: Images `(B, height, width, channels)`.

    Returns:
        The logits `(B, classes)`; without classes, what a head would read.

    Raises:
        InvalidProblem: The images have other channels.
        ParameterMismatch: The parameters are not those of the configuration.

    Example:
        >>> import numpy as np
        >>> from attnref.models import ConvConfig, convolutional, initialise
        >>> config = ConvConfig(widths=(4, 8), depth=2, separable=True)
        >>> parameters = initialise(config, np.random.default_rng(0))
        >>> convolutional.logits(parameters, config, np.ones((1, 9, 7, 3), np.float32)).shape
        (1, 1000)
    """
    fits(config, parameters)
    inputs.image(image, config.channels, parameters)
    x = image
    for s in range(len(config.widths)):
        for n in range(config.depth):
            name, stride = f"stages.{s}.{n}", 1 if n else 2
            if config.separable:
                x = convolve_depthwise(parameters, f"{name}.depth", x, stride)
                x = convolve_pointwise(parameters, f"{name}.point", x)
            else:
                x = convolve(parameters, name, x, stride)
            x = _activate(parameters, name, x, config)
    x = x.mean(axis=(1, 2))
    return affine(parameters, "head", x) if config.classes else x


def _activate(p: Parameters, name: str, x: Map, config: HybridConfig | ConvConfig) -> Map:
    return gelu(layer_norm(p, f"{name}.norm", x, config.epsilon))
