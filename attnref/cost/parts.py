"""Of which parts each model consists: a step for whatever it computes, in the order of the pass."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import singledispatch
from math import inf, prod

from attnref.cost.attention import Attention
from attnref.cost.convolutions import Convolution, depthwise_separable
from attnref.cost.counts import Step, Together
from attnref.cost.layers import Embedding, Linear, Norm, Pointwise, mlp
from attnref.cost.windows import WindowAttention
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
from attnref.problem import Sizes

Extent = tuple[int, int]
Parts = Iterator[tuple[str, Step]]


@dataclass(frozen=True)
class Given:
    """What a model is given: so many images of a size, or so many tokens after others."""

    batch: int
    image: Extent = (0, 0)
    tokens: int = 0
    cached: int = 0


def _block(
    rows: int, C: int, F: int, attend: Step, *, qkv_bias: bool = True, norm_bias: bool = True
) -> Parts:
    """One block: it is the same before and after norms have changed their place."""
    yield "norms", Norm(rows=rows, columns=C, shift=norm_bias)
    yield "qkv projection", Linear(rows=rows, inputs=C, outputs=3 * C, bias=qkv_bias)
    yield "attention", attend
    yield "output projection", Linear(rows=rows, inputs=C, outputs=C)
    yield "residuals", Pointwise(numbers=rows * C, operands=2, kept=0)
    yield "norms", Norm(rows=rows, columns=C, shift=norm_bias)
    yield "mlp", mlp(rows, C, F)
    yield "residuals", Pointwise(numbers=rows * C, operands=2, kept=0)


def _heads(B: int, H: int, Sq: int, Sk: int, C: int, **options: object) -> Attention:
    sizes = Sizes(B, H, H, Sq, Sk, C // H, C // H)
    return Attention(sizes=sizes, kept_elsewhere=True, **options)  # type: ignore[arg-type]


def _added(rows: int, entries: int, C: int) -> Parts:
    """A table, and the sum of its rows with what is there."""
    yield "embeddings", Embedding(rows=rows, entries=entries, columns=C)
    yield "embeddings", Pointwise(numbers=rows * C, operands=2, kept=0)


@singledispatch
def parts(config: Config, given: Given) -> Parts:  # noqa: ARG001  # every model has its own
    """Name and describe what a model does; a name comes as often as it does something.

    Args:
        config: Of any model of `attnref.models`.
        given: An input that it takes.
    """
    raise TypeError(f"{type(config).__name__} is no configuration of attnref.models")


@parts.register
def _(c: GPT2Config, given: Given) -> Parts:
    rows, C = given.batch * given.tokens, c.width
    yield "embeddings", Embedding(rows=rows, entries=c.vocabulary, columns=C)
    yield from _added(rows, c.positions, C)
    seen = given.cached + given.tokens
    attend = _heads(
        given.batch, c.heads, given.tokens, seen, C, window=(None, 0), q_offset=given.cached
    )
    for _ in range(c.layers):
        yield from _block(rows, C, c.hidden, attend)
    yield "norms", Norm(rows=rows, columns=C)
    yield "head", Linear(rows=rows, inputs=C, outputs=c.vocabulary, bias=False, tied=True)


@parts.register
def _(c: BERTConfig, given: Given) -> Parts:
    B, S, C = given.batch, given.tokens, c.width
    rows = B * S
    yield "embeddings", Embedding(rows=rows, entries=c.vocabulary, columns=C)
    yield from _added(rows, c.positions, C)
    yield from _added(rows, c.segments, C)
    yield "norms", Norm(rows=rows, columns=C)
    for _ in range(c.layers):
        yield from _block(rows, C, c.hidden, _heads(B, c.heads, S, S, C))
    if c.pooler:
        yield "head", Linear(rows=B, inputs=C, outputs=C)
        yield "head", Pointwise(numbers=B * C)
    if c.words:
        yield "head", Linear(rows=rows, inputs=C, outputs=C)
        yield "head", Pointwise(numbers=rows * C)
        yield "head", Norm(rows=rows, columns=C)
        yield "head", Linear(rows=rows, inputs=C, outputs=c.vocabulary, tied=True)


@parts.register
def _(c: ViTConfig, given: Given) -> Parts:
    B, C, P = given.batch, c.width, c.patch
    cut = Convolution(
        B=B, G=given.image, inputs=c.channels, outputs=C, kernel=(P, P), stride=(P, P)
    )
    yield "embeddings", cut
    S = prod(cut.result) + c.class_token
    rows = B * S
    if c.class_token:
        yield "embeddings", Embedding(rows=B, entries=1, columns=C)
    yield from _added(rows, S, C)
    attend = _heads(B, c.heads, S, S, C)
    for _ in range(c.layers):
        yield from _vit_block(c, rows, attend)
    yield "norms", Norm(rows=rows, columns=C, shift=c.norm_bias)
    if c.classes:
        yield "head", Linear(rows=B, inputs=C, outputs=c.classes)


def _vit_block(c: ViTConfig, rows: int, attend: Step) -> Parts:
    """One block, with any of the changes of ViT-22B."""
    C, D = c.width, c.width // c.heads
    biases = {"qkv_bias": c.qkv_bias, "norm_bias": c.norm_bias}
    block = list(_block(rows, C, c.hidden, attend, **biases))
    if c.parallel:
        # One norm and one residual for both, and its result is kept by the projection.
        block = block[:5]
        block.append(("mlp", mlp(rows, C, c.hidden, kept=False)))
        block.append(("residuals", Pointwise(numbers=rows * C, operands=2, kept=0)))
    yield from block
    if c.qk_norm:
        for _ in "qk":
            yield "norms", Norm(rows=rows * c.heads, columns=D, shift=c.norm_bias)


@parts.register
def _(c: SwinConfig, given: Given) -> Parts:
    B, P = given.batch, c.patch
    cut = Convolution(
        B=B, G=given.image, inputs=c.channels, outputs=c.width, kernel=(P, P), stride=(P, P)
    )
    yield "embeddings", cut
    yield "embeddings", Norm(rows=B * prod(cut.result), columns=c.width)
    maps = c.maps(given.image)
    for stage, (G, depth) in enumerate(zip(maps, c.depths, strict=True)):
        rows, C = B * prod(G), c.stage_width(stage)
        for n in range(depth):
            shift = c.window // 2 if n % 2 else 0
            attend = Together(tuple((1, step) for step in _in_windows(c, B, G, stage, shift)))
            v2 = isinstance(c, SwinV2Config)
            yield from _block(rows, C, c.ratio * C, attend, qkv_bias=not v2)
        if stage < len(maps) - 1:
            yield "merging", _merging(c, rows // 4, C)
    C = c.stage_width(len(maps) - 1)
    yield "norms", Norm(rows=B * prod(maps[-1]), columns=C)
    if c.classes:
        yield "head", Linear(rows=B, inputs=C, outputs=c.classes)


def _in_windows(c: SwinConfig, B: int, G: Extent, stage: int, shift: int) -> Iterator[Step]:
    """Attention in windows, and what makes its position bias."""
    C, H, w = c.stage_width(stage), c.heads[stage], c.window
    table, rows = (2 * w - 1) ** 2, B * prod(G)
    yield WindowAttention(
        B=B, G=G, H=H, D=C // H, Dv=C // H, window=(w, w), shift=(shift, shift), bias=True,
        wrap=c.wrap_bias != -inf, kept_elsewhere=True,
    )  # fmt: skip
    if not isinstance(c, SwinV2Config):
        yield Embedding(rows=w**4, entries=table, columns=H)
        return
    # Queries and keys are brought to length one. Keys have no bias.
    yield Pointwise(numbers=2 * rows * C)
    yield Embedding(rows=1, entries=2, columns=C)
    yield Embedding(rows=1, entries=1, columns=H)
    yield Linear(rows=table, inputs=2, outputs=c.bias_hidden)
    yield Pointwise(numbers=table * c.bias_hidden)
    yield Linear(rows=table, inputs=c.bias_hidden, outputs=H, bias=False)
    yield Pointwise(numbers=table * H)
    yield Embedding(rows=w**4, entries=0, columns=H)


def _merging(c: SwinConfig, rows: int, C: int) -> Step:
    """Four neighbours become one token of twice the channels; Swin V2 normalises after."""
    norm = Norm(rows=rows, columns=2 * C if isinstance(c, SwinV2Config) else 4 * C)
    return Together(((1, norm), (1, Linear(rows=rows, inputs=4 * C, outputs=2 * C, bias=False))))


@parts.register
def _(c: HybridConfig, given: Given) -> Parts:
    G, inputs = given.image, c.channels
    for outputs in c.stem:
        for step in _convolved(given.batch, G, inputs, outputs, stride=2, separable=False):
            yield "stem", step
        G, inputs = (-(-G[0] // 2), -(-G[1] // 2)), outputs
    yield from parts(c.body, replace(given, image=G))


@parts.register
def _(c: ConvConfig, given: Given) -> Parts:
    G, inputs = given.image, c.channels
    for stage, outputs in enumerate(c.widths):
        for n in range(c.depth):
            stride = 1 if n else 2
            for step in _convolved(
                given.batch, G, inputs, outputs, stride=stride, separable=c.separable
            ):
                yield f"stage {stage}", step
            G, inputs = (-(-G[0] // stride), -(-G[1] // stride)), outputs
    if c.classes:
        yield "head", Linear(rows=given.batch, inputs=inputs, outputs=c.classes)


def _convolved(
    B: int, G: Extent, inputs: int, outputs: int, *, stride: int, separable: bool
) -> Iterator[Step]:
    """A 3x3 convolution without bias, a norm and an activation."""
    whole = Convolution(
        B=B, G=G, inputs=inputs, outputs=outputs, kernel=(3, 3), stride=(stride, stride),
        padding=(1, 1), bias=False,
    )  # fmt: skip
    yield depthwise_separable(whole) if separable else whole
    rows = B * prod(whole.result)
    yield Norm(rows=rows, columns=outputs)
    yield Pointwise(numbers=rows * outputs)
