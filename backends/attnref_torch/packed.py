"""Packed sequences: `attention_varlen` in the common form, as a batch of one.

All tokens share one axis, and a query sees a key only if their sequences agree. On the
host the prefix sums also bound which keys a block of rows has to visit. On a GPU they
could be read only by waiting, so every block visits all keys there: right, in linear
memory, and slower than a kernel that reads the sums on the device.
"""

from typing import NamedTuple

import torch

from attnref.problem import AttentionGradients, Result, VarlenProblem
from attnref.spec.visibility import in_window, within
from attnref_torch.backward import backward as call_backward
from attnref_torch.call import Call, Pairs
from attnref_torch.forward import forward as call_forward
from attnref_torch.rounding import lse_of, rounded, rounded_if_any, wide


def forward(problem: VarlenProblem) -> Result:
    """Attend inside each sequence."""
    out, lse = call_forward(common(problem))
    return Result(rounded(_tokens_first(out), problem.q), lse_of(lse[0], problem.q))


def backward(
    problem: VarlenProblem,
    result: Result,
    dout: torch.Tensor,
    dlse: torch.Tensor | None,
) -> AttentionGradients:
    """Pass gradients back; sinks belong to every sequence."""
    p, lse = problem, result.lse
    assert lse is not None  # the core asks for it where gradients follow
    g = call_backward(
        common(p),
        _heads_first(result.out),
        lse[None],
        _heads_first(dout),
        None if dlse is None else dlse[None],
    )
    return AttentionGradients(
        dq=rounded(_tokens_first(g.dq), p.q),
        dk=rounded(_tokens_first(g.dk), p.k),
        dv=rounded(_tokens_first(g.dv), p.v),
        dsinks=rounded_if_any(g.dsinks, p.sinks),
    )


class Places(NamedTuple):
    """Which sequence each token belongs to, and where in it the token stands."""

    sequence: torch.Tensor
    local: torch.Tensor


def places(cu: torch.Tensor, tokens: int) -> Places:
    """Place the tokens; those past the last offset get the sequence after the last."""
    cu = cu.to(torch.int64)
    t = torch.arange(tokens, dtype=torch.int64, device=cu.device)
    sequence = torch.searchsorted(cu[1:].contiguous(), t, right=True)
    return Places(sequence, t - cu[sequence])


def common(problem: VarlenProblem) -> Call:
    """Bring the problem to the common form."""
    p, n = problem, problem.cu_q.shape[0] - 1
    mine, theirs = places(p.cu_q, p.q.shape[0]), places(p.cu_k, p.k.shape[0])
    position = mine.local + _offset_of(p, mine)
    # Tokens of no sequence on either side must not find each other.
    owner = torch.where(within(theirs.sequence, n), theirs.sequence, -1)

    def pairs(_: slice, i: slice) -> Pairs:
        keys = _keys(p, mine, i)
        seen = mine.sequence[i, None] == owner[keys]
        return Pairs(keys, seen & in_window(position[i, None], theirs.local[keys], *p.window))

    sink = p.sinks
    if sink is not None:
        sink = torch.where(within(mine.sequence, n), sink[:, None], -torch.inf)
    return Call(
        q=_heads_first(p.q),
        k=_heads_first(p.k),
        v=_heads_first(p.v),
        scale=p.scale,
        pairs=pairs,
        dtype=wide(p.q, p.sinks),
        softcap=p.softcap,
        sink=sink,
    )


def _offset_of(p: VarlenProblem, mine: Places) -> int | torch.Tensor:
    """Give every query its sequence's offset, and zero to those of none."""
    offset = p.offset
    if isinstance(offset, int):
        return offset
    return torch.nn.functional.pad(offset.to(torch.int64), (0, 1))[mine.sequence]


def _keys(p: VarlenProblem, mine: Places, i: slice) -> slice:
    """Bound the keys that some rows may see, from what the host knows (A7)."""
    if p.cu_k.device.type != "cpu":
        return slice(0, p.k.shape[0])
    n = p.cu_k.shape[0] - 1
    first, last = int(mine.sequence[i.start]), int(mine.sequence[i.stop - 1])
    return slice(int(p.cu_k[first]), int(p.cu_k[min(last + 1, n)]))


def _heads_first(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, 1)[None]


def _tokens_first(x: torch.Tensor) -> torch.Tensor:
    return x[0].transpose(0, 1)
