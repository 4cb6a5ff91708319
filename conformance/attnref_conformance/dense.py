"""Every attention problem seen as dense ones.

A padded batch is one dense problem, a map is one whose batch is its windows, a packed
batch is one per sequence. The bounds and the judge's own tiled computation are written
for dense problems only; a `Piece` knows how rows and keys get there and back.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnref.problem import (
    AnyProblem,
    AttentionProblem,
    SoftmaxProblem,
    VarlenProblem,
    WindowProblem,
)
from attnref.reference import wide
from attnref.spec import attention, packed, scores, visibility, windows


@dataclass(frozen=True)
class Dense:
    """One dense attention problem; query heads are written out.

    Attributes:
        q: `(B, Hq, Sq, D)`; like k and v, zero past a length.
        k: `(B, Hq, Sk, D)`.
        v: `(B, Hq, Sk, Dv)`.
        seen: Broadcasts to `(B, Hq, Sq, Sk)`.
        scale: `(1, 1, 1)` or `(Hq, 1, 1)`.
        softcap: Bound of the scores, or `None`.
        bias: Broadcasts to `(B, Hq, Sq, Sk)`, or `None`.
        added: The magnitudes that the bias was added up from; `None` if there was one.
        sink: `(B, Hq, Sq)`, minus infinity where there is none, or `None`.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    seen: np.ndarray
    scale: np.ndarray
    softcap: float | None = None
    bias: np.ndarray | None = None
    added: np.ndarray | None = None
    sink: np.ndarray | None = None


@dataclass(frozen=True)
class Piece:
    """A dense problem, and the way between it and the arrays of the call.

    Attributes:
        dense: The dense problem.
        problem: The call that it is a piece of.
        queries: The tokens of a packed batch that ask here.
        keys: The tokens of a packed batch that are seen here.
    """

    dense: Dense
    problem: AnyProblem
    queries: slice | None = None
    keys: slice | None = None

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Bring something like `out` to `(B, Hq, Sq, Dv)`."""
        match self.problem:
            case AttentionProblem(q_lens=q_lens):
                return attention.keep(x, _values(q_lens))
            case WindowProblem(window=window, shift=shift):
                return windows.heads_first(x, window, shift)
        return packed.heads_first(x[self.queries])

    def lse(self, x: np.ndarray) -> np.ndarray:
        """Bring something like `lse` to `(B, Hq, Sq)`."""
        match self.problem:
            case AttentionProblem(q_lens=q_lens):
                return attention.keep(x, _values(q_lens))
            case WindowProblem(window=window, shift=shift):
                return windows.heads_first(x[..., None], window, shift)[..., 0]
        return x[None, :, self.queries]

    def put(self, name: str, into: np.ndarray, x: np.ndarray) -> None:
        """Put a dense result where the call has it; grouped heads are added up."""
        p = self.problem
        if isinstance(p, WindowProblem):
            place = (p.extents, p.window, p.shift)
            flat = name == "lse"
            x = windows.heads_last(x[..., None] if flat else x, *place)
            into[...] = x[..., 0] if flat else x
            return
        if name in ("dk", "dv"):
            x = scores.sum_heads(x, p.k.shape[1])
        if isinstance(p, AttentionProblem):
            into[...] = x
        elif name == "lse":
            into[:, self.queries] = x[0]
        else:
            into[self.keys if name in ("dk", "dv") else self.queries] = x[0].swapaxes(0, 1)


def pieces(problem: AnyProblem) -> Iterator[Piece]:
    """Walk the dense problems that make up a call."""
    match problem:
        case AttentionProblem():
            yield Piece(of_attention(problem), problem)
        case WindowProblem():
            yield Piece(of_windows(problem), problem)
        case VarlenProblem():
            offset = problem.offset if isinstance(problem.offset, int) else wide(problem.offset)
            spans = packed.sequences(wide(problem.cu_q), wide(problem.cu_k), offset)
            for queries, keys, at in spans:
                one = AttentionProblem(
                    q=packed.heads_first(problem.q[queries]),
                    k=packed.heads_first(problem.k[keys]),
                    v=packed.heads_first(problem.v[keys]),
                    scale=problem.scale,
                    window=problem.window,
                    q_offset=at,
                    softcap=problem.softcap,
                    sinks=problem.sinks,
                )
                yield Piece(of_attention(one), problem, queries, keys)


def longest(problem: AnyProblem) -> int:
    """Count the keys of the longest row, or the entries of the longest slice; 0 for neither."""
    match problem:
        case AttentionProblem():
            return problem.sizes.Sk
        case WindowProblem():
            return math.prod(problem.window)
        case VarlenProblem():
            return int(np.diff(wide(problem.cu_k)).max(initial=0))
        case SoftmaxProblem():
            return int(problem.x.shape[problem.axis])
    return 0


def _values(x: Any) -> Any:
    return None if x is None else wide(x)


def of_attention(p: AttentionProblem) -> Dense:
    """Write out heads and visibility, and put zeros past every length."""
    s = p.sizes
    q_lens, kv_lens = _values(p.q_lens), _values(p.kv_lens)
    seen = visibility.visible(
        s.B,
        s.Sq,
        s.Sk,
        window=p.window,
        q_offset=p.offset if isinstance(p.offset, int) else wide(p.offset),
        mask=_values(p.mask),
        q_lens=q_lens,
        kv_lens=kv_lens,
    )
    return Dense(
        q=attention.keep(wide(p.q), q_lens),
        k=scores.repeat_heads(attention.keep(wide(p.k), kv_lens), s.Hq),
        v=scores.repeat_heads(attention.keep(wide(p.v), kv_lens), s.Hq),
        seen=seen,
        scale=np.full((1, 1, 1), p.scale),
        softcap=p.softcap,
        bias=_values(p.bias),
        sink=attention.sink_rows(_values(p.sinks), s.B, s.Sq, q_lens),
    )


def of_windows(p: WindowProblem) -> Dense:
    """Cut a map into windows; the batch of the dense problem is the windows."""
    B, G, place = p.q.shape[0], p.extents, (p.window, p.shift)
    bias = _values(p.bias)
    added = windows.pair_bias(
        G,
        *place,
        B,
        None if bias is None else np.abs(bias),
        -np.inf if p.wrap_bias == -np.inf else abs(p.wrap_bias),
    )
    key_mask = np.ones((B, *G), bool) if p.key_mask is None else wide(p.key_mask)
    q, k, v = (windows.heads_first(wide(x), *place) for x in (p.q, p.k, p.v))
    return Dense(
        q=q,
        k=k,
        v=v,
        seen=windows.allowed(G, *place, key_mask, wrap=p.wrap_bias != -np.inf),
        scale=np.reshape(wide(p.scale) if p.scale_per_head else p.scale, (-1, 1, 1)),
        bias=windows.pair_bias(G, *place, B, bias, p.wrap_bias),
        added=added,
    )
