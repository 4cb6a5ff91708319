"""One kernel, ready to go."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import triton


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel with everything it is given.

    Attributes:
        kernel: Of Triton.
        grid: Programs along each axis.
        arguments: By name.
        warps: Warps in a program.
        stages: Tiles in flight.
        roles: Which tensor of the call an argument is, where that is not its name.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int = 4
    stages: int = 1
    roles: Mapping[str, str] = field(default_factory=dict)

    def run(self) -> Any:
        """Queue the kernel on the current stream, and return what it was compiled to.

        Raises:
            RuntimeError: It could not be compiled or launched; the message names it.
        """
        if 0 in self.grid:
            return None
        try:
            return self.kernel[self.grid](
                **self.arguments, num_warps=self.warps, num_stages=self.stages
            )
        except Exception as error:
            raise RuntimeError(f"{self} could not be launched: {error}") from error

    def __str__(self) -> str:
        """Name the kernel and its configuration."""
        sizes = {n: x for n, x in self.arguments.items() if n.isupper()}
        said = ", ".join(f"{n}={x}" for n, x in sizes.items())
        return f"{self.kernel.__name__}({said}) with {self.warps} warps, {self.stages} stages"


def over_rows(
    kernel: Any, x: torch.Tensor, arrays: Mapping[str, torch.Tensor | None], elements: int
) -> Launch:
    """Cut contiguous rows, as many as `x` has, into tiles of so many elements."""
    rows, columns = x.shape
    width = min(max(triton.next_power_of_2(columns), 1), elements)
    lines = elements // width
    sizes = {"rows": rows, "columns": columns, "LINES": lines, "BLOCK": width}
    return Launch(kernel, (triton.cdiv(rows, lines),), {**arrays, **sizes})
