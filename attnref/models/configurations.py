"""What there is to choose about each model.

A configuration is frozen and says everything about a model but its numbers: from it follow
the names and shapes of the parameters (`attnref.models.parameters`), the forward pass and
the cost. Published sizes are in `attnref.models.presets`.
"""

from dataclasses import dataclass
from typing import Literal

from attnref.errors import InvalidProblem
from attnref.models.choices import Extent, declared, divides, require


@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """A causal language model with a head that is its token table (Radford et al., 2019).

    Attributes:
        vocabulary: Number of token ids.
        positions: Longest context.
        width: Channels of a token.
        layers: Number of blocks.
        heads: Heads of attention; they divide the width.
        hidden: Channels inside the MLP.
        epsilon: What layer norms add to the variance.
    """

    vocabulary: int = 50257
    positions: int = 1024
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        declared(self)
        divides("heads", self.heads, "width", self.width)


@dataclass(frozen=True, kw_only=True)
class BERTConfig:
    """An encoder of sentences, normalised after each sum (Devlin et al., 2019).

    Attributes:
        vocabulary: Number of token ids.
        positions: Longest sentence.
        segments: Number of kinds of sentence.
        width: Channels of a token.
        layers: Number of blocks.
        heads: Heads of attention; they divide the width.
        hidden: Channels inside the MLP.
        epsilon: What layer norms add to the variance.
        pooler: There is a layer on the first token's state.
        words: There is a head that predicts hidden words, tied to the token table.
    """

    vocabulary: int = 30522
    positions: int = 512
    segments: int = 2
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    epsilon: float = 1e-12
    pooler: bool = True
    words: bool = False

    def __post_init__(self) -> None:
        declared(self)
        divides("heads", self.heads, "width", self.width)


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Patches of an image as words (Dosovitskiy et al., 2021).

    `parallel`, `qk_norm`, and `qkv_bias` with `norm_bias` are the three changes of ViT-22B
    (Dehghani et al., 2023), each to be had without the others.

    Attributes:
        image: Height and width that the position table is for.
        patch: Side of a patch; it divides both.
        channels: Channels of the image.
        width: Channels of a token.
        layers: Number of blocks.
        heads: Heads of attention; they divide the width.
        hidden: Channels inside the MLP.
        classes: Number of classes; zero leaves out the head.
        epsilon: What layer norms add to the variance.
        class_token: A learned token stands before the patches.
        pool: What is classified: the class token's state, or the mean of the patches'.
        parallel: Attention and MLP read the same normalised input and are added together.
        qk_norm: Queries and keys are normalised, head by head, before the scores.
        qkv_bias: The projection to queries, keys and values has a bias.
        norm_bias: Layer norms have a bias.
    """

    image: Extent = (224, 224)
    patch: int = 16
    channels: int = 3
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    classes: int = 1000
    epsilon: float = 1e-6
    class_token: bool = True
    pool: Literal["class", "mean"] = "class"
    parallel: bool = False
    qk_norm: bool = False
    qkv_bias: bool = True
    norm_bias: bool = True

    def __post_init__(self) -> None:
        declared(self)
        divides("heads", self.heads, "width", self.width)
        for extent in self.image:
            divides("patch", self.patch, "image", extent)
        require(
            self.class_token or self.pool == "mean",
            f"pool is {self.pool!r} and class_token is {self.class_token}.",
            "pool='mean' needs no class token; pool='class' classifies it",
        )

    @property
    def grid(self) -> Extent:
        """Patches along each axis."""
        return self.image[0] // self.patch, self.image[1] // self.patch


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Stages of windows, shifted in every second block (Liu et al., 2021).

    Attributes:
        image: Height and width that are taken unless a call brings others.
        patch: Side of a patch.
        channels: Channels of the image.
        width: Channels of a token in the first stage; every later stage doubles them.
        depths: Blocks of each stage.
        heads: Heads of each stage.
        window: Side of a window; it divides the map of every stage.
        ratio: Channels inside the MLP, as a multiple of the stage's.
        classes: Number of classes; zero leaves out the head.
        epsilon: What layer norms add to the variance.
        wrap_bias: Added to pairs that met only because the map was rolled.
    """

    image: Extent = (224, 224)
    patch: int = 4
    channels: int = 3
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    ratio: int = 4
    classes: int = 1000
    epsilon: float = 1e-5
    wrap_bias: float = -100.0

    def __post_init__(self) -> None:
        declared(self)
        require(
            0 < len(self.depths) == len(self.heads),
            f"there are {len(self.depths)} depths and {len(self.heads)} heads.",
            "give one of each for every stage",
        )
        for stage, heads in enumerate(self.heads):
            divides(f"heads[{stage}]", heads, "width", self.stage_width(stage))
        self.maps(self.image)

    def stage_width(self, stage: int) -> int:
        """Channels of a token in a stage."""
        return self.width * 2**stage

    def maps(self, image: Extent) -> tuple[Extent, ...]:
        """Return every stage's map for an image, or say which stage cannot be had.

        Raises:
            InvalidProblem: A stage's map is not made of whole patches, pairs or windows.
        """
        found = []
        for stage in range(len(self.depths)):
            side = self.patch * 2**stage
            for extent in image:
                if extent <= 0 or extent % (side * self.window):
                    raise InvalidProblem(
                        f"image {image[0]}x{image[1]} has {extent / side:g} tokens along an axis "
                        f"of stage {stage}, which is not a multiple of window {self.window}.",
                        see="attnref.models.configurations",
                        hint=f"take multiples of {self.multiple}, or change the window",
                    )
            found.append((image[0] // side, image[1] // side))
        return tuple(found)

    @property
    def multiple(self) -> int:
        """What both sides of an image must be multiples of."""
        return self.patch * self.window * 2 ** (len(self.depths) - 1)


@dataclass(frozen=True, kw_only=True)
class SwinV2Config(SwinConfig):
    """Swin with cosine attention, a continuous bias and norms after (Liu et al., 2022).

    Attributes:
        pretrained_window: The window that offsets are measured by; zero is `window`.
        bias_hidden: Channels inside the network that makes the position bias.
    """

    image: Extent = (256, 256)
    window: int = 8
    pretrained_window: int = 0
    bias_hidden: int = 512


@dataclass(frozen=True, kw_only=True)
class HybridConfig:
    """Convolutions first, then a transformer on their map (Xiao et al., 2021).

    Attributes:
        stem: Channels after each 3x3 convolution; each halves the map.
        channels: Channels of the image.
        body: A ViT whose image is the stem's map, with as many channels and patches of one.
        epsilon: What the stem's norms add to the variance.
    """

    stem: tuple[int, ...] = (48, 96, 192, 384)
    channels: int = 3
    body: ViTConfig = ViTConfig(image=(14, 14), patch=1, channels=384)
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        declared(self)
        require(
            len(self.stem) > 0 and self.body.channels == self.stem[-1],
            f"the stem ends in {self.stem[-1:]} channels, and the body takes {self.body.channels}.",
            "body.channels is the stem's last number",
        )

    @property
    def image(self) -> Extent:
        """Height and width of the image."""
        side = 2 ** len(self.stem)
        return self.body.image[0] * side, self.body.image[1] * side


@dataclass(frozen=True, kw_only=True)
class ConvConfig:
    """A convolution network to compare with: plain, or depth-wise and point-wise.

    Attributes:
        image: Height and width that are taken unless a call brings others.
        channels: Channels of the image.
        widths: Channels of each stage; each stage begins by halving the map.
        depth: Convolutions of a stage.
        separable: Depth-wise 3x3 and point-wise 1x1 in place of plain 3x3 convolutions.
        classes: Number of classes; zero leaves out the head.
        epsilon: What norms add to the variance.
    """

    image: Extent = (224, 224)
    channels: int = 3
    widths: tuple[int, ...] = (64, 128, 256, 512)
    depth: int = 2
    separable: bool = False
    classes: int = 1000
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        declared(self)
        require(len(self.widths) > 0, "widths is ().", "give the channels of at least one stage")


Config = GPT2Config | BERTConfig | ViTConfig | SwinConfig | HybridConfig | ConvConfig
"""A configuration of any model; a `SwinV2Config` is a `SwinConfig`."""
