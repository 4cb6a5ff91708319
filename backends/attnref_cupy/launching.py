"""One kernel, ready to go.

It is queued on CuPy's current stream, and nothing waits for it. What it reads and writes
comes from CuPy's pool, which hands memory out in the order of streams.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from attnref_cupy import compiling
from attnref_cupy.compiling import Kernel

STATIC = 48 * 1024
"""Bytes of shared memory that every kernel may have without asking for more."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel with everything it is given.

    Attributes:
        kernel: Which instance.
        grid: Blocks, on one axis.
        threads: Of a block.
        arguments: Arrays, NumPy numbers of the parameter's type, and structures: NumPy
            arrays without axes, of the parameter's layout.
        shared: Bytes of shared memory.
    """

    kernel: Kernel
    grid: int
    threads: int
    arguments: tuple[Any, ...]
    shared: int = 0

    def run(self) -> None:
        """Queue the kernel.

        Raises:
            RuntimeError: It could not be compiled or launched; the message names it.
        """
        if self.grid == 0:
            return
        try:
            self.function()((self.grid,), (self.threads,), self.arguments, shared_mem=self.shared)
        except Exception as error:
            raise RuntimeError(f"{self} could not be launched: {error}") from error

    def function(self) -> Any:
        """Return the kernel, compiled for the current device."""
        return _ready(self.kernel, self.shared, _device())

    def __str__(self) -> str:
        """Name the kernel and how it is cut."""
        return f"{self.kernel} on {self.grid} x {self.threads} threads"


@cache
def _ready(kernel: Kernel, shared: int, device: int) -> Any:  # noqa: ARG001  # one per device
    """Find a kernel and, once per device, ask for the shared memory that it needs."""
    function = compiling.function(kernel)
    if shared > STATIC:
        function.max_dynamic_shared_size_bytes = shared
    return function


def _device() -> int:
    from cupy.cuda import runtime

    return int(runtime.getDevice())
