"""What convolutions cost, plain and depth-wise separable."""

from dataclasses import dataclass
from math import prod

from attnref.cost.counts import Cost, Setting, Together
from attnref.cost.layers import same
from attnref.errors import InvalidProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """A convolution of one to three spatial axes, in groups.

    Args:
        B: Maps.
        G: Extents of a map.
        inputs: Channels of the input.
        outputs: Channels of the result.
        kernel: Extents of the kernel.
        stride: Steps of the kernel per axis.
        padding: Zeros on both sides per axis.
        groups: Parts of the channels that do not see each other; `inputs` is depth-wise.
        bias: Whether there is one.

    Raises:
        InvalidProblem: The groups do not divide the channels, or the kernel exceeds the map.

    Example:
        >>> layer = Convolution(B=1, G=(14, 14), inputs=512, outputs=1024, kernel=(3, 3),
        ...     padding=(1, 1), bias=False)
        >>> layer.parameters, layer.result
        (4718592, (14, 14))
    """

    B: int
    G: tuple[int, ...]
    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    groups: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        for name, channels in (("inputs", self.inputs), ("outputs", self.outputs)):
            if channels % self.groups:
                raise InvalidProblem(
                    f"{name} is {channels}, which is not a multiple of {self.groups} groups."
                )
        for axis, g in enumerate(self.result):
            if g < 1:
                raise InvalidProblem(
                    f"the kernel is {self.kernel[axis]} on axis {axis}, and the map with its "
                    f"padding is {self.G[axis] + 2 * self._padding[axis]}."
                )

    @property
    def _padding(self) -> tuple[int, ...]:
        return self.padding or (0,) * len(self.G)

    @property
    def result(self) -> tuple[int, ...]:
        """Extents of the result."""
        stride = self.stride or (1,) * len(self.G)
        axes = zip(self.G, self.kernel, stride, self._padding, strict=True)
        return tuple((g + 2 * p - k) // s + 1 for g, k, s, p in axes)

    @property
    def _weight(self) -> int:
        return prod(self.kernel) * (self.inputs // self.groups) * self.outputs

    @property
    def parameters(self) -> int:
        """Weight and bias: shared by all places."""
        return self._weight + self.bias * self.outputs

    @property
    def _maps(self) -> int:
        """Numbers of the input and of the result."""
        return self.B * (prod(self.G) * self.inputs + prod(self.result) * self.outputs)

    def forward(self, setting: Setting = Setting()) -> Cost:  # noqa: B008  # frozen
        """Multiply the whole weight at each place of the result; zeros of padding count."""
        return same(
            setting,
            parameters=self.parameters,
            multiply_adds=self.B * prod(self.result) * self._weight,
            moved=self._maps + self.parameters,
            kept=self.B * prod(self.G) * self.inputs,
        )

    def backward(self, setting: Setting = Setting()) -> Cost:  # noqa: B008  # frozen
        """Two products, as of a linear layer."""
        return same(
            setting,
            parameters=self.parameters,
            multiply_adds=2 * self.B * prod(self.result) * self._weight,
            moved=2 * self._maps + self._weight + self.parameters,
        )


def depthwise_separable(layer: Convolution) -> Together:
    """Take a convolution apart: one kernel for each channel, then one weight for each pair.

    Source:
        A. Howard et al., "MobileNets", 2017, section 3.1.

    Example:
        >>> whole = Convolution(B=1, G=(14, 14), inputs=512, outputs=1024, kernel=(3, 3),
        ...     padding=(1, 1), bias=False)
        >>> depthwise_separable(whole).parameters
        528896
    """
    depth = Convolution(
        B=layer.B, G=layer.G, inputs=layer.inputs, outputs=layer.inputs, kernel=layer.kernel,
        stride=layer.stride, padding=layer.padding, groups=layer.inputs, bias=layer.bias,
    )  # fmt: skip
    point = Convolution(
        B=layer.B, G=depth.result, inputs=layer.inputs, outputs=layer.outputs,
        kernel=(1,) * len(layer.G), bias=layer.bias,
    )  # fmt: skip
    return Together(((1, depth), (1, point)))
