"""Deliberately wrong backends: the judge is judged by catching every one.

A fault is a few lines over the judge's own tiled computation, and breaks the clause that
it names. `attnref conform attnref_conformance.faulty:dropped_rescale` must fail. `HONEST`
holds the other side: correct variants that must pass.

Every clause that a backend alone can break has a fault. A4 (sizes of zero), A7, H1, H3 and
H4 have none: they are promises of the core, and judged by its own tests.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from attnref.backend import Backend
from attnref.problem import AttentionProblem, Problem, Result, VarlenProblem, WindowProblem
from attnref.spec import windows
from attnref_conformance.dense import Dense, Piece
from attnref_conformance.honest import State, Tiled


@dataclass(frozen=True)
class Fault:
    """A wrong backend and the clause that it breaks."""

    name: str
    clause: str
    backend: Backend
    meaning: str


FAULTS: dict[str, Fault] = {}
"""Every fault by name."""

HONEST: dict[str, Backend] = {
    b.name: b
    for b in (
        Tiled("honest_16", tile=16),
        Tiled("honest_64", tile=64),
        Tiled("honest_one_tile", tile=10**6),
        Tiled("honest_one_key", tile=1),
        Tiled("honest_backwards", tile=32, reverse=True),
        Tiled("honest_half_weights", tile=16, round_weights=True),
        Tiled("honest_half_weights_128", tile=128, round_weights=True),
        Tiled("honest_half_weights_backwards", tile=48, reverse=True, round_weights=True),
    )
}
"""Correct variants: other tiles, other orders, weights rounded or not."""


class _TensorFloat(Tiled):
    """Rounds the factors of float32 products to TF32."""

    profile = "tf32"

    def __init__(self, name: str) -> None:
        super().__init__(name, tile=32, round_weights=True)
        self.profile = "tf32"

    def narrow(self, d: Dense, acc: np.dtype[Any]) -> Dense:
        """Round what enters products, and nothing else."""
        d = super().narrow(d, acc)
        return replace(d, q=_short(d.q), k=_short(d.k), v=_short(d.v))

    def stored(self, p: np.ndarray, dtype: str) -> np.ndarray:
        """Round the weights too."""
        return _short(super().stored(p, dtype)) if dtype == "float32" else super().stored(p, dtype)


def _short(x: np.ndarray) -> np.ndarray:
    """Round float32 to the ten bits of TF32, to nearest even."""
    if x.dtype != np.float32:
        return x
    bits = np.ascontiguousarray(x).view(np.uint32)
    near = (bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & ~np.uint32(0x1FFF)
    return np.where(np.isfinite(x), near.view(np.float32), x)


HONEST["honest_tf32"] = _TensorFloat("honest_tf32")


class _Flushing(Tiled):
    """Flushes weights and dS that are not normal numbers to zero, as much hardware does."""

    def exponentials(self, s: np.ndarray, m: np.ndarray) -> np.ndarray:
        """Lose weights near zero."""
        return _flushed(super().exponentials(s, m))

    def through_cap(self, dS: np.ndarray, d: Dense, at: slice) -> np.ndarray:
        """Lose gradients near zero."""
        return super().through_cap(_flushed(dS), d, at)


def _flushed(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, 0, x).astype(x.dtype)


HONEST["honest_flushing"] = _Flushing("honest_flushing", tile=32)

T = TypeVar("T", bound=type[Tiled])


def _breaks(clause: str) -> Callable[[T], T]:
    """Register a class as the fault that breaks a clause."""

    def register(cls: T) -> T:
        name = "".join("_" + c.lower() if c.isupper() else c for c in cls.__name__).lstrip("_")
        meaning = (cls.__doc__ or "").strip()
        FAULTS[name] = Fault(name, clause, cls(name), meaning)
        return cls

    return register


def __getattr__(name: str) -> Backend:
    """Return a fault's, or an honest variant's, backend by name."""
    if name in FAULTS:
        return FAULTS[name].backend
    if name in HONEST:
        return HONEST[name]
    raise AttributeError(name)


# ---- A: arrays ---------------------------------------------------------------------


@_breaks("A1")
class PlainOrder(Tiled):
    """Returns C order whatever q's memory order is."""

    def finished(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x).astype(like.dtype)


