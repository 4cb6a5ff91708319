"""One check per rule about arguments; each failure names the arrays with their letters.

A `Call` collects the arrays of one call and the letters of their shapes. Its methods
state facts; `Call.wrong` adds the context that every message carries.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from numbers import Real
from typing import Any, NoReturn

import numpy as np

from attnref import arrays
from attnref.arrays import Array
from attnref.errors import InvalidProblem

CHAPTERS = {
    "A": "attnref.spec",
    "A2": "attnref.spec.scores",
    "B": "attnref.spec.scores",
    "C": "attnref.spec.visibility",
    "D": "attnref.spec.softmax",
    "E": "attnref.spec.gradients",
    "F": "attnref.spec.packed",
    "G": "attnref.spec.windows",
    "H": "attnref.dispatch",
}
"""Where the clauses of each family, or a clause apart from its family, are written."""

FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("int32", "int64")
FAR = 2**61
"""The largest offset or bound of a window: a position, an offset and a bound can be
added in 64 bits."""


class Call:
    """The arrays of one call, with the letters of their shapes.

    Args:
        letters: Array name to the letters of its shape, e.g. `"(B, Hq, Sq, D)"`.
        given: Array name to array.
        options: Array name to array, or `None` where the caller gave none.
    """

    def __init__(
        self,
        letters: Mapping[str, str],
        given: Mapping[str, Array],
        options: Mapping[str, Array | None] | None = None,
    ) -> None:
        self.letters = letters
        asked = {n: x for n, x in (options or {}).items() if x is not None}
        self.given = {**given, **asked}
        for name, x in self.given.items():
            if x is None:
                self.wrong(f"{name} is None; it must be an array.", clause="H3")
            if arrays.library(x) is None:
                kind = type(x).__name__
                self.wrong(
                    f"{name} is a {kind}, not an array of a library that speaks DLPack.",
                    clause="H3",
                    hint=f"np.asarray({name}), or an array of the library you use",
                )
            if other := arrays.not_dense(x):
                self.wrong(f"{name} is {other}, and attnref needs a dense one.", clause="H3")

    def describe(self, *names: str) -> list[str]:
        """Describe arrays, one aligned line each: name, dtype, shape, letters."""
        given = [n for n in names if n in self.given]
        rows = [
            (n, arrays.dtype_name(x), str(tuple(x.shape)), self.letters[n])
            for n in given
            for x in [self.given[n]]
        ]
        width = [max((len(r[c]) for r in rows), default=0) for c in range(3)]
        return ["  ".join([*(r[c].ljust(width[c]) for c in range(3)), r[3]]) for r in rows]

    def wrong(self, fact: str, *names: str, clause: str, hint: str = "") -> NoReturn:
        """Raise: the fact, the arrays concerned, where the rule is, what to do."""
        see = f"{CHAPTERS.get(clause, CHAPTERS[clause[0]])} ({clause})"
        raise InvalidProblem(fact, self.describe(*names), see=see, hint=hint)

    def together(self) -> None:
        """All arrays are of one library and on one device (H3)."""
        first, *others = self.given
        self._alike(arrays.library, "a {} array", "make", first, others)
        self._alike(arrays.device, "on {}", "put", first, others)

    def _alike(
        self,
        of: Callable[[Array], str | None],
        what: str,
        verb: str,
        first: str,
        others: Sequence[str],
    ) -> None:
        mine = what.format(of(self.given[first]))
        for name in others:
            theirs = what.format(of(self.given[name]))
            if theirs != mine:
                self.wrong(
                    f"{first} is {mine} and {name} is {theirs}.",
                    first,
                    name,
                    clause="H3",
                    hint=f"{verb} {name} {mine}; nothing is moved unasked",
                )

    def rank(self, *names: str) -> None:
        """The arrays have as many axes as letters (A1)."""
        for name in names:
            wanted = self.letters[name].count(",") + 1 - self.letters[name].endswith(",)")
            if name in self.given and self.given[name].ndim != wanted:
                axes = self.given[name].ndim
                self.wrong(
                    f"{name} has {axes} {'axis' if axes == 1 else 'axes'} and needs {wanted}.",
                    name,
                    clause="A1",
                )

    def floats(self, *names: str) -> None:
        """The arrays are of a floating dtype that the specification knows (A3)."""
        for name in names:
            if name in self.given and arrays.dtype_name(self.given[name]) not in FLOATS:
                self.wrong(
                    f"{name} is {arrays.dtype_name(self.given[name])}; "
                    f"{', '.join(FLOATS)} are taken.",
                    name,
                    clause="A3",
                )

    def agree_in_dtype(self, first: str, *others: str) -> None:
        """The arrays share a dtype (A3)."""
        mine = arrays.dtype_name(self.given[first])
        for name in others:
            theirs = arrays.dtype_name(self.given[name])
            if theirs != mine:
                self.wrong(
                    f"{name} is {theirs} and {first} is {mine}; they must agree.",
                    first,
                    *others,
                    clause="A3",
                )

    def agree_in_size(self, first: str, a: int, other: str, b: int, what: str) -> None:
        """Axis `a` of one array is as long as axis `b` of another (A1)."""
        x, y = self.given[first].shape[a], self.given[other].shape[b]
        if x != y:
            self.wrong(
                f"{first} has {what.format(x)} and {other} has {y}.",
                first,
                other,
                clause="A1",
                hint=self._swapped(),
            )

    def _swapped(self) -> str:
        """Suggest to swap axes where heads behind tokens would make sense (A1)."""
        shapes = [tuple(self.given[n].shape) for n in ("q", "k", "v") if n in self.given]
        if {len(shape) for shape in shapes} != {4}:
            return ""
        q, k, v = shapes
        same = q[0] == k[0] and q[3] == k[3] and k[:3] == v[:3]
        if not same or k[2] == 0 or q[2] % k[2]:
            return ""
        return "if these are (B, S, H, D), pass q.swapaxes(1, 2) and so on"

    def shaped(self, name: str, shape: tuple[int, ...], clause: str) -> None:
        """The array has exactly this shape."""
        if name in self.given and tuple(self.given[name].shape) != shape:
            self.wrong(f"{name} must have shape {shape}.", name, clause=clause)

    def boolean(self, name: str, clause: str, additive: str = "") -> None:
        """The array holds booleans, of which True is visible; `additive` is said of floats."""
        if name in self.given and arrays.dtype_name(self.given[name]) != "bool":
            real = arrays.dtype_name(self.given[name]) in FLOATS
            self.wrong(
                f"{name} is {arrays.dtype_name(self.given[name])}; it must be bool, "
                "True where a key may be seen.",
                name,
                clause=clause,
                hint=(real and additive) or f"pass {name} != 0",
            )

    def broadcasts(self, name: str, shape: tuple[int, ...], clause: str) -> None:
        """The array broadcasts to the shape, and has no more axes than it."""
        if name not in self.given:
            return
        mine = tuple(self.given[name].shape)
        fits = len(mine) <= len(shape) and all(
            n in (1, m) for n, m in zip(reversed(mine), reversed(shape), strict=False)
        )
        if not fits:
            self.wrong(
                f"{name} does not broadcast to (B, Hq, Sq, Sk) = {shape}.",
                "q",
                "k",
                name,
                clause=clause,
                hint=_reshape(name, mine, shape),
            )

    def heads(self, Hq: int, Hkv: int) -> None:
        """Query heads are a multiple of key/value heads (A2)."""
        if (Hq % Hkv if Hkv else Hq) != 0:
            self.wrong(
                f"q has {Hq} heads, which is not a multiple of k's {Hkv}.",
                "q",
                "k",
                clause="A2",
                hint=self._swapped(),
            )

    def integers(self, name: str, length: int, clause: str) -> np.ndarray | None:
        """The array is `(length,)` integers; return the values that the host holds."""
        if name not in self.given:
            return None
        x = self.given[name]
        if arrays.dtype_name(x) not in INTEGERS:
            self.wrong(
                f"{name} is {arrays.dtype_name(x)}; int32 and int64 are taken.",
                name,
                clause=clause,
            )
        self.shaped(name, (length,), clause)
        return arrays.host_values(x)

    def lengths(self, name: str, B: int, longest: int) -> None:
        """Lengths lie between zero and the size of their axis (C4)."""
        values = self.integers(name, B, "C4")
        if values is None:
            return
        for b, n in enumerate(values.tolist()):
            if not 0 <= n <= longest:
                self.wrong(
                    f"{name}[{b}] is {n}; lengths lie between 0 and {longest}.",
                    name,
                    clause="C4",
                )

    def offsets(self, name: str, last: int, of: str) -> None:
        """Prefix sums start at zero, never fall, and end inside their tokens (F1)."""
        values = self.integers(name, int(self.given[name].shape[0]), "F1")
        if int(self.given[name].shape[0]) < 1:
            self.wrong(f"{name} is empty; it starts with 0.", name, clause="F1")
        if values is None:
            return
        steps = values.tolist()
        if steps[0] != 0:
            self.wrong(f"{name} starts at {steps[0]}, not at 0.", name, clause="F1")
        for n, (a, b) in enumerate(pairwise(steps)):
            if b < a:
                self.wrong(f"{name} falls from {a} to {b} at {n + 1}.", name, clause="F1")
        if steps[-1] > last:
            self.wrong(
                f"{name} ends at {steps[-1]}, past the {last} tokens of {of}.",
                of,
                name,
                clause="F1",
            )

    def number(
        self, name: str, value: object, clause: str, *, positive: bool = False, off: str = ""
    ) -> float:
        """A finite real number, optionally positive; `off` says what else is legal."""
        x = math.nan
        if not isinstance(value, bool) and isinstance(value, Real):
            with suppress(OverflowError):
                x = float(value)
        if not math.isfinite(x) or (positive and x <= 0):
            what = "a finite number greater than zero" if positive else "a finite number"
            self.wrong(f"{name} is {value!r}; it must be {what}{off}.", clause=clause)
        return x

    def whole(self, name: str, value: object, clause: str, *, least: int, hint: str = "") -> int:
        """An integer of at least `least`."""
        try:
            n = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            n = least - 1
        if n < least or isinstance(value, bool):
            self.wrong(
                f"{name} is {value!r}; it must be an integer of at least {least}.",
                clause=clause,
                hint=hint,
            )
        return n

    def near(self, name: str, n: int, clause: str, hint: str = "") -> int:
        """A distance on the key axis that 64-bit positions can be moved by (C3)."""
        if abs(n) > FAR:
            self.wrong(
                f"{name} is {n}; positions are 64-bit, and 2**61 is the most.",
                clause=clause,
                hint=hint,
            )
        return n

    def flag(self, name: str, value: Any, clause: str) -> bool:
        """A bool, not something truthy."""
        if not isinstance(value, bool | np.bool_):
            self.wrong(f"{name} is {value!r}; it must be True or False.", clause=clause)
        return bool(value)


def _reshape(name: str, mine: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """Suggest how what does not broadcast to `(B, Hq, Sq, Sk)` was meant."""
    B, Hq, Sq, Sk = shape
    if mine == (B, Sk):
        what = "a padding mask" if name == "mask" else f"a {name}"
        return f"{what} (B, Sk) is passed as {name}[:, None, None, :]"
    if mine == (B, Sq, Sk):
        return f"a {name} (B, Sq, Sk) is passed as {name}[:, None]"
    return "the head axis is Hq or 1" if mine[-3:-2] not in ((), (1,), (Hq,)) else ""
