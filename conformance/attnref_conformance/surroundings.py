"""What a backend promises about the machine that it runs on.

Several threads call it; the caller has a stream of its own, or a second device; arrays
reach further than a 32-bit integer counts. What a machine does not have is not judged on
it: `NotHere` says what is missing, and the outcome is NOT RUN.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import attnref
from attnref import arrays
from attnref.arrays import Array
from attnref_conformance.caller import Caller, overwritten, same
from attnref_conformance.case import cast
from attnref_conformance.trial import Finding, watched

THREADS = 4
FAR = 2**31
"""One more than the largest offset that a 32-bit integer holds."""


class NotHere(Exception):  # noqa: N818  # not an error
    """This machine, or this array library, lacks what a promise is about."""


def several_threads(caller: Caller) -> None:
    """Call from several threads at once: each has the answer to its own call."""
    given = [caller.qkv(S, seed=n) for n, S in enumerate((9, 9, 9, 9, 33, 33, 70, 70))]
    wanted = [caller.attend(*x) for x in given]

    def attend(n: int) -> Array:
        return attnref.attention(*given[n], backend=caller.backend)

    turns = [*range(len(given))] * 3
    with _impatient(), watched(), ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(attend, turns))
    for n, answer in zip(turns, answers, strict=True):
        same(wanted[n], caller.values(answer), "when several threads called at once")


@contextmanager
def _impatient() -> Iterator[None]:
    """Let threads interrupt each other often; small calls would end before their turn did."""
    patience = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(patience)


def side_stream(caller: Caller) -> None:
    """Call on a stream that is still busy writing the inputs: the call waits its turn there."""
    real = caller.qkv(65)
    library = _on_cuda(real[0])
    wanted = caller.attend(*real)
    nan = cast(np.full(real[0].shape, np.nan), caller.dtype)
    late = [caller.backend.from_numpy(nan.copy()) for _ in real]
    work = caller.backend.from_numpy(np.zeros((4096, 4096), np.float32))
    _ = work @ work  # what a library loads for its first product does not belong in a stream
    _wait(library)
    with _stream(library):
        for _ in range(20):
            _ = work @ work
        for x, y in zip(late, real, strict=True):
            overwritten(x, y)
        answer = caller.attend(*late)
    same(wanted, answer, "on a stream of the caller: it did not wait for what came before")


def second_device(caller: Caller) -> None:
    """Call with arrays on a device that is not the current one: the answer is there, too."""
    first = caller.qkv(65)
    library = _on_cuda(first[0])
    n = _devices(library)
    if n < 2:
        raise NotHere(f"this machine has {n} device")
    second = [_moved(library, x) for x in first]
    wanted, answer = caller.attend(*first), caller.call("attention", *second)
    if arrays.device(answer) != arrays.device(second[0]):
        raise Finding(f"answered on {arrays.device(answer)} to {arrays.device(second[0])}")
    same(wanted, caller.values(answer), "on a second device")


def far_apart(caller: Caller) -> None:
    """Call with heads that lie further apart than a 32-bit offset reaches."""
    given = caller.qkv(17, H=3)
    _, H, S, D = given[0].shape
    apart = FAR // (H - 1) + D
    _needs(caller, given[0], H * apart)
    rows = caller.backend.from_numpy(_nothing(caller, H * apart)).reshape(H, apart)
    parts = (rows[:, n * S * D : (n + 1) * S * D].reshape(1, H, S, D) for n in range(3))
    views = [*parts]
    if not all(overwritten(x, y) for x, y in zip(views, given, strict=True)):
        raise NotHere(f"{arrays.library(given[0])} has no arrays that can be overwritten")
    same(caller.attend(*given), caller.attend(*views), "when heads lie 2^31 elements apart")


def many_elements(caller: Caller) -> None:
    """Call with more elements than a 32-bit integer counts: the last rows are right, too."""
    few, k, v = caller.qkv(17, H=1)
    _on_cuda(few)  # a CPU would take minutes
    D = few.shape[-1]
    n = FAR // D + few.shape[2]
    _needs(caller, few, 4 * n * D)
    q = caller.backend.from_numpy(_nothing(caller, 1, 1, n, D))
    overwritten(q[:, :, -few.shape[2] :], few)
    out = caller.call("attention", q, k, v)
    last = caller.values(out[:, :, -few.shape[2] :])
    same(caller.attend(few, k, v), last, "in the last of 2^31 elements")
    first = caller.attend(
        caller.backend.from_numpy(cast(np.zeros((1, 1, 2, D)), caller.dtype)), k, v
    )
    same(first, caller.values(out[:, :, :2]), "in the first of 2^31 elements")


# ---- what differs between libraries ------------------------------------------------


def _on_cuda(x: Array) -> Any:
    """Return the module of a CUDA array's library."""
    name, device = arrays.library(x), arrays.device(x)
    if not device.startswith("cuda"):
        raise NotHere(f"the backend's arrays are on {device}, not on a GPU")
    if name not in ("torch", "cupy"):
        raise NotHere(f"nothing is known of the streams and devices of {name}")
    return sys.modules[name]


@contextmanager
def _stream(library: Any) -> Iterator[None]:
    """Make a new stream the current one."""
    if library.__name__ == "torch":
        with library.cuda.stream(library.cuda.Stream()):
            yield
    else:
        with library.cuda.Stream(non_blocking=True):
            yield


def _wait(library: Any) -> None:
    if library.__name__ == "torch":
        library.cuda.synchronize()
    else:
        library.cuda.Device().synchronize()


def _devices(library: Any) -> int:
    if library.__name__ == "torch":
        return int(library.cuda.device_count())
    return int(library.cuda.runtime.getDeviceCount())


def _moved(library: Any, x: Array) -> Array:
    """Copy an array to the second device."""
    if library.__name__ == "torch":
        return x.to("cuda:1")
    with library.cuda.Device(1):
        return library.asarray(x)


def _nothing(caller: Caller, *shape: int) -> np.ndarray:
    """Make zeros, which most systems give no memory until they are written."""
    return np.zeros(shape, arrays.numpy_dtype(caller.dtype))


def _needs(caller: Caller, x: Array, elements: int) -> None:
    """Look whether there is room for so many elements."""
    if not hasattr(x, "strides") and not hasattr(x, "stride"):
        raise NotHere(f"{arrays.library(x)} has no views")
    needed = elements * cast(np.zeros(1), caller.dtype).itemsize
    free = _free(x)
    if free < 1.2 * needed:
        raise NotHere(f"{needed / 2**30:.0f} GiB of memory are needed, and {free / 2**30:.0f} free")


def _free(x: Array, told: Path = Path("/proc/meminfo")) -> int:
    """Return how many bytes are free where an array lies; 0 if nobody says."""
    if arrays.device(x).startswith("cuda"):
        library = _on_cuda(x)
        if library.__name__ == "torch":
            return int(library.cuda.mem_get_info()[0])
        return int(library.cuda.runtime.memGetInfo()[0])
    if not told.exists():
        return 0
    lines = dict(line.split(":") for line in told.read_text("utf-8").splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])