@_breaks("A2")
class HeadsInterleaved(Tiled):
    """Query head h reads key/value head h mod Hkv."""

    def pieces(self, p: Any) -> Any:
        for piece in super().pieces(p):
            Hkv = p.k.shape[1]
            if not isinstance(p, AttentionProblem) or not Hkv:
                yield piece
                continue
            group = p.q.shape[1] // Hkv
            order = np.arange(p.q.shape[1]) % Hkv * group
            d = piece.dense
            yield replace(piece, dense=replace(d, k=d.k[:, order], v=d.v[:, order]))


@_breaks("A3")
class HalfLse(Tiled):
    """Returns the log-sum-exp in the input's dtype."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        return Result(out, lse.astype(out.dtype))


@_breaks("A3")
class OutInSingle(Tiled):
    """Returns half precisions in float32."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        half = p.dtype in ("float16", "bfloat16")
        return Result(out.astype(np.float32) if half else out, lse)


@_breaks("A5")
class MutatedInput(Tiled):
    """Scales the queries in place."""

    def attended(self, p: Any) -> Result:
        result = super().attended(p)
        if p.q.flags.writeable and p.q.size:
            p.q[...] = p.q * 0.5
        return result


@_breaks("A5")
class ReturnedView(Tiled):
    """Returns its input where every query has one key."""

    def attended(self, p: Any) -> Result:
        result = super().attended(p)
        same = np.array_equal(result.out, p.v) and result.out.dtype == p.v.dtype
        return Result(p.v, result.lse) if same else result


@_breaks("A5")
class StaleCache(Tiled):
    """Remembers answers by the address of the queries."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.seen_before: dict[int, Result] = {}

    def attended(self, p: Any) -> Result:
        key = p.q.__array_interface__["data"][0]
        known = self.seen_before.get(key)
        if known is None or known.out.shape[:-1] != p.q.shape[:-1]:
            self.seen_before[key] = super().attended(p)
        return self.seen_before[key]


@_breaks("A6")
class HalfSums(Tiled):
    """Accumulates the weighted values in half precision."""

    def update(self, state: State, s: np.ndarray, v: np.ndarray, dtype: str) -> State:
        new = super().update(state, s, v, dtype)
        rounded = new.acc.astype(np.float16).astype(new.acc.dtype)
        return State(new.m, new.l, rounded)


@_breaks("A6")
class SingleForDouble(Tiled):
    """Computes float64 in float32."""

    def accumulator(self, p: Problem) -> np.dtype[Any]:
        return np.dtype("float32")


# ---- B: scores ---------------------------------------------------------------------


@_breaks("B1")
class ScaleByValueSize(Tiled):
    """Takes the default scale from the size of the values."""

    def product(self, d: Dense, at: slice) -> np.ndarray:
        wrong = 1.0 / max(d.v.shape[-1], 1) ** 0.5
        usual = np.isclose(d.scale.ravel()[0], 1.0 / max(d.q.shape[-1], 1) ** 0.5)
        return super().product(replace(d, scale=np.full_like(d.scale, wrong)) if usual else d, at)


@_breaks("B1")
class ScaleSignLost(Tiled):
    """Ignores the sign of the scale."""

    def product(self, d: Dense, at: slice) -> np.ndarray:
        return super().product(replace(d, scale=np.abs(d.scale)), at)


@_breaks("B1")
class ScaleInHalf(Tiled):
    """Rounds the scale to half precision."""

    def product(self, d: Dense, at: slice) -> np.ndarray:
        rough = d.scale.astype(np.float16).astype(d.scale.dtype)
        return super().product(replace(d, scale=rough), at)


@_breaks("B2")
class CapIgnored(Tiled):
    """Ignores the soft cap."""

    def cap(self, a: np.ndarray, softcap: float | None) -> np.ndarray:
        return a


@_breaks("B2")
class CapAfterBias(Tiled):
    """Caps the biased score."""

    def score(self, d: Dense, at: slice) -> np.ndarray:
        return self.cap(self.biased(self.product(d, at), d, at), d.softcap)


@_breaks("B3")
class BiasTransposed(Tiled):
    """Reads a square bias key-major."""

    def biased(self, c: np.ndarray, d: Dense, at: slice) -> np.ndarray:
        if d.bias is not None and d.bias.ndim > 1 and d.bias.shape[-1] == d.bias.shape[-2]:
            d = replace(d, bias=d.bias.mT)
        return super().biased(c, d, at)


@_breaks("B3")
class BiasGradientNotSummed(Tiled):
    """Keeps one batch entry's bias gradient instead of the sum."""

    def add_shared(
        self, d: Dense, at: slice, dS: np.ndarray, dA: np.ndarray, total: dict[str, np.ndarray]
    ) -> None:
        first = np.where(np.arange(dS.shape[0])[:, None, None, None] == 0, dS, 0)
        super().add_shared(d, at, first.astype(dS.dtype), dA, total)


