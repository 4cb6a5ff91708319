"""As much of CuPy as `attnref_cupy` uses, on NumPy's arrays: a device that is none."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
from numpy.lib.stride_tricks import as_strided

sys.path.insert(0, str(Path(__file__).parents[2]))

dtype = np.dtype
float32, float64, int64, int32, uint8 = np.float32, np.float64, np.int64, np.int32, np.uint8


class Pointer:
    """A place in an array's memory."""

    device_id = 0

    def __init__(self, held: "ndarray", at: int = 0) -> None:
        self.held, self.at = held, at

    @property
    def ptr(self) -> int:
        return self.held.ctypes.data + self.at

    def __add__(self, n: int) -> "Pointer":
        return Pointer(self.held, self.at + n)

    def __sub__(self, n: int) -> "Pointer":
        return Pointer(self.held, self.at - n)


class ndarray(np.ndarray):
    """An array that says to be on a device."""

    _of_device = True

    def __new__(
        cls, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None
    ) -> Any:
        if memptr is None:
            return empty(shape, dtype)
        lone = memptr.held.view(np.ndarray)[memptr.at :][: np.dtype(dtype).itemsize].view(dtype)
        return as_strided(lone, shape, strides).view(cls)

    @property
    def data(self) -> Any:  # type: ignore[override]
        return Pointer(self)

    @property
    def device(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(id=0)

    def get(self) -> np.ndarray:
        return np.array(self, subok=False, order="K")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


ndarray.__module__ = "cupy"


def _poisoned(x: np.ndarray) -> ndarray:
    """Fill memory that nobody has written with what would be noticed."""
    x.view(np.ndarray)[...] = np.nan if x.dtype.kind not in "biu" else 1
    return x.view(ndarray)


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _poisoned(np.empty(shape, dtype, order))


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    return np.zeros(shape, dtype).view(ndarray)


def empty_like(x: Any, dtype: Any = None) -> ndarray:
    return empty(x.shape, x.dtype if dtype is None else dtype)


def asarray(x: Any, dtype: Any = None) -> ndarray:
    if isinstance(x, ndarray) and (dtype is None or x.dtype == dtype):
        return x
    return np.array(x, dtype, order="K").view(ndarray)


def full(shape: Any, value: Any, dtype: Any = float) -> ndarray:
    return np.full(shape, value, dtype).view(ndarray)


def ones(shape: Any, dtype: Any = float) -> ndarray:
    return np.ones(shape, dtype).view(ndarray)


def arange(*bounds: int, dtype: Any = None) -> ndarray:
    return np.arange(*bounds, dtype=dtype).view(ndarray)


def where(condition: Any, x: Any, y: Any) -> ndarray:
    return np.where(condition, x, y).view(ndarray)


exp, log, matmul, isfinite, clip = np.exp, np.log, np.matmul, np.isfinite, np.clip
zeros_like, full_like, ones_like = np.zeros_like, np.full_like, np.ones_like


def ascontiguousarray(x: Any) -> ndarray:
    return np.ascontiguousarray(x).view(ndarray)


def moveaxis(x: Any, source: int, to: int) -> ndarray:
    return np.moveaxis(x, source, to)  # type: ignore[return-value]


class RawModule:
    """Compiles nothing: see `emulation`."""

    def __init__(self, code: str, options: Any, name_expressions: Any) -> None:
        self.code = code

    def get_function(self, expression: str) -> Any:
        from attnref_cupy import compiling
        from emulation import Function

        (file,) = [n for n, s in compiling.sources().items() if s == self.code]
        return Function(compiling.Kernel(file, expression))


class _Device:
    def __init__(self, number: int = 0) -> None:
        self.id = number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def _properties(device: int) -> dict[str, Any]:
    return {"major": 9, "minor": 0, "multiProcessorCount": 4, "sharedMemPerBlockOptin": 232448}


runtime = SimpleNamespace(
    getDeviceCount=lambda: 1, getDevice=lambda: 0, getDeviceProperties=_properties
)
nvrtc = SimpleNamespace(getVersion=lambda: (13, 0))
cublas = SimpleNamespace(CUBLAS_OP_N=0)
cuda = SimpleNamespace(
    runtime=runtime, nvrtc=nvrtc, cublas=cublas, Device=_Device, is_available=lambda: False
)
sys.modules["cupy.cuda"] = cuda  # type: ignore[assignment]
