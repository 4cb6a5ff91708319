"""What the core knows of array libraries: devices, strides, crossing (A1, H3)."""

import sys
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
import torch

from attnref import arrays

STRICT = array_api_strict.asarray(np.arange(6.0).reshape(2, 3))


def fake(library: str, **members: Any) -> Any:
    """Make an array of a library that is not installed."""
    shared = {
        "__module__": f"{library}.core",
        "__dlpack__": None,
        "shape": (2,),
        "ndim": 1,
    }
    return type("Fake", (), shared | members)()


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (np.zeros(2), "numpy"),
        (np.ma.zeros(2), "numpy"),
        (torch.zeros(2), "torch"),
        (torch.nn.Parameter(torch.zeros(2)), "torch"),
        (STRICT, "array_api_strict"),
        (fake("jaxlib"), "jax"),
        (fake("cupy"), "cupy"),
        ([1.0], None),
        (1.0, None),
        (np.float64(1.0), None),
        (None, None),
        ("q", None),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_an_array_names_its_library(x: object, expected: str | None) -> None:
    """What speaks DLPack and has a shape is an array; nothing else is (H3)."""
    assert expected == arrays.library(x)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64", "int32", "bool"])
def test_a_dtype_has_one_name_in_every_library(name: str) -> None:
    """NumPy, torch and strict arrays agree on what a dtype is called (A3)."""
    assert name == arrays.dtype_name(np.zeros(1, arrays.numpy_dtype(name)))
    assert name == arrays.dtype_name(torch.zeros(1, dtype=getattr(torch, name)))
    if hasattr(array_api_strict, name):
        kind = getattr(array_api_strict, name)
        assert name == arrays.dtype_name(array_api_strict.zeros(1, dtype=kind))


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (np.zeros(1), "cpu"),
        (torch.zeros(1), "cpu"),
        (torch.zeros(1, device="meta"), "meta"),
        (STRICT, "cpu"),
        (fake("cupy", device=SimpleNamespace(id=3)), "cuda:3"),
        (fake("jaxlib", __dlpack_device__=lambda _: (1, 0)), "cpu"),
        (fake("other", __dlpack_device__=lambda _: (2, 1)), "cuda:1"),
        (fake("other", __dlpack_device__=lambda _: (3, 0)), "cpu"),
        (fake("other", __dlpack_device__=lambda _: (99, 4)), "dlpack:99:4"),
    ],
    ids=[
        "numpy",
        "torch",
        "meta",
        "strict",
        "cupy",
        "jax",
        "gpu",
        "pinned",
        "unknown kind",
    ],
)
def test_an_array_names_its_device(x: Any, expected: str) -> None:
    """Devices have one spelling, the library's number included (H3)."""
    assert expected == arrays.device(x)


def test_a_form_of_cupy_s_is_read_without_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its own arrays on the current device, and of no subclass that may mean something else."""
    x = fake("cupy", dtype=np.dtype("f2"), strides=(2,), data=SimpleNamespace(device_id=1))
    current = [1]
    runtime = SimpleNamespace(getDevice=lambda: current[0])
    cupy = SimpleNamespace(ndarray=type(x), cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert (type(x), np.dtype("f2"), (2,), (2,), 1) == arrays.form(x)
    current[0] = 0
    assert arrays.form(x) is None
    current[0] = 1
    assert arrays.form(type("Special", (type(x),), {})()) is None
    monkeypatch.delitem(sys.modules, "cupy")
    assert arrays.form(x) is None


def test_tensors_that_may_mean_something_else_have_no_form() -> None:
    """Of torch's own strided tensors and parameters a form tells all, of nothing else."""
    x = torch.zeros(2, 3, requires_grad=True)
    assert arrays.form(x) == arrays.form(torch.zeros(2, 3, requires_grad=True)) is not None
    assert arrays.form(torch.nn.Parameter(x.detach())) != arrays.form(x)
    assert arrays.form(x.detach().to_sparse()) is None
    assert arrays.form(type("Special", (torch.Tensor,), {})(2)) is None
    assert arrays.form(STRICT) is None


def test_only_torch_tensors_ask_for_gradients() -> None:
    """requires_grad counts while gradients are enabled."""
    x = torch.zeros(1, requires_grad=True)
    assert arrays.needs_gradient(x)
    assert not arrays.needs_gradient(x.detach())
    assert not arrays.needs_gradient(np.zeros(1))
    assert not arrays.needs_gradient(STRICT)
    with torch.no_grad():
        assert not arrays.needs_gradient(x)