@_breaks("B4")
class LargeNegativeMask(Tiled):
    """Adds a large negative number instead of selecting."""

    def rows(self, d: Dense, dtype: str) -> Any:
        hidden = np.where(d.seen, 0.0, -1e4).astype(d.q.dtype)
        bias = hidden if d.bias is None else hidden + np.maximum(d.bias, -1e4)
        return super().rows(replace(d, seen=np.ones_like(d.seen), bias=bias), dtype)


# ---- C: visibility -----------------------------------------------------------------


class _Seen(Tiled):
    """A backend that sees what it should not, or not what it should."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        raise NotImplementedError

    def pieces(self, p: Any) -> Any:
        if isinstance(p, AttentionProblem):
            p = self.other(p)
        return super().pieces(p)


@_breaks("C1")
class MaskInverted(_Seen):
    """Takes True for hidden."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return p if p.mask is None else replace(p, mask=~p.mask)


@_breaks("C1")
class MaskReplacesCausal(_Seen):
    """Drops causality when a mask is given."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return p if p.mask is None else replace(p, window=(None, None))


@_breaks("C1")
class MaskIgnoredInTheLastTile(Tiled):
    """Forgets the mask in the tail."""

    def seen(self, d: Dense, at: slice) -> np.ndarray:
        seen = super().seen(d, at)
        return seen if at.stop <= d.k.shape[-2] else np.ones_like(seen)


@_breaks("C2")
class WindowExclusive(_Seen):
    """Takes the left bound for exclusive."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        left, right = p.window
        return p if not left else replace(p, window=(left - 1, right))


@_breaks("C2")
class FutureVisible(_Seen):
    """Sees one key too many to the right."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        left, right = p.window
        return p if right is None else replace(p, window=(left, right + 1))


@_breaks("C3")
class AlwaysTheStart(_Seen):
    """Lines up the first positions whatever was asked."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, q_offset=0)


@_breaks("C3")
class OffByOne(_Seen):
    """Stands one key too far to the left."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, q_offset=p.offset - 1)


@_breaks("C3")
class OffsetIn32Bits(_Seen):
    """Wraps positions around at 32 bits."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        if not isinstance(p.offset, int):
            return p
        return replace(p, q_offset=(p.offset + 2**31) % 2**32 - 2**31)


@_breaks("C4")
class ReadsPastLengths(_Seen):
    """Ignores the lengths of the keys."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, q_offset=p.offset, kv_lens=None)


@_breaks("C4")
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


@_breaks("C5")
class EmptyRowsAverage(Tiled):
    """Gives rows that see nothing the mean of the values."""

    def rows(self, d: Dense, dtype: str) -> Any:
        seen = np.broadcast_to(d.seen, (*d.q.shape[:-1], d.k.shape[-2]))
        nothing = ~seen.any(axis=-1, keepdims=True)
        return super().rows(replace(d, seen=seen | nothing), dtype)


@_breaks("C4")
class RowsPastALengthAnswer(_Seen):
    """Ignores the lengths of the queries."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, q_offset=p.offset, q_lens=None)


@_breaks("C4")
class EndOfTheArray(_Seen):
    """Lines up with the last key of the array instead of the last of each length."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        s = p.sizes
        return replace(p, q_offset=s.Sk - s.Sq) if isinstance(p.q_offset, str) else p


@_breaks("C5")
class EmptyRowsNan(Tiled):
    """Divides by an empty sum."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        return np.where((state.l == 0)[..., None], np.nan, out).astype(out.dtype), lse


@_breaks("C5")
class EmptyRowsLsePlus(Tiled):
    """Marks rows that see nothing by plus infinity."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        return out, np.where(state.l == 0, np.inf, lse).astype(lse.dtype)


@_breaks("C6")
class NanHidden(Tiled):
    """Takes a NaN for an empty row."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        return np.nan_to_num(out), np.where(np.isnan(lse), -np.inf, lse)


