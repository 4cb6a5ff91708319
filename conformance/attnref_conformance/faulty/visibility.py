"""Faults of clauses C1 to C4: masks, windows, alignment, lengths."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref.problem import AttentionProblem
from attnref_conformance.dense import Dense
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.honest import Tiled


class _Seen(Tiled):
    """A backend that sees what it should not, or not what it should."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        raise NotImplementedError

    def pieces(self, p: Any) -> Any:
        if isinstance(p, AttentionProblem):
            p = self.other(p)
        return super().pieces(p)


@breaks("C1")
class MaskInverted(_Seen):
    """Takes True for hidden."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return p if p.mask is None else replace(p, mask=~p.mask)


@breaks("C1")
class MaskReplacesCausal(_Seen):
    """Drops causality when a mask is given."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return p if p.mask is None else replace(p, window=(None, None))


@breaks("C1")
class MaskIgnoredInTheLastTile(Tiled):
    """Forgets the mask in the tail."""

    def seen(self, d: Dense, at: slice) -> np.ndarray:
        seen = super().seen(d, at)
        return seen if at.stop <= d.k.shape[-2] else np.ones_like(seen)


@breaks("C2")
class WindowExclusive(_Seen):
    """Takes the left bound for exclusive."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        left, right = p.window
        return p if not left else replace(p, window=(left - 1, right))


@breaks("C2")
class FutureVisible(_Seen):
    """Sees one key too many to the right."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        left, right = p.window
        return p if right is None else replace(p, window=(left, right + 1))


@breaks("C3")
class AlwaysTheStart(_Seen):
    """Lines up the first positions whatever was asked."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, q_offset=0)


@breaks("C3")
class OffByOne(_Seen):
    """Stands one key too far to the left."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, q_offset=p.offset - 1)


@breaks("C3")
class OffsetIn32Bits(_Seen):
    """Wraps positions around at 32 bits."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        if not isinstance(p.offset, int):
            return p
        return replace(p, q_offset=(p.offset + 2**31) % 2**32 - 2**31)


@breaks("C4")
class ReadsPastLengths(_Seen):
    """Ignores the lengths of the keys."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, q_offset=p.offset, kv_lens=None)


@breaks("C4")
class TailMultiplied(Tiled):
    """Hides what is past a length by a weight of zero, so that NaN comes through."""

    def pieces(self, p: Any) -> Any:
        for piece in super().pieces(p):
            if isinstance(p, AttentionProblem) and p.kv_lens is not None:
                group = p.q.shape[1] // p.k.shape[1]
                v = np.repeat(p.v, group, axis=1)
                yield replace(piece, dense=replace(piece.dense, v=v))
            else:
                yield piece

    def weigh(self, p: np.ndarray, s: np.ndarray, v: np.ndarray) -> np.ndarray:
        return p @ v


@breaks("C4")
class RowsPastALengthAnswer(_Seen):
    """Ignores the lengths of the queries."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, q_offset=p.offset, q_lens=None)


@breaks("C4")
class EndOfTheArray(_Seen):
    """Lines up with the last key of the array instead of the last of each length."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        s = p.sizes
        return replace(p, q_offset=s.Sk - s.Sq) if isinstance(p.q_offset, str) else p
