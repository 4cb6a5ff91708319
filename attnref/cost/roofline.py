"""How fast something can be: the roofline of S. Williams et al., 2009.

"Roofline: An insightful visual performance model for multicore architectures",
Communications of the ACM 52(4). A machine makes so many operations and moves so many
bytes in a second, and whichever takes longer is the bound.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from attnref.cost.counts import Work
from attnref.errors import InvalidProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """The ceilings of a machine, measured or promised.

    Args:
        operations: In a second, two for each multiply-add.
        bytes: In a second, read and written.
        exponentials: In a second; `None` is no ceiling.

    Raises:
        InvalidProblem: A ceiling is not a positive number.

    Example:
        >>> machine = Roofline(operations=1e15, bytes=2e12)
        >>> machine.ridge
        500.0
        >>> work = Work(multiply_adds=10**12, bytes=10**9)
        >>> machine.bound(work), machine.seconds(work)
        ('operations', 0.002)
        >>> machine.attainable(100.0)
        200000000000000.0
    """

    operations: float
    bytes: float
    exponentials: float | None = None

    def __post_init__(self) -> None:
        named = {"operations": self.operations, "bytes": self.bytes}
        if self.exponentials is not None:
            named["exponentials"] = self.exponentials
        for name, rate in named.items():
            if not (isfinite(rate) and rate > 0):
                raise InvalidProblem(
                    f"{name} is {rate} in a second; a ceiling must be a finite positive number."
                )

    @property
    def ridge(self) -> float:
        """The intensity, in operations per byte, from which on operations are the bound."""
        return self.operations / self.bytes

    def attainable(self, intensity: float) -> float:
        """Return the operations in a second that an intensity allows.

        Args:
            intensity: Operations per byte moved.
        """
        return min(self.operations, self.bytes * intensity)

    def bound(self, work: Work) -> Literal["operations", "bytes", "exponentials"]:
        """Return what takes longest."""
        times = self._times(work)
        return max(times, key=lambda name: times[name])

    def seconds(self, work: Work) -> float:
        """Return the time below which the work cannot be done."""
        return max(self._times(work).values())

    def _times(self, work: Work) -> dict[Literal["operations", "bytes", "exponentials"], float]:
        times: dict[Literal["operations", "bytes", "exponentials"], float] = {
            "operations": work.operations / self.operations,
            "bytes": work.bytes / self.bytes,
        }
        if self.exponentials is not None:
            times["exponentials"] = work.exponentials / self.exponentials
        return times
