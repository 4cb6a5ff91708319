"""Attention over padded batches and over packed sequences."""

from dataclasses import replace
from typing import Any, Unpack

from attnref import normalize
from attnref.api.public import public
from attnref.arrays import Array
from attnref.backend import Backend
from attnref.known import resolve
from attnref.options import AttentionOptions, VarlenOptions
from attnref.problem import AttentionGradients, AttentionProblem, Result, VarlenProblem


@public(normalize.attention)
def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    backend: str | Backend | None = None,
    **options: Unpack[AttentionOptions],
) -> Array:
    """Weigh values by how well queries match keys.

    Args:
        q: Queries `(B, Hq, Sq, D)`; float16, bfloat16, float32 or float64. Any strides:
            another layout is a view.
        k: Keys `(B, Hkv, Sk, D)`, in q's dtype. `Hq` is a multiple of `Hkv`; query head
            `h` reads key/value head `h // (Hq // Hkv)`.
        v: Values `(B, Hkv, Sk, Dv)`, in q's dtype.
        backend: The backend that must run, by name or as an object; by default the
            first of the preference order that can.
        scale: Multiplies the scores; default `1 / sqrt(D)`.
        causal: Queries see no key behind their own position.
        window: `(left, right)`: how many keys to each side a query sees, both inclusive;
            `None` leaves a side unbounded.
        q_offset: Where the first query stands on the key axis: an integer, a `(B,)`
            integer array, `"start"` or `"end"`. Needed with `causal` or `window` when
            queries and keys differ in number.
        mask: Bool, broadcasts to `(B, Hq, Sq, Sk)`; `True` may be seen.
        bias: Added to the scores; broadcasts to `(B, Hq, Sq, Sk)`.
        softcap: Bounds the scores smoothly: `softcap * tanh(score / softcap)`.
        sinks: `(Hq,)`, one more logit per head, whose value is zero.
        q_lens: `(B,)` int32 or int64; queries past the length give zero.
        kv_lens: `(B,)` int32 or int64; keys past the length are invisible.

    Returns:
        `(B, Hq, Sq, Dv)` in q's dtype, library, device and memory order. A query that
        sees nothing gives zeros.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnknownArgument: There is no such option.
        UnknownBackend: No package registers the name.
        UnsupportedError: No eligible backend can run the call; it says why.

    Source:
        A. Vaswani et al., "Attention is all you need", 2017, section 3.2; by tiles as
        in T. Dao et al., "FlashAttention", 2022. Defined by `attnref.spec.attention`.

    Example:
        >>> import numpy as np, attnref
        >>> q = np.ones((1, 2, 3, 8)); v = np.arange(3.0).reshape(1, 1, 3, 1)
        >>> k = np.ones((1, 1, 3, 8))
        >>> attnref.attention(q, k, v, causal=True, backend="reference")[0, 0, :, 0]
        array([0. , 0.5, 1. ])
    """
    problem, chosen = resolve(normalize.attention, backend, (q, k, v), options)
    return chosen.forward(problem).out


@public(normalize.attention)
def attention_with_lse(
    q: Array,
    k: Array,
    v: Array,
    *,
    backend: str | Backend | None = None,
    **options: Unpack[AttentionOptions],
) -> Result:
    """Attend, and return the log-sum-exp of every row as well.

    Args:
        q: As in `attention`.
        k: As in `attention`.
        v: As in `attention`.
        backend: As in `attention`.
        **options: As in `attention`.

    Returns:
        A named `(out, lse)`. `lse (B, Hq, Sq)` is the natural log-sum-exp, sink
        included, float32 (float64 for float64); minus infinity where nothing is seen.
        Both are differentiable.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.

    Example:
        >>> import numpy as np, attnref
        >>> q = np.zeros((1, 1, 1, 8)); k = np.zeros((1, 1, 5, 8))
        >>> result = attnref.attention_with_lse(q, k, k, backend="reference")
        >>> bool(np.isclose(result.lse[0, 0, 0], np.log(5)))
        True
    """
    asked = {**options, "with_lse": True}
    problem, chosen = resolve(normalize.attention, backend, (q, k, v), asked)
    return chosen.forward(problem)


