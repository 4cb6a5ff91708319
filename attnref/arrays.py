"""What the core knows of array libraries.

A call arrives with arrays of one library on one device. The core asks them five things
(library, dtype, device, strides, values) and, where a named backend computes with
another library, lets them cross to it: by DLPack, as views, on the same device. Nothing
here imports a library before one of its arrays, or a backend that needs it, turned up.
"""

import sys
from collections.abc import Callable, Hashable
from importlib import import_module
from itertools import pairwise
from operator import attrgetter
from typing import Any

import numpy as np

Array = Any
"""An array of any library."""

_DEVICES = {
    1: "cpu",
    2: "cuda",
    3: "cpu",
    4: "opencl",
    7: "vulkan",
    8: "metal",
    10: "rocm",
    11: "cpu",
    13: "cuda",
    14: "oneapi",
}


class _Library:
    """A library that speaks DLPack, of which nothing else is known."""

    def device(self, x: Array) -> str:
        kind, number = x.__dlpack_device__()
        name = _DEVICES.get(int(kind), f"dlpack:{int(kind)}")
        return "cpu" if name == "cpu" else f"{name}:{number}"

    def strides(self, x: Array) -> tuple[int, ...] | None:  # noqa: ARG002
        return None

    def needs_gradient(self, x: Array) -> bool:  # noqa: ARG002
        return False

    def forms(self, kind: type) -> Callable[[Array], Hashable]:  # noqa: ARG002
        return _unread

    def not_dense(self, x: Array) -> str | None:  # noqa: ARG002
        return None

    def to_numpy(self, x: Array) -> np.ndarray:
        return np.asarray(np.from_dlpack(x))

    def from_numpy(self, x: np.ndarray, device: str, namespace: Any) -> Array:  # noqa: ARG002
        return namespace.asarray(x)


class _Numpy(_Library):
    def device(self, x: Array) -> str:  # noqa: ARG002
        return "cpu"

    def strides(self, x: Array) -> tuple[int, ...]:
        return tuple(int(s) for s in x.strides)

    def forms(self, kind: type) -> Callable[[Array], Hashable]:
        return attrgetter("dtype", "shape", "strides") if kind is np.ndarray else _unread

    def not_dense(self, x: Array) -> str | None:
        return "a masked array" if isinstance(x, np.ma.MaskedArray) else None

    def to_numpy(self, x: Array) -> np.ndarray:
        return np.asarray(x)

    def from_numpy(self, x: np.ndarray, device: str, namespace: Any) -> Array:  # noqa: ARG002
        return x


class _Torch(_Library):
    def device(self, x: Array) -> str:
        return str(x.device)

    def strides(self, x: Array) -> tuple[int, ...]:
        return tuple(x.stride())

    def needs_gradient(self, x: Array) -> bool:
        return bool(x.requires_grad) and import_module("torch").is_grad_enabled()

    def forms(self, kind: type) -> Callable[[Array], Hashable]:
        torch = import_module("torch")
        if kind is not torch.Tensor and kind is not torch.nn.Parameter:
            return _unread
        strided, enabled = torch.strided, torch.is_grad_enabled

        def form(x: Array) -> Hashable:
            if x.layout is not strided or x.is_nested:
                return None
            wanted = x.requires_grad and enabled()
            return kind, x.dtype, x.shape, x.stride(), x.device, wanted

        return form

    def not_dense(self, x: Array) -> str | None:
        if x.is_nested:
            return "a nested tensor"
        return None if x.layout is import_module("torch").strided else "a sparse tensor"

    def to_numpy(self, x: Array) -> np.ndarray:
        torch = import_module("torch")
        x = x.detach().resolve_conj().resolve_neg().cpu()
        if x.dtype is torch.bfloat16:
            return np.asarray(x.view(torch.int16).numpy()).view(numpy_dtype("bfloat16"))
        return np.asarray(x.numpy())

    def from_numpy(self, x: np.ndarray, device: str, namespace: Any) -> Array:  # noqa: ARG002
        torch = import_module("torch")
        if min(x.strides, default=0) < 0 or not x.flags.writeable:
            x = x.copy()
        if x.dtype.name == "bfloat16":
            return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16).to(device)
        return torch.from_numpy(x).to(device)


