"""Window attention: chooses a way, allocates, launches, and hands results over.

Half precisions in windows of up to 64 tokens have fused kernels, see `window_forward.cu`. All
other calls take `window_products`. The one form that maps of one to three axes are brought to
has three, see `window.cuh`.
"""

from dataclasses import dataclass
from functools import cached_property
from math import inf, prod
from typing import Any, NamedTuple

import cupy
import numpy as np

from attnref.problem import Result, WindowGradients, WindowProblem
from attnref_cupy import replay, window_products
from attnref_cupy.compiling import Kernel, kernel
from attnref_cupy.launching import Launch
from attnref_cupy.layout import (
    columns_in_eights,
    empty_as,
    in_order_of,
    pointer,
    room_for,
    settle,
)
from attnref_cupy.machine import Chip, chip_of
from attnref_cupy.structures import KINDS, TYPES

AXES = 3
"""Axes of a map in its common form; leading ones have length one."""

MOST_TOKENS = 64
"""Tokens of a window whose pairs fit into the registers of its warps."""

WIDTHS = (16, 32, 64, 128)
"""Columns that tiles of tokens may have."""

CHUNK = 32
"""`CHUNK` of `window.cuh`: windows that a block may have."""

ONCE = 16
"""Windows of a block up to which all blocks should run at once, whatever a walk says."""

ARRAYS = ("q", "k", "v", "out", "dout", "dq", "dk", "dv", "lse", "dlse", "mask")
"""`Source` of `window.cuh`."""

UNITS = {"lse": 4, "dlse": 4, "mask": 1}
"""Bytes that strides of an array are counted in, where it is not sixteen."""

WINDOW_CALL = np.dtype(
    [
        ("data", [(name, "u8") for name in ARRAYS]),
        ("strides", "i4", (len(ARRAYS), 5)),
        *((name, "u8") for name in ("bias", "scales", "dbias", "dscale")),
        ("scales_kind", "i4"),
        *((name, "f4") for name in ("scale", "wrap_bias")),
        *((name, "i4") for name in ("shifted", "heads", "batches", "chunk")),
        ("columns", "i4", 2),
        *((name, "i4", AXES) for name in ("window", "shift", "extents", "windows", "runs")),
        *((name, "i4", (AXES, AXES)) for name in ("first", "count")),
        ("ends", "i4", AXES**AXES),
    ],
    align=True,
)
"""`WindowCall` of `window.cuh`."""

Run = tuple[int, int]
"""The first of some adjacent windows of an axis, and how many they are."""


class Walk(NamedTuple):
    """How a kernel walks through windows.

    Attributes:
        stages: Windows in flight.
        blocks: That run at once on a multiprocessor.
        windows: Most that a block takes where not all run at once.
        turned: Whether chunks of a tile change places, see `Tile` of `window.cuh`.
    """

    stages: int
    blocks: int
    windows: int
    turned: bool = False


WALKS = {
    "window_forward": {
        16: Walk(2, 6, 8, True), 32: Walk(2, 5, 8, True), 64: Walk(2, 4, 8, True),
        128: Walk(2, 2, 8),
    },
    "window_backward": {
        16: Walk(2, 3, 32, True), 32: Walk(2, 3, 32, True), 64: Walk(2, 2, 32, True),
        128: Walk(1, 2, 32),
    },
}  # fmt: skip
"""Kernel to columns of a tile to the walk.

Timed on an H200 with Swin's four stages for heads of 32, and on a map of 28 x 28 for 64 and
128. Forward, a third stage is worth 2 % on the largest map, and costs 7 % where all blocks
run at once; a sixth block spills registers. Backward, what counts is that the last blocks
end together.
"""

READ = {"window_forward": 3, "window_backward": 5}
"""Arrays of which a kernel copies a tile from each window."""


