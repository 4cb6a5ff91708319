"""Attention, a block of rows at a time."""

from typing import NamedTuple

import torch

from attnref_torch.call import Call, by_group, scores


class Rows(NamedTuple):
    """Finished rows, not yet rounded: `(B, Hq, Sq, Dv)` and `(B, Hq, Sq)`."""

    out: torch.Tensor
    lse: torch.Tensor


def forward(call: Call) -> Rows:
    """Attend.

    A block sees all of its keys at once, so nothing is rescaled on the way. Rows that
    no block visits keep their start: they saw nothing, but for a sink (C5, D4).
    """
    lse = call.sink_rows()
    out = lse.new_zeros((*lse.shape, call.v.shape[3]))
    k, (v, holes) = call.k.to(call.dtype), _filled(call.v.to(call.dtype))
    for b, i, (j, seen, bias) in call.blocks():
        q = call.q[b, :, i].to(call.dtype)
        s = scores(call, q, k[b, :, j], bias).s
        if seen is not None:
            s = torch.where(seen, s, -torch.inf)
        sink = lse[b, :, i, None]
        m = torch.maximum(s.amax(-1, keepdim=True), sink)
        m = torch.where(m == -torch.inf, 0.0, m)
        p = torch.exp(s - m)
        l = p.sum(-1, keepdim=True) + torch.exp(sink - m)
        nothing = l == 0
        l = torch.where(nothing, 1.0, l)
        acc = by_group(p, v[b, :, j])
        if holes is not None:
            met = by_group((s != -torch.inf).to(holes.dtype), holes[b, :, j]) > 0
            acc = torch.where(met, torch.nan, acc)
        out[b, :, i] = acc / l
        lse[b, :, i] = torch.where(nothing, -torch.inf, m + torch.log(l))[..., 0]
    return Rows(out, lse)


def _filled(v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Fill the holes of v, the values that are not finite, and say where they were.

    A hidden value must not reach a row through a product with a zero weight, and a
    visible one must (C4, C6). So the product runs without holes, and a second one
    counts the holes that a row sees: in bfloat16, where ones and zeros are exact and
    tensor cores make it cheap. The host can look first and mostly saves it; a GPU
    would have to be waited for.
    """
    finite = torch.isfinite(v)
    if v.device.type == "cpu" and bool(finite.all()):
        return v, None
    return torch.where(finite, v, 0.0), (~finite).to(torch.bfloat16)
