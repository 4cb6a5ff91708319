"""What the arguments of several operations have in common."""

import math
from dataclasses import replace
from typing import TypeVar

from attnref import arrays
from attnref.arrays import Array
from attnref.checks import Call
from attnref.problem import Problem

P = TypeVar("P", bound=Problem)


def like(name: str, x: Array, shape: tuple[int, ...], dtype: str, of: Array, letters: str) -> None:
    """Check an array that a backward call takes beside the forward's arguments."""
    call = Call({name: letters}, {name: x})
    mine = (arrays.library(x), arrays.device(x))
    theirs = (arrays.library(of), arrays.device(of))
    if mine != theirs:
        call.wrong(
            f"{name} is a {mine[0]} array on {mine[1]}; the inputs are {theirs[0]} "
            f"arrays on {theirs[1]}.",
            name,
            clause="H3",
        )
    call.shaped(name, shape, "E1")
    if arrays.dtype_name(x) != dtype:
        call.wrong(f"{name} is {arrays.dtype_name(x)}; it must be {dtype}.", name, clause="A3")


def if_array(x: object) -> Array | None:
    """Return what may be an array or a number if it is an array."""
    return x if arrays.library(x) is not None else None


def scale_of(call: Call, scale: object, D: int) -> float:
    """Return the scale, or its default (B1)."""
    if scale is not None:
        return call.number("scale", scale, "B1")
    if D == 0:
        call.wrong(
            "q has a head size of 0, so scale has no default.",
            "q",
            clause="A4",
            hint="attention(..., scale=1.0)",
        )
    return 1.0 / math.sqrt(D)


def noted(problem: P, *, with_lse: bool = False) -> P:
    """Note what the caller will read: gradients need the log-sum-exp."""
    named = problem.arrays
    gradients = any(arrays.needs_gradient(named[n]) for n in problem.differentiable if n in named)
    return replace(problem, with_lse=with_lse or gradients, with_gradients=gradients)
