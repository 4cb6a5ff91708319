"""What a case is: a call as data, with an id that reads like a clause."""

import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np

from attnref import arrays
from attnref.arrays import Array

DTYPES = ("float16", "bfloat16", "float32", "float64")

POSITIONAL = {
    "attention": ("q", "k", "v"),
    "attention_varlen": ("q", "k", "v", "cu_q", "cu_k"),
    "window_attention": ("q", "k", "v"),
    "window_attention_qkv": ("qkv",),
    "softmax": ("x",),
    "merge": ("out_a", "lse_a", "out_b", "lse_b"),
    "relative_position_bias": ("table",),
}
"""The arrays that each public function takes by position."""


class Part(StrEnum):
    """What of a call is judged: its output alone, with lse, or its gradients."""

    OUT = "out"
    LSE = "lse"
    GRADIENTS = "gradients"


@dataclass(frozen=True)
class View:
    """A view that is taken of an array after it became the backend's own.

    Attributes:
        take: Takes the view; given a NumPy array, of the same meaning.
        written: How a program writes the view.
    """

    take: Callable[[Array], Array]
    written: str = ""


@dataclass(frozen=True)
class Call:
    """One call of a public function.

    Attributes:
        function: The public name without suffixes.
        inputs: Array arguments by name, before views.
        options: The other arguments.
        views: Array name to the view under which it is passed.
        poison: Put NaN where the call may not look: in what the backward is given past a
            length.
    """

    function: str
    inputs: Mapping[str, np.ndarray]
    options: Mapping[str, Any] = field(default_factory=dict)
    views: Mapping[str, View] = field(default_factory=dict)
    poison: bool = False

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """The array arguments as the function sees them."""
        return {
            name: self.views[name].take(x) if name in self.views else x
            for name, x in self.inputs.items()
        }

    def split(self, given: Mapping[str, Array]) -> tuple[list[Array], dict[str, Any]]:
        """Sort arrays into positional and keyword arguments, options included."""
        first = POSITIONAL[self.function]
        rest = {n: x for n, x in given.items() if n not in first}
        return [given[n] for n in first], {**rest, **self.options}


@dataclass(frozen=True)
class Case:
    """A call that is judged in several dtypes and parts.

    Attributes:
        name: Clause and what it shows, e.g. `"C5-row-that-sees-nothing"`.
        build: Makes the call from a generator and a dtype.
        dtypes: The dtypes it is judged in.
        parts: The parts of it that are judged.
        exact: Every result is exact in every precision, so no error is allowed.
        dlse: The backward is also given a gradient of the log-sum-exp.
        dout: How the gradient given to the backward lies in memory: `"like q"`, `"dense"`, or
            `"stretched"` from a single one, as a sum's gradient is.
        merged: The backward is given `out` and `lse` of a larger, merged problem.
        quick: Part of the quick profile.
        promised: The attribute by which a backend promises what this case judges; a
            finding on a backend without it is a matter of quality.
    """

    name: str
    build: Callable[[np.random.Generator, str], Call]
    dtypes: tuple[str, ...] = DTYPES
    parts: tuple[Part, ...] = (Part.OUT, Part.LSE, Part.GRADIENTS)
    exact: bool = False
    dlse: bool = True
    dout: str = "like q"
    merged: bool = False
    quick: bool = True
    promised: str | None = None

    @property
    def clause(self) -> str:
        """The clause that the case judges."""
        return self.name.partition("-")[0]

    def call(self, dtype: str) -> Call:
        """Make the call: the same numbers on every machine and in every run."""
        return self.build(np.random.default_rng(zlib.crc32(self.name.encode())), dtype)


def permute(*axes: int) -> View:
    """View an array with its axes in another order."""

    def take(x: Array) -> Array:
        return x.permute(axes) if hasattr(x, "permute") else x.transpose(axes)

    return View(take, f"permute{axes}")


def cut(*slices: Any) -> View:
    """View a part of an array."""
    return View(lambda x: x[slices], f"cut{slices}")


def stretch(*shape: int) -> View:
    """View an array with strides of zero."""

    def take(x: Array) -> Array:
        return sys.modules[arrays.library(x) or "numpy"].broadcast_to(x, shape)

    return View(take, f"stretch{shape}")


def cast(x: np.ndarray, dtype: str) -> np.ndarray:
    """Round to a dtype by its plain name."""
    return np.asarray(x).astype(arrays.numpy_dtype(dtype))
