"""Gradients from the log-sum-exp, a block of rows at a time (E1).

What is not finite reaches exactly the gradients of those who see it. Scores and `dP`
are removed by selection where invisible; the other factor of each product is cleaned,
so that a zero weight stays zero whatever it meets (C4).
"""

from typing import NamedTuple

import torch

from attnref_torch.call import Call, Pairs, by_group, grouped, part, scores


class CallGradients(NamedTuple):
    """The gradients of a `Call`, not yet rounded; zero for a scale that is a number."""

    dq: torch.Tensor
    dk: torch.Tensor
    dv: torch.Tensor
    dbias: torch.Tensor | None
    dsinks: torch.Tensor | None
    dscale: torch.Tensor


class _Row(NamedTuple):
    """What the rest of a row has to say, `(B, Hq, Sq, 1)`."""

    live: torch.Tensor
    lse: torch.Tensor
    taken: torch.Tensor


class _Block(NamedTuple):
    """The weights of a block, and the gradients by its scores and scales."""

    P: torch.Tensor
    dS: torch.Tensor
    dA: torch.Tensor
    dscale: torch.Tensor


def backward(
    call: Call,
    out: torch.Tensor,
    lse: torch.Tensor,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
) -> CallGradients:
    """Pass gradients back through a call, whose parts are summed in `call.dtype`."""
    q, k, v, dout, out = (x.to(call.dtype) for x in (call.q, call.k, call.v, dout, out))
    row = _rows(out, lse.to(call.dtype), dout, dlse)
    dq, dk, dv = (x.new_zeros(x.shape) for x in (q, k, v))
    dbias = None if call.bias_shape is None else q.new_zeros(call.bias_shape)
    dscale = q.new_zeros(q.shape[1])
    clean_q, clean_k, clean_dout = _clean(q), _clean(k), _clean(dout)
    Hkv = k.shape[1]
    for b, i, pairs in call.blocks():
        rows, keys = (b, slice(None), i), (b, slice(None), pairs.keys)
        here = _Row(*(x[rows] for x in row))
        block = _block(call, q[rows], k[keys], v[keys], dout[rows], here, pairs)
        dq[rows] = by_group(block.dA, clean_k[keys])
        dk[keys] += grouped(block.dA, Hkv).mT @ grouped(clean_q[rows], Hkv)
        dv[keys] += grouped(block.P, Hkv).mT @ grouped(clean_dout[rows], Hkv)
        dscale += block.dscale
        if dbias is not None:
            total = part(dbias, (*rows, pairs.keys))
            total += block.dS.sum_to_size(total.shape)
    dsinks = None if call.sink is None else _sinks(call.sink_rows(), row)
    return CallGradients(dq, dk, dv, dbias, dsinks, dscale)


def _rows(
    out: torch.Tensor, lse: torch.Tensor, dout: torch.Tensor, dlse: torch.Tensor | None
) -> _Row:
    """Find what normalisation takes back, less what `dlse` gives (E1)."""
    live = lse != -torch.inf
    taken = (dout * out).sum(-1)
    if dlse is not None:
        taken = taken - torch.where(live, dlse.to(lse.dtype), 0.0)
    return _Row(live[..., None], torch.where(live, lse, 0.0)[..., None], taken[..., None])


def _block(
    call: Call,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dout: torch.Tensor,
    row: _Row,
    pairs: Pairs,
) -> _Block:
    """Form the weights again, and what the loss says to each score."""
    similar, c, s = scores(call, q, k, pairs.bias)
    seen = row.live if pairs.seen is None else row.live & pairs.seen
    P = torch.where(seen, torch.exp(s - row.lse), 0.0)
    dS = torch.where(P == 0, 0.0, P * (by_group(dout, v.mT) - row.taken))
    dA = dS
    if call.softcap is not None:
        dA = torch.where(P == 0, 0.0, dS * (1.0 - (c / call.softcap) ** 2))
    if isinstance(call.scale, float):
        return _Block(P, dS, dA * call.scale, dA.new_zeros(1))
    dscale = torch.where(P == 0, 0.0, dA * similar).sum((0, 2, 3))
    return _Block(P, dS, dA * call.scale[:, None, None], dscale)


def _sinks(sink: torch.Tensor, row: _Row) -> torch.Tensor:
    """Add up what the rows say to their head's sink (D4)."""
    live, lse, taken = (x[..., 0] for x in row)
    weight = torch.where(live & (sink != -torch.inf), torch.exp(sink - lse), 0.0)
    return torch.where(weight == 0, 0.0, -weight * taken).sum((0, 2))


def _clean(x: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isfinite(x), x, 0.0)
