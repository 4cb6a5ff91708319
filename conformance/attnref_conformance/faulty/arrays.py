"""Faults of clauses A1 to A3 and A6: memory order, heads, dtypes, precision."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref import arrays
from attnref.problem import AttentionProblem, Problem, Result, WindowProblem
from attnref_conformance.dense import Dense, Piece
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.faulty.other import OtherAttention
from attnref_conformance.honest import State, Tiled


@breaks("A1")
class PlainOrder(Tiled):
    """Returns C order whatever q's memory order is."""

    def finished(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x).astype(like.dtype)


@breaks("A2")
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


@breaks("A2")
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


@breaks("A3")
class HalfLse(Tiled):
    """Returns the log-sum-exp in the input's dtype."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        return Result(out, lse.astype(out.dtype))


@breaks("A3")
class OutInSingle(Tiled):
    """Returns half precisions in float32."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        half = p.dtype in ("float16", "bfloat16")
        return Result(out.astype(np.float32) if half else out, lse)


@breaks("A6")
class HalfSums(Tiled):
    """Accumulates the weighted values in half precision."""

    def update(self, state: State, s: np.ndarray, v: np.ndarray, dtype: str) -> State:
        new = super().update(state, s, v, dtype)
        rounded = new.acc.astype(np.float16).astype(new.acc.dtype)
        return State(new.m, new.l, rounded)


@breaks("A6")
class SingleForDouble(Tiled):
    """Computes float64 in float32."""

    def accumulator(self, p: Problem) -> np.dtype[Any]:
        return np.dtype("float32")


@breaks("A1")
class Zeros(Tiled):
    """Returns memory that it never wrote, and that happens to hold zeros."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        return Result(np.zeros_like(out), lse)


@breaks("A1")
class ConstantAnswer(Tiled):
    """Answers every call alike."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        return Result(np.ones_like(out), np.zeros_like(lse))


@breaks("A1")
class MemoryOrderRead(OtherAttention):
    """Reads the queries as they lie in memory, whatever their strides."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, q=np.ravel(p.q, order="K").reshape(p.q.shape))


@breaks("A1")
class NegativeStridesLost(OtherAttention):
    """Takes a negative stride of the keys for a positive one."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        forward = tuple(slice(None, None, -1 if n < 0 else 1) for n in p.k.strides)
        return replace(p, k=p.k[forward])


@breaks("C1")
class SinksWithoutStride(OtherAttention):
    """Reads the sinks one after the other, however far apart they lie."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        if p.sinks is None:
            return p
        dense = np.lib.stride_tricks.as_strided(p.sinks, strides=(p.sinks.itemsize,))
        return replace(p, sinks=dense)


@breaks("A1")
class GradientInPlainOrder(Tiled):
    """Returns gradients in C order whatever their inputs' memory order is."""

    def attention_gradients(self, *given: Any) -> Any:
        done: Any = super().attention_gradients(*given)
        return type(done)(*(None if x is None else np.ascontiguousarray(x) for x in done))


@breaks("A1")
class LseQueriesFirst(Tiled):
    """Returns a log-sum-exp that is a transposed view."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        return Result(out, np.ascontiguousarray(lse.mT).mT)


@breaks("A1")
class BatchesPastTheFourth(Tiled):
    """Computes as many batch entries as its author tried."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        if isinstance(p, AttentionProblem):
            out[4:] = 0
        return Result(out, lse)


@breaks("A1")
class FeaturesPastThe128th(OtherAttention):
    """Leaves out the features that its registers do not hold."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return replace(p, q=p.q[..., :128], k=p.k[..., :128])


@breaks("A2")
class HeadsPastTheEighth(OtherAttention):
    """Reads the first key/value head for every query head past the eighth."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        Hq, Hkv = p.q.shape[1], p.k.shape[1]
        if Hq <= 8:
            return p
        heads = np.arange(Hq) // (Hq // Hkv) * (np.arange(Hq) < 8)
        return replace(p, k=p.k[:, heads], v=p.v[:, heads])