def _attention_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    *,
    dlse: Array | None = None,
    **options: Any,
) -> AttentionProblem:
    problem = normalize.attention(q, k, v, **options, with_lse=True)
    s = problem.sizes
    for name, x in (("dout", dout), ("out", out)):
        normalize.like(name, x, (s.B, s.Hq, s.Sq, s.Dv), problem.dtype, q, "(B, Hq, Sq, Dv)")
    for name, x in (("lse", lse), ("dlse", dlse)):
        if name == "lse" or x is not None:
            normalize.like(name, x, (s.B, s.Hq, s.Sq), problem.lse_dtype, q, "(B, Hq, Sq)")
    return replace(problem, with_gradients=True)


@public(_attention_backward)
def attention_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    *,
    dlse: Array | None = None,
    backend: str | Backend | None = None,
    **options: Unpack[AttentionOptions],
) -> AttentionGradients:
    """Pass gradients back through `attention`, from the log-sum-exp.

    What it returns is not differentiable in turn: give it tensors that require no
    gradient, or let autograd differentiate the forward call.

    Args:
        dout: Gradient of the loss by `out`, `(B, Hq, Sq, Dv)`.
        q: As in the forward call.
        k: As in the forward call.
        v: As in the forward call.
        out: What the forward call returned, or the merged `out` of a larger problem.
        lse: Its log-sum-exp; if merged, the gradients are this part's contribution.
        dlse: Gradient of the loss by `lse`, `(B, Hq, Sq)`.
        backend: As in `attention`.
        **options: Those of the forward call.

    Returns:
        A named `(dq, dk, dv, dbias, dsinks)`, `None` where there was no such input.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.

    Source:
        T. Dao et al., "FlashAttention", 2022, appendix B.4; defined by
        `attnref.spec.gradients`.

    Example:
        >>> import numpy as np, attnref
        >>> q = np.zeros((1, 1, 2, 4)); v = np.ones((1, 1, 2, 4))
        >>> out, lse = attnref.attention_with_lse(q, q, v, backend="reference")
        >>> g = attnref.attention_backward(out, q, q, v, out, lse, backend="reference")
        >>> g.dv[0, 0]
        array([[1., 1., 1., 1.],
               [1., 1., 1., 1.]])
    """
    given, asked = (dout, q, k, v, out, lse), {**options, "dlse": dlse}
    problem, chosen = resolve(_attention_backward, backend, given, asked)
    return chosen.backward(problem, Result(out, lse), dout, dlse)  # type: ignore[return-value]


@public(normalize.attention_varlen)
def attention_varlen(
    q: Array,
    k: Array,
    v: Array,
    cu_q: Array,
    cu_k: Array,
    *,
    backend: str | Backend | None = None,
    **options: Unpack[VarlenOptions],
) -> Array:
    """Attend inside sequences that lie end to end.

    Args:
        q: Queries `(Tq, Hq, D)` of all sequences.
        k: Keys `(Tk, Hkv, D)`.
        v: Values `(Tk, Hkv, Dv)`.
        cu_q: `(n + 1,)` int32 or int64 prefix sums of the query lengths, from 0.
        cu_k: `(n + 1,)` prefix sums of the key lengths.
        backend: As in `attention`.
        scale: As in `attention`.
        causal: As in `attention`, within each sequence.
        window: As in `attention`, within each sequence.
        q_offset: As in `attention`; an array holds one number per sequence. Needed with
            `causal` or `window` unless `cu_k is cu_q`.
        softcap: As in `attention`.
        sinks: `(Hq,)`, as in `attention`.
        max_q: A hint: no sequence has more queries; refused if the host knows better.
        max_k: A hint: no sequence has more keys; refused likewise.

    Returns:
        `(Tq, Hq, Dv)`; rows past the last offset are zero.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.

    Example:
        >>> import numpy as np, attnref
        >>> x = np.arange(3.0).reshape(3, 1, 1); cu = np.array([0, 1, 3])
        >>> attnref.attention_varlen(x * 0, x * 0, x, cu, cu, backend="reference").ravel()
        array([0. , 1.5, 1.5])
    """
    given = q, k, v, cu_q, cu_k
    problem, chosen = resolve(normalize.attention_varlen, backend, given, options)
    return chosen.forward(problem).out


