"""Which kernels a call runs on, and how it is cut into tiles."""

from typing import NamedTuple

from attnref_cupy import compiling
from attnref_cupy.call import Call
from attnref_cupy.compiling import Kernel
from attnref_cupy.structures import TYPES

HALVES = ("float16", "bfloat16")

WIDTHS = (32, 64, 96, 128, 256)
"""Columns of a head that kernels are compiled for; narrower heads are filled with zeros."""

SIDE = 64
"""Rows and columns of a tile of the kernels in float32 and float64."""


class Cut(NamedTuple):
    """A kernel and its tiles.

    Attributes:
        kernel: Which instance.
        length: Tokens of a tile that a block owns.
        threads: Of a block.
        shared: Bytes of shared memory.
    """

    kernel: Kernel
    length: int
    threads: int
    shared: int


def runs_on_tensor_cores(call: Call) -> bool:
    """Tell whether a call is in half precision, and nothing about it asks for float64."""
    wider = [x for x in (call.bias, call.sinks) if x is not None and x.dtype.name == "float64"]
    return call.q.dtype.name in HALVES and not wider


def width(call: Call, widths: tuple[int, ...] = WIDTHS) -> int:
    """Return the columns that a call's heads are filled up to."""
    return next(n for n in widths if n >= max(call.sizes))


def pitch(columns: int) -> int:
    """Return the bytes of a row of a tile of halves, see `tile.cuh`."""
    return 2 * next(n for n in (64, 128, 256) if n >= columns)


def forward(call: Call) -> Cut:
    """Cut a forward pass."""
    if not runs_on_tensor_cores(call):
        return _wide("wide_forward", "wide_forward.cu", call)
    columns, rows, keys = width(call), 128, 64
    bias = "none" if call.bias is None else TYPES[call.bias.dtype.name]
    masked = call.mask is not None
    constants = (TYPES[call.q.dtype.name], columns, rows, keys, call.is_plain, bias, masked)
    instance = compiling.kernel("forward.cu", "forward", *constants)
    threads = rows if columns <= 128 else 2 * rows
    return Cut(instance, rows, threads, (rows + 4 * keys) * pitch(columns))


def backward(call: Call) -> tuple[Cut, Cut]:
    """Cut the two walks of a backward pass: that of queries, and that of keys."""
    return tuple(_wide(f"wide_{name}", "wide_backward.cu", call) for name in ("queries", "keys"))  # type: ignore[return-value]


def precision(call: Call) -> str:
    """Return what the kernels of a call compute in."""
    dtypes = [x.dtype.name for x in (call.q, call.bias, call.sinks) if x is not None]
    return "double" if "float64" in dtypes else "float"


def types(call: Call) -> tuple[str, str, str]:
    """Return the types of a call's tokens, of what it is computed in, and of its lse."""
    name = call.q.dtype.name
    return TYPES[name], precision(call), "double" if name == "float64" else "float"


def _wide(name: str, file: str, call: Call) -> Cut:
    columns, of = width(call, (64, 128, 256)), types(call)
    size = 8 if of[1] == "double" else 4
    shared = size * (2 * SIDE * 33 + SIDE * (SIDE + 1) + 16 * columns)
    return Cut(compiling.kernel(file, name, *of, columns), SIDE, 256, shared)


def tiles_to_cover(call: Call, tokens: int, length: int) -> int:
    """Count the tiles of one head: of an entry, or of all packed sequences, see `locate`."""
    return tokens // length + call.entries + 1 if call.packed else -(-tokens // length)
