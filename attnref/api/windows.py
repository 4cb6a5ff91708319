"""Window and shifted-window attention, and the bias that goes with it."""

from dataclasses import replace
from typing import Any, NamedTuple, Unpack

from attnref import arrays, dispatch, normalize
from attnref.api.public import public
from attnref.arrays import Array
from attnref.backend import Backend
from attnref.known import resolve
from attnref.options import WindowOptions
from attnref.problem import Result, TableProblem, WindowProblem


class WindowInputGradients(NamedTuple):
    """Gradients of `window_attention`; `None` where there was no such input."""

    dq: Array
    dk: Array
    dv: Array
    dbias: Array | None
    dscale: Array | None


class PackedWindowGradients(NamedTuple):
    """Gradients of `window_attention_qkv`; `None` where there was no such input."""

    dqkv: Array
    dbias: Array | None
    dscale: Array | None


@public(normalize.window_attention)
def window_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    backend: str | Backend | None = None,
    **options: Unpack[WindowOptions],
) -> Array:
    """Attend inside shifted windows of a text, an image or a video.

    Args:
        q: Queries `(B, *G, H, D)` with one to three spatial axes `G`.
        k: Keys, in q's shape and dtype.
        v: Values `(B, *G, H, Dv)`, in q's dtype.
        backend: As in `attention`.
        window: Tokens per axis in a window; an int means every axis. Maps that it does
            not divide are padded at the far end with nothing.
        shift: Cyclic shift per axis, smaller than the window.
        bias: `(H, N, N)` with `N = prod(window)`; see `relative_position_bias`.
        key_mask: Bool `(B, *G)`; `True` may be seen.
        scale: A number or one per head `(H,)`; default `1 / sqrt(D)`.
        wrap_bias: Added to pairs that met only because the map was rolled; the default,
            minus infinity, hides them. Published Swin weights expect `-100.0`.

    Returns:
        `(B, *G, H, Dv)` in q's dtype, library, device and memory order.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.

    Source:
        Z. Liu et al., "Swin Transformer", 2021, section 3.2. Defined by
        `attnref.spec.windows`.

    Example:
        >>> import numpy as np, attnref
        >>> v = np.arange(4.0).reshape(1, 4, 1, 1); q = np.zeros((1, 4, 1, 1))
        >>> attnref.window_attention(q, q, v, window=2, backend="reference").ravel()
        array([0.5, 0.5, 2.5, 2.5])
        >>> attnref.window_attention(q, q, v, window=2, shift=1, backend="reference").ravel()
        array([0. , 1.5, 1.5, 3. ])
    """
    problem, chosen = resolve(normalize.window_attention, backend, (q, k, v), options)
    return chosen.forward(problem).out


@public(normalize.window_attention)
def window_attention_with_lse(
    q: Array,
    k: Array,
    v: Array,
    *,
    backend: str | Backend | None = None,
    **options: Unpack[WindowOptions],
) -> Result:
    """Attend inside windows, and return the log-sum-exp as well.

    Args:
        q: As in `window_attention`.
        k: As in `window_attention`.
        v: As in `window_attention`.
        backend: As in `attention`.
        **options: As in `window_attention`.

    Returns:
        A named `(out, lse)` with `lse (B, *G, H)`.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.

    Example:
        >>> import numpy as np, attnref
        >>> x = np.zeros((1, 4, 4, 3, 8))
        >>> attnref.window_attention_with_lse(x, x, x, window=2, backend="reference").lse.shape
        (1, 4, 4, 3)
    """
    asked = {**options, "with_lse": True}
    problem, chosen = resolve(normalize.window_attention, backend, (q, k, v), asked)
    return chosen.forward(problem)


@public(normalize.window_attention_qkv)
def window_attention_qkv(
    qkv: Array,
    *,
    backend: str | Backend | None = None,
    **options: Unpack[WindowOptions],
) -> Array:
    """Attend inside windows of a packed projection, which is not copied.

    Args:
        qkv: `(B, *G, 3, H, D)`: queries, keys and values side by side.
        backend: As in `attention`.
        **options: As in `window_attention`.

    Returns:
        `(B, *G, H, D)`. Its gradient is one packed array.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.

    Example:
        >>> import numpy as np, attnref
        >>> qkv = np.zeros((1, 8, 8, 3, 2, 16))
        >>> attnref.window_attention_qkv(qkv, window=4, shift=2, backend="reference").shape
        (1, 8, 8, 2, 16)
    """
    problem, chosen = resolve(normalize.window_attention_qkv, backend, (qkv,), options)
    return chosen.forward(problem).out


