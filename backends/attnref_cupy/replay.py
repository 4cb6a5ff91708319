"""Calls of a form seen before: queued again, with nothing worked out anew.

What a pass comes to, which kernels in which grids with which numbers, depends on shapes,
strides, dtypes, alignments and options, and not on where arrays are. So the structures that
kernels are given are filled in once for each key of a call. Later calls copy them, put the
addresses of their own arrays into the copies, and go straight to the compiled kernels.

Which address belongs to which array is known by name: a structure's pointers are called as
the arrays are. A call is kept only if every one of them is where it is expected; one that
copies an array first, because kernels cannot read it as it lies, takes the long way each time.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import cupy
import numpy as np

from attnref.backend import memory_order
from attnref_cupy import structures
from attnref_cupy.launching import Launch
from attnref_cupy.layout import pointer

MOST = 4096
"""Recipes that are kept; a program whose shapes never come again must not fill the memory."""

WORD = 8
"""Bytes of an address."""

Arrays = Mapping[str, Any]
"""Name to array, or `None` where a call has none."""


class Buffer(NamedTuple):
    """An array that each call allocates.

    Attributes:
        shape: From the outermost axis in memory to the innermost.
        dtype: Of the numbers.
        axes: Which of these is each axis of the array; `None` if they are in order.
        zeroed: Kernels add to it.
    """

    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[int, ...] | None
    zeroed: bool

    def make(self) -> Any:
        """Allocate it."""
        x = (cupy.zeros if self.zeroed else cupy.empty)(self.shape, self.dtype)
        return x if self.axes is None else x.transpose(self.axes)


class Step(NamedTuple):
    """A compiled kernel, and which of the addresses that it is given change.

    Attributes:
        function: CuPy's, compiled.
        grid: Blocks.
        threads: Of a block.
        shared: Bytes of shared memory.
        arguments: Of the first call, without structures and arrays.
        arrays: Which arguments are arrays, and which.
        structure: Which argument is a structure, if one is.
        layout: Of the structure.
        words: Of the first call's structure, eight bytes each.
        places: Words that are addresses: where, of which array, and how far into it.
    """

    function: Any
    grid: tuple[int]
    threads: tuple[int]
    shared: int
    arguments: tuple[Any, ...]
    arrays: tuple[tuple[int, str], ...]
    structure: int | None
    layout: Any
    words: Any
    places: tuple[tuple[int, str, int], ...]

    def run(self, arrays: Arrays, at: Mapping[str, int]) -> None:
        """Queue the kernel, given arrays and where they are."""
        given = list(self.arguments)
        if self.structure is not None:
            words = self.words.copy()  # another thread may be at this very step
            for place, name, further in self.places:
                words[place] = at[name] + further
            given[self.structure] = np.ndarray((), self.layout, words)
        for place, name in self.arrays:
            given[place] = arrays[name]
        self.function(self.grid, self.threads, tuple(given), shared_mem=self.shared)


class Recipe(NamedTuple):
    """How to answer calls of one key.

    Attributes:
        buffers: Name to array that each call allocates.
        steps: What is queued.
        named: Arrays whose addresses are put into structures.
    """

    buffers: tuple[tuple[str, Buffer], ...]
    steps: tuple[Step, ...]
    named: tuple[str, ...]

    def follow(self, given: Arrays) -> dict[str, Any]:
        """Queue the steps on a call's arrays, and return those that they fill in."""
        made = {name: buffer.make() for name, buffer in self.buffers}
        arrays = {**given, **made}
        at = {name: arrays[name].data.ptr for name in self.named}
        for step in self.steps:
            step.run(arrays, at)
        return made


_recipes: dict[Any, Recipe | None] = {}
"""Keys and devices to recipes; `None` where calls have to take the long way."""


def form(x: Any) -> Any:
    """Return what of an array a recipe depends on; other options stand for themselves."""
    if not isinstance(x, cupy.ndarray):
        return x
    return x.shape, x.strides, x.dtype, x.data.ptr % 16


