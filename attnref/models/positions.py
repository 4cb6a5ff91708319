r"""Position tables for other resolutions, as each library makes them.

A table that was learned on a grid of patches is an image with `C` channels, and is resized
like one. Along an axis, every new row is a weighted sum of old ones, so that resizing is
a matrix from each side:

$$y_{ijc} = \sum_{h w} U_{ih}\, V_{jw}\, x_{hwc}$$

The weights are those of cubic convolution, a piecewise polynomial $f$ of the distance with
one free parameter $a$:

$$f(t) = \begin{cases} (a + 2) t^3 - (a + 3) t^2 + 1 & t \le 1 \\
a t^3 - 5 a t^2 + 8 a t - 4 a & 1 < t < 2 \end{cases}$$

Source: R. Keys, "Cubic convolution interpolation for digital image processing", 1981.
"""

from dataclasses import replace
from typing import TypeVar, cast

import numpy as np
from jaxtyping import Float

from attnref import arrays
from attnref.arrays import Array
from attnref.errors import InvalidProblem
from attnref.models.choices import Extent, divides, sides
from attnref.models.configurations import Config, ConvConfig, HybridConfig, SwinConfig, ViTConfig
from attnref.models.fitting import fits
from attnref.models.parameters import Parameters

Positioned = TypeVar("Positioned", bound=Config)


def resized(
    parameters: Parameters, config: Positioned, *, image: Extent, like: str = "timm"
) -> tuple[dict[str, Array], Positioned]:
    """Make a ViT, or a hybrid, for images of another size.

    Args:
        parameters: As `shapes(config)` lists them.
        config: The model as it was trained.
        image: Height and width of the images that it should take.
        like: timm smooths where a table shrinks (`antialias=True`); Hugging Face does not;
            torchvision lets corners stay where they are (`align_corners=True`).

    Returns:
        The parameters with another position table, and the configuration that they fit.

    Raises:
        InvalidProblem: The image is not made of whole patches, `like` is unknown, or the
            model has no table of places in an image.
        ParameterMismatch: The parameters are not those of the configuration.

    Example:
        >>> import numpy as np
        >>> from attnref.models import ViTConfig, initialise, resized
        >>> config = ViTConfig(image=(8, 8), patch=2, width=4, layers=1, heads=1, hidden=4)
        >>> parameters = initialise(config, np.random.default_rng(0))
        >>> larger, config = resized(parameters, config, image=(12, 8))
        >>> larger["positions"].shape
        (25, 4)
    """
    if isinstance(config, HybridConfig):
        name, old, new = "body.positions", config.body, _body_for(config, image)
        target: Config = replace(config, body=new)
    elif isinstance(config, ViTConfig):
        name, old, new = "positions", config, replace(config, image=image)
        target = new
    else:
        raise _no_table(config)
    fits(config, parameters)
    table = parameters[name]
    whole = _resized_table(arrays.to_numpy(table).astype(np.float64), old, new, like)
    values = whole.astype(arrays.numpy_dtype(arrays.dtype_name(table)))
    return {**parameters, name: arrays.from_numpy(values, table)}, cast("Positioned", target)


def _resized_table(
    found: Float[np.ndarray, "rows C"], old: ViTConfig, new: ViTConfig, like: str
) -> Float[np.ndarray, "rows2 C"]:
    """Resize the part of a table that is an image: the class token's row stays as it is."""
    extra = int(old.class_token)
    grid = found[extra:].reshape(*old.grid, -1)
    U, V = (weights(n, m, like) for n, m in zip(old.grid, new.grid, strict=True))
    whole = np.einsum("ih,jw,hwc->ijc", U, V, grid, optimize=True).reshape(-1, old.width)
    return np.concatenate([found[:extra], whole])


def _body_for(config: HybridConfig, image: Extent) -> ViTConfig:
    """Return the body that reads the stem's map of such an image."""
    side, (height, width) = 2 ** len(config.stem), sides(image)
    for extent in (height, width):
        divides("the stem's stride", side, "image", extent)
    return replace(config.body, image=(height // side, width // side))


def _no_table(config: Config) -> InvalidProblem:
    """Say that a model has no table to resize, and what to do instead."""
    hint = "resized() is for ViT and the hybrid"
    if isinstance(config, SwinConfig):
        hint = "its tables are of a window: replace(config, image=...) and keep the parameters"
    elif isinstance(config, ConvConfig):
        hint = "it takes images of any size as it is"
    return InvalidProblem(
        f"a {type(config).__name__} has no table of places in an image.",
        see="attnref.models.positions",
        hint=hint,
    )


def weights(old: int, new: int, like: str = "timm") -> Float[np.ndarray, "new old"]:
    """Return how much of every old row is in every new one; each row adds up to one.

    Args:
        old: Rows of the table.
        new: Rows that it should have.
        like: As in `resized`.
    """
    match like:
        case "timm":
            return _smoothed(old, new)
        case "huggingface":
            return _taken(old, (np.arange(new) + 0.5) * old / new - 0.5)
        case "torchvision":
            return _taken(old, np.arange(new) * ((old - 1) / max(new - 1, 1)))
    raise InvalidProblem(
        f"like is {like!r}.",
        see="attnref.models.positions",
        hint="like is one of timm, huggingface, torchvision",
    )


def _taken(old: int, at: Float[np.ndarray, " new"]) -> Float[np.ndarray, "new old"]:
    """Read four neighbours of every point; beyond the edge stands the edge (a = -3/4)."""
    result = np.zeros((len(at), old))
    for tap in range(-1, 3):
        row = np.floor(at) + tap
        place = np.clip(row, 0, old - 1).astype(int)
        np.add.at(result, (np.arange(len(at)), place), _cubic(at - row, -0.75))
    return result


def _smoothed(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Read as many neighbours as a new row covers; beyond the edge stands nothing (a = -1/2)."""
    step = old / new
    wide = max(step, 1.0)
    center = step * (np.arange(new)[:, None] + 0.5)
    first = np.maximum(np.floor(center - 2 * wide + 0.5), 0)
    last = np.minimum(np.floor(center + 2 * wide + 0.5), old)
    row = np.arange(old)[None]
    weight = _cubic((row - center + 0.5) / wide, -0.5)
    weight = np.where((row >= first) & (row < last), weight, 0.0)
    return weight / weight.sum(axis=1, keepdims=True)


def _cubic(t: Float[np.ndarray, "..."], a: float) -> Float[np.ndarray, "..."]:
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))  # noqa: PLR2004  # f's support
