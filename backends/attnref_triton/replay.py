"""Calls of a shape seen before: launched again, with nothing worked out anew.

What a pass comes to, which kernels in which grids with which numbers, depends on shapes,
strides, dtypes, alignments and options, and not on the tensors. So it is worked out once for
each key of a call. Later calls put their tensors in the places that the first one's had, and
go straight to the compiled kernels, past Triton's own look-up.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from attnref.problem import AttentionProblem, Result, VarlenProblem
from attnref_triton.launch import Described, Launch, enter

MOST = 4096
"""Recipes that are kept; a program whose shapes never come again must not fill the memory."""

ROOM = 2**26
"""Bytes of a device that recipes may hold on to together."""

Tensors = dict[str, Any]
"""Name to tensor, or `None` where a call has none."""

Manner = tuple[str, bool]
"""The precision of products of float32, and whether the Hopper path may be taken."""

READ = ("q", "k", "v", "mask", "bias", "sinks", "q_lens", "kv_lens", "cu_q", "cu_k", "q_offset")
"""Arrays of a call of attention, padded or packed."""

SIDES = {"q_side": ("cu_q", "q_lens"), "k_side": ("cu_k", "kv_lens"), "offset": ("q_offset",)}
"""Arguments of kernels that carry arrays under other names."""


class Buffer(NamedTuple):
    """A tensor that each call allocates."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


class Step(NamedTuple):
    """A compiled kernel, and which of its arguments change.

    Attributes:
        run: Takes all arguments by position.
        arguments: Of the first call, without its tensors.
        places: Which argument is which of the call's tensors, or a tuple of them.
        described: Which argument is a descriptor, of which of the tensors, and how that lies.
    """

    run: Callable[..., None]
    arguments: tuple[Any, ...]
    places: tuple[tuple[int, str | tuple[str, ...]], ...]
    described: tuple[tuple[int, str, list[int], list[int], str], ...]


class Recipe(NamedTuple):
    """How to answer calls of one key.

    Attributes:
        buffers: Name to tensor that each call allocates.
        steps: What is launched.
        held: Bytes of the device that are kept for it.
    """

    buffers: tuple[tuple[str, Buffer], ...]
    steps: tuple[Step, ...]
    held: int = 0

    def room(self, device: torch.device) -> Tensors:
        """Allocate what the steps write."""
        return {
            name: torch.empty_strided(b.shape, b.strides, dtype=b.dtype, device=device)
            for name, b in self.buffers
        }

    def run(self, tensors: Tensors) -> None:
        """Launch the steps with these tensors: a call's, and what was allocated for it."""
        for run, arguments, places, described in self.steps:
            filled = list(arguments)
            for at, name in places:
                if isinstance(name, tuple):
                    filled[at] = tuple(map(tensors.get, name))
                else:
                    filled[at] = tensors[name]
            if described:
                enter(tensors["q"].device)
            for at, name, shape, strides, padding in described:
                filled[at] = Described(tensors[name], shape, strides, padding)
            run(*filled)

    def follow(self, problem: AttentionProblem | VarlenProblem) -> Result:
        """Answer a call."""
        made = self.room(problem.q.device)
        self.run({**{name: getattr(problem, name, None) for name in READ}, **made})
        return Result(made["out"], made["lse"])


_recipes: dict[Any, Recipe] = {}


def key_of(problem: AttentionProblem | VarlenProblem, manner: Manner) -> tuple[Any, ...]:
    """Return everything that a recipe depends on."""
    p = problem
    others: tuple[Any, ...]
    if isinstance(p, AttentionProblem):
        others = (p.mask, p.bias, p.sinks, p.q_lens, p.kv_lens, p.q_offset)
    else:
        others = (p.cu_q, p.cu_k, p.sinks, p.q_offset)
    rest = tuple(x if isinstance(x, int | str) else form(x) for x in others)
    main = (form(p.q), form(p.k), form(p.v), p.q.device.index)
    return (*main, rest, p.scale, p.window, p.softcap, manner)


def find(key: tuple[Any, ...], device: torch.device) -> Recipe | None:
    """Return the recipe of a key, if it was met and the tensors' device is the current one."""
    recipe = _recipes.get(key)
    if recipe is None or device.index != torch.cuda.current_device():
        return None
    return recipe


def keep(
    key: tuple[Any, ...],
    buffers: Mapping[str, torch.Tensor],
    launches: Sequence[tuple[Launch, Any]],
) -> None:
    """Remember what a call came to: its launches, and the kernels that they compiled to.

    Where there are too many, the oldest goes that holds no memory of a device: a graph
    that captured one may still read from there.
    """
    if any(compiled is None for _, compiled in launches):
        return  # Triton's interpreter compiles nothing
    held = sum(launch.arguments[n].nbytes for launch, _ in launches for n in launch.kept)
    recipes = list(_recipes.items())  # in one step: other threads keep recipes, too
    if held and held + sum(recipe.held for _, recipe in recipes) > ROOM:
        return
    if len(recipes) >= MOST:
        oldest = next((old for old, recipe in recipes if not recipe.held), None)
        if oldest is None:
            return
        _recipes.pop(oldest, None)
    kinds = tuple((n, Buffer(tuple(x.shape), x.stride(), x.dtype)) for n, x in buffers.items())
    steps = tuple(_step(launch, compiled) for launch, compiled in launches)
    _recipes[key] = Recipe(kinds, steps, held)


def _step(launch: Launch, compiled: Any) -> Step:
    names = launch.kernel.arg_names
    arguments, places, described = [], [], []
    for at, name in enumerate(names):
        x = launch.arguments[name]
        if name in launch.kept:
            arguments.append(x)
            continue
        if hasattr(x, "block_shape"):
            arguments.append(None)
            described.append((at, launch.roles.get(name, name), x.shape, x.strides, x.padding))
            continue
        tensors = x if isinstance(x, tuple) else (x,)
        if not any(isinstance(t, torch.Tensor) for t in tensors):
            arguments.append(x)
            continue
        arguments.append(None)
        role = launch.roles.get(name, name)
        if name in SIDES:
            found = SIDES[name]
            role = found if len(found) > 1 else found[0]
        places.append((at, role))
    return Step(compiled[_three(launch.grid)], tuple(arguments), tuple(places), tuple(described))


def _three(grid: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = (*grid, 1, 1)[:3]
    return x, y, z


def form(x: torch.Tensor | None) -> tuple[Any, ...] | None:
    """Return what of a tensor a recipe depends on."""
    return None if x is None else (x.shape, x.stride(), x.dtype, x.data_ptr() % 16)
