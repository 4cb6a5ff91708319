r"""ViT: an image is a sentence whose words are patches.

A patch is projected to a token, a class token is put before them, and every token is told
its place. Then, as in GPT-2 but with every token seeing all,

$$x' = x + \mathrm{attention}(\mathrm{norm}_1 x), \qquad
x'' = x' + \mathrm{mlp}(\mathrm{norm}_2 x').$$

ViT-22B changes three things, each for itself:

$$x' = x + \mathrm{attention}(\mathrm{norm}_1 x) + \mathrm{mlp}(\mathrm{norm}_1 x)
\qquad \text{(parallel)},$$

$$s = \frac{\mathrm{norm}(q) \cdot \mathrm{norm}(k)}{\sqrt D} \qquad \text{(qk\_norm)},$$

and no bias in the projection to q, k and v and in the norms.

Sources: A. Dosovitskiy et al., "An image is worth 16x16 words", 2021; M. Dehghani et al.,
"Scaling vision transformers to 22 billion parameters", 2023. That model's norms do not
subtract the mean either; these do, as those of timm.
"""

from jaxtyping import Float

import attnref
from attnref.arrays import Array
from attnref.backend import Backend
from attnref.errors import InvalidProblem
from attnref.models import inputs
from attnref.models.arithmetic import gelu, namespace
from attnref.models.blocks import (
    affine,
    before_tokens,
    join_heads,
    layer_norm,
    patches,
    project,
)
from attnref.models.configurations import ViTConfig
from attnref.models.fitting import fits
from attnref.models.parameters import Parameters


def logits(
    parameters: Parameters,
    config: ViTConfig,
    image: Float[Array, "B height width channels"],
    *,
    backend: str | Backend | None = None,
) -> Float[Array, "B classes"]:
    """Classify images.

    Args:
        parameters: As `shapes(config)` lists them.
        config: The model.
        image: Images `(B, height, width, channels)` of the configuration's size, scaled as
            the weights expect.
        backend: Who computes attention, as in `attnref.attention`.

    Returns:
        The logits `(B, classes)`; without classes, what a head would read `(B, C)`.

    Raises:
        InvalidProblem: The image is of a size that the position table is not for.
        ParameterMismatch: The parameters are not those of the configuration.

    Example:
        >>> import numpy as np
        >>> from attnref.models import ViTConfig, initialise, vit
        >>> config = ViTConfig(image=(8, 8), patch=4, width=8, layers=1, heads=2, hidden=16)
        >>> parameters = initialise(config, np.random.default_rng(0))
        >>> vit.logits(parameters, config, np.ones((2, 8, 8, 3), np.float32), backend="numpy").shape
        (2, 1000)
    """
    fits(config, parameters)
    x = embed(parameters, config, image)
    for n in range(config.layers):
        x = _block(parameters, config, f"blocks.{n}", x, backend)
    # The mean is normalised and not what it is of, as in timm; of one token that is the same.
    x = x[:, 0] if config.pool == "class" else x[:, int(config.class_token) :].mean(axis=1)
    x = layer_norm(parameters, "norm", x, config.epsilon)
    return affine(parameters, "head", x) if config.classes else x


def embed(
    parameters: Parameters, config: ViTConfig, image: Float[Array, "B height width channels"]
) -> Float[Array, "B S C"]:
    """Cut images into tokens, put the class token before them, and add their places."""
    size = inputs.image(image, config.channels, parameters)
    if size != config.image:
        raise InvalidProblem(
            f"the image is {size[0]}x{size[1]}, and the position table is for "
            f"{config.image[0]}x{config.image[1]}.",
            see="attnref.models.vit",
            hint="resized(parameters, config, image=(height, width)) makes another table",
        )
    x = patches(parameters, image)
    x = x.reshape(x.shape[0], x.shape[1] * x.shape[2], config.width)
    if config.class_token:
        library = namespace(x)
        first = library.broadcast_to(parameters["class"], (x.shape[0], 1, config.width))
        x = library.concat([first, x], axis=1)
    return x + parameters["positions"]


def _block(
    p: Parameters,
    config: ViTConfig,
    name: str,
    x: Float[Array, "B S C"],
    backend: str | Backend | None,
) -> Float[Array, "B S C"]:
    """Attend and transform every token alone: one after the other, or side by side."""
    y = layer_norm(p, f"{name}.norm1", x, config.epsilon)
    attended = _attend(p, config, f"{name}.attention", y, backend)
    if config.parallel:
        return x + attended + _mlp(p, name, y)
    x = x + attended
    return x + _mlp(p, name, layer_norm(p, f"{name}.norm2", x, config.epsilon))


def _attend(
    p: Parameters,
    config: ViTConfig,
    name: str,
    x: Float[Array, "B S C"],
    backend: str | Backend | None,
) -> Float[Array, "B S C"]:
    """Let every token see all."""
    q, k, v = project(p, name, x, config.heads)
    if config.qk_norm:
        q = layer_norm(p, f"{name}.q_norm", q, config.epsilon)
        k = layer_norm(p, f"{name}.k_norm", k, config.epsilon)
    found = attnref.attention(*map(before_tokens, (q, k, v)), backend=backend)
    return join_heads(p, name, before_tokens(found))


def _mlp(p: Parameters, name: str, x: Float[Array, "B S C"]) -> Float[Array, "B S C"]:
    return affine(p, f"{name}.mlp.down", gelu(affine(p, f"{name}.mlp.up", x)))
