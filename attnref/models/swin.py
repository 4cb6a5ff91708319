r"""Swin: windows of an image, shifted in every second block, on four coarser and coarser maps.

Tokens attend in windows (`attnref.spec.windows`), with a bias for every displacement. In
Swin

$$x' = x + \mathrm{attention}(\mathrm{norm}_1 x), \qquad
x'' = x' + \mathrm{mlp}(\mathrm{norm}_2 x'), \qquad
s = \frac{q \cdot k}{\sqrt D} + \mathrm{table}_{d};$$

in Swin V2 norms come after, scores are cosines with a learned and bounded scale, and the
table is a function of the displacement, so that another window can ask for other places:

$$x' = x + \mathrm{norm}_1\, \mathrm{attention}(x), \qquad
x'' = x' + \mathrm{norm}_2\, \mathrm{mlp}(x'),$$

$$s = \min(e^{\tau}, 100)\, \frac{q}{|q|} \cdot \frac{k}{|k|}
+ 16\, \sigma(\mathrm{mlp}(\ell_d)), \qquad
\ell_d = \mathrm{sign}(\hat d)\, \frac{\log_2(1 + |\hat d|)}{\log_2 8}, \qquad
\hat d = \frac{8\, d}{w - 1}.$$

Between stages four neighbours become one token of twice the channels.

Sources: Z. Liu et al., "Swin Transformer", 2021; Z. Liu et al., "Swin Transformer V2", 2022.
"""

from math import log

import numpy as np
from jaxtyping import Float

import attnref
from attnref import arrays
from attnref.arrays import Array
from attnref.backend import Backend
from attnref.models import inputs
from attnref.models.arithmetic import gelu, namespace, sigmoid
from attnref.models.blocks import (
    Heads,
    affine,
    join_heads,
    layer_norm,
    patches,
    project,
    quarters,
    split_heads,
    unit,
)
from attnref.models.configurations import SwinConfig, SwinV2Config
from attnref.models.fitting import fits
from attnref.models.parameters import Parameters
from attnref.spec.windows import relative_position_index

Map = Float[Array, "B h w C"]


def logits(
    parameters: Parameters,
    config: SwinConfig,
    image: Float[Array, "B height width channels"],
    *,
    backend: str | Backend | None = None,
) -> Float[Array, "B classes"]:
    """Classify images, with Swin or, by a `SwinV2Config`, with Swin V2.

    Args:
        parameters: As `shapes(config)` lists them.
        config: The model.
        image: Images `(B, height, width, channels)`, scaled as the weights expect; both
            sides are multiples of `config.multiple`.
        backend: Who computes attention, as in `attnref.window_attention`.

    Returns:
        The logits `(B, classes)`; without classes, what a head would read `(B, C)`.

    Raises:
        InvalidProblem: Windows do not divide the map of some stage.
        ParameterMismatch: The parameters are not those of the configuration.

    Example:
        >>> import numpy as np
        >>> from attnref.models import SwinConfig, initialise, swin
        >>> small = {"width": 8, "depths": (2, 1), "heads": (1, 2), "window": 4}
        >>> config = SwinConfig(image=(16, 16), patch=2, **small)
        >>> parameters = initialise(config, np.random.default_rng(0))
        >>> pixels = np.ones((1, 16, 16, 3), np.float32)
        >>> swin.logits(parameters, config, pixels, backend="numpy").shape
        (1, 1000)
    """
    p = parameters
    fits(config, p)
    config.maps(inputs.image(image, config.channels, p))
    x = layer_norm(p, "patches.norm", patches(p, image), config.epsilon)
    for s, depth in enumerate(config.depths):
        for n in range(depth):
            shift = config.window // 2 if n % 2 else 0
            x = _block(p, config, f"stages.{s}.blocks.{n}", x, (config.heads[s], shift), backend)
        if s + 1 < len(config.depths):
            x = _merge(p, config, f"stages.{s}.merge", x)
    x = layer_norm(p, "norm", x, config.epsilon).mean(axis=(1, 2))
    return affine(p, "head", x) if config.classes else x