def runs_of(extent: int, window: int, shift: int) -> tuple[Run, ...]:
    """Cut the windows of an axis into runs within which all hide the same pairs.

    The last one holds what a shift wraps, and padding; behind a shift, padding may reach
    into the last but one.
    """
    n = -(-extent // window)
    special = 0
    if shift or n * window > extent:
        special = 2 if n > 1 and (n - 1) * window + shift > extent else 1
    runs = [(0, n - special), *((n - s, 1) for s in range(special, 0, -1))]
    return tuple(run for run in runs if run[1])


def is_fused(problem: WindowProblem) -> bool:
    """Tell whether there are kernels for a call; all others take `window_products`."""
    p = problem
    sizes = (p.q.shape[-1], p.v.shape[-1])
    return (
        p.dtype in ("float16", "bfloat16")
        and prod(p.window) <= MOST_TOKENS
        and min(sizes) > 0
        and max(sizes) <= WIDTHS[-1]
        and prod(p.q.shape[:-1]) < 2**31
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """A call in its common form.

    Attributes:
        problem: The call.
        q: `(B, *G, H, D)`, with columns in eights.
        k: Likewise.
        v: Likewise `(B, *G, H, Dv)`.
        chip: The device.
    """

    problem: WindowProblem
    q: Any
    k: Any
    v: Any
    chip: Chip

    @property
    def heads(self) -> int:
        """Heads."""
        return int(self.q.shape[-2])

    @cached_property
    def axes(self) -> tuple[tuple[int, int, int], ...]:
        """Extent, window and shift of each of three axes."""
        p = self.problem
        given = tuple(zip(p.extents, p.window, p.shift, strict=True))
        return ((1, 1, 0),) * (AXES - len(given)) + given

    @cached_property
    def runs(self) -> tuple[tuple[Run, ...], ...]:
        """The runs of each axis."""
        return tuple(runs_of(*axis) for axis in self.axes)

    @property
    def tokens(self) -> int:
        """Tokens of a window."""
        return prod(self.problem.window)

    @property
    def keys(self) -> int:
        """Tokens of a window, in eights."""
        return -(-self.tokens // 8) * 8

    @property
    def warps(self) -> int:
        """Warps of a block, which have sixteen tokens each."""
        return -(-self.tokens // 16)

    @cached_property
    def width(self) -> int:
        """Columns of tiles."""
        widest = max(self.q.shape[-1], self.v.shape[-1])
        return next(width for width in WIDTHS if width >= widest)

    @cached_property
    def boxes(self) -> list[int]:
        """How many windows each box has, of all maps of the batch."""
        sizes = [self.q.shape[0]]
        for runs in self.runs:
            sizes = [size * n for size in sizes for _, n in runs]
        return sizes

    @cached_property
    def tables(self) -> dict[str, Any]:
        """What a kernel reads a number at a time; copies live as long as the call does."""
        p = self.problem
        return {
            "bias": None if p.bias is None else cupy.ascontiguousarray(p.bias),
            "scales": cupy.ascontiguousarray(p.scale) if p.scale_per_head else None,
            "mask": None if p.key_mask is None else cupy.ascontiguousarray(p.key_mask),
        }

    def walk(self, name: str) -> Walk | None:
        """Look up how a kernel walks, with as many stages as fit; `None` if none does."""
        most = WALKS[name][self.width]
        for stages in range(most.stages, 0, -1):
            walk = most._replace(stages=stages)
            if self.shared(name, walk) <= self.chip.shared:
                return walk
        return None

    def shared(self, name: str, walk: Walk) -> int:
        """Count the bytes of shared memory of a block."""
        rows = 16 * self.warps
        tile = rows * (self.width * 2 + (0 if walk.turned else 16))
        pairs = 2 * rows * (rows * 2 + 16) if name == "window_backward" else 0
        sources = len(ARRAYS) if name == "window_backward" else 6
        return walk.stages * READ[name] * tile + pairs + sources * (8 * CHUNK + 4 * rows) + 4 * rows

    def grid(self, walk: Walk) -> tuple[int, int]:
        """Return the windows of a block, and how many parts that makes of the map.

        Blocks run in rounds of as many as there is room for, and the last round should be
        a full one.
        """
        at_once = self.chip.processors * walk.blocks
        all_windows = sum(self.boxes) * self.heads
        rounds = 1
        if all_windows > at_once * max(ONCE, walk.windows):
            rounds = -(-all_windows // (at_once * walk.windows))
        chunk = max(1, -(-all_windows // (at_once * rounds)))
        while chunk < CHUNK and self.parts(chunk) * self.heads > at_once * rounds:
            chunk += 1
        return chunk, self.parts(chunk)

    def parts(self, chunk: int) -> int:
        """Count the parts of a map whose blocks take `chunk` windows, each of one box."""
        return sum(-(-windows // chunk) for windows in self.boxes)

    def arguments(self, chunk: int, arrays: dict[str, Any]) -> Any:
        """Say where tokens lie, who sees whom, and how the walk is cut."""
        p, arrays = self.problem, {**arrays, **self.tables}
        x = np.zeros((), WINDOW_CALL)
        missing = (0,) * (AXES - len(p.window))
        for at, name in enumerate(ARRAYS):
            array = arrays.get(name)
            if array is not None:
                unit = UNITS.get(name, 16)
                steps = zip(array.strides, array.shape, strict=True)
                b, *rest = (s // unit if n > 1 else 0 for s, n in steps)
                rest = rest if name in UNITS else rest[:-1]
                x["data"][name] = pointer(array)
                x["strides"][at] = (b, *missing, *rest, *((0,) if name == "mask" else ()))
        for name in ("bias", "scales", "dbias", "dscale"):
            array = arrays.get(name)
            if array is not None:
                x[name] = pointer(array)
        x["scales_kind"] = _kind(arrays.get("scales"))
        x["scale"] = 0.0 if p.scale_per_head else _finite(p.scale)
        x["wrap_bias"] = -inf if p.wrap_bias == -inf else _finite(p.wrap_bias)
        x["shifted"] = any(p.shift)
        x["heads"], x["batches"], x["chunk"] = self.heads, self.q.shape[0], chunk
        x["columns"] = self.q.shape[-1] // 8, self.v.shape[-1] // 8
        extents, window, shift = zip(*self.axes, strict=True)
        x["window"], x["shift"], x["extents"] = window, shift, extents
        x["windows"] = [-(-g // w) for g, w in zip(extents, window, strict=True)]
        for axis, runs in enumerate(self.runs):
            x["runs"][axis] = len(runs)
            x["first"][axis, : len(runs)], x["count"][axis, : len(runs)] = zip(*runs, strict=True)
        x["ends"][: len(self.boxes)] = np.cumsum([-(-n // chunk) for n in self.boxes])
        return x

    def instance(self, name: str, walk: Walk, *flags: bool) -> Kernel:
        """Name the instance of a kernel that this call needs."""
        p = self.problem
        constants = (TYPES[p.dtype], self.width, self.keys, walk.stages, walk.blocks, walk.turned)
        bias = "none" if p.bias is None else TYPES[p.bias.dtype.name]
        return kernel(f"{name}.cu", name, *constants, bias, p.key_mask is not None, *flags)


def _finite(x: Any) -> float:
    """Keep a finite number within float32, which kernels take."""
    most = float(np.finfo(np.float32).max)
    return float(min(max(x, -most), most))


def _kind(x: Any) -> int:
    return 0 if x is None else KINDS[str(x.dtype)]


def windows_of(problem: WindowProblem) -> Windows | None:
    """Bring a problem to the common form; `None` if there are no kernels for it."""
    p = problem
    if not is_fused(p):
        return None
    q, k, v = (columns_in_eights(x) for x in (p.q, p.k, p.v))
    call = Windows(problem=p, q=q, k=k, v=v, chip=chip_of(p.q.device.id))
    fits = call.walk("window_backward" if p.with_gradients else "window_forward")
    return call if fits and all(map(_reaches, (q, k, v))) else None


def _reaches(x: Any) -> bool:
    """Tell whether places of one map, and the next map, are within reach of 32 bits."""
    far = sum(abs(s) * (n - 1) for s, n in zip(x.strides[1:-2], x.shape[1:-2], strict=True))
    return max(far, abs(x.strides[0]) if len(x) > 1 else 0) // 16 < 2**31


def key_of(problem: WindowProblem) -> tuple[Any, ...]:
    """Return everything that a call depends on, but where its arrays are and what is in them."""
    p, form = problem, replay.form
    arrays = (p.q, p.k, p.v, p.bias, p.key_mask, p.scale, p.qkv)
    asked = (p.window, p.shift, p.wrap_bias, p.with_lse, p.with_gradients)
    return (*map(form, arrays), *asked)


def arrays_of(problem: WindowProblem) -> replay.Arrays:
    """Name the arrays of a call as its kernels do."""
    p = problem
    return {"q": p.q, "k": p.k, "v": p.v, "bias": p.bias, "mask": p.key_mask, "scales": p.scale}


def again(problem: WindowProblem) -> Result | None:
    """Answer a call whose like ran before; `None` if none did."""
    recipe = replay.find(key_of(problem), problem.q)
    if recipe is None:
        return None
    made = recipe.follow(arrays_of(problem))
    return Result(made["out"], made.get("lse"))


def forward(problem: WindowProblem) -> Result:
    """Attend inside the windows."""
    p, call = problem, windows_of(problem)
    if call is None:
        return window_products.forward(p)
    out = empty_as(p.q, p.v.shape[-1])
    wanted = p.with_lse or p.with_gradients
    lse = cupy.empty(p.q.shape[:-1], np.float32) if wanted else None
    made = room_for(out)
    launch = forward_launch(call, made, lse)
    launch.run()
    replay.keep(key_of(p), arrays_of(p), {"out": out, "lse": lse}, [launch])
    return Result(settle(out, made), lse)


def forward_launch(call: Windows, out: Any, lse: Any) -> Launch:
    """Make the launch of a forward pass."""
    walk = call.walk("window_forward")
    assert walk is not None, "windows_of saw that it fits"
    chunk, parts = call.grid(walk)
    arrays = {"q": call.q, "k": call.k, "v": call.v, "out": out, "lse": lse}
    told = call.arguments(chunk, arrays)
    return Launch(
        call.instance("window_forward", walk),
        parts * call.heads,
        32 * call.warps,
        (told,),
        call.shared("window_forward", walk),
    )


def backward(problem: WindowProblem, result: Result, dout: Any, dlse: Any) -> WindowGradients:
    """Pass gradients back; those of a packed projection in one array (G1)."""
    p, call = problem, windows_of(problem)
    lse = result.lse
    assert lse is not None  # the core asks for it where gradients follow
    if call is None or call.walk("window_backward") is None or not _reaches(dout):
        return window_products.backward(p, result, dout, dlse)
    due = [empty_as(x) for x in ((p.q, p.k, p.v) if p.qkv is None else (p.qkv,))]
    rooms = [room_for(x) for x in due]
    dq, dk, dv = rooms if p.qkv is None else (rooms[0][..., n, :, :] for n in range(3))
    arrays = {"out": columns_in_eights(result.out), "dout": columns_in_eights(dout)}
    arrays |= {"lse": lse, "dlse": None if dlse is None else cupy.ascontiguousarray(dlse)}
    arrays |= {"dq": dq, "dk": dk, "dv": dv}
    sums = _sums(call)
    launches = backward_launches(call, arrays, sums)
    for launch in launches:
        launch.run()
    names = ("dq", "dk", "dv") if p.qkv is None else ("dqkv",)
    parts = {} if p.qkv is None else dict.fromkeys(("dq", "dk", "dv"), "dqkv")
    replay.keep(
        gradients_key(p, result, dout, dlse),
        {**arrays_of(p), "out": result.out, "lse": lse, "dout": dout, "dlse": dlse},
        dict(zip(names, due, strict=True)) | sums,
        launches,
        parts,
    )
    return _gradients(p, [settle(x, y) for x, y in zip(due, rooms, strict=True)], sums)


def gradients_key(problem: WindowProblem, result: Result, dout: Any, dlse: Any) -> tuple[Any, ...]:
    """Return everything that a backward pass depends on, as `key_of` does of a call."""
    return (*map(replay.form, (result.out, result.lse, dout, dlse)), *key_of(problem))


def back_again(
    problem: WindowProblem, result: Result, dout: Any, dlse: Any
) -> WindowGradients | None:
    """Pass gradients back through a call whose like ran before; `None` if none did."""
    p = problem
    recipe = replay.find(gradients_key(p, result, dout, dlse), p.q)
    if recipe is None:
        return None
    rows = {"out": result.out, "lse": result.lse, "dout": dout, "dlse": dlse}
    made = recipe.follow({**arrays_of(p), **rows})
    names = ("dq", "dk", "dv") if p.qkv is None else ("dqkv",)
    return _gradients(p, [made[name] for name in names], made)


def _gradients(problem: WindowProblem, due: list[Any], sums: replay.Arrays) -> WindowGradients:
    """Hand gradients over, that of the bias in its memory order."""
    p, dbias = problem, sums.get("all_dbias")
    if dbias is not None:
        dbias = in_order_of(p.bias, dbias)
    return window_products.gradients(due, dbias, sums.get("all_dscale"))


def _sums(call: Windows) -> dict[str, Any]:
    """Allocate the gradients that are summed over a map, and before them those of its parts."""
    p, H, N = call.problem, call.heads, call.tokens
    walk = call.walk("window_backward")
    assert walk is not None
    _, parts = call.grid(walk)
    made: dict[str, Any] = {}
    if p.bias is not None:
        made["dbias"] = cupy.empty((parts, H, N, N), np.float32)
        made["all_dbias"] = cupy.empty(p.bias.shape, p.bias.dtype)
    if p.scale_per_head:
        made["dscale"] = cupy.empty((parts, H), np.float32)
        made["all_dscale"] = cupy.empty(p.scale.shape, p.scale.dtype)  # type: ignore[union-attr]
    return made


def backward_launches(call: Windows, arrays: dict[str, Any], sums: dict[str, Any]) -> list[Launch]:
    """List the launches of a backward pass: one over the map, and the sums of its parts."""
    walk = call.walk("window_backward")
    assert walk is not None
    chunk, parts = call.grid(walk)
    told = call.arguments(chunk, {"q": call.q, "k": call.k, "v": call.v, **arrays, **sums})
    flags = ("dbias" in sums, "dscale" in sums)
    launches = [
        Launch(
            call.instance("window_backward", walk, *flags),
            parts * call.heads,
            32 * call.warps,
            (told,),
            call.shared("window_backward", walk),
        )
    ]
    added = [name for name in ("dbias", "dscale") if name in sums]
    return launches + [add_parts(sums[name], sums[f"all_{name}"]) for name in added]


def add_parts(parts: Any, due: Any) -> Launch:
    """Make the launch that adds up parts of a contiguous array."""
    count, numbers = parts.shape[0], due.size
    told = (parts, due, np.int32(count), np.int32(numbers), np.int32(_kind(due)))
    return Launch(kernel("window_backward.cu", "add_parts"), -(-numbers // 32), 256, told, 1024)
