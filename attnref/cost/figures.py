"""Figures that everybody quotes, computed: exact where the quoted one is rounded or wrong."""

from collections.abc import Iterator
from typing import NamedTuple

from attnref.cost.convolutions import Convolution, depthwise_separable
from attnref.cost.counts import Setting
from attnref.cost.layers import Linear
from attnref.cost.models import Model, model
from attnref.models.configurations import BERTConfig, GPT2Config, SwinConfig, ViTConfig
from attnref.models.parameters import count
from attnref.models.presets import preset


class Figure(NamedTuple):
    """A figure, and what it is exactly.

    Attributes:
        what: What is counted.
        quoted: The figure as it is quoted.
        source: Who quotes it.
        exact: What it is.
        remark: Why they differ.
    """

    what: str
    quoted: str
    source: str
    exact: int
    remark: str


def figures() -> Iterator[Figure]:
    """Compute them all.

    Example:
        >>> next(figures()).exact
        1769472
    """
    yield from _blocks()
    yield from _language()
    yield from _vision()
    yield from _swin()
    yield from _layers()


def _blocks() -> Iterator[Figure]:
    """What a block of width 768 has."""
    d, F = 768, 3072
    block = count(GPT2Config(), "blocks.0.")
    products = 4 * d * d + 2 * d * F
    bare, biased = (Linear(rows=1, inputs=d, outputs=3 * d, bias=b) for b in (False, True))
    yield Figure(
        "weights of the query, key and value projections",
        "3 x 768^2", "Vaswani et al. 2017", bare.parameters,
        f"with biases {biased.parameters:,}; the output projection has a third as many again",
    )  # fmt: skip
    yield Figure(
        "a block of width 768",
        "7.1 M, 12 d^2", "Kaplan et al. 2020", block,
        f"12 d^2 is {products:,}; biases and norms are 13 d more",
    )  # fmt: skip
    yield Figure(
        "twelve blocks of width 768",
        "85 M", "Kaplan et al. 2020", 12 * block,
        "tables, last norm and head are not in it",
    )  # fmt: skip


def _language() -> Iterator[Figure]:
    """What language models have with their tables."""
    bare, words = BERTConfig(pooler=False), BERTConfig(pooler=False, words=True)
    yield Figure(
        "BERT-base",
        "110 M", "Devlin et al. 2019", count(BERTConfig()),
        f"without the pooler {count(bare):,}; with the head that predicts words, in its place, "
        f"{count(words):,}",
    )  # fmt: skip
    c = GPT2Config()
    yield Figure(
        "GPT-2 small",
        "117 M", "Radford et al. 2019, table 2", count(c),
        "the paper's table is wrong, as its authors say in their repository; 124 M is right. "
        f"A head that is not tied would be {c.vocabulary * c.width:,} more",
    )  # fmt: skip
    work = model(c).forward()
    bare_blocks = 12 * c.layers * c.width**2
    yield Figure(
        "operations of GPT-2 small on 1024 tokens, forward",
        "2 N a token", "Kaplan et al. 2020", work.tiled.operations,
        f"2 N is {2 * count(c) * c.positions:,} with all parameters, and "
        f"{2 * bare_blocks * c.positions:,} with N = 12 n d^2: the one multiplies by the position "
        "table, the other leaves out the head, and both leave out attention. "
        f"Flop counters find {work.untiled.operations:,}, with the hidden half of the pairs",
    )  # fmt: skip
    tiled, untiled = kept_by_block()
    yield Figure(
        "bytes that a block keeps for the backward pass: 16 bits, 1024 tokens, width 768",
        "s b h (34 + 5 a s / h)", "Korthikanti et al. 2022", untiled,
        "without dropout, whose masks and results are the difference, it is "
        f"s b h (32 + 2 a s / h); without the matrix of weights {tiled:,}",
    )  # fmt: skip


def kept_by_block() -> tuple[int, int]:
    """Count what one block of GPT-2 small keeps of 1024 tokens, with tiles and without."""
    half = Setting(dtype="float16")
    two, one = (model(GPT2Config(layers=n)).forward(half) for n in (2, 1))
    return two.tiled.kept - one.tiled.kept, two.untiled.kept - one.untiled.kept


def _vision() -> Iterator[Figure]:
    """What models of images have and make."""
    vit = ViTConfig()
    yield Figure(
        "ViT-B/16",
        "86 M", "Dosovitskiy et al. 2021, table 1", count(vit),
        f"with a head of 1000 classes; without it {count(ViTConfig(classes=0)):,}",
    )  # fmt: skip
    yield Figure(
        "ViT-B/16 at 224x224",
        "17.56 GFLOPs", "torchvision", _multiply_adds(model(vit)),
        "multiply-adds; operations are twice as many",
    )  # fmt: skip


def _swin() -> Iterator[Figure]:
    """What the four sizes of Swin have and make, and one of the second version."""
    quoted = {"tiny": ("28 M", "4.5"), "small": ("50 M", "8.7"), "base": ("88 M", "15.4"),
              "large": ("197 M", "34.5")}  # fmt: skip
    for size, (parameters, work) in quoted.items():
        config = preset(f"swin-{size}")
        assert isinstance(config, SwinConfig)
        head = (config.stage_width(3) + 1) * config.classes
        yield Figure(
            f"Swin-{size[0].upper()}",
            parameters, "Liu et al. 2021", count(config),
            f"with a head of 1000 classes; without it {count(config) - head:,}",
        )  # fmt: skip
        yield Figure(
            f"Swin-{size[0].upper()} at 224x224",
            f"{work} GFLOPs", "Liu et al. 2021", _multiply_adds(model(config)),
            "multiply-adds of matrix products; operations are twice as many",
        )  # fmt: skip
    v2 = preset("swinv2-tiny")
    yield Figure(
        "Swin V2-T, with a head of 1000 classes",
        "28,351,570", "torchvision", count(v2),
        "there, keys have biases that are set to zero before every use, and are counted",
    )  # fmt: skip
    yield Figure(
        "Swin V2-T at 256x256",
        "5.94 GFLOPs", "torchvision", _multiply_adds(model(v2)), "multiply-adds",
    )  # fmt: skip


def _layers() -> Iterator[Figure]:
    """Why nobody connects every pixel with every other."""
    conv = Convolution(
        B=1, G=(14, 14), inputs=512, outputs=1024, kernel=(3, 3), padding=(1, 1), bias=False
    )
    n = 512 * 768
    yield Figure(
        "a fully connected layer from 512x768 inputs to as many outputs",
        "154 G", "(512 x 768)^2", Linear(rows=1, inputs=n, outputs=n, bias=False).parameters,
        "weights, or multiply-adds; cut off, since it is nearer to 155 G",
    )  # fmt: skip
    yield Figure(
        "a 3x3 convolution from 512 to 1024 channels",
        "4.7 M", "Howard et al. 2017", conv.parameters, "without a bias",
    )  # fmt: skip
    yield Figure(
        "the same, depth-wise separable",
        "0.53 M", "Howard et al. 2017", depthwise_separable(conv).parameters,
        "9 x 512 + 512 x 1024, which is 1/9 + 1/1024 of it",
    )  # fmt: skip


def _multiply_adds(one: Model) -> int:
    return one.forward().untiled.multiply_adds