def _block(
    p: Parameters,
    config: SwinConfig,
    name: str,
    x: Map,
    heads_and_shift: tuple[int, int],
    backend: str | Backend | None,
) -> Map:
    """Attend in windows, then transform every token alone; V2 normalises after, not before."""
    heads, shift = heads_and_shift

    def attend(x: Map) -> Map:
        return _attend(p, config, f"{name}.attention", x, heads, shift, backend)

    def mlp(x: Map) -> Map:
        return affine(p, f"{name}.mlp.down", gelu(affine(p, f"{name}.mlp.up", x)))

    for norm, part in ((f"{name}.norm1", attend), (f"{name}.norm2", mlp)):
        if isinstance(config, SwinV2Config):
            x = x + layer_norm(p, norm, part(x), config.epsilon)
        else:
            x = x + part(layer_norm(p, norm, x, config.epsilon))
    return x


def _attend(
    p: Parameters,
    config: SwinConfig,
    name: str,
    x: Map,
    heads: int,
    shift: int,
    backend: str | Backend | None,
) -> Map:
    """Let tokens of a window see each other, with a bias for their displacement."""
    scale = None
    if isinstance(config, SwinV2Config):
        q, k, v = _project_v2(p, name, x, heads)
        q, k, table = unit(q), unit(k), continuous_table(p, config, f"{name}.table")
        scale = namespace(x).exp(p[f"{name}.scale"].reshape(-1).clip(None, log(100.0)))
    else:
        (q, k, v), table = project(p, name, x, heads), p[f"{name}.table"]
    found = attnref.window_attention(
        q,
        k,
        v,
        window=config.window,
        shift=shift,
        bias=looked_up(table, config.window),
        scale=scale,
        wrap_bias=config.wrap_bias,
        backend=backend,
    )
    return join_heads(p, name, found)


def looked_up(table: Float[Array, "R H"], window: int) -> Float[Array, "H N N"]:
    """Give every pair of a window the bias of its displacement.

    It is `attnref.relative_position_bias`, as plain indexing: not every backend of windows
    looks up tables, and none is faster at it.
    """
    index = relative_position_index((window, window))
    return namespace(table).moveaxis(table[index], -1, 0)


def _project_v2(p: Parameters, name: str, x: Map, heads: int) -> Heads:
    """Project as all do, without a bias of the keys: to a cosine it would be a direction."""
    q, k, v = split_heads(affine(p, f"{name}.qkv", x), heads)
    bias = {n: p[f"{name}.{n}.bias"].reshape(heads, -1) for n in "qv"}
    return Heads(q + bias["q"], k, v + bias["v"])


def continuous_table(p: Parameters, config: SwinV2Config, name: str) -> Float[Array, "R H"]:
    r"""Make the bias of every displacement: $16\, \sigma(\mathrm{mlp}(\ell_d))$."""
    like = p[f"{name}.up.weight"]
    places = displacements(config.window, config.pretrained_window or config.window)
    at = arrays.from_numpy(places.astype(arrays.numpy_dtype(arrays.dtype_name(like))), like)
    return 16 * sigmoid(affine(p, f"{name}.down", affine(p, f"{name}.up", at).clip(0.0)))


def displacements(window: int, trained: int) -> Float[np.ndarray, "R 2"]:
    r"""List all displacements in a window on a logarithmic scale, row-major: $\ell_d$."""
    d = np.arange(1 - window, window) * (8 / max(trained - 1, 1))
    line = np.sign(d) * np.log2(np.abs(d) + 1) / np.log2(8)
    return np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)


def _merge(p: Parameters, config: SwinConfig, name: str, x: Map) -> Map:
    """Make one token of four, of twice the channels; V2 normalises after, not before."""
    x = quarters(x)
    if isinstance(config, SwinV2Config):
        return layer_norm(p, f"{name}.norm", affine(p, name, x), config.epsilon)
    return affine(p, name, layer_norm(p, f"{name}.norm", x, config.epsilon))
