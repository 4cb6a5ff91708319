"""Arguments of softmax and of merge."""

import operator

from attnref import arrays
from attnref.arrays import Array
from attnref.checks import Call
from attnref.normalize.arguments import noted
from attnref.problem import MergeProblem, SoftmaxProblem


def softmax(x: Array, *, axis: int = -1, tile: int | None = None) -> SoftmaxProblem:
    """Describe a call of `softmax`."""
    call = Call({"x": "(...)"}, {"x": x})
    call.floats("x")
    try:
        at = operator.index(axis)
    except TypeError:
        at = x.ndim
    if not -x.ndim <= at < x.ndim:
        call.wrong(f"axis is {axis!r} and x has {x.ndim} axes.", "x", clause="D5")
    tile = None if tile is None else call.whole("tile", tile, "D5", least=1)
    return noted(SoftmaxProblem(x=x, axis=at % x.ndim, tile=tile))


def merge(out_a: Array, lse_a: Array, out_b: Array, lse_b: Array) -> MergeProblem:
    """Describe a call of `merge`."""
    letters = {"out_a": "(..., Dv)", "lse_a": "(...)", "out_b": "(..., Dv)", "lse_b": "(...)"}
    given = {"out_a": out_a, "lse_a": lse_a, "out_b": out_b, "lse_b": lse_b}
    call = Call(letters, given)
    call.together()
    call.floats(*given)
    call.agree_in_dtype("out_a", "out_b")
    if out_a.ndim < 1:
        call.wrong("out_a has no axis of values.", "out_a", clause="D3")
    call.shaped("out_b", tuple(out_a.shape), "D3")
    for lse in ("lse_a", "lse_b"):
        call.shaped(lse, tuple(out_a.shape[:-1]), "D3")
        wide = "float64" if arrays.dtype_name(out_a) == "float64" else "float32"
        if arrays.dtype_name(given[lse]) != wide:
            call.wrong(
                f"{lse} is {arrays.dtype_name(given[lse])}; with out_a it is {wide}.",
                "out_a",
                lse,
                clause="A3",
            )
    return noted(MergeProblem(**given))