@_breaks("C6")
class NanSpread(Tiled):
    """Lets one row's NaN into the next."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        bad = np.isnan(out)
        if out.shape[-2] > 1:
            bad = bad | np.roll(bad, 1, axis=-2)
        return np.where(bad, np.nan, out).astype(out.dtype), lse


# ---- D: softmax --------------------------------------------------------------------


@_breaks("D1")
class DroppedRescale(Tiled):
    """Forgets to shrink what was carried when the maximum rises."""

    def rescale(self, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        return np.ones_like(new)


@_breaks("D1")
class RescaleOnlyTheSum(Tiled):
    """Shrinks the sum and not the values."""

    def update(self, state: State, s: np.ndarray, v: np.ndarray, dtype: str) -> State:
        new = super().update(state, s, v, dtype)
        shrink = self.rescale(state.m, new.m)[..., None]
        return State(new.m, new.l, new.acc + (1 - shrink) * state.acc)


@_breaks("D1")
class MaximumFromZero(Tiled):
    """Starts the running maximum at zero."""

    def maximum(self, m: np.ndarray, s: np.ndarray) -> np.ndarray:
        return np.maximum(super().maximum(m, s), 0).astype(m.dtype)


@_breaks("D1")
class LastTileSkipped(Tiled):
    """Leaves out the tail."""

    def tiles(self, Sk: int) -> list[slice]:
        return [at for at in super().tiles(Sk) if at.stop <= Sk] or super().tiles(Sk)


@_breaks("D2")
class LseInBaseTwo(Tiled):
    """Returns the logarithm to base two."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        return out, (lse / np.log(2)).astype(lse.dtype)


@_breaks("D2")
class LseWithoutMaximum(Tiled):
    """Forgets the maximum in the log-sum-exp."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        m = np.where(np.isfinite(state.m), state.m, 0)
        return out, (lse - m).astype(lse.dtype)


@_breaks("D3")
class MergeBySigmoid(Tiled):
    """Merges by a difference of log-sum-exps, which is NaN for nothing."""

    def merged(self, p: Any) -> Result:
        acc = self.accumulator(p)
        a, b = p.out_a.astype(acc), p.out_b.astype(acc)
        w = 1 / (1 + np.exp(p.lse_b - p.lse_a))
        lse = p.lse_a - np.log(w)
        return Result(self.finished(w[..., None] * a + (1 - w)[..., None] * b, p.out_a), lse)


@_breaks("D4")
class SinkScaled(Tiled):
    """Scales the sinks like scores."""

    def start(self, d: Dense) -> State:
        if d.sink is None:
            return super().start(d)
        return super().start(replace(d, sink=(d.sink * d.scale.ravel()[0]).astype(d.sink.dtype)))


@_breaks("D4")
class SinkNotInLse(Tiled):
    """Leaves the sink out of the log-sum-exp."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        if d.sink is None:
            return out, lse
        rest = np.exp(lse) - np.exp(np.where(np.isfinite(d.sink), d.sink, -np.inf))
        return out, np.log(np.maximum(rest, 0)).astype(lse.dtype)


@_breaks("D4")
class SinkGradientMissing(Tiled):
    """Passes nothing back to the sinks."""

    def attention_gradients(self, p: Any, *rest: Any) -> Any:
        done: Any = super().attention_gradients(p, *rest)
        if getattr(p, "sinks", None) is None:
            return done
        return done._replace(dsinks=np.zeros_like(done.dsinks))


@_breaks("D3")
class MergeInHalf(Tiled):
    """Merges in half precision."""

    def merged(self, p: Any) -> Result:
        out, lse = super().merged(p)
        return Result(out.astype(np.float16).astype(out.dtype), lse)


@_breaks("D5")
class SoftmaxWithoutMaximum(Tiled):
    """Exponentiates the scores as they are."""

    def softmax(self, p: Any) -> np.ndarray:
        e = np.exp(p.x.astype(self.accumulator(p)))
        total = e.sum(axis=p.axis, keepdims=True)
        return np.asarray(e / np.where(total == 0, 1, total))


@_breaks("D5")
class SoftmaxOfNothingIsUniform(Tiled):
    """Gives a slice of minus infinities equal weights."""

    def softmax(self, p: Any) -> np.ndarray:
        y = super().softmax(p)
        nothing = (p.x == -np.inf).all(axis=p.axis, keepdims=True)
        return np.where(nothing, 1 / max(p.x.shape[p.axis], 1), y).astype(y.dtype)


# ---- E: gradients ------------------------------------------------------------------


@_breaks("E1")
class GradientWithoutDelta(Tiled):
    """Forgets what normalisation takes back."""

    def delta(self, dout: np.ndarray, out: np.ndarray) -> np.ndarray:
        return np.zeros_like(super().delta(dout, out))


