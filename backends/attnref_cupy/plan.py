"""Which kernels a call runs on, and how it is cut into tiles."""

from dataclasses import replace
from typing import Any, NamedTuple

from attnref_cupy import compiling
from attnref_cupy.call import Call
from attnref_cupy.compiling import Kernel
from attnref_cupy.structures import TYPES

HALVES = ("float16", "bfloat16")

WIDTHS = (32, 64, 96, 128, 256)
"""Columns of a head that kernels are compiled for; narrower heads are filled with zeros."""

SIDE = 64
"""Rows and columns of a tile of the kernels in float32 and float64."""


class Tiling(NamedTuple):
    """How a kernel on tensor cores is cut; its template's constants, in order.

    Attributes:
        own: Sixteens of rows that a warp owns.
        warps: Of a block.
        tile: Rows of the other side that pass through shared memory at a time.
        strip: Of these, rows whose scores a warp has in registers at a time; a forward pass
            has a whole tile's.
        held: Whether a warp's own operands stay in registers.
        blocks: That share a multiprocessor, by their registers.
        groups: Whether warpgroups multiply, on Hopper, or single warps.
    """

    own: int
    warps: int
    tile: int
    strip: int
    held: bool
    blocks: int
    groups: bool = False

    @property
    def rows(self) -> int:
        """Rows that a block owns."""
        return 16 * self.own * self.warps


TILINGS: dict[str, dict[int, Tiling]] = {
    "forward": {
        64: Tiling(2, 4, 64, 64, True, 2),
        128: Tiling(2, 4, 48, 48, False, 2),
        256: Tiling(1, 8, 64, 64, False, 1),
    },
    "queries": {64: Tiling(2, 4, 64, 32, False, 2), 128: Tiling(2, 4, 32, 16, False, 2)},
    "keys": {64: Tiling(2, 4, 64, 16, False, 2), 128: Tiling(1, 8, 64, 16, True, 1)},
}
"""By walk and by the most columns of a head that it is good for, on any chip.

For heads of up to 128 without options, nothing spills registers on Ampere and Hopper, and
every block fits into the 99 KiB of the smallest chips.
"""


OPTIONED: dict[str, dict[int, Tiling]] = {
    **TILINGS,
    "forward": {**TILINGS["forward"], 128: Tiling(2, 4, 32, 32, False, 2)},
}
"""The same for calls with a cap, a bias or a mask, which want registers of their own."""

GROUPED: dict[str, dict[int, Tiling]] = {
    "forward": {
        64: Tiling(1, 4, 128, 128, False, 3, True),
        128: Tiling(1, 8, 176, 176, False, 1, True),
    },
    "queries": {
        64: Tiling(1, 8, 128, 128, False, 1, True),
        128: Tiling(1, 8, 96, 96, False, 1, True),
    },
    "keys": {
        64: Tiling(1, 4, 64, 64, False, 3, True),
        128: Tiling(1, 8, 64, 64, False, 1, True),
    },
}
"""The same on Hopper, for heads of more than 32 and up to 128 columns.

Each is the fastest of four to ten that were timed at 16384 tokens: one to three warpgroups,
32 to 176 rows of the other side. `forward` at 128 with three warpgroups and 96 keys is as
fast; three with less, and two with 128, are 7 to 15 % slower. Where three blocks fit, at 64
columns, they are worth more than one of three warpgroups.
"""

GROUPED_OPTIONED: dict[str, dict[int, Tiling]] = {
    "forward": {128: Tiling(1, 8, 64, 64, False, 1, True)},
    "queries": {
        64: Tiling(1, 8, 64, 64, False, 1, True),
        128: Tiling(1, 8, 48, 48, False, 1, True),
    },
    "keys": {128: Tiling(1, 8, 48, 48, False, 1, True)},
}
"""The same on Hopper for calls with a cap, a bias or a mask."""

HOPPER_ALONE = "sm_90a"


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
    if call.groups and widths is WIDTHS:
        widths = (32, 64, 128, 256)
    return next(n for n in widths if n >= max(call.sizes))


def pitch(columns: int) -> int:
    """Return the bytes of a row of a tile of halves, see `tile.cuh`."""
    return 2 * next(n for n in (64, 128, 256) if n >= columns)


def forward(call: Call) -> Cut:
    """Cut a forward pass."""
    if not runs_on_tensor_cores(call):
        return _wide("wide_forward", "wide_forward.cu", call)
    columns, tiling = width(call), tiling_of("forward", call)
    masked = call.mask is not None
    told = (tiling.own, tiling.warps, tiling.tile, tiling.held, tiling.blocks, tiling.groups)
    constants = (TYPES[call.q.dtype.name], columns, *told, call.is_plain, _bias(call), masked)
    instance = _instance("forward.cu", "forward", tiling, constants)
    shared = (tiling.rows + 4 * tiling.tile) * pitch(columns)
    return Cut(instance, tiling.rows, 32 * tiling.warps, shared)


def backward_runs_on_tensor_cores(call: Call) -> bool:
    """Tell whether sums of a backward pass fit into registers."""
    return runs_on_tensor_cores(call) and max(call.sizes) <= 128


def backward(call: Call) -> tuple[Cut, Cut]:
    """Cut the two walks of a backward pass: that of queries, and that of keys."""
    if backward_runs_on_tensor_cores(call):
        return _walk("queries", call), _walk("keys", call)
    queries, keys = (_wide(f"wide_{n}", "wide_backward.cu", call) for n in ("queries", "keys"))
    return queries, keys


def tiling_of(walk: str, call: Call) -> Tiling:
    """Look up how a walk on tensor cores is cut."""
    columns = width(call)
    plain = all(x is None for x in (call.softcap, call.bias, call.mask))
    if call.groups and WIDTHS[0] < columns <= 128:
        tables = GROUPED if plain else GROUPED_OPTIONED
    else:
        tables = TILINGS if plain else OPTIONED
    return next(tiling for most, tiling in tables[walk].items() if most >= columns)


def _bias(call: Call) -> str:
    return "none" if call.bias is None else TYPES[call.bias.dtype.name]


def _instance(file: str, name: str, tiling: Tiling, constants: tuple[Any, ...]) -> Kernel:
    made = compiling.kernel(file, name, *constants)
    return replace(made, chip=HOPPER_ALONE) if tiling.groups else made


def _walk(name: str, call: Call) -> Cut:
    columns, tiling = width(call), tiling_of(name, call)
    options = (call.softcap is not None, call.mask is not None, _bias(call))
    constants = (TYPES[call.q.dtype.name], columns, *tiling, *options)
    instance = _instance("backward.cu", f"backward_{name}", tiling, constants)
    own, stages = 2 * tiling.rows * pitch(columns), 4 * tiling.tile * pitch(columns)
    # What is held in registers leaves its memory to tiles; numbers are two for a query.
    shared = max(own, stages) if tiling.held else own + stages
    numbers = 4 * 4 * tiling.tile if name == "keys" else 0
    return Cut(instance, tiling.rows, 32 * tiling.warps, shared + numbers)


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