def find(key: Any, x: Any) -> Recipe | None:
    """Return the recipe of a key, if it was met and the array's device is the current one."""
    device = x.data.device_id
    return _recipes.get((key, device)) if device == cupy.cuda.runtime.getDevice() else None


def keep(
    key: Any,
    given: Arrays,
    buffers: Arrays,
    launches: Iterable[Launch],
    parts: Mapping[str, str] | None = None,
    zeroed: Sequence[str] = (),
) -> None:
    """Remember what a call came to, if it can be told from its arrays' addresses alone.

    Args:
        key: Everything that it depends on.
        given: The arrays of the call.
        buffers: What was allocated for it.
        launches: What was queued.
        parts: Name to buffer of what is a part of one.
        zeroed: Buffers that have to be zero beforehand.
    """
    device = next(x for x in buffers.values() if x is not None).data.device_id
    if (key, device) in _recipes:
        return
    if len(_recipes) >= MOST:
        _recipes.clear()
    _recipes[key, device] = _recipe(given, buffers, launches, parts or {}, zeroed)


def _recipe(
    given: Arrays,
    buffers: Arrays,
    launches: Iterable[Launch],
    parts: Mapping[str, str],
    zeroed: Sequence[str],
) -> Recipe | None:
    buffers = {name: x for name, x in buffers.items() if x is not None}
    arrays = {name: x for name, x in given.items() if isinstance(x, cupy.ndarray)} | buffers
    if any(x.size == 0 for x in arrays.values()):
        return None  # whose addresses say nothing
    kinds = [(name, _buffer(x, name in zeroed)) for name, x in buffers.items()]
    whole = {**{name: name for name in arrays}, **parts}
    steps = [_step(launch, arrays, whole) for launch in launches]
    if None in steps or any(kind is None for _, kind in kinds):
        return None
    named = dict.fromkeys(name for step in steps if step for _, name, _ in step.places)
    return Recipe(tuple(kinds), tuple(steps), tuple(named))  # type: ignore[arg-type]


def _buffer(x: Any, zeroed: bool) -> Buffer | None:
    order = memory_order(x)
    if not x.transpose(order).flags.c_contiguous:
        return None
    axes = tuple(sorted(range(x.ndim), key=order.__getitem__))
    plain = axes == tuple(range(x.ndim))
    return Buffer(tuple(x.shape[a] for a in order), x.dtype, None if plain else axes, zeroed)


def _step(launch: Launch, arrays: Arrays, whole: Mapping[str, str]) -> Step | None:
    """Tell what changes from call to call; `None` if something that is read is elsewhere."""
    if launch.grid == 0:
        return None
    arguments = list(launch.arguments)
    mine: list[tuple[int, str]] = []
    structure: int | None = None
    layout, words, places = None, None, ()
    for n, x in enumerate(launch.arguments):
        if isinstance(x, cupy.ndarray):
            names = [name for name, y in arrays.items() if y is x]
            if len(names) != 1:
                return None
            mine.append((n, names[0]))
        elif isinstance(x, np.ndarray) and x.dtype.names:
            found = _places(x, arrays, whole)
            if found is None:
                return None
            structure, layout, places = n, x.dtype, found
            words = np.frombuffer(x.tobytes(), np.uint64)
        else:
            continue
        arguments[n] = None
    return Step(
        function=launch.function(),
        grid=(launch.grid,),
        threads=(launch.threads,),
        shared=launch.shared,
        arguments=tuple(arguments),
        arrays=tuple(mine),
        structure=structure,
        layout=layout,
        words=words,
        places=places,
    )


def _places(x: Any, arrays: Arrays, whole: Mapping[str, str]) -> Any:
    """Find the addresses in a structure; `None` if one is not of the array of its name."""
    words, places = np.frombuffer(x.tobytes(), np.uint64), []
    for name, offset in structures.pointers(x.dtype):
        place = offset // WORD
        value = int(words[place])
        if value == 0:
            continue
        array = arrays.get(whole.get(name, ""))
        if array is None:
            return None
        further = value - pointer(array)
        if (further and whole[name] == name) or not 0 <= further < array.nbytes:
            return None
        places.append((place, whole[name], further))
    return tuple(places)