@_breaks("E1")
class DlseIgnored(Tiled):
    """Ignores the gradient of the log-sum-exp."""

    def attention_gradients(self, p: Any, result: Result, dout: Any, dlse: Any) -> Any:
        return super().attention_gradients(p, result, dout, None)


@_breaks("E1")
class DlseSubtracted(Tiled):
    """Has one sign wrong: subtracts the gradient of the log-sum-exp."""

    def attention_gradients(self, p: Any, result: Result, dout: Any, dlse: Any) -> Any:
        return super().attention_gradients(p, result, dout, None if dlse is None else -dlse)


@_breaks("B2")
class CapGradientForgotten(Tiled):
    """Passes gradients through the soft cap unchanged."""

    def through_cap(self, dS: np.ndarray, d: Dense, at: slice) -> np.ndarray:
        return dS


@_breaks("E2")
class LseRecomputed(Tiled):
    """Uses its own log-sum-exp instead of the one it was given."""

    def piece_gradients(self, piece: Piece, d: Dense, *rest: Any) -> None:
        out, dout, _, dlse, total, dtype = rest
        own = self.rows(d, dtype)[1]
        super().piece_gradients(piece, d, out, dout, own, dlse, total, dtype)


@_breaks("E3")
class SharedSumsInHalf(Tiled):
    """Sums the gradients of shared things in half precision."""

    def add_shared(
        self, d: Dense, at: slice, dS: np.ndarray, dA: np.ndarray, total: dict[str, np.ndarray]
    ) -> None:
        super().add_shared(d, at, dS, dA, total)
        for name in {"bias", "scale"} & set(total):
            total[name][...] = total[name].astype(np.float16)


@_breaks("E3")
class GroupSumInHalf(Tiled):
    """Rounds each query head's gradient of a shared head before they are added."""

    def piece_gradients(self, piece: Piece, d: Dense, *rest: Any) -> None:
        super().piece_gradients(_RoundedHeads(**vars(piece)), d, *rest)


class _RoundedHeads(Piece):
    """A piece whose heads are rounded before they are added up."""

    def put(self, name: str, into: np.ndarray, x: np.ndarray) -> None:
        x = x.astype(np.float16).astype(x.dtype) if name in ("dk", "dv") else x
        super().put(name, into, x)


@_breaks("A2")
class GroupSumMissing(Tiled):
    """Gives a shared head the gradient of its first query head alone."""

    def piece_gradients(self, piece: Piece, d: Dense, *rest: Any) -> None:
        super().piece_gradients(_FirstOfGroup(**vars(piece)), d, *rest)


class _FirstOfGroup(Piece):
    """A piece that does not add up grouped heads."""

    def put(self, name: str, into: np.ndarray, x: np.ndarray) -> None:
        p = self.problem
        if name in ("dk", "dv") and not isinstance(p, WindowProblem) and p.k.shape[1]:
            first = np.zeros_like(x)
            step = x.shape[1] // p.k.shape[1]
            first[:, ::step] = x[:, ::step]
            x = first
        super().put(name, into, x)


# ---- F: packed sequences -----------------------------------------------------------


@_breaks("F1")
class SequencesMeet(Tiled):
    """Lets each sequence see the first token of the next."""

    def pieces(self, p: Any) -> Any:
        if isinstance(p, VarlenProblem) and len(p.cu_k) > 2:
            cu_k = p.cu_k.copy()
            cu_k[1:-1] += cu_k[1:-1] < cu_k[-1]
            p = replace(p, cu_k=cu_k, q_offset=p.offset)
        return super().pieces(p)


@_breaks("F1")
class OneOffsetForAll(Tiled):
    """Takes the first sequence's offset for every one."""

    def pieces(self, p: Any) -> Any:
        if isinstance(p, VarlenProblem) and not isinstance(p.offset, int):
            p = replace(p, q_offset=np.broadcast_to(p.offset[:1], p.offset.shape))
        return super().pieces(p)


# ---- G: windows --------------------------------------------------------------------


class _OtherMap(Tiled):
    """A backend that lays windows differently."""

    def other(self, p: WindowProblem) -> WindowProblem:
        raise NotImplementedError

    def pieces(self, p: Any) -> Any:
        return super().pieces(self.other(p) if isinstance(p, WindowProblem) else p)


