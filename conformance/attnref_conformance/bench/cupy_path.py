"""CuPy's calls among torch's: in the stream that is timed and captured, in the memory that is counted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cupy
import torch

from attnref.arrays import numpy_dtype
from attnref_conformance.bench.contenders import Passes


def take(x: torch.Tensor) -> Any:
    """Return a tensor as CuPy's array, without a copy."""
    if x.dtype is torch.bfloat16:  # whose bits pass whatever DLPack's two sides know of it
        return cupy.from_dlpack(x.view(torch.int16)).view(numpy_dtype("bfloat16"))
    return cupy.from_dlpack(x)


def among_torch(passes: Passes) -> Passes:
    """Return the same passes, queued where torch queues and allocating where torch does.

    A graph then captures them, and memory that they take inside it is the graph's for as
    long as it lives.
    """
    forward, record, backward = map(_there, (passes.forward, passes.record, passes.backward))
    return passes._replace(forward=forward, record=record, backward=backward)


def _there(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def there(x: Any) -> Any:
        with _torch():
            return run(x)

    return there


@contextmanager
def _torch() -> Iterator[None]:
    stream = cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream)
    with stream, cupy.cuda.using_allocator(_allocator().malloc):
        yield


def _allocator() -> Any:
    return cupy.cuda.PythonFunctionAllocator(_malloc, _free)


def _malloc(size: int, device: int) -> int:
    stream = torch.cuda.current_stream(device).cuda_stream
    return torch.cuda.caching_allocator_alloc(size, device, stream)


def _free(at: int, device: int) -> None:  # noqa: ARG001  # CuPy names it
    torch.cuda.caching_allocator_delete(at)
