r"""What all models are built of: projections, heads, norms, MLPs, patches and convolutions.

Every function takes the parameters and the name of its part in them; what a model was made
without, a bias say, is not there and not added.

Letters: `B` batch, `S` tokens, `C` channels, `F` hidden channels, `H` heads, `D` channels
of a head, `h w` the height and width of a map, `h2 w2` those of another, `P` the side of a patch.
"""

from typing import NamedTuple

from jaxtyping import Float

from attnref.arrays import Array
from attnref.models.arithmetic import namespace
from attnref.models.parameters import Parameters


class Heads(NamedTuple):
    """Queries, keys and values, side by side; views of one projection."""

    q: Float[Array, "*rest H D"]
    k: Float[Array, "*rest H D"]
    v: Float[Array, "*rest H D"]


def affine(p: Parameters, name: str, x: Float[Array, "... n"]) -> Float[Array, "... m"]:
    r"""Multiply by a learned matrix and add a learned vector.

    $$y = x W^\top + b$$
    """
    return add_bias(p, name, x @ p[f"{name}.weight"].swapaxes(0, 1))


def add_bias(p: Parameters, name: str, x: Float[Array, "... C"]) -> Float[Array, "... C"]:
    """Add the bias of a part, if it has one."""
    bias = f"{name}.bias"
    return x + p[bias] if bias in p else x


def project(p: Parameters, name: str, x: Float[Array, "*rest C"], heads: int) -> Heads:
    r"""Project tokens to the queries, keys and values of every head.

    $$q = x W_q^\top + b_q, \qquad k = x W_k^\top + b_k, \qquad v = x W_v^\top + b_v$$

    Without learned projections the scores were $x x^\top$: symmetric, and the same in every
    layer. The three matrices stand one above the other, so that one product does for all.
    """
    return split_heads(affine(p, f"{name}.qkv", x), heads)


def split_heads(qkv: Float[Array, "*rest C3"], heads: int) -> Heads:
    """View a projection as queries, keys and values of every head."""
    *rest, C3 = qkv.shape
    qkv = qkv.reshape(*rest, 3, heads, C3 // (3 * heads))
    return Heads(qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :])


def before_tokens(x: Float[Array, "B S H D"]) -> Float[Array, "B H S D"]:
    """Put heads before tokens, as `attnref.attention` has them: a view."""
    return x.swapaxes(1, 2)


def join_heads(p: Parameters, name: str, x: Float[Array, "*rest H D"]) -> Float[Array, "*rest C"]:
    r"""Put what the heads found side by side, and mix it.

    $$y = [o_1, \dots, o_H]\, W_o^\top + b_o$$
    """
    *rest, H, D = x.shape
    return affine(p, f"{name}.output", x.reshape(*rest, H * D))


def layer_norm(
    p: Parameters, name: str, x: Float[Array, "... C"], epsilon: float
) -> Float[Array, "... C"]:
    r"""Give every token mean zero and variance one, then scale and move it.

    $$y = \frac{x - \bar x}{\sqrt{\overline{(x - \bar x)^2} + \epsilon}} \odot g + b$$
    """
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / ((x * x).mean(axis=-1, keepdims=True) + epsilon) ** 0.5
    return add_bias(p, name, x * p[f"{name}.weight"])


def unit(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    r"""Give every vector length one; zero stays zero.

    $$x / \max(|x|, 10^{-12})$$
    """
    return x / (x * x).sum(axis=-1, keepdims=True).clip(1e-24) ** 0.5


def patches(p: Parameters, image: Float[Array, "B height width I"]) -> Float[Array, "B h w C"]:
    r"""Turn every patch into a token: a convolution whose stride is its size.

    $$y_{bhwo} = \sum_{i, p, q} W_{oipq}\, x_{b,\, hP + p,\, wP + q,\, i} + b_o$$

    All patches share the kernel, and no pixel is read twice.
    """
    kernel = p["patches.weight"]
    C, channels, P, _ = kernel.shape
    B, rows, columns, _ = image.shape
    x = image.reshape(B, rows // P, P, columns // P, P, channels).swapaxes(2, 3)
    x = namespace(x).moveaxis(x, -1, 3).reshape(B, rows // P, columns // P, channels * P * P)
    return add_bias(p, "patches", x @ kernel.reshape(C, -1).swapaxes(0, 1))


def quarters(x: Float[Array, "B h2 w2 C"]) -> Float[Array, "B h w C4"]:
    """Put each two by two tokens into one, column by column: down first, then right.

    The order is that of the published weights in the authors' code, timm, torchvision and
    Hugging Face alike: (0, 0), (1, 0), (0, 1), (1, 1).
    """
    parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
    return namespace(x).concat(parts, axis=-1)


def convolve(
    p: Parameters, name: str, x: Float[Array, "B h w I"], stride: int = 1
) -> Float[Array, "B h2 w2 O"]:
    r"""Convolve three by three, with a border of zeros.

    $$y_{bhwo} = \sum_{i, p, q} W_{oipq}\, x_{b,\, sh + p - 1,\, sw + q - 1,\, i}$$
    """
    kernel = p[f"{name}.weight"]
    return sum(part @ kernel[:, :, i, j].swapaxes(0, 1) for i, j, part in _neighbours(x, stride))


def convolve_depthwise(
    p: Parameters, name: str, x: Float[Array, "B h w I"], stride: int = 1
) -> Float[Array, "B h2 w2 I"]:
    r"""Convolve three by three, every channel with a kernel of its own.

    $$y_{bhwi} = \sum_{p, q} W_{i1pq}\, x_{b,\, sh + p - 1,\, sw + q - 1,\, i}$$
    """
    kernel = p[f"{name}.weight"]
    return sum(part * kernel[:, 0, i, j] for i, j, part in _neighbours(x, stride))


def convolve_pointwise(
    p: Parameters, name: str, x: Float[Array, "B h w I"]
) -> Float[Array, "B h w O"]:
    """Mix the channels of every place alone: a kernel of one by one is a matrix."""
    return x @ p[f"{name}.weight"][:, :, 0, 0].swapaxes(0, 1)


def _neighbours(
    x: Float[Array, "B h w I"], stride: int
) -> list[tuple[int, int, Float[Array, "B h2 w2 I"]]]:
    """Return the map moved to each of nine places of a kernel, zeros around it."""
    library = namespace(x)
    ends = [-(-extent // stride) * stride for extent in x.shape[1:3]]
    for axis in (1, 2):
        edge = library.zeros_like(x[:, :1] if axis == 1 else x[:, :, :1])
        x = library.concat([edge, x, edge], axis=axis)
    return [
        (i, j, x[:, i : i + ends[0] : stride, j : j + ends[1] : stride])
        for i in range(3)
        for j in range(3)
    ]