@_breaks("G1")
class HeadsBeforeThree(Tiled):
    """Reads a packed projection as heads first, then q, k and v."""

    def pieces(self, p: Any) -> Any:
        if isinstance(p, WindowProblem) and p.qkv is not None:
            *rest, three, H, D = p.qkv.shape
            x = np.ascontiguousarray(p.qkv).reshape(*rest, H, three, D)
            p = replace(p, q=x[..., 0, :], k=x[..., 1, :], v=x[..., 2, :])
        return super().pieces(p)


@_breaks("G7")
class ShiftOfThePreviousCall(_OtherMap):
    """Uses the shift that the previous call had."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.previous: tuple[int, ...] = ()

    def other(self, p: WindowProblem) -> WindowProblem:
        previous, self.previous = self.previous, p.shift
        return replace(p, shift=previous) if len(previous) == len(p.shift) else p


@_breaks("G2")
class WindowsShiftedOnce(_OtherMap):
    """Shifts the first axis alone."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return replace(p, shift=(p.shift[0], *(0,) * (len(p.shift) - 1)))


@_breaks("G2")
class ShiftTheOtherWay(_OtherMap):
    """Rolls the map forwards."""

    def other(self, p: WindowProblem) -> WindowProblem:
        turned = tuple((w - s) % w for w, s in zip(p.window, p.shift, strict=True))
        return replace(p, shift=turned)


@_breaks("G3")
class WrapPairsVisible(_OtherMap):
    """Lets wrapped pairs meet."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return replace(p, wrap_bias=0.0) if p.wrap_bias == -np.inf else p


@_breaks("G3")
class WrapBiasTwice(_OtherMap):
    """Adds the wrap bias twice."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return replace(p, wrap_bias=2 * p.wrap_bias)


@_breaks("G3")
class AlwaysMinusInfinity(_OtherMap):
    """Hides wrapped pairs whatever the wrap bias says."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return replace(p, wrap_bias=-np.inf)


@_breaks("G4")
class ShiftDroppedOnEveryAxis(_OtherMap):
    """Drops the whole shift where one axis has none."""

    def other(self, p: WindowProblem) -> WindowProblem:
        covered = any(w >= g for w, g in zip(p.window, p.extents, strict=True))
        return replace(p, shift=(0,) * len(p.shift)) if covered else p


@_breaks("G5")
class PaddingAttendedTo(Tiled):
    """Lets padding be seen."""

    def pieces(self, p: Any) -> Any:
        for piece in super().pieces(p):
            if not isinstance(p, WindowProblem):
                yield piece
                continue
            place = (p.window, p.shift)
            holes = ~windows.partition(np.ones((p.q.shape[0], *p.extents), bool), *place)
            seen = piece.dense.seen | holes[:, None, None, :]
            yield replace(piece, dense=replace(piece.dense, seen=seen))


@_breaks("G6")
class KeyMaskIgnored(_OtherMap):
    """Ignores the key mask."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return replace(p, key_mask=None)


@_breaks("G6")
class HiddenTokensDoNotAsk(Tiled):
    """Gives tokens that the key mask hides no output."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        if not isinstance(p, WindowProblem) or p.key_mask is None:
            return Result(out, lse)
        asks = p.key_mask[..., None]
        return Result(np.where(asks[..., None], out, 0).astype(out.dtype), lse)


@_breaks("G6")
class ScaleOfTheFirstHead(_OtherMap):
    """Takes the first head's scale for all."""

    def other(self, p: WindowProblem) -> WindowProblem:
        scale: Any = p.scale
        return replace(p, scale=np.full_like(scale, scale[0])) if p.scale_per_head else p


@_breaks("G6")
class TableKeyMajor(Tiled):
    """Takes the displacement from key to query."""

    def index(self, p: Any) -> np.ndarray:
        return super().index(p).T


# ---- H: dispatch -------------------------------------------------------------------


@_breaks("H2")
class AcceptsEverything(Tiled):
    """Declares support for whatever it is asked."""

    def unsupported(self, problem: Problem) -> Any:
        return []


@_breaks("H2")
class RefusesInWordsOnly(Tiled):
    """Declines soft caps, and computes them when called."""

    def unsupported(self, problem: Problem) -> Any:
        return super().unsupported(problem)

    def forward(self, problem: Any) -> Result:
        with np.errstate(all="ignore"):
            return self.attended(problem)


@_breaks("A1")
class ConstantAnswer(Tiled):
    """Returns zeros of the right shape."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        return Result(np.zeros_like(out), np.zeros_like(lse))