@breaks("A2")
class GroupsByPowersOfTwo(OtherAttention):
    """Rounds the size of a group down to a power of two."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        Hq, Hkv = p.q.shape[1], p.k.shape[1]
        if not Hkv:
            return p
        shift = (Hq // Hkv).bit_length() - 1
        heads = np.minimum(np.arange(Hq) >> shift, Hkv - 1)
        return replace(p, k=p.k[:, heads], v=p.v[:, heads])


@breaks("A2")
class ValuesAsWideAsKeys(Tiled):
    """Leaves the values past the size of the keys unwritten."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        if isinstance(p, AttentionProblem):
            out[..., p.k.shape[-1] :] = 0
        return Result(out, lse)


@breaks("A3")
class BiasInTheInputsDtype(OtherAttention):
    """Rounds a wider bias to the dtype of the queries."""

    def other(self, p: AttentionProblem) -> AttentionProblem:
        return p if p.bias is None else replace(p, bias=p.bias.astype(p.q.dtype))


@breaks("A3")
class BiasGradientInTheInputsDtype(Tiled):
    """Returns the bias's gradient in the dtype of the queries."""

    def attention_gradients(self, p: Any, *rest: Any) -> Any:
        done: Any = super().attention_gradients(p, *rest)
        return done if done.dbias is None else done._replace(dbias=done.dbias.astype(p.q.dtype))


@breaks("A3")
class SingleLseForDouble(Tiled):
    """Returns the log-sum-exp of float64 in float32."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        return Result(out, lse.astype(np.float32))


@breaks("A4")
class NoKeysRaise(Tiled):
    """Takes the maximum of an empty row."""

    def maximum(self, m: np.ndarray, s: np.ndarray) -> np.ndarray:
        return np.maximum(m, s.max(axis=-1))

    def tiles(self, Sk: int) -> list[slice]:
        return super().tiles(Sk) or [slice(0, 0)]


@breaks("A4")
class NoKeysUnwritten(Tiled):
    """Launches nothing where there are no keys, and returns what memory held."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        return Result(out, lse) if p.k.size else Result(out + 7, lse)


@breaks("A4")
class EmptyBatchReshaped(Tiled):
    """Flattens batch and heads by a reshape that an empty array does not have."""

    def attended(self, p: Any) -> Result:
        p.q.reshape(-1, *p.q.shape[-2:])
        return super().attended(p)


@breaks("A6")
class LongSumInHalf(Tiled):
    """Accumulates in half precision once there are more than 1024 keys."""

    def update(self, state: State, s: np.ndarray, v: np.ndarray, dtype: str) -> State:
        new = super().update(state, s, v, dtype)
        if self.long:
            new.acc = new.acc.astype(np.float16).astype(new.acc.dtype)
        return new

    def rows(self, d: Dense, dtype: str) -> Any:
        self.long = d.k.shape[-2] > 1024
        return super().rows(d, dtype)


@breaks("A6")
class RoundsWeightsUnsaid(Tiled):
    """Rounds weights to half precision under a profile that does not."""

    def stored(self, p: np.ndarray, dtype: str) -> np.ndarray:
        return p.astype(np.float16).astype(p.dtype)


@breaks("A6")
class WeightsSummedInHalf(Tiled):
    """Accumulates the sum of the weights in half precision."""

    def update(self, state: State, s: np.ndarray, v: np.ndarray, dtype: str) -> State:
        new = super().update(state, s, v, dtype)
        return State(new.m, new.l.astype(np.float16).astype(new.l.dtype), new.acc)


@breaks("A6")
class OutThroughBfloat16(Tiled):
    """Rounds results through bfloat16 on their way out."""

    def finished(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        return super().finished(x.astype(arrays.numpy_dtype("bfloat16")).astype(x.dtype), like)


@breaks("A6")
class Truncates(Tiled):
    """Rounds half results towards zero."""

    def finished(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        near = super().finished(x, like)
        if like.dtype.itemsize != 2:
            return near
        away = np.abs(near.astype(x.dtype)) > np.abs(x)
        return np.where(away, np.nextafter(near, np.zeros_like(near)), near).astype(like.dtype)


@breaks("A6")
class HalfDenormalsFlushed(Tiled):
    """Takes float16 numbers too small to be normal for zero."""

    def narrow(self, d: Dense, acc: np.dtype[Any]) -> Dense:
        d = super().narrow(d, acc)
        return replace(d, v=np.where(np.abs(d.v) < 2.0**-14, 0, d.v).astype(acc))
