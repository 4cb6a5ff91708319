"""One kernel, ready to go."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
        registers: For each thread, where the compiler is not to choose.
        kept: Tensors that are not the call's, and the same for all calls of its shape.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int = 4
    stages: int = 1
    roles: Mapping[str, str] = field(default_factory=dict)
    registers: int | None = None
    kept: frozenset[str] = frozenset()

    @property
    def options(self) -> dict[str, int]:
        """What the compiler is told."""
        told = {"num_warps": self.warps, "num_stages": self.stages}
        return told if self.registers is None else {**told, "maxnreg": self.registers}

    def run(self) -> Any:
        """Queue the kernel on the current stream, and return what it was compiled to.

        Raises:
            RuntimeError: It could not be compiled or launched; the message names it.
        """
        if 0 in self.grid:
            return None
        try:
            return self.kernel[self.grid](**self.arguments, **self.options)
        except Exception as error:
            raise RuntimeError(f"{self} could not be launched: {error}") from error

    def __str__(self) -> str:
        """Name the kernel and its configuration."""
        sizes = {n: x for n, x in self.arguments.items() if n.isupper()}
        said = ", ".join(f"{n}={x}" for n, x in sizes.items())
        return f"{self.kernel.__name__}({said}) with {self.warps} warps, {self.stages} stages"


class Described(NamedTuple):
    """What of a tensor descriptor the launch of a compiled kernel reads."""

    base: torch.Tensor
    shape: list[int]
    strides: list[int]
    padding: str


_thread = threading.local()


def enter(device: torch.device) -> None:
    """Make CUDA's context that of this thread, which making a tensor descriptor asks for.

    Launches and copies do so on their own, but a thread's first call may find all memory it
    needs in torch's cache, and then its descriptors come before anything else. A thread that
    captures a graph has a context.
    """
    if getattr(_thread, "entered", False) or device.type != "cuda":
        return
    if not torch.cuda.is_current_stream_capturing():
        torch.cuda.mem_get_info(device)
    _thread.entered = True


def over_rows(
    kernel: Any, x: torch.Tensor, arrays: Mapping[str, torch.Tensor | None], elements: int
) -> Launch:
    """Cut contiguous rows, as many as `x` has, into tiles of so many elements."""
    rows, columns = x.shape
    width = min(max(triton.next_power_of_2(columns), 1), elements)
    lines = elements // width
    sizes = {"rows": rows, "columns": columns, "LINES": lines, "BLOCK": width}
    return Launch(kernel, (triton.cdiv(rows, lines),), {**arrays, **sizes})
