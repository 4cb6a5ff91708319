"""What a run was measured on: which BLAS with how many threads, which versions, how much memory."""

import ctypes
import os
import platform
import tracemalloc
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from attnref.backend import Backend
from attnref_conformance.report import evidence

PINS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_CBWR", "MKL_DEBUG_CPU_TYPE", "BLIS_ARCH_TYPE")
"""Variables that choose a kernel of BLAS in place of the processor's own."""

LIBRARIES = (
    "numpy",
    "torch",
    "triton",
    "jax",
    "jaxlib",
    "cupy",
    "cupy-cuda13x",
    "flash-attn-4",
    "timm",
)

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def pinned(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the pins of BLAS that are set."""
    return {name: environ[name] for name in PINS if environ.get(name)}


def unpinned(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment without them, for a fresh process."""
    return {name: value for name, value in environ.items() if name not in PINS}


def blas() -> str:
    """Say which kernel of which BLAS NumPy uses, and how many threads it may start."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown: pip install threadpoolctl"
    np.ones((2, 2)) @ np.ones((2, 2))  # loads it
    found = [
        f"{x['internal_api']} {x.get('version') or ''} {x.get('architecture') or ''}".strip()
        + f", {x['num_threads']} thread{'s' * (x['num_threads'] != 1)}"
        for x in threadpool_info()
        if x["user_api"] == "blas"
    ]
    return "; ".join(dict.fromkeys(found)) or "unknown: none of those that threadpoolctl knows"


def busy(run: Callable[[], object]) -> float:
    """Return how many threads were at work on average while something ran.

    What a library may start and what the machine lets run at once are two things.
    """
    wall, cpu = perf_counter(), process_time()
    run()
    return (process_time() - cpu) / max(perf_counter() - wall, 1e-9)


def facts(backend: Backend) -> dict[str, str]:
    """Describe the machine, the libraries and the backend."""
    told = {str(k): str(v) for k, v in evidence.machine().items()}
    told["processor"] = _processor() or told.get("processor", "unknown")
    told["cores"] = str(_cores())
    told["python"] = platform.python_version()
    for name in LIBRARIES:
        try:
            told[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    told["blas"] = blas()
    told["pinned"] = ", ".join(f"{k}={v}" for k, v in pinned().items()) or "nothing"
    told["package_hash"] = evidence.package_hash(backend)
    return told


def _processor(told: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model, where the system says."""
    lines = told.read_text("utf-8").splitlines() if told.exists() else []
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory(told: Path = Path("/proc/meminfo")) -> int | None:
    """Return the bytes that are free; `None` if nobody says."""
    if not told.exists():
        return None
    lines = dict(line.split(":") for line in told.read_text("utf-8").splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])


def peak(run: Callable[[], Any]) -> int | None:
    """Return the bytes that a call takes at most, beyond what was held before.

    NumPy tells `tracemalloc` what it allocates; what others allocate shows in the resident
    memory, unless an allocator had kept it. The larger of both is a floor. A call before it
    loads what is loaded once.
    """
    run()
    resident = _reset()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        run()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    traced, high = most - before, _status("VmHWM")
    if resident is None or high is None:
        return traced
    return max(traced, high - resident)


def _reset() -> int | None:
    """Make the high-water mark of resident memory begin here, and return where that is."""
    with suppress(AttributeError, OSError):  # glibc alone gives freed pages back when told to
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> int | None:
    if not _STATUS.exists():
        return None
    for line in _STATUS.read_text("utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return None