@public(normalize.window_attention_qkv)
def window_attention_qkv_with_lse(
    qkv: Array,
    *,
    backend: str | Backend | None = None,
    **options: Unpack[WindowOptions],
) -> Result:
    """Attend inside windows of a packed projection, and return the log-sum-exp.

    Args:
        qkv: As in `window_attention_qkv`.
        backend: As in `attention`.
        **options: As in `window_attention`.

    Returns:
        A named `(out, lse)` with `lse (B, *G, H)`.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.

    Example:
        >>> import numpy as np, attnref
        >>> qkv = np.zeros((1, 8, 8, 3, 2, 16))
        >>> attnref.window_attention_qkv_with_lse(qkv, window=4, backend="reference").lse.shape
        (1, 8, 8, 2)
    """
    asked = {**options, "with_lse": True}
    problem, chosen = resolve(normalize.window_attention_qkv, backend, (qkv,), asked)
    return chosen.forward(problem)


def _checked(
    problem: WindowProblem, dout: Array, out: Array, lse: Array, dlse: Array | None
) -> WindowProblem:
    q, rows = problem.q, tuple(problem.q.shape[:-1])
    for name, x in (("dout", dout), ("out", out)):
        normalize.like(name, x, (*rows, problem.v.shape[-1]), problem.dtype, q, "(B, *G, H, Dv)")
    for name, x in (("lse", lse), ("dlse", dlse)):
        if name == "lse" or x is not None:
            normalize.like(name, x, rows, problem.lse_dtype, q, "(B, *G, H)")
    return replace(problem, with_gradients=True)


def _window_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    *,
    dlse: Array | None = None,
    **options: Any,
) -> WindowProblem:
    problem = normalize.window_attention(q, k, v, **options, with_lse=True)
    return _checked(problem, dout, out, lse, dlse)


@public(_window_backward)
def window_attention_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    *,
    dlse: Array | None = None,
    backend: str | Backend | None = None,
    **options: Unpack[WindowOptions],
) -> WindowInputGradients:
    """Pass gradients back through `window_attention`.

    What it returns is not differentiable in turn: give it tensors that require no
    gradient, or let autograd differentiate the forward call.

    Args:
        dout: Gradient of the loss by `out`, `(B, *G, H, Dv)`.
        q: As in the forward call.
        k: As in the forward call.
        v: As in the forward call.
        out: What the forward call returned.
        lse: Its log-sum-exp `(B, *G, H)`.
        dlse: Gradient of the loss by `lse`.
        backend: As in `attention`.
        **options: Those of the forward call.

    Returns:
        A named `(dq, dk, dv, dbias, dscale)`, `None` where there was no such array.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.

    Example:
        >>> import numpy as np, attnref
        >>> x = np.ones((1, 4, 1, 1))
        >>> out, lse = attnref.window_attention_with_lse(x, x, x, window=2, backend="reference")
        >>> attnref.window_attention_backward(
        ...     out, x, x, x, out, lse, window=2, backend="reference").dv.ravel()
        array([1., 1., 1., 1.])
    """
    given, asked = (dout, q, k, v, out, lse), {**options, "dlse": dlse}
    problem, chosen = resolve(_window_backward, backend, given, asked)
    g = chosen.backward(problem, Result(out, lse), dout, dlse)
    return WindowInputGradients(*g[:5])


def _qkv_backward(
    dout: Array, qkv: Array, out: Array, lse: Array, *, dlse: Array | None = None, **options: Any
) -> WindowProblem:
    problem = normalize.window_attention_qkv(qkv, **options, with_lse=True)
    return _checked(problem, dout, out, lse, dlse)


