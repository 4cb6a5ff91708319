"""Window attention: allocates, launches, and hands results over.

The one form that maps of one to three axes are brought to has three, see `maps`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from operator import is_
from typing import Any, NamedTuple

import torch

from attnref.problem import Result, WindowGradients, WindowProblem
from attnref_triton import replay, tables
from attnref_triton.chips import chip_of
from attnref_triton.launch import Launch
from attnref_triton.layout import EIGHT, columns_in_eights, empty_as, in_order_of, room_for, settle
from attnref_triton.plan import NARROWEST
from attnref_triton.window_backward import (
    window_keys_kernel,
    window_pairs_kernel,
    window_queries_kernel,
)
from attnref_triton.window_forward import window_kernel

AXES = 3
"""Axes of a map in its common form; leading ones have length one."""

Run = tuple[int, int]
"""The first of some adjacent windows of an axis, and how many they are."""


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


def _finite(x: Any) -> float:
    """Keep a finite number within float32, which kernels take."""
    most = torch.finfo(torch.float32).max
    return float(min(max(x, -most), most))


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """A call in its common form.

    Attributes:
        problem: The call.
        q: `(B, *G, H, D)`, with columns in eights.
        k: Likewise.
        v: Likewise `(B, *G, H, Dv)`.
        bias: `(H, N, N)`, the pairs of a head next to each other, or `None`.
        precision: Of products of float32.
    """

    problem: WindowProblem
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    bias: torch.Tensor | None
    precision: str

    @property
    def heads(self) -> int:
        """Heads."""
        return self.q.shape[-2]

    @cached_property
    def is_problem(self) -> bool:
        """Whether the arrays of the problem are taken as they are."""
        p = self.problem
        scale = not isinstance(p.scale, torch.Tensor) or p.scale.is_contiguous()
        mine = (self.q, self.k, self.v, self.bias)
        return scale and all(x is y for x, y in zip(mine, (p.q, p.k, p.v, p.bias), strict=True))

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

    def strides(self, x: torch.Tensor) -> tuple[int, ...]:
        """Return the strides of an array of a map, without its columns: `(B, G0, G1, G2, H)`."""
        b, *rest = x.stride()
        return (b, *(0,) * (AXES - len(self.problem.window)), *rest)

    @cached_property
    def width(self) -> int:
        """The power of two that matrix products take for the columns of a head."""
        widest = max(self.q.shape[-1], self.v.shape[-1])
        return max(NARROWEST, 1 << (widest - 1).bit_length())

    @cached_property
    def boxes(self) -> list[int]:
        """How many windows each box has, of all maps of the batch."""
        sizes = [self.q.shape[0]]
        for runs in self.runs:
            sizes = [size * n for size in sizes for _, n in runs]
        return sizes

    def walk(self, kernel: str) -> tables.Walk:
        """Look up how a kernel walks through the windows."""
        size, chip = self.q.element_size(), chip_of(self.q.device)
        return tables.walk(kernel, self.tokens, self.width, size, chip)

    def grid(self, cut: tables.Walk, tiles: int) -> tuple[int, int]:
        """Return the windows of a program, and how many programs that makes.

        Every program has one head and one of its window's tiles, of which there are so many.
        """
        lanes = self.heads * tiles
        at_once = chip_of(self.q.device).processors * cut.programs
        chunk = max(1, -(-sum(self.boxes) * lanes // at_once))
        if chunk > tables.ONCE:
            chunk = cut.windows
        return chunk, lanes * sum(-(-windows // chunk) for windows in self.boxes)

    def arguments(
        self, cut: tables.Walk, chunk: int, arrays: dict[str, torch.Tensor]
    ) -> dict[str, Any]:
        """Say where tokens lie, who sees whom, and how the kernel is cut."""
        p = self.problem
        extents, window, shift = zip(*self.axes, strict=True)
        per_head = isinstance(p.scale, torch.Tensor)
        # Arrays that lie alike share their strides, and the kernel its arithmetic on them.
        lie = [tuple(s // EIGHT for s in self.strides(x)[:-1]) for x in arrays.values()]
        return {
            **arrays,
            "strides": tuple(lie),
            "ALIKE": tuple(lie.index(strides) for strides in lie),
            "bias": self.bias,
            "bias_stride": 0 if self.bias is None else self.bias.stride(0),
            "key_mask": p.key_mask,
            "mask_strides": (0,) * 5 if p.key_mask is None else (*self.strides(p.key_mask), 0),
            "scales": p.scale.contiguous() if per_head else None,  # type: ignore[union-attr]
            "scale": 0.0 if per_head else _finite(p.scale),
            "wrap_bias": None if p.wrap_bias == -torch.inf else _finite(p.wrap_bias),
            "runs": self.runs,
            "windows": tuple(-(-g // w) for g, w in zip(extents, window, strict=True)),
            "extents": extents,
            "shift": shift,
            "heads": self.heads,
            "batches": self.q.shape[0],
            "chunk": chunk,
            "D": self.q.shape[-1] // EIGHT,
            "DV": self.v.shape[-1] // EIGHT,
            "WINDOW": window,
            "AXES": len(p.window),
            "RUNS": tuple(map(len, self.runs)),
            "SHIFTED": any(shift),
            "WHOLE": self.q.shape[-1] == self.v.shape[-1] == self.width,
            "BLOCK": cut.block,
            "BLOCK_D": self.width,
            "BLOCK_DV": self.width,
            "PRECISION": self.precision,
        }


def windows_of(problem: WindowProblem, precision: str) -> Windows:
    """Bring a problem to the common form."""
    p = problem
    q, k, v = (columns_in_eights(x) for x in (p.q, p.k, p.v))
    bias = p.bias
    if bias is not None and bias.stride()[1:] != (bias.shape[2], 1):
        bias = bias.contiguous()
    return Windows(problem=p, q=q, k=k, v=v, bias=bias, precision=precision)


def key_of(problem: WindowProblem, precision: str) -> tuple[Any, ...]:
    """Return everything that a call depends on but the numbers in its tensors."""
    p, form = problem, replay.form
    main = (form(p.q), form(p.k), form(p.v)) if p.qkv is None else (form(p.qkv),)
    scale = form(p.scale) if isinstance(p.scale, torch.Tensor) else p.scale
    more = (form(p.bias), form(p.key_mask), p.window, p.shift, p.wrap_bias, p.q.device.index)
    return (*main, scale, *more, p.with_lse or p.with_gradients, precision)


def tensors_of(problem: WindowProblem) -> replay.Tensors:
    """Name the tensors of a call as its kernels do."""
    p = problem
    return {"q": p.q, "k": p.k, "v": p.v, "bias": p.bias, "key_mask": p.key_mask, "scales": p.scale}


def again(problem: WindowProblem, precision: str) -> Result | None:
    """Answer a call whose like ran before; `None` if none did."""
    recipe = replay.find(key_of(problem, precision), problem.q.device)
    if recipe is None:
        return None
    made = recipe.room(problem.q.device)
    recipe.run(tensors_of(problem) | made)
    return Result(made["out"], made.get("lse"))


def forward(problem: WindowProblem, precision: str) -> Result:
    """Attend inside the windows."""
    p, call = problem, windows_of(problem, precision)
    out = empty_as(p.q, p.v.shape[-1])
    wanted = p.with_lse or p.with_gradients
    lse = p.q.new_empty(p.q.shape[:-1], dtype=torch.float32) if wanted else None
    made = room_for(out)
    launch = forward_launch(call, made, lse)
    compiled = launch.run()
    if call.is_problem and made is out:
        buffers = {"out": out} if lse is None else {"out": out, "lse": lse}
        replay.keep(key_of(p, precision), buffers, [(launch, compiled)])
    return Result(settle(out, made), lse)


def forward_launch(call: Windows, out: torch.Tensor, lse: torch.Tensor | None) -> Launch:
    """Make the launch of a forward pass."""
    cut = call.walk("window")
    chunk, programs = call.grid(cut, -(-call.tokens // cut.block))
    arguments = {
        **call.arguments(cut, chunk, {"q": call.q, "k": call.k, "v": call.v, "out": out}),
        "KEYS": cut.keys,
        "lse": lse,
        "row_strides": (0,) * (AXES + 2) if lse is None else call.strides(lse),
    }
    return Launch(window_kernel, (programs,), arguments, cut.warps, cut.stages)


class Made(NamedTuple):
    """What a backward pass fills in; the last two are parts, to be summed.

    Of a packed projection, `dq`, `dk` and `dv` are views of one gradient.
    """

    dq: torch.Tensor
    dk: torch.Tensor
    dv: torch.Tensor
    dbias: torch.Tensor | None
    dscale: torch.Tensor | None


def gradients_key(
    problem: WindowProblem,
    result: Result,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
    precision: str,
) -> tuple[Any, ...]:
    """Return everything that a backward pass depends on but the numbers in its tensors."""
    others = tuple(map(replay.form, (result.out, result.lse, dout, dlse)))
    return (*others, *key_of(problem, precision))


def back_again(
    problem: WindowProblem,
    result: Result,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
    precision: str,
) -> WindowGradients | None:
    """Pass gradients back through a call whose like ran before; `None` if none did."""
    p = problem
    recipe = replay.find(gradients_key(p, result, dout, dlse, precision), p.q.device)
    if recipe is None:
        return None
    room = recipe.room(p.q.device)
    due = [room["dqkv"]] if p.qkv is not None else [room["dq"], room["dk"], room["dv"]]
    made = _made(p, due, (room.get("dbias"), room.get("dscale")))
    rows = {"out": result.out, "lse": result.lse, "dout": dout, "dlse": dlse}
    recipe.run(tensors_of(p) | rows | made._asdict())
    return _gradients(p, due, made)


def backward(
    problem: WindowProblem,
    result: Result,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
    precision: str,
) -> WindowGradients:
    """Pass gradients back; those of a packed projection in one tensor (G1)."""
    p, call = problem, windows_of(problem, precision)
    lse = result.lse
    assert lse is not None  # the core asks for it where gradients follow
    due = [empty_as(x) for x in ((p.q, p.k, p.v) if p.qkv is None else (p.qkv,))]
    rooms = [room_for(x) for x in due]
    made = _made(p, rooms, _sums(call))
    out, do = columns_in_eights(result.out), columns_in_eights(dout)
    launches = [
        (launch, launch.run()) for launch in backward_launches(call, out, lse, do, dlse, made)
    ]
    as_they_are = out is result.out and do is dout and all(map(is_, due, rooms))
    if call.is_problem and as_they_are:
        names = ("dqkv",) if p.qkv is not None else ("dq", "dk", "dv")
        buffers = dict(zip(names, due, strict=True))
        sums = {"dbias": made.dbias, "dscale": made.dscale}
        buffers |= {name: x for name, x in sums.items() if x is not None}
        replay.keep(gradients_key(p, result, dout, dlse, precision), buffers, launches)
    return _gradients(p, [settle(x, y) for x, y in zip(due, rooms, strict=True)], made)


def _made(
    problem: WindowProblem,
    rooms: Sequence[torch.Tensor],
    sums: tuple[torch.Tensor | None, torch.Tensor | None],
) -> Made:
    dq, dk, dv = rooms if problem.qkv is None else rooms[0].unbind(-3)
    return Made(dq, dk, dv, *sums)


def _gradients(
    problem: WindowProblem, given: Sequence[torch.Tensor], made: Made
) -> WindowGradients:
    """Add up the parts, and hand everything over."""
    p, dbias, dscale = problem, None, None
    if made.dbias is not None and p.bias is not None:
        dbias = in_order_of(p.bias, made.dbias.sum(0).to(p.bias.dtype))
    if made.dscale is not None:
        dscale = made.dscale.sum((0, 2)).to(p.scale.dtype)  # type: ignore[union-attr]
    if p.qkv is not None:
        return WindowGradients(None, None, None, dbias, dscale, given[0])
    dq, dk, dv = given
    return WindowGradients(dq, dk, dv, dbias, dscale)


def _sums(call: Windows) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Allocate what programs leave of the gradients of a bias and of scales, if they are due."""
    p, H, N = call.problem, call.heads, call.tokens
    cut = call.walk("window_pairs")
    tiles = (-(-N // cut.block)) ** 2
    _, programs = call.grid(cut, tiles)
    parts = programs // max(H * tiles, 1)
    sums, drawn = (parts, H, N, N), (parts, H, tiles)
    return (
        None if p.bias is None else call.q.new_empty(sums, dtype=torch.float32),
        call.q.new_empty(drawn, dtype=torch.float32) if p.scale_per_head else None,
    )


def backward_launches(
    call: Windows,
    out: torch.Tensor,
    lse: torch.Tensor,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
    made: Made,
) -> Iterator[Launch]:
    """List the launches of a backward pass."""
    read = {"q": call.q, "k": call.k, "v": call.v, "out": out, "dout": dout}
    rows = {
        "lse": lse,
        "dlse": dlse,
        "row_strides": (call.strides(lse), call.strides(lse if dlse is None else dlse)),
    }
    dq, dk, dv, dbias, dscale = made
    cut = call.walk("window_pairs")
    tiles = -(-call.tokens // cut.block)
    if tiles == 1 or dbias is not None or dscale is not None:
        chunk, programs = call.grid(cut, tiles**2)
        written = {"dq": dq, "dk": dk, "dv": dv}
        arguments = {**call.arguments(cut, chunk, {**read, **written}), **rows}
        arguments |= {"dbias": dbias, "dscale": dscale}
        yield Launch(window_pairs_kernel, (programs,), arguments, cut.warps, cut.stages)
    if tiles == 1:
        return
    sides: tuple[tuple[Any, dict[str, torch.Tensor]], ...] = (
        (window_keys_kernel, {"dk": dk, "dv": dv}),
        (window_queries_kernel, {"dq": dq}),
    )
    for kernel, written in sides:
        cut = call.walk("window_sides")
        chunk, programs = call.grid(cut, -(-call.tokens // cut.block))
        arguments = {**call.arguments(cut, chunk, {**read, **written}), **rows}
        yield Launch(kernel, (programs,), arguments, cut.warps, cut.stages)