class _Cupy(_Library):
    def device(self, x: Array) -> str:
        return f"cuda:{x.device.id}"

    def strides(self, x: Array) -> tuple[int, ...]:
        return tuple(int(s) for s in x.strides)

    def forms(self, kind: type) -> Callable[[Array], Hashable]:  # noqa: ARG002
        return self._form

    def _form(self, x: Array) -> Hashable:
        cupy = sys.modules.get("cupy")
        if cupy is None or type(x) is not cupy.ndarray:
            return None
        number = x.data.device_id
        if number != cupy.cuda.runtime.getDevice():  # CuPy's kernels run on the current device
            return None
        return type(x), x.dtype, x.shape, x.strides, number

    def to_numpy(self, x: Array) -> np.ndarray:
        return np.asarray(x.get())

    def from_numpy(self, x: np.ndarray, device: str, namespace: Any) -> Array:  # noqa: ARG002
        cupy = import_module("cupy")
        with cupy.cuda.Device(int(device.rpartition(":")[2])):
            return cupy.asarray(x)


class _Jax(_Library):
    def not_dense(self, x: Array) -> str | None:
        traced = not hasattr(x, "__dlpack_device__")
        return "an array traced by jax.jit, jax.grad or jax.vmap" if traced else None

    def to_numpy(self, x: Array) -> np.ndarray:
        return np.asarray(x)

    def from_numpy(self, x: np.ndarray, device: str, namespace: Any) -> Array:  # noqa: ARG002
        jax = import_module("jax")
        platform, _, number = device.partition(":")
        with jax.enable_x64(True):  # else 64-bit values would be cut to 32 bits, silently
            return jax.device_put(x, jax.devices(platform)[int(number or 0)])


_LIBRARIES: dict[str, _Library] = {
    "numpy": _Numpy(),
    "torch": _Torch(),
    "cupy": _Cupy(),
    "jax": _Jax(),
}
_UNKNOWN = _Library()
_ROOTS: dict[type, str | None] = {}


def library(x: object) -> str | None:
    """Name the library that `x` is an array of; `None` if `x` is no array."""
    kind = type(x)
    if kind not in _ROOTS:
        roots = [c.__module__.partition(".")[0] for c in kind.__mro__]
        roots = ["jax" if root == "jaxlib" else root for root in roots]
        known = [root for root in roots if root in _LIBRARIES]
        array = hasattr(x, "__dlpack__") and hasattr(x, "shape")
        _ROOTS[kind] = (known or roots)[0] if array else None
    return _ROOTS[kind]


def _of(x: Array) -> _Library:
    return _LIBRARIES.get(library(x) or "", _UNKNOWN)


def dtype_name(x: Array) -> str:
    """Return the dtype's plain name, e.g. `"bfloat16"`, whatever the library."""
    return str(x.dtype).rpartition(".")[2]


def device(x: Array) -> str:
    """Return the device, e.g. `"cpu"` or `"cuda:0"`."""
    return _of(x).device(x)


def needs_gradient(x: Array) -> bool:
    """Tell whether the array's library wants to differentiate through it."""
    return _of(x).needs_gradient(x)


def form(x: Array) -> Hashable:
    """Return what checks and choices read of an array, `None` where that is more than its form.

    It is for arrays of NumPy, torch and CuPy: library, dtype, shape, strides, device, and whether
    gradients are wanted.
    """
    return reader(x)(x)


def reader(x: Array) -> Callable[[Array], Hashable]:
    """Return what reads the form of all arrays of this one's type."""
    return _of(x).forms(type(x))


def _unread(x: Array) -> Hashable:  # noqa: ARG001
    return None


