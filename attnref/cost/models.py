"""What whole models cost, part by part.

Parts follow from a configuration of `attnref.models`, and so do the parameters that are
loaded: both lists are made by nobody's hand, and tests hold one to the other. A model is
counted as an eager framework runs it: cutting maps into windows, rolling them, choosing a
token and taking a mean over tokens move nothing here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from attnref.cost.counts import Cost, Setting, Step, Together
from attnref.cost.parts import Extent, Given, parts
from attnref.errors import InvalidProblem
from attnref.models.configurations import (
    BERTConfig,
    Config,
    ConvConfig,
    GPT2Config,
    HybridConfig,
    SwinConfig,
    ViTConfig,
)


@dataclass(frozen=True)
class Model:
    """A model that is given something: a step, made of named parts.

    Attributes:
        parts: What each part of it does in all blocks together, in the order of the pass.
    """

    parts: Mapping[str, Step]

    @property
    def parameters(self) -> int:
        """Numbers that are learned."""
        return sum(step.parameters for step in self.parts.values())

    def forward(self, setting: Setting = Setting()) -> Cost:  # noqa: B008  # frozen
        """Add up what computing the parts costs."""
        return sum((step.forward(setting) for step in self.parts.values()), Cost())

    def backward(self, setting: Setting = Setting()) -> Cost:  # noqa: B008  # frozen
        """Add up what the gradients of the parts cost."""
        return sum((step.backward(setting) for step in self.parts.values()), Cost())


def model(
    config: Config,
    *,
    batch: int = 1,
    image: int | Extent | None = None,
    tokens: int | None = None,
    cached: int = 0,
) -> Model:
    """Say of which parts a model consists, for an input.

    Args:
        config: Of any model of `attnref.models`.
        batch: Images or texts.
        image: Height and width, or one number for both; default: the configuration's. A
            position table grows with the image (`attnref.models.resized`).
        tokens: Of each text; default: as many as there are positions left.
        cached: Tokens before these, whose keys and values are kept: for GPT-2 alone.

    Returns:
        A step with parts; `forward` and `backward` give its cost.

    Raises:
        InvalidProblem: The model does not take such an input.

    Example:
        >>> from attnref.models.presets import preset
        >>> swin = model(preset("swin-tiny"))
        >>> swin.parameters, round(swin.forward().untiled.multiply_adds / 1e9, 2)
        (28288354, 4.49)
    """
    if batch < 1:
        raise InvalidProblem(f"batch is {batch}; it must be at least 1.")
    if isinstance(config, GPT2Config | BERTConfig):
        given = _text(config, batch, image, tokens, cached)
    else:
        given = _image(config, batch, image, tokens, cached)
    found: dict[str, list[tuple[int, Step]]] = {}
    for name, step in parts(config, given):
        found.setdefault(name, []).append((1, step))
    return Model({name: Together(tuple(steps)) for name, steps in found.items()})


def _text(
    c: GPT2Config | BERTConfig, batch: int, image: object, tokens: int | None, cached: int
) -> Given:
    """Check what a model of language is given."""
    name = type(c).__name__
    if image is not None:
        raise InvalidProblem(f"image is {image}, and {name} takes tokens.", hint="tokens=128")
    if cached and isinstance(c, BERTConfig):
        raise InvalidProblem(f"cached is {cached}, and {name} sees every token at once.")
    tokens = c.positions - cached if tokens is None else tokens
    if cached < 0 or cached >= c.positions:
        raise InvalidProblem(
            f"cached is {cached}, and {name} has {c.positions} positions.",
            hint=f"cached is 0 to {c.positions - 1}: one position is left for what is computed",
        )
    if not 1 <= tokens <= c.positions - cached:
        behind = f" after {cached} cached ones" if cached else ""
        raise InvalidProblem(
            f"tokens is {tokens}{behind}, and {name} has {c.positions} positions.",
            hint=f"tokens is 1 to {c.positions - cached}; a longer context needs a larger table",
        )
    return Given(batch, tokens=tokens, cached=cached)


def _image(
    c: ViTConfig | SwinConfig | HybridConfig | ConvConfig,
    batch: int,
    image: int | Extent | None,
    tokens: object,
    cached: int,
) -> Given:
    """Check what a model of images is given."""
    name = type(c).__name__
    if tokens is not None or cached:
        raise InvalidProblem(
            f"tokens is {tokens} and cached is {cached}, and {name} takes images.",
            hint="image=224",
        )
    height, width = (image, image) if isinstance(image, int) else image or c.image
    side = 1
    if isinstance(c, SwinConfig):
        c.maps((height, width))
    elif isinstance(c, ViTConfig):
        side = c.patch
    elif isinstance(c, HybridConfig):
        side = 2 ** len(c.stem) * c.body.patch
    for extent in (height, width):
        if extent < 1 or extent % side:
            raise InvalidProblem(
                f"image is {height}x{width}, and {name} takes positive multiples of {side}."
            )
    return Given(batch, image=(height, width))
