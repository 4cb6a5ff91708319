"""Why a machine cannot run kernels, and what to do about it; and what its devices offer."""

from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

from attnref.backend import Reason

OLDEST = (8, 0)
"""The first capability with the matrix products and asynchronous copies that kernels use."""

HOPPER = (9, 0)
"""The capability with products of warpgroups, see `warpgroup.cuh`."""

INSTALL = "pip install attnref[cupy]"


@cache
def reasons() -> tuple[Reason, ...]:
    """Look for CuPy, a driver, a GPU and NVRTC, in this order; the first to be missing tells."""
    if find_spec("cupy") is None:
        return (Reason("not-installed", f"cupy is not installed: {INSTALL}"),)
    try:
        import cupy
    except Exception as error:  # noqa: BLE001  # a broken installation fails in any way
        said = f"cupy cannot be imported ({error}); install one CuPy that fits: {INSTALL}"
        return (Reason("not-importable", said),)
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # noqa: BLE001  # without a driver, CuPy raises of its own kind
        said = (
            f"CuPy finds no CUDA driver ({error}); install NVIDIA's driver, or, in a "
            "container, hand the GPU to it"
        )
        return (Reason("no-driver", said),)
    if count == 0:
        return (Reason("no-device", "CuPy sees no CUDA device; look at CUDA_VISIBLE_DEVICES"),)
    return _about_compiler()


def _about_compiler() -> tuple[Reason, ...]:
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except Exception as error:  # noqa: BLE001  # a library that is not there, or does not load
        said = f"CuPy finds no NVRTC to compile kernels with ({error}): {INSTALL}"
        return (Reason("no-compiler", said),)
    return ()


@cache
def about_products() -> tuple[Reason, ...]:
    """Look for cuBLAS, which multiplies matrices where no fused kernel does."""
    try:
        from cupy.cuda import cublas

        cublas.CUBLAS_OP_N  # noqa: B018  # CuPy loads the library when the module is
    except Exception as error:  # noqa: BLE001  # a library that is not there, or does not load
        said = (
            f"CuPy finds no cuBLAS for windows without a fused kernel ({error}): "
            f"{INSTALL}, or half precision and at most 64 tokens a window"
        )
        return (Reason("no-cublas", said),)
    return ()


class Chip(NamedTuple):
    """What a device offers.

    Attributes:
        capability: Major and minor.
        processors: Multiprocessors.
        shared: Bytes of shared memory that one block may have.
    """

    capability: tuple[int, int]
    processors: int
    shared: int


@cache
def chip_of(device: int) -> Chip:
    """Describe a device by its number."""
    from cupy.cuda import runtime

    told = runtime.getDeviceProperties(device)
    return Chip(
        (told["major"], told["minor"]), told["multiProcessorCount"], told["sharedMemPerBlockOptin"]
    )


def about_device(name: str) -> list[Reason]:
    """Say why nothing can run on a device such as `"cuda:1"`: wrong, too old, or not current."""
    kind, _, number = name.partition(":")
    if kind != "cuda":
        said = f"runs on cuda, and these arrays are on {name}"
        return [Reason("device", said, limit="cuda")]
    device = int(number or 0)
    capability = chip_of(device).capability
    if capability < OLDEST:
        said = "capability {}.{} is below {}.{}".format(*capability, *OLDEST)
        return [Reason("capability", said, limit=OLDEST)]
    return []


def about_current(name: str) -> list[Reason]:
    """Say that arrays are on another device than the current one, whose stream is in use."""
    from cupy.cuda import runtime

    device, current = int(name.partition(":")[2] or 0), int(runtime.getDevice())
    if device == current:
        return []
    said = (
        f"these arrays are on {name} and the current device is cuda:{current}; call it "
        f"inside `with cupy.cuda.Device({device})`"
    )
    return [Reason("current-device", said, limit=current)]
