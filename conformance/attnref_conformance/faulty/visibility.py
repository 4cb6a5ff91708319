"""Faults of clauses C1 to C4: masks, windows, alignment, lengths."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref.problem import AttentionProblem
from attnref_conformance.dense import Dense
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.faulty.other import OtherAttention, OtherBackward
from attnref_conformance.honest import Tiled


@breaks("C1")
class MaskInverted(OtherAttention):
    """Takes True for hidden."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return p if p.mask is None else replace(p, mask=~p.mask)


@breaks("C1")
class MaskReplacesCausal(OtherAttention):
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
class WindowExclusive(OtherAttention):
    """Takes the left bound for exclusive."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        left, right = p.window
        return p if not left else replace(p, window=(left - 1, right))


@breaks("C2")
class FutureVisible(OtherAttention):
    """Sees one key too many to the right."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        left, right = p.window
        return p if right is None else replace(p, window=(left, right + 1))


@breaks("C3")
class AlwaysTheStart(OtherAttention):
    """Lines up the first positions whatever was asked."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, q_offset=0)


@breaks("C3")
class OffByOne(OtherAttention):
    """Stands one key too far to the left."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, q_offset=p.offset - 1)


@breaks("C3")
class OffsetIn32Bits(OtherAttention):
    """Wraps positions around at 32 bits."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        if not isinstance(p.offset, int):
            return p
        return replace(p, q_offset=(p.offset + 2**31) % 2**32 - 2**31)


@breaks("C4")
class ReadsPastLengths(OtherAttention):
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
class RowsPastALengthAnswer(OtherAttention):
    """Ignores the lengths of the queries."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, q_offset=p.offset, q_lens=None)


@breaks("C4")
class EndOfTheArray(OtherAttention):
    """Lines up with the last key of the array instead of the last of each length."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        s = p.sizes
        return replace(p, q_offset=s.Sk - s.Sq) if isinstance(p.q_offset, str) else p


@breaks("C1")
class MaskOfTheFirstHead(OtherAttention):
    """Reads one head's mask for all."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        if p.mask is None or p.mask.ndim < 3:
            return p
        return replace(p, mask=np.broadcast_to(p.mask[..., :1, :, :], p.mask.shape))


@breaks("C1")
class MaskTransposed(OtherAttention):
    """Reads a square mask key-major."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        if p.mask is None or p.mask.ndim < 2 or p.mask.shape[-1] != p.mask.shape[-2]:
            return p
        return replace(p, mask=p.mask.mT)


@breaks("C1")
class MaskAlongOneAxisLost(OtherAttention):
    """Forgets a mask that is broadcast along the keys."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return p if p.mask is None or p.mask.shape[-1:] != (1,) else replace(p, mask=None)


@breaks("C1")
class MaskForgottenInBackward(OtherBackward):
    """Gives gradients to what the mask hides."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, mask=None)


@breaks("C1")
class MaskWithoutBias(OtherAttention):
    """Forgets the mask where there is a bias too."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return p if p.bias is None else replace(p, mask=None)


@breaks("C1")
class MaskPastTheThousandth(Tiled):
    """Forgets what hides keys past the 1024th."""

    def seen(self, d: Dense, at: slice) -> np.ndarray:
        seen = super().seen(d, at)
        return seen if at.start < 1024 else np.ones_like(seen)


@breaks("C2")
class ZeroIsUnbounded(OtherAttention):
    """Takes a left bound of zero for none."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, window=(p.window[0] or None, p.window[1]))


@breaks("C2")
class CausalForgetsTheLeft(OtherAttention):
    """Drops the left bound of a window that is causal."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, window=(None, 0)) if p.window[1] == 0 else p


@breaks("C2")
class WindowFromATile(OtherAttention):
    """Rounds a left bound down to whole tiles."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        left, right = p.window
        return p if left is None or left < 16 else replace(p, window=(left // 16 * 16, right))


@breaks("C2")
class LongWindowsUnbounded(OtherAttention):
    """Takes a left bound of a thousand keys or more for none."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        left, right = p.window
        return p if left is None or left < 1000 else replace(p, window=(None, right))


@breaks("C2")
class WindowForgottenInBackward(OtherBackward):
    """Gives gradients to keys outside the window."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, window=(None, None))


@breaks("C2")
class DiagonalTileUnmasked(Tiled):
    """Masks whole tiles alone, and sees all of a tile that some query sees."""

    def seen(self, d: Dense, at: slice) -> np.ndarray:
        seen = super().seen(d, at)
        return np.broadcast_to(seen.any(axis=-1, keepdims=True), seen.shape)


@breaks("C3")
class OffsetOfTheFirstEntry(OtherAttention):
    """Takes the first batch entry's offset for all."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        if isinstance(p.offset, int):
            return p
        return replace(p, q_offset=np.broadcast_to(p.offset[:1], p.offset.shape))


