"""Names and shapes of a model's parameters: the one list that everything else follows.

Loading, initialising and counting read it; nobody else knows how many there are. Matrices
are `(outputs, inputs)` and kernels `(outputs, inputs, height, width)`, as files have them.

Letters: `C` channels, `F` hidden channels, `H` heads, `D` channels of a head.
"""

from collections.abc import Iterator, Mapping
from functools import singledispatch
from math import log, prod

import numpy as np

from attnref import arrays
from attnref.arrays import Array
from attnref.errors import InvalidProblem
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

Shape = tuple[int, ...]
Parameters = Mapping[str, Array]
"""Arrays of one library by name."""
Named = Iterator[tuple[str, Shape]]


def shapes(config: Config) -> dict[str, Shape]:
    """List the parameters of a model.

    Args:
        config: Of any model.

    Returns:
        Every parameter's name and shape, in the order of the forward pass.

    Example:
        >>> from attnref.models.presets import preset
        >>> shapes(preset("gpt2"))["blocks.0.attention.qkv.weight"]
        (2304, 768)
    """
    return dict(_named(config))


def count(config: Config, part: str = "") -> int:
    """Count the numbers in the parameters whose name begins with `part`.

    Args:
        config: Of any model.
        part: E.g. `"blocks.0."`; by default everything.

    Example:
        >>> from attnref.models.presets import preset
        >>> count(preset("gpt2")), count(preset("gpt2"), "blocks.0.")
        (124439808, 7087872)
    """
    return sum(prod(shape) for name, shape in _named(config) if name.startswith(part))