DENSE = np.zeros((2, 3, 4, 5))
ORDERS: dict[str, tuple[np.ndarray, tuple[int, ...]]] = {
    "C order": (DENSE, (0, 1, 2, 3)),
    "heads and tokens swapped": (DENSE.swapaxes(1, 2), (0, 2, 1, 3)),
    "Fortran order": (DENSE.T, (3, 2, 1, 0)),
    "a cycle": (DENSE.transpose(2, 0, 1, 3), (1, 2, 0, 3)),
    "a slice is not dense": (DENSE.swapaxes(1, 2)[:, ::2], (0, 1, 2, 3)),
    "a slice of the last axis": (DENSE[..., :3], (0, 1, 2, 3)),
    "every second of the last axis": (np.zeros((3, 8))[:, ::2].T, (0, 1)),
    "reversed": (DENSE[..., ::-1].swapaxes(1, 2), (0, 1, 2, 3)),
    "broadcast": (np.broadcast_to(np.zeros((3, 1)), (3, 4)).T, (0, 1)),
    "an axis of one stays": (np.zeros((2, 1, 4)).transpose(2, 1, 0), (2, 1, 0)),
    "all axes of one": (np.zeros((1, 1, 1)).T, (0, 1, 2)),
    "empty": (np.zeros((2, 0, 4)).T, (0, 1, 2)),
    "no axes": (np.zeros(()), ()),
}


@pytest.mark.parametrize(("x", "expected"), ORDERS.values(), ids=ORDERS)
def test_memory_order_is_told_for_permutations_only(
    x: np.ndarray, expected: tuple[int, ...]
) -> None:
    """A permutation of a dense array has its order, the rest the plain one (A1)."""
    assert expected == arrays.memory_order(x)
    permuted = x.transpose(arrays.memory_order(x))
    assert permuted.flags.c_contiguous == (expected != tuple(range(x.ndim)) or x.flags.c_contiguous)


def test_memory_order_of_other_libraries() -> None:
    """torch counts strides in elements; a library without strides is taken as plain."""
    x = torch.zeros((2, 3, 4))
    assert (0, 2, 1) == arrays.memory_order(x.mT)
    assert (0, 1, 2) == arrays.memory_order(x[..., ::2])
    assert (0, 1) == arrays.memory_order(array_api_strict.matrix_transpose(STRICT))
    cupy = fake("cupy", shape=(2, 3), ndim=2, strides=(8, 16), dtype=np.dtype("f8"))
    assert (1, 0) == arrays.memory_order(cupy)


def test_bfloat16_is_that_of_ml_dtypes() -> None:
    """The plain name finds the dtype that NumPy itself does not have (A3)."""
    assert np.dtype(ml_dtypes.bfloat16) == arrays.numpy_dtype("bfloat16")
    assert np.dtype("float16") == arrays.numpy_dtype("float16")


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64", "int32", "bool"])
def test_torch_and_numpy_share_memory(name: str) -> None:
    """Crossing on the CPU is a view both ways, bfloat16 included (H3)."""
    x = torch.zeros((2, 3), dtype=getattr(torch, name))
    there = arrays.cross(x, "numpy")
    back = arrays.cross(there, "torch")
    x[0, 1] = 1
    assert name == arrays.dtype_name(there)
    assert name == arrays.dtype_name(back)
    assert 1.0 == float(there[0, 1])
    assert x.data_ptr() == back.data_ptr()


def test_a_tensor_that_requires_grad_is_read() -> None:
    """Values leave the tape as a view."""
    x = torch.ones(2, requires_grad=True)
    assert [1.0, 1.0] == arrays.to_numpy(x).tolist()
    assert x.data_ptr() == arrays.to_numpy(x).ctypes.data


@pytest.mark.parametrize("way", ["reversed", "read-only", "broadcast", "permuted"])
def test_what_torch_cannot_share_is_copied(way: str) -> None:
    """Negative strides and read-only memory cross as copies of equal value (A1)."""
    x = np.arange(6.0).reshape(2, 3)
    x = {
        "reversed": x[:, ::-1],
        "broadcast": np.broadcast_to(x[:1], (4, 3)),
        "permuted": x.T,
        "read-only": x,
    }[way]
    if way == "read-only":
        x.flags.writeable = False
    crossed = arrays.cross(x, "torch")
    assert x.tolist() == crossed.tolist()
    assert (way == "permuted") == np.shares_memory(x, crossed.numpy())


def test_a_library_stays_where_it_is() -> None:
    """Crossing to one's own library returns the array itself."""
    x = np.zeros(2)
    assert x is arrays.cross(x, "numpy")
    assert x is arrays.cross_like(x, np.ones(1))


def test_any_dlpack_library_crosses_on_the_host() -> None:
    """Arrays of a library that attnref has never heard of go and come back (H3)."""
    there = arrays.cross(STRICT, "numpy")
    back = arrays.cross_like(there, STRICT)
    assert np.arange(6.0).reshape(2, 3).tolist() == there.tolist()
    assert "array_api_strict" == arrays.library(back)
    assert bool(array_api_strict.all(back == STRICT))


