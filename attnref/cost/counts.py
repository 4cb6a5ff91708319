"""What is counted, and under which circumstances.

An operation is half of a multiply-add of a matrix product or a convolution, and nothing
else is one: what torch's flop counter counts, and twice what papers on vision models
call FLOPs. Exponentials are counted beside them, because other units compute them.
"""

from dataclasses import dataclass
from typing import Protocol

from attnref.errors import InvalidProblem

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
"""Bytes of a number, by dtype (A3)."""

ON_CHIP = (228 + 256) * 1024
"""Bytes that a tile may fill: shared memory and registers of an H100's multiprocessor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Under which circumstances something is computed.

    Args:
        dtype: Of every array and parameter.
        on_chip: Bytes of fast memory that one tile may fill; `None` is as much as is
            needed, so that every array moves once.

    Raises:
        InvalidProblem: The dtype is none of A3, or there is less than one byte.

    Example:
        >>> Setting(dtype="bfloat16").itemsize
        2
    """

    dtype: str = "float32"
    on_chip: int | None = ON_CHIP

    def __post_init__(self) -> None:
        if self.dtype not in ITEMSIZE:
            raise InvalidProblem(
                f"dtype is {self.dtype!r}; it must be one of {', '.join(ITEMSIZE)}."
            )
        if self.on_chip is not None and self.on_chip < 1:
            raise InvalidProblem(
                f"on_chip is {self.on_chip} bytes; it must be at least 1.",
                hint="None is as much as is needed",
            )

    @property
    def itemsize(self) -> int:
        """Bytes of a number in an array."""
        return ITEMSIZE[self.dtype]

    @property
    def sumsize(self) -> int:
        """Bytes of a number in a sum: at least those of float32 (A6)."""
        return max(4, self.itemsize)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one way of computing something does.

    Attributes:
        multiply_adds: In matrix products and convolutions.
        exponentials: Of the softmax, and hyperbolic tangents of a soft cap.
        bytes: Moved between the large memory and the chip, read and written.
        kept: Bytes that a forward pass keeps for the backward pass, parameters not
            counted.
    """

    multiply_adds: int = 0
    exponentials: int = 0
    bytes: int = 0
    kept: int = 0

    @property
    def operations(self) -> int:
        """Two for each multiply-add."""
        return 2 * self.multiply_adds

    @property
    def intensity(self) -> float:
        """Operations per byte moved; zero where nothing moves."""
        return self.operations / self.bytes if self.bytes else 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            multiply_adds=self.multiply_adds + other.multiply_adds,
            exponentials=self.exponentials + other.exponentials,
            bytes=self.bytes + other.bytes,
            kept=self.kept + other.kept,
        )

    def __mul__(self, times: int) -> "Work":
        return Work(
            multiply_adds=self.multiply_adds * times,
            exponentials=self.exponentials * times,
            bytes=self.bytes * times,
            kept=self.kept * times,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What something costs.

    Attributes:
        parameters: Numbers that are learned.
        tiled: Attention tile by tile: invisible pairs are skipped and the matrix of
            weights is never stored.
        untiled: Attention as it is written down: every pair is computed and the matrix
            of weights is stored.

    Example:
        >>> half = Work(multiply_adds=3, bytes=4)
        >>> (Cost(tiled=half, untiled=half) + Cost(parameters=5)).tiled.operations
        6
    """

    parameters: int = 0
    tiled: Work = Work()
    untiled: Work = Work()

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            parameters=self.parameters + other.parameters,
            tiled=self.tiled + other.tiled,
            untiled=self.untiled + other.untiled,
        )

    def __mul__(self, times: int) -> "Cost":
        return Cost(
            parameters=self.parameters * times,
            tiled=self.tiled * times,
            untiled=self.untiled * times,
        )


class Step(Protocol):
    """Anything that has a cost: a call of attention, or a layer of a model."""

    @property
    def parameters(self) -> int:
        """Numbers that are learned."""

    def forward(self, setting: Setting = ...) -> Cost:
        """What computing it costs."""

    def backward(self, setting: Setting = ...) -> Cost:
        """What its gradients cost, of inputs and parameters."""


@dataclass(frozen=True, slots=True)
class Together:
    """Several steps as one, each as often as it happens.

    Args:
        steps: Pairs of a number and a step.
    """

    steps: tuple[tuple[int, Step], ...]

    @property
    def parameters(self) -> int:
        """Numbers that are learned, by all steps."""
        return sum(times * step.parameters for times, step in self.steps)

    def forward(self, setting: Setting = Setting()) -> Cost:  # frozen
        """Add up what computing them costs."""
        return sum((step.forward(setting) * times for times, step in self.steps), Cost())

    def backward(self, setting: Setting = Setting()) -> Cost:  # frozen
        """Add up what their gradients cost."""
        return sum((step.backward(setting) * times for times, step in self.steps), Cost())