def initialise(
    config: Config, rng: np.random.Generator, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """Draw parameters: matrices, kernels and tables normal, biases zero, scales one.

    Args:
        config: Of any model.
        rng: Where the numbers come from.
        dtype: Of every array; `bfloat16` needs ml_dtypes.

    Returns:
        NumPy arrays by name. Matrices and kernels have a variance of one over the number
        of inputs, so that sums of them have about the size of what they sum. Tables have a
        standard deviation of 0.02, and of 0.5 where they are added to patches, which are
        not that small; Swin V2 multiplies its cosines by ten at first.

    Raises:
        InvalidProblem: `rng` is a seed, or anything else that draws no numbers.

    Example:
        >>> from attnref.models.presets import preset
        >>> small = initialise(preset("conv"), np.random.default_rng(0))
        >>> small["head.weight"].shape
        (1000, 512)
    """
    if not hasattr(rng, "normal"):
        raise InvalidProblem(
            f"rng is {rng!r}.",
            see="attnref.models.parameters",
            hint="a generator: np.random.default_rng(0)",
        )
    listed = shapes(config)
    table = 0.02 if "tokens" in listed else 0.5
    return {
        name: _draw(name, shape, table, rng).astype(arrays.numpy_dtype(dtype), copy=False)
        for name, shape in listed.items()
    }


def _draw(name: str, shape: Shape, table: float, rng: np.random.Generator) -> np.ndarray:
    """Draw one parameter, by what its name and shape say that it is."""
    if name.endswith("attention.scale"):
        return np.full(shape, log(10.0))
    if name.endswith("bias"):
        return np.zeros(shape)
    if "norm" in name:
        return np.ones(shape)
    deviation = prod(shape[1:]) ** -0.5 if name.endswith("weight") else table
    return rng.normal(0.0, deviation, shape)


def _affine(name: str, outputs: int, *inputs: int, bias: bool = True) -> Named:
    """List a matrix or a kernel, and its bias."""
    yield f"{name}.weight", (outputs, *inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _mlp(name: str, C: int, F: int) -> Named:
    yield from _affine(f"{name}.mlp.up", F, C)
    yield from _affine(f"{name}.mlp.down", C, F)


def _block(name: str, C: int, F: int) -> Named:
    """List a block of GPT-2 or BERT: two norms, attention, MLP."""
    yield from _affine(f"{name}.norm1", C)
    yield from _affine(f"{name}.attention.qkv", 3 * C, C)
    yield from _affine(f"{name}.attention.output", C, C)
    yield from _affine(f"{name}.norm2", C)
    yield from _mlp(name, C, F)


@singledispatch
def _named(config: Config) -> Named:
    raise TypeError(f"{type(config).__name__} is no configuration of attnref.models")


@_named.register
def _(c: GPT2Config) -> Named:
    yield "tokens", (c.vocabulary, c.width)
    yield "positions", (c.positions, c.width)
    for n in range(c.layers):
        yield from _block(f"blocks.{n}", c.width, c.hidden)
    yield from _affine("norm", c.width)


@_named.register
def _(c: BERTConfig) -> Named:
    yield "tokens", (c.vocabulary, c.width)
    yield "positions", (c.positions, c.width)
    yield "segments", (c.segments, c.width)
    yield from _affine("norm", c.width)
    for n in range(c.layers):
        yield from _block(f"blocks.{n}", c.width, c.hidden)
    if c.pooler:
        yield from _affine("pooler", c.width, c.width)
    if c.words:
        yield from _affine("words.transform", c.width, c.width)
        yield from _affine("words.norm", c.width)
        yield "words.bias", (c.vocabulary,)


@_named.register
def _(c: ViTConfig) -> Named:
    C = c.width
    yield from _affine("patches", C, c.channels, c.patch, c.patch)
    if c.class_token:
        yield "class", (C,)
    yield "positions", (c.grid[0] * c.grid[1] + c.class_token, C)
    for n in range(c.layers):
        name = f"blocks.{n}"
        yield from _affine(f"{name}.norm1", C, bias=c.norm_bias)
        yield from _affine(f"{name}.attention.qkv", 3 * C, C, bias=c.qkv_bias)
        if c.qk_norm:
            yield from _affine(f"{name}.attention.q_norm", C // c.heads, bias=c.norm_bias)
            yield from _affine(f"{name}.attention.k_norm", C // c.heads, bias=c.norm_bias)
        yield from _affine(f"{name}.attention.output", C, C)
        if not c.parallel:
            yield from _affine(f"{name}.norm2", C, bias=c.norm_bias)
        yield from _mlp(name, C, c.hidden)
    yield from _affine("norm", C, bias=c.norm_bias)
    if c.classes:
        yield from _affine("head", c.classes, C)


@_named.register
def _(c: SwinConfig) -> Named:
    last = len(c.depths) - 1
    yield from _affine("patches", c.width, c.channels, c.patch, c.patch)
    yield from _affine("patches.norm", c.width)
    for s, depth in enumerate(c.depths):
        C = c.stage_width(s)
        for n in range(depth):
            name = f"stages.{s}.blocks.{n}"
            yield from _affine(f"{name}.norm1", C)
            yield from _window_attention(c, f"{name}.attention", C, c.heads[s])
            yield from _affine(f"{name}.norm2", C)
            yield from _mlp(name, C, c.ratio * C)
        if s < last:
            v2 = isinstance(c, SwinV2Config)
            yield from _affine(f"stages.{s}.merge.norm", 2 * C if v2 else 4 * C)
            yield f"stages.{s}.merge.weight", (2 * C, 4 * C)
    yield from _affine("norm", c.stage_width(last))
    if c.classes:
        yield from _affine("head", c.classes, c.stage_width(last))


def _window_attention(c: SwinConfig, name: str, C: int, H: int) -> Named:
    """List attention in windows; in Swin V2 keys have no bias, and a network makes the table."""
    if isinstance(c, SwinV2Config):
        yield f"{name}.qkv.weight", (3 * C, C)
        yield f"{name}.q.bias", (C,)
        yield f"{name}.v.bias", (C,)
        yield f"{name}.scale", (H,)
        yield from _affine(f"{name}.table.up", c.bias_hidden, 2)
        yield f"{name}.table.down.weight", (H, c.bias_hidden)
    else:
        yield from _affine(f"{name}.qkv", 3 * C, C)
        yield f"{name}.table", ((2 * c.window - 1) ** 2, H)
    yield from _affine(f"{name}.output", C, C)


@_named.register
def _(c: HybridConfig) -> Named:
    for n, (inputs, outputs) in enumerate(zip((c.channels, *c.stem), c.stem, strict=False)):
        yield f"stem.{n}.weight", (outputs, inputs, 3, 3)
        yield from _affine(f"stem.{n}.norm", outputs)
    for name, shape in _named(c.body):
        yield f"body.{name}", shape


@_named.register
def _(c: ConvConfig) -> Named:
    inputs = c.channels
    for s, outputs in enumerate(c.widths):
        for n in range(c.depth):
            name = f"stages.{s}.{n}"
            if c.separable:
                yield f"{name}.depth.weight", (inputs, 1, 3, 3)
                yield f"{name}.point.weight", (outputs, inputs, 1, 1)
            else:
                yield f"{name}.weight", (outputs, inputs, 3, 3)
            yield from _affine(f"{name}.norm", outputs)
            inputs = outputs
    if c.classes:
        yield from _affine("head", c.classes, inputs)
