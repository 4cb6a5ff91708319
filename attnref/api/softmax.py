"""Softmax by tiles, and the merging of partial results."""

from dataclasses import replace

from attnref import dispatch, normalize
from attnref.api.public import public
from attnref.arrays import Array
from attnref.backend import Backend
from attnref.problem import MergeGradients, MergeProblem, Result, SoftmaxProblem


@public(normalize.softmax)
def softmax(
    x: Array,
    *,
    axis: int = -1,
    tile: int | None = None,
    backend: str | Backend | None = None,
) -> Array:
    """Turn scores along an axis into weights.

    Args:
        x: Scores of any shape; float16, bfloat16, float32 or float64.
        axis: The axis that sums to one.
        tile: Read so many scores at a time; never changes the meaning.
        backend: As in `attention`.

    Returns:
        Weights in x's shape and dtype. A slice that is minus infinity throughout gives
        zeros; a NaN or plus infinity spoils its own slice and no other.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.

    Source:
        M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax", 2018.

    Example:
        >>> import numpy as np, attnref
        >>> attnref.softmax(np.log([[1.0, 3.0]]), tile=1, backend="reference").round(2)
        array([[0.25, 0.75]])
    """
    problem = normalize.softmax(x, axis=axis, tile=tile)
    chosen = dispatch.choose(problem, requested=backend)
    return chosen.forward(problem).out


def _softmax_backward(dy: Array, y: Array, *, axis: int = -1) -> SoftmaxProblem:
    problem = normalize.softmax(y, axis=axis)
    normalize.like("dy", dy, tuple(y.shape), problem.dtype, y, "(...)")
    return replace(problem, with_gradients=True)


@public(_softmax_backward)
def softmax_backward(
    dy: Array, y: Array, *, axis: int = -1, backend: str | Backend | None = None
) -> Array:
    """Pass a gradient back through `softmax`.

    What it returns is not differentiable in turn: give it tensors that require no
    gradient, or let autograd differentiate the forward call.

    Args:
        dy: Gradient of the loss by the weights.
        y: The weights that `softmax` returned.
        axis: As in the forward call.
        backend: As in `attention`.

    Returns:
        The gradient by the scores, `y * (dy - sum(y * dy))`.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.

    Example:
        >>> import numpy as np, attnref
        >>> attnref.softmax_backward(np.array([1.0, 0.0]), np.array([0.5, 0.5]),
        ...                          backend="reference")
        array([ 0.25, -0.25])
    """
    problem = _softmax_backward(dy, y, axis=axis)
    chosen = dispatch.choose(problem, requested=backend)
    return chosen.backward(problem, Result(y), dy)[0]


@public(normalize.merge)
def merge(
    out_a: Array,
    lse_a: Array,
    out_b: Array,
    lse_b: Array,
    *,
    backend: str | Backend | None = None,
) -> Result:
    """Merge attention over two disjoint sets of keys into attention over both.

    Args:
        out_a: The first part's `out`, `(..., Dv)`.
        lse_a: Its log-sum-exp, `(...)`, float32 (float64 for float64).
        out_b: The second part's `out`, in the first's shape and dtype.
        lse_b: Its log-sum-exp.
        backend: As in `attention`.

    Returns:
        A named `(out, lse)`. A part that saw nothing, `(0, -inf)`, changes nothing.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.

    Example:
        >>> import numpy as np, attnref
        >>> a, b = np.array([[1.0]]), np.array([[3.0]])
        >>> zero = np.array([0.0])
        >>> attnref.merge(a, zero, b, zero, backend="reference").out
        array([[2.]])
    """
    problem = normalize.merge(out_a, lse_a, out_b, lse_b)
    chosen = dispatch.choose(problem, requested=backend)
    return chosen.forward(problem)


def _merge_backward(
    dout: Array,
    dlse: Array,
    out_a: Array,
    lse_a: Array,
    out_b: Array,
    lse_b: Array,
    out: Array,
    lse: Array,
) -> MergeProblem:
    problem = normalize.merge(out_a, lse_a, out_b, lse_b)
    for name, x in (("dout", dout), ("out", out)):
        normalize.like(name, x, tuple(out_a.shape), problem.dtype, out_a, "(..., Dv)")
    for name, x in (("dlse", dlse), ("lse", lse)):
        normalize.like(name, x, tuple(lse_a.shape), problem.lse_dtype, out_a, "(...)")
    return replace(problem, with_gradients=True)


@public(_merge_backward)
def merge_backward(
    dout: Array,
    dlse: Array,
    out_a: Array,
    lse_a: Array,
    out_b: Array,
    lse_b: Array,
    out: Array,
    lse: Array,
    *,
    backend: str | Backend | None = None,
) -> MergeGradients:
    """Pass gradients back through `merge`.

    What it returns is not differentiable in turn: give it tensors that require no
    gradient, or let autograd differentiate the forward call.

    Args:
        dout: Gradient of the loss by the merged `out`.
        dlse: Gradient of the loss by the merged `lse`.
        out_a: As in the forward call.
        lse_a: As in the forward call.
        out_b: As in the forward call.
        lse_b: As in the forward call.
        out: What the forward call returned.
        lse: What the forward call returned.
        backend: As in `attention`.

    Returns:
        A named `(dout_a, dlse_a, dout_b, dlse_b)`.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.

    Example:
        >>> import numpy as np, attnref
        >>> a, b, zero = np.array([[1.0]]), np.array([[3.0]]), np.array([0.0])
        >>> out, lse = attnref.merge(a, zero, b, zero, backend="reference")
        >>> attnref.merge_backward(out, zero, a, zero, b, zero, out, lse,
        ...                        backend="reference").dout_a
        array([[1.]])
    """
    problem = _merge_backward(dout, dlse, out_a, lse_a, out_b, lse_b, out, lse)
    chosen = dispatch.choose(problem, requested=backend)
    return chosen.backward(problem, Result(out, lse), dout, dlse)  # type: ignore[return-value]