def read_by_value(x: object) -> bool:
    """Tell whether checks look into an array, and not at its form alone: integers on the host."""
    if library(x) is None:
        return False
    return "int" in dtype_name(x) and device(x) == "cpu"


def not_dense(x: Array) -> str | None:
    """Say what the array is if not every one of its elements is a number in memory."""
    return _of(x).not_dense(x)


def memory_order(x: Array) -> tuple[int, ...]:
    """Return the axes from the outermost to the innermost in memory.

    Args:
        x: An array of any shape.

    Returns:
        The permutation that makes `x` C-contiguous if `x` is a permutation of a dense
        array; `(0, 1, ...)` otherwise, and where the library has no strides.

    Example:
        >>> import numpy as np
        >>> memory_order(np.zeros((2, 3, 4)).transpose(2, 0, 1))
        (1, 2, 0)
    """
    plain = tuple(range(x.ndim))
    strides = _of(x).strides(x)
    if strides is None or 0 in x.shape:
        return plain
    order = tuple(sorted(plain, key=lambda a: (-strides[a], a)))
    long = [a for a in order if x.shape[a] > 1]
    for outer, inner in pairwise(long):
        if strides[outer] != strides[inner] * x.shape[inner]:
            return plain
    if long and strides[long[-1]] != _unit(x):
        return plain
    # An axis of length one may carry any stride: keep it where it stands.
    rest = iter(long)
    return tuple(next(rest) if x.shape[a] > 1 else a for a in plain)


def _unit(x: Array) -> int:
    """Return the stride of neighbours: bytes in NumPy and CuPy, elements in torch."""
    return 1 if library(x) == "torch" else int(x.dtype.itemsize)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return NumPy's dtype of a plain name; `bfloat16` is that of ml_dtypes.

    Raises:
        ImportError: `bfloat16` was asked for and ml_dtypes is not installed.
    """
    if name == "bfloat16":
        return np.dtype(import_module("ml_dtypes").bfloat16)
    return np.dtype(name)


def to_numpy(x: Array) -> np.ndarray:
    """Return the values as a NumPy array, from whatever device they are on."""
    return _of(x).to_numpy(x)


def host_values(x: Array) -> np.ndarray | None:
    """Return the values if the host holds them, else `None`; never waits (A7)."""
    return to_numpy(x) if device(x) == "cpu" else None


def from_numpy(x: np.ndarray, like: Array) -> Array:
    """Return `x` as an array of `like`'s library, on `like`'s device."""
    space = getattr(like, "__array_namespace__", lambda: None)()
    return _of(like).from_numpy(x, device(like), space)


def crosses(source: str, target: str, on: str) -> bool:
    """Tell whether arrays can pass from one library to another without moving."""
    homes = {"numpy": ("cpu",), "cupy": ("cuda",), "torch": ("cpu", "cuda"), "jax": ("cpu", "cuda")}
    place = on.partition(":")[0]
    return source == target or place in homes.get(target, ())


def cross_like(x: Array, like: Array) -> Array:
    """Return `x` as an array of `like`'s library, whichever it is, on the same device.

    It is the caller's to write to, also where `x` is of a library that writes to nothing.
    """
    target = library(like) or ""
    if library(x) == target or device(x) != "cpu":
        return cross(x, target)
    values = to_numpy(x)
    return from_numpy(values if values.flags.writeable else values.copy(), like)


def cross(x: Array, target: str) -> Array:
    """Return `x` as an array of the library called `target`, on the same device.

    The result is a view where both libraries can share the memory. Values that cannot
    be shared as they are (read-only or reversed ones, bfloat16) are copied in place.
    """
    if library(x) == target:
        return x
    if device(x) == "cpu":
        values = to_numpy(x)
        return _LIBRARIES[target].from_numpy(values, "cpu", sys.modules.get(target))
    shared = x.detach() if library(x) == "torch" else x
    return import_module({"jax": "jax.dlpack"}.get(target, target)).from_dlpack(shared)