@public(normalize.attention_varlen)
def attention_varlen_with_lse(
    q: Array,
    k: Array,
    v: Array,
    cu_q: Array,
    cu_k: Array,
    *,
    backend: str | Backend | None = None,
    **options: Unpack[VarlenOptions],
) -> Result:
    """Attend inside packed sequences, and return the log-sum-exp as well.

    Args:
        q: As in `attention_varlen`.
        k: As in `attention_varlen`.
        v: As in `attention_varlen`.
        cu_q: As in `attention_varlen`.
        cu_k: As in `attention_varlen`.
        backend: As in `attention`.
        **options: As in `attention_varlen`.

    Returns:
        A named `(out, lse)` with `lse (Hq, Tq)`.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.

    Example:
        >>> import numpy as np, attnref
        >>> x = np.zeros((3, 2, 1)); cu = np.array([0, 1, 3])
        >>> attnref.attention_varlen_with_lse(x, x, x, cu, cu, backend="reference").lse.shape
        (2, 3)
    """
    given, asked = (q, k, v, cu_q, cu_k), {**options, "with_lse": True}
    problem, chosen = resolve(normalize.attention_varlen, backend, given, asked)
    return chosen.forward(problem)


def _varlen_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    cu_q: Array,
    cu_k: Array,
    *,
    dlse: Array | None = None,
    **options: Any,
) -> VarlenProblem:
    problem = normalize.attention_varlen(q, k, v, cu_q, cu_k, **options, with_lse=True)
    rows, heads = q.shape[:2]
    for name, x in (("dout", dout), ("out", out)):
        normalize.like(name, x, (rows, heads, v.shape[2]), problem.dtype, q, "(Tq, Hq, Dv)")
    for name, x in (("lse", lse), ("dlse", dlse)):
        if name == "lse" or x is not None:
            normalize.like(name, x, (heads, rows), problem.lse_dtype, q, "(Hq, Tq)")
    return replace(problem, with_gradients=True)


@public(_varlen_backward)
def attention_varlen_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    cu_q: Array,
    cu_k: Array,
    *,
    dlse: Array | None = None,
    backend: str | Backend | None = None,
    **options: Unpack[VarlenOptions],
) -> AttentionGradients:
    """Pass gradients back through `attention_varlen`.

    What it returns is not differentiable in turn: give it tensors that require no
    gradient, or let autograd differentiate the forward call.

    Args:
        dout: Gradient of the loss by `out`, `(Tq, Hq, Dv)`.
        q: As in the forward call.
        k: As in the forward call.
        v: As in the forward call.
        out: What the forward call returned.
        lse: Its log-sum-exp `(Hq, Tq)`.
        cu_q: As in the forward call.
        cu_k: As in the forward call.
        dlse: Gradient of the loss by `lse`, `(Hq, Tq)`.
        backend: As in `attention`.
        **options: Those of the forward call.

    Returns:
        A named `(dq, dk, dv, dbias, dsinks)`; `dbias` is `None`.

    Raises:
        InvalidProblem: The arguments have no meaning together.
        UnsupportedError: No eligible backend can run the call.

    Example:
        >>> import numpy as np, attnref
        >>> x = np.ones((3, 1, 1)); cu = np.array([0, 1, 3])
        >>> out, lse = attnref.attention_varlen_with_lse(x, x, x, cu, cu, backend="reference")
        >>> attnref.attention_varlen_backward(
        ...     out, x, x, x, out, lse, cu, cu, backend="reference").dv.ravel()
        array([1., 1., 1.])
    """
    given, asked = (dout, q, k, v, out, lse, cu_q, cu_k), {**options, "dlse": dlse}
    problem, chosen = resolve(_varlen_backward, backend, given, asked)
    return chosen.backward(problem, Result(out, lse), dout, dlse)  # type: ignore[return-value]
