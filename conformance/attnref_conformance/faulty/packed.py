"""Faults of clause F1: sequences that lie end to end."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref.problem import Result, VarlenProblem
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.faulty.other import OtherPacked
from attnref_conformance.honest import Tiled


@breaks("F1")
class SequencesMeet(Tiled):
    """Lets each sequence see the first token of the next."""

    def pieces(self, p: Any) -> Any:
        if isinstance(p, VarlenProblem) and len(p.cu_k) > 2:
            cu_k = p.cu_k.copy()
            cu_k[1:-1] += cu_k[1:-1] < cu_k[-1]
            p = replace(p, cu_k=cu_k, q_offset=p.offset)
        return super().pieces(p)


@breaks("F1")
class OneOffsetForAll(Tiled):
    """Takes the first sequence's offset for every one."""

    def pieces(self, p: Any) -> Any:
        if isinstance(p, VarlenProblem) and not isinstance(p.offset, int):
            p = replace(p, q_offset=np.broadcast_to(p.offset[:1], p.offset.shape))
        return super().pieces(p)


@breaks("F1")
class EndOfTheBatch(OtherPacked):
    """Lines up the last tokens of the batch instead of those of each sequence."""

    def other(self, p: VarlenProblem) -> VarlenProblem:
        return replace(p, q_offset=int(p.cu_k[-1] - p.cu_q[-1])) if p.q_offset == "end" else p


@breaks("F1")
class KeysCutLikeQueries(OtherPacked):
    """Cuts the keys where the queries are cut."""

    def other(self, p: VarlenProblem) -> VarlenProblem:
        return replace(p, q_offset=p.offset, cu_k=np.minimum(p.cu_q, p.cu_k[-1]))


@breaks("F1")
class SequencesPastThe64th(OtherPacked):
    """Schedules sixty-four sequences."""

    def other(self, p: VarlenProblem) -> VarlenProblem:
        offset = p.offset if isinstance(p.offset, int) else p.offset[:64]
        return replace(p, q_offset=offset, cu_q=p.cu_q[:65], cu_k=p.cu_k[:65])


@breaks("F1")
class HintIsALimit(Tiled):
    """Rounds the hint of the longest sequence down to whole tiles, and stops there."""

    def pieces(self, p: Any) -> Any:
        for piece in super().pieces(p):
            d = piece.dense
            if not isinstance(p, VarlenProblem) or p.max_k is None:
                yield piece
                continue
            near = np.arange(d.k.shape[-2]) < max(p.max_k // 16, 1) * 16
            yield replace(piece, dense=replace(d, seen=d.seen & near))


@breaks("F1")
class TokensOfNobodyAnswer(Tiled):
    """Leaves rows past the last sequence as memory was."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        if isinstance(p, VarlenProblem):
            out[int(p.cu_q[-1]) :] = 7
        return Result(out, lse)


@breaks("F1")
class LseTokensFirst(Tiled):
    """Returns the log-sum-exp with tokens before heads."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        return Result(out, np.ascontiguousarray(lse.T) if isinstance(p, VarlenProblem) else lse)


@breaks("F1")
class EmptySequenceEndsTheBatch(OtherPacked):
    """Stops at a sequence without queries."""

    def other(self, p: VarlenProblem) -> VarlenProblem:
        empty = np.flatnonzero(np.diff(p.cu_q) == 0)
        if not empty.size:
            return p
        n = int(empty[0])
        offset = p.offset if isinstance(p.offset, int) else p.offset[:n]
        return replace(p, q_offset=offset, cu_q=p.cu_q[: n + 1], cu_k=p.cu_k[: n + 1])