def test_values_are_returned_as_the_kind_they_came_as() -> None:
    """`from_numpy` makes an array of the other's library and device (H3)."""
    x = np.ones(3, np.float32)
    assert x is arrays.from_numpy(x, np.zeros(1))
    assert torch.equal(torch.ones(3), arrays.from_numpy(x, torch.zeros(1)))
    assert "meta" == arrays.device(arrays.from_numpy(x, torch.zeros(1, device="meta")))
    assert "array_api_strict" == arrays.library(arrays.from_numpy(x, STRICT))


def test_the_host_reads_only_what_it_holds() -> None:
    """Values of device arrays are not waited for (A7)."""
    assert [0.0] == arrays.host_values(torch.zeros(1)).tolist()
    assert arrays.host_values(torch.zeros(1, device="meta")) is None


@pytest.mark.parametrize(
    ("source", "target", "on", "expected"),
    [
        ("numpy", "torch", "cpu", True),
        ("torch", "numpy", "cpu", True),
        ("torch", "numpy", "cuda:0", False),
        ("torch", "cupy", "cuda:0", True),
        ("numpy", "cupy", "cpu", False),
        ("cupy", "jax", "cuda:1", True),
        ("mlx", "mlx", "metal:0", True),
        ("numpy", "mlx", "cpu", False),
    ],
)
def test_arrays_cross_between_libraries_of_one_device(
    source: str,
    target: str,
    on: str,
    expected: bool,
) -> None:
    """Nothing passes to a library that cannot be on the device (H3)."""
    assert expected == arrays.crosses(source, target, on)


class Namespace(ModuleType):
    """A library that notes what it is given."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.cuda = self
        self.chosen: list[object] = []

    def Device(self, number: int) -> "Namespace":  # CuPy's name
        """Note the device."""
        self.chosen.append(number)
        return self

    def __enter__(self) -> None:
        """Enter the device."""

    def __exit__(self, *_: object) -> None:
        """Leave the device."""

    def asarray(self, x: np.ndarray) -> tuple[str, np.ndarray]:
        """Return an array of this library."""
        return self.__name__, x

    def enable_x64(self, wanted: bool) -> AbstractContextManager[None]:
        """Note what is wanted."""
        self.chosen.append(wanted)
        return nullcontext()

    def devices(self, platform: str) -> list[str]:
        """Return the devices of a platform."""
        return [f"{platform}:{n}" for n in range(2)]

    def device_put(self, x: np.ndarray, on: str) -> tuple[str, np.ndarray]:
        """Return an array on a device."""
        return on, x

    def from_dlpack(self, x: object) -> tuple[str, object]:
        """Return a view."""
        return self.__name__, x


@pytest.mark.parametrize("library", ["cupy", "jax"])
def test_libraries_that_are_not_installed_are_asked_their_own_way(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CuPy and JAX arrays are read and made on the device that they are on."""
    space = Namespace(library)
    monkeypatch.setitem(sys.modules, library, space)
    monkeypatch.setitem(sys.modules, f"{library}.dlpack", space)
    values = np.ones(2)
    on_gpu = {"__dlpack_device__": lambda _: (2, 1), "device": SimpleNamespace(id=1)}
    x = fake(library, get=lambda _: values, __array__=lambda _, **__: values, **on_gpu)
    assert values.tolist() == arrays.to_numpy(x).tolist()
    if library == "cupy":
        assert ("cupy", values) == arrays.from_numpy(values, x)
        assert [1] == space.chosen
    else:
        assert ("cuda:1", values) == arrays.from_numpy(values, x)
        assert ("cpu:0", values) == arrays.cross(values, "jax")
        assert [True, True] == space.chosen


@pytest.mark.parametrize("target", ["cupy", "jax"])
def test_device_arrays_cross_by_dlpack(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device the target library takes the array itself, off the tape (H3)."""
    space = Namespace(target)
    monkeypatch.setitem(sys.modules, target, space)
    monkeypatch.setitem(sys.modules, f"{target}.dlpack", space)
    x = torch.ones(2, device="meta", requires_grad=True)
    _, shared = arrays.cross(x, target)
    assert not shared.requires_grad
    other = fake("other", __dlpack_device__=lambda _: (2, 0))
    assert (target, other) == arrays.cross(other, target)


def test_what_comes_back_may_be_written_to() -> None:
    """A result is the caller's own, also where its library's arrays are read-only (A5)."""
    values = np.ones(2)
    values.flags.writeable = False
    x = fake("jaxlib", __dlpack_device__=lambda _: (1, 0), __array__=lambda _, **__: values)
    result = arrays.cross_like(x, np.zeros(2))
    assert [1, 1] == result.tolist()
    assert result.flags.writeable


def test_an_array_that_jax_traces_is_not_in_memory() -> None:
    """Inside jax.jit, jax.grad and jax.vmap there are no numbers to hand on."""
    assert arrays.not_dense(fake("jaxlib", __dlpack_device__=lambda _: (1, 0))) is None
    traced = "an array traced by jax.jit, jax.grad or jax.vmap"
    assert traced == arrays.not_dense(fake("jax"))
