"""Padded batches: `attention` in the common form."""

import torch

from attnref.problem import AttentionGradients, AttentionProblem, Result
from attnref.spec.visibility import in_window, key_span, within
from attnref_torch import fused
from attnref_torch.backward import backward as call_backward
from attnref_torch.call import Call, Pairs, part
from attnref_torch.forward import forward as call_forward
from attnref_torch.rounding import lse_of, rounded, rounded_if_any, wide


def forward(problem: AttentionProblem) -> Result:
    """Attend, by torch's own kernel where it can say the same."""
    if fused.expresses(problem):
        return Result(rounded(fused.attention(problem), problem.q))
    out, lse = call_forward(common(problem))
    return Result(rounded(out, problem.q), lse_of(lse, problem.q))


def backward(
    problem: AttentionProblem,
    result: Result,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
) -> AttentionGradients:
    """Pass gradients back."""
    p, lse = problem, result.lse
    assert lse is not None  # the core asks for it where gradients follow
    g = call_backward(common(p), result.out, lse, dout, dlse)
    dbias = g.dbias
    if dbias is not None and p.bias is not None:
        dbias = dbias.reshape(p.bias.shape)
    return AttentionGradients(
        dq=rounded(g.dq, p.q),
        dk=rounded(g.dk, p.k),
        dv=rounded(g.dv, p.v),
        dbias=rounded_if_any(dbias, p.bias),
        dsinks=rounded_if_any(g.dsinks, p.sinks),
    )


def common(problem: AttentionProblem) -> Call:
    """Bring the problem to the common form."""
    p = problem
    dtype = wide(p.q, p.bias, p.sinks)
    mask, bias = _four_axes(p.mask), _four_axes(p.bias)

    def pairs(b: slice, i: slice) -> Pairs:
        keys = _keys(p, i)
        at = (b, slice(None), i, keys)
        seen = None if mask is None else part(mask, at)
        return Pairs(
            keys,
            _both(seen, _visible(p, b, i, keys)),
            None if bias is None else part(bias, at).to(dtype),
        )

    return Call(
        q=p.q,
        k=p.k,
        v=p.v,
        scale=p.scale,
        pairs=pairs,
        dtype=dtype,
        softcap=p.softcap,
        sink=_sink_rows(p),
        bias_shape=None if bias is None else tuple(bias.shape),
    )


def _keys(p: AttentionProblem, i: slice) -> slice:
    """Bound the keys that some rows may see, from what the host knows (A7)."""
    offset, Sk = p.offset, p.k.shape[2]
    if p.window == (None, None):
        return slice(0, Sk)
    if not isinstance(offset, int):
        if offset.device.type != "cpu":
            return slice(0, Sk)
        low, high = int(offset.min()), int(offset.max())
    else:
        low = high = offset
    return slice(*key_span(i.start + low, i.stop - 1 + high, *p.window, Sk))


def _visible(p: AttentionProblem, b: slice, i: slice, keys: slice) -> torch.Tensor | None:
    """Intersect window and lengths, `(b, 1, rows, keys)`; `None` if there are none."""
    seen = None
    rows = _count(i, p.q)[:, None]
    j = _count(keys, p.q)
    if p.window != (None, None):
        offset = p.offset
        if not isinstance(offset, int):
            offset = _per_entry(offset.to(torch.int64), b)
        seen = in_window(rows + offset, j, *p.window)
    if p.q_lens is not None:
        seen = _both(seen, within(rows, _per_entry(p.q_lens, b)))
    if p.kv_lens is not None:
        seen = _both(seen, within(j, _per_entry(p.kv_lens, b)))
    return seen


def _sink_rows(p: AttentionProblem) -> torch.Tensor | None:
    """Give every real row its head's sink: those past a length have none (D4)."""
    if p.sinks is None or p.q_lens is None:
        return p.sinks if p.sinks is None else p.sinks[:, None]
    real = within(_count(slice(0, p.q.shape[2]), p.q), p.q_lens[:, None, None])
    return torch.where(real, p.sinks[:, None], -torch.inf)


def _four_axes(x: torch.Tensor | None) -> torch.Tensor | None:
    return None if x is None else x[(None,) * (4 - x.ndim)]


def _per_entry(x: torch.Tensor, b: slice) -> torch.Tensor:
    return x[b, None, None, None]


def _count(at: slice, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(at.start, at.stop, dtype=torch.int64, device=like.device)


def _both(x: torch.Tensor | None, y: torch.Tensor | None) -> torch.Tensor | None:
    return x if y is None else y if x is None else x & y