@breaks("C3")
class NegativeOffsetIsZero(OtherAttention):
    """Lets no query stand before the first key."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, q_offset=np.maximum(p.offset, 0) if _is_array(p) else max(p.offset, 0))


@breaks("C3")
class OffsetsIn32Bits(OtherAttention):
    """Reads offsets of batch entries as 32-bit integers."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        offset = p.offset
        return p if isinstance(offset, int) else replace(p, q_offset=offset.astype(np.int32))


@breaks("C3")
class OffsetIn16Bits(OtherAttention):
    """Wraps positions around at 16 bits."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, q_offset=(p.offset + 2**15) % 2**16 - 2**15)


@breaks("C3")
class OffsetsWithoutALeftBound(OtherAttention):
    """Forgets the offsets of batch entries where a window is bounded to the left."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, q_offset=0) if _is_array(p) and p.window[0] is not None else p


@breaks("C3")
class PositionsInTheOffsetsDtype(OtherAttention):
    """Adds up positions in the dtype of the offsets, where they wrap around."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        offsets: Any = p.offset
        if isinstance(offsets, int):
            return p
        i = np.arange(p.sizes.Sq, dtype=offsets.dtype)
        at = (offsets[:, None] + i).astype(np.int64)[:, None, :, None]
        left, right = p.window
        j = np.arange(p.sizes.Sk)
        seen = True if p.mask is None else p.mask
        seen = seen & (True if left is None else j >= at - left)
        seen = seen & (True if right is None else j <= at + right)
        return replace(p, mask=np.asarray(seen), window=(None, None))


@breaks("C4")
class LengthsInclusive(OtherAttention):
    """Sees the key at the length."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        if p.kv_lens is None:
            return p
        return replace(p, q_offset=p.offset, kv_lens=np.minimum(p.kv_lens + 1, p.sizes.Sk))


@breaks("C4")
class ZeroLengthIsNone(OtherAttention):
    """Takes a length of zero for no limit."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        if p.kv_lens is None:
            return p
        return replace(
            p, q_offset=p.offset, kv_lens=np.where(p.kv_lens == 0, p.sizes.Sk, p.kv_lens)
        )


@breaks("C4")
class LengthOfTheFirstEntry(OtherAttention):
    """Takes the first batch entry's length for all."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        if p.kv_lens is None:
            return p
        return replace(
            p, q_offset=p.offset, kv_lens=np.broadcast_to(p.kv_lens[:1], p.kv_lens.shape)
        )


@breaks("C4")
class EndOfTheQueriesArray(OtherAttention):
    """Lines up the last query of the array instead of the last of each length."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        if not isinstance(p.q_offset, str) or p.q_lens is None:
            return p
        return replace(p, q_offset=p.offset - p.sizes.Sq + p.q_lens)


@breaks("C4")
class GradientPastALengthUnwritten(Tiled):
    """Leaves gradients of keys past a length as memory was."""

    def attention_gradients(self, p: Any, *rest: Any) -> Any:
        done: Any = super().attention_gradients(p, *rest)
        if getattr(p, "kv_lens", None) is not None:
            for b, n in enumerate(p.kv_lens.tolist()):
                done.dk[b, :, n:] = 7
        return done


@breaks("C4")
class LengthsAndMaskDoNotMeet(OtherAttention):
    """Forgets the lengths of the keys where there is a mask too."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return p if p.mask is None else replace(p, q_offset=p.offset, kv_lens=None)


def _is_array(p: AttentionProblem) -> bool:
    return not isinstance(p.offset, int)


@breaks("C4")
class BiasPastAQueryLengthHeard(Tiled):
    """Lets a bias speak, in gradients, to queries past their length: zero times NaN is NaN."""

    def attention_gradients(self, p: Any, *rest: Any) -> Any:
        done: Any = super().attention_gradients(p, *rest)
        bias, lens = (getattr(p, name, None) for name in ("bias", "q_lens"))
        if bias is None or lens is None:
            return done
        past = np.arange(p.q.shape[2])[:, None] >= lens[:, None, None, None]
        with np.errstate(invalid="ignore"):
            heard = np.where(past, (0 * bias).sum(axis=-1, keepdims=True), 0)
            return done._replace(dq=(done.dq + heard).astype(done.dq.dtype))