@public(_qkv_backward)
def window_attention_qkv_backward(
    dout: Array,
    qkv: Array,
    out: Array,
    lse: Array,
    *,
    dlse: Array | None = None,
    backend: str | Backend | None = None,
    **options: Unpack[WindowOptions],
) -> PackedWindowGradients:
    """Pass gradients back through `window_attention_qkv`.

    What it returns is not differentiable in turn: give it tensors that require no
    gradient, or let autograd differentiate the forward call.

    Args:
        dout: Gradient of the loss by `out`, `(B, *G, H, D)`.
        qkv: As in the forward call.
        out: What the forward call returned.
        lse: Its log-sum-exp `(B, *G, H)`.
        dlse: Gradient of the loss by `lse`.
        backend: As in `attention`.
        **options: Those of the forward call.

    Returns:
        A named `(dqkv, dbias, dscale)`; `dqkv` is one array in qkv's shape.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.

    Example:
        >>> import numpy as np, attnref
        >>> qkv = np.ones((1, 4, 3, 1, 1))
        >>> out, lse = attnref.window_attention_qkv_with_lse(qkv, window=2, backend="reference")
        >>> attnref.window_attention_qkv_backward(
        ...     out, qkv, out, lse, window=2, backend="reference").dqkv.shape
        (1, 4, 3, 1, 1)
    """
    given, asked = (dout, qkv, out, lse), {**options, "dlse": dlse}
    problem, chosen = resolve(_qkv_backward, backend, given, asked)
    g: Any = chosen.backward(problem, Result(out, lse), dout, dlse)
    return PackedWindowGradients(g.dqkv, g.dbias, g.dscale)


@public(normalize.relative_position_bias)
def relative_position_bias(
    table: Array, *, window: tuple[int, ...], backend: str | Backend | None = None
) -> Array:
    """Look up the bias of every pair of tokens in a window.

    Args:
        table: `(prod(2 * window - 1), H)`, one row per displacement, row-major.
        window: Extent per axis, e.g. `(7, 7)`.
        backend: As in `attention`.

    Returns:
        `(H, N, N)` with `N = prod(window)`, query-major, in the table's dtype.

    Raises:
        InvalidProblem: The table's length does not fit the window.
        UnsupportedError: No eligible backend can run the call.

    Source:
        Z. Liu et al., "Swin Transformer", 2021, equation 4.

    Example:
        >>> import numpy as np, attnref
        >>> table = np.array([[-1.0], [0.0], [1.0]])
        >>> attnref.relative_position_bias(table, window=(2,), backend="reference")[0]
        array([[ 0., -1.],
               [ 1.,  0.]])
    """
    problem = normalize.relative_position_bias(table, window=window)
    chosen = dispatch.choose(problem, requested=backend)
    return chosen.forward(problem).out


def _table_backward(dbias: Array, table: Array, *, window: tuple[int, ...]) -> TableProblem:
    problem = normalize.relative_position_bias(table, window=window)
    N = 1
    for w in problem.window:
        N *= w
    normalize.like(
        "dbias", dbias, (table.shape[1], N, N), arrays.dtype_name(table), table, "(H, N, N)"
    )
    return replace(problem, with_gradients=True)


@public(_table_backward)
def relative_position_bias_backward(
    dbias: Array,
    table: Array,
    *,
    window: tuple[int, ...],
    backend: str | Backend | None = None,
) -> Array:
    """Pass a bias gradient back to its table; equal displacements are added up.

    What it returns is not differentiable in turn: give it tensors that require no
    gradient, or let autograd differentiate the forward call.

    Args:
        dbias: Gradient of the loss by the bias, `(H, N, N)`.
        table: As in the forward call.
        window: As in the forward call.
        backend: As in `attention`.

    Returns:
        The gradient in the table's shape and dtype, summed in at least float32.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.

    Example:
        >>> import numpy as np, attnref
        >>> attnref.relative_position_bias_backward(
        ...     np.ones((1, 2, 2)), np.zeros((3, 1)), window=(2,), backend="reference").ravel()
        array([1., 2., 1.])
    """
    problem = _table_backward(dbias, table, window=window)
    chosen = dispatch.choose(problem, requested=backend)
    return chosen.backward(problem, Result(dbias), dbias)[0]
