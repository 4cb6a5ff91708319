"""The judge's own tiled computation: honest, in the precision that it judges.

It sets the quality limit, which is a multiple of its error, and it is the ground on which
the faulty backends of `attnref_conformance.faulty` are planted: every step is a method, and
a fault replaces one. It shares nothing with any backend that is judged.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attnref import arrays
from attnref.arrays import Array
from attnref.backend import memory_order, not_understood, refuse
from attnref.errors import Reason
from attnref.problem import (
    AnyProblem,
    AttentionGradients,
    Gradients,
    MergeGradients,
    MergeProblem,
    Problem,
    Result,
    SoftmaxGradients,
    SoftmaxProblem,
    TableGradients,
    TableProblem,
    WindowGradients,
    WindowProblem,
)
from attnref.reference import UNDERSTOOD, exact_backward, wide
from attnref.spec import windows
from attnref_conformance.dense import Dense, Piece, pieces
from attnref_conformance.oracle import Expected
from attnref_conformance.profiles import UNIT_ROUNDOFF


@dataclass
class State:
    """The running maximum, sum and weighted values of a block of rows."""

    m: np.ndarray
    l: np.ndarray
    acc: np.ndarray


class Tiled:
    """A correct tiled backend whose every step can be replaced.

    Args:
        name: The name that traces and reports show.
        tile: Keys per tile.
        reverse: Visit the tiles from the last to the first.
        round_weights: Round weights and dS to a half input dtype before their product.
    """

    library = "numpy"
    masked_nonfinite = True

    def __init__(
        self,
        name: str = "honest",
        *,
        tile: int = 16,
        reverse: bool = False,
        round_weights: bool = False,
    ) -> None:
        self.name, self.tile, self.reverse = name, tile, reverse
        self.profile = "half-weights" if round_weights else "ieee"

    def available(self) -> Sequence[Reason]:
        """Return nothing: NumPy is all it needs."""
        return []

    def unsupported(self, problem: Problem) -> Sequence[Reason]:
        """Refuse what is newer than the specification."""
        return not_understood(problem, UNDERSTOOD)

    def from_numpy(self, x: np.ndarray) -> Array:
        """Return the array itself."""
        return x

    def to_numpy(self, x: Array) -> np.ndarray:
        """Return the array itself."""
        return np.asarray(x)

    # ---- forward -------------------------------------------------------------------

    def forward(self, problem: AnyProblem) -> Result:
        """Run a problem by tiles."""
        refuse(self, problem)
        with np.errstate(all="ignore"):
            match problem:
                case SoftmaxProblem():
                    return Result(self.finished(self.softmax(problem), problem.x))
                case TableProblem():
                    return Result(self.table(problem))
                case MergeProblem():
                    return self.merged(problem)
            return self.attended(problem)

    def attended(self, p: AnyProblem) -> Result:
        """Run attention piece by piece."""
        acc = self.accumulator(p)
        out = np.zeros((*p.q.shape[:-1], p.v.shape[-1]), acc)
        rows = (*p.q.shape[:2][::-1],) if p.operation == "attention_varlen" else p.q.shape[:-1]
        lse = np.full(rows, -np.inf, acc)
        for piece in self.pieces(p):
            o, e = self.rows(self.narrow(piece.dense, acc), p.dtype)
            piece.put("out", out, o)
            piece.put("lse", lse, e)
        return Result(self.finished(out, p.q), lse.astype(p.lse_dtype))

    def pieces(self, p: AnyProblem) -> Sequence[Piece]:
        """Return the dense problems that a call consists of."""
        return list(pieces(p))

    def accumulator(self, p: Problem) -> np.dtype[Any]:
        """Return the dtype that everything is computed in."""
        return np.dtype("float64" if p.dtype == "float64" else "float32")

    def narrow(self, d: Dense, acc: np.dtype[Any]) -> Dense:
        """Bring a dense problem from float64 to the accumulator."""
        named: dict[str, Any] = {
            name: x.astype(acc)
            for name, x in vars(d).items()
            if isinstance(x, np.ndarray) and x.dtype != bool
        }
        return replace(d, **named)

    def rows(self, d: Dense, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """Carry the rows of a dense problem through its tiles."""
        state = self.start(d)
        for at in self.tiles(d.k.shape[-2]):
            s = np.where(self.seen(d, at), self.score(d, at), -np.inf).astype(d.q.dtype)
            state = self.update(state, s, d.v[..., at, :], dtype)
        return self.finish(state, d)

    def tiles(self, Sk: int) -> list[slice]:
        """Cut the keys into tiles."""
        cuts = [slice(j, j + self.tile) for j in range(0, Sk, self.tile)]
        return cuts[::-1] if self.reverse else cuts

    def start(self, d: Dense) -> State:
        """Begin with the sinks, or with nothing."""
        rows, Dv = d.q.shape[:-1], d.v.shape[-1]
        m = np.full(rows, -np.inf, d.q.dtype) if d.sink is None else d.sink.copy()
        l = (m != -np.inf).astype(d.q.dtype)
        return State(m, l, np.zeros((*rows, Dv), d.q.dtype))

    def seen(self, d: Dense, at: slice) -> np.ndarray:
        """Return who is visible in a tile."""
        return d.seen[..., at]

    def product(self, d: Dense, at: slice) -> np.ndarray:
        """Return the scaled scores of a tile."""
        return np.asarray(d.scale * (d.q @ d.k[..., at, :].mT))

    def cap(self, a: np.ndarray, softcap: float | None) -> np.ndarray:
        """Bound the scores."""
        return a if softcap is None else (softcap * np.tanh(a / softcap)).astype(a.dtype)

    def biased(self, c: np.ndarray, d: Dense, at: slice) -> np.ndarray:
        """Add the bias."""
        if d.bias is None:
            return c
        return np.asarray(c + np.broadcast_to(d.bias, (*d.q.shape[:-1], d.k.shape[-2]))[..., at])

    def score(self, d: Dense, at: slice) -> np.ndarray:
        """Scale, cap, bias."""
        return self.biased(self.cap(self.product(d, at), d.softcap), d, at)

    def maximum(self, m: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Raise the running maximum."""
        return np.maximum(m, s.max(axis=-1, initial=-np.inf))

    def rescale(self, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Return the factor by which what was carried shrinks."""
        base = np.where(new == -np.inf, 0.0, new).astype(new.dtype)
        return np.exp(old - base)

    def exponentials(self, s: np.ndarray, m: np.ndarray) -> np.ndarray:
        """Measure a tile's scores from the maximum."""
        return np.exp(s - np.where(m == -np.inf, 0.0, m).astype(m.dtype)[..., None])

    def stored(self, p: np.ndarray, dtype: str) -> np.ndarray:
        """Round weights to where they are kept before their product."""
        if self.profile == "ieee" or dtype in ("float32", "float64"):
            return p
        return p.astype(arrays.numpy_dtype(dtype)).astype(p.dtype)

    def weigh(self, p: np.ndarray, s: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Sum visible values."""
        if np.isfinite(v).all():
            return p @ v
        poisoned = (s != -np.inf).astype(p.dtype) @ (~np.isfinite(v)).astype(p.dtype) > 0
        total = p @ np.where(np.isfinite(v), v, 0).astype(p.dtype)
        return np.where(poisoned, np.nan, total).astype(p.dtype)

    def update(self, state: State, s: np.ndarray, v: np.ndarray, dtype: str) -> State:
        """Show the rows one more tile."""
        m = self.maximum(state.m, s)
        shrink = self.rescale(state.m, m)
        p = self.exponentials(s, m)
        l = shrink * state.l + p.sum(axis=-1, dtype=p.dtype)
        acc = shrink[..., None] * state.acc + self.weigh(self.stored(p, dtype), s, v)
        return State(m, l, acc)

    def finish(self, state: State, d: Dense) -> tuple[np.ndarray, np.ndarray]:
        """Turn a state into results."""
        nothing = state.l == 0
        l = np.where(nothing, 1, state.l).astype(state.l.dtype)
        lse = np.where(nothing, -np.inf, state.m + np.log(l)).astype(l.dtype)
        return state.acc / l[..., None], lse

    def finished(self, x: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Round once, in the memory order of an input."""
        axes = memory_order(like) if x.ndim == like.ndim else tuple(range(x.ndim))
        done = np.array(x.transpose(axes), like.dtype, order="C")
        return np.asarray(done.transpose(np.argsort(axes)))

    def softmax(self, p: SoftmaxProblem) -> np.ndarray:
        """Carry slices through tiles, then weigh."""
        x = np.moveaxis(p.x, p.axis, -1).astype(self.accumulator(p))
        m = np.full(x.shape[:-1], -np.inf, x.dtype)
        l = np.zeros_like(m)
        for at in self.tiles(x.shape[-1]):
            higher = self.maximum(m, x[..., at])
            total = self.exponentials(x[..., at], higher).sum(axis=-1, dtype=x.dtype)
            l, m = self.rescale(m, higher) * l + total, higher
        l = np.where(l == 0, 1, l).astype(x.dtype)
        return np.moveaxis(self.exponentials(x, m) / l[..., None], -1, p.axis)

    def merged(self, p: MergeProblem) -> Result:
        """Join two finished parts."""
        acc = self.accumulator(p)
        m = np.maximum(p.lse_a, p.lse_b)
        parts = [(p.out_a.astype(acc), p.lse_a), (p.out_b.astype(acc), p.lse_b)]
        weights = [self.rescale(lse, m) for _, lse in parts]
        l = sum(weights)
        safe = np.where(l == 0, 1, l).astype(acc)
        total = sum(w[..., None] * out for w, (out, _) in zip(weights, parts, strict=True))
        lse = np.where(l == 0, -np.inf, m + np.log(safe)).astype(acc, order="C")
        return Result(self.finished(total / safe[..., None], p.out_a), lse)

    def index(self, p: TableProblem) -> np.ndarray:
        """Number the displacements."""
        return windows.relative_position_index(p.window)

    def table(self, p: TableProblem) -> np.ndarray:
        """Look up the bias of every pair."""
        return np.ascontiguousarray(np.moveaxis(p.table[self.index(p)], -1, 0))

    # ---- backward ------------------------------------------------------------------

    def backward(
        self, problem: AnyProblem, result: Result, dout: Array, dlse: Array | None = None
    ) -> Gradients:
        """Pass gradients back, tile by tile."""
        refuse(self, problem)
        acc = self.accumulator(problem)
        with np.errstate(all="ignore"):
            match problem:
                case SoftmaxProblem(axis=axis):
                    y, dy = result.out.astype(acc), dout.astype(acc)
                    dx = y * (dy - (y * dy).sum(axis=axis, keepdims=True, dtype=acc))
                    return SoftmaxGradients(self.finished(dx, problem.x))
                case TableProblem():
                    dtable = np.zeros(problem.table.shape, acc)
                    np.add.at(dtable, self.index(problem), np.moveaxis(dout, 0, -1).astype(acc))
                    return TableGradients(dtable.astype(problem.table.dtype))
                case MergeProblem():
                    return self.merge_gradients(problem, result, dout, dlse)
            return self.attention_gradients(problem, result, dout, dlse)

    def merge_gradients(
        self, p: MergeProblem, result: Result, dout: Array, dlse: Array | None
    ) -> MergeGradients:
        """Pass gradients to both parts of a merge."""
        acc = self.accumulator(p)
        assert dlse is not None
        wide, out = dout.astype(acc), result.out.astype(acc)
        done = []
        for part, lse in ((p.out_a, p.lse_a), (p.out_b, p.lse_b)):
            w = np.where(lse == -np.inf, 0, self.rescale(lse, result.lse)).astype(acc)
            along = (wide * (part.astype(acc) - out)).sum(axis=-1, dtype=acc)
            done += [self.finished(w[..., None] * wide, part)]
            done += [self.finished(w * (dlse + along), lse)]
        return MergeGradients(*done)

    def attention_gradients(
        self, p: AnyProblem, result: Result, dout: Array, dlse: Array | None
    ) -> Gradients:
        """Pass gradients back through every piece, and sum what is shared."""
        acc = self.accumulator(p)
        names = [n for n in ("q", "k", "v", "bias", "sinks", "scale") if _is_array(p, n)]
        total = {n: np.zeros(getattr(p, n).shape, acc) for n in names}
        dlse = np.zeros(result.lse.shape, acc) if dlse is None else dlse
        for piece in self.pieces(p):
            d = self.narrow(piece.dense, acc)
            out, above = (piece.rows(x.astype(acc, order="C")) for x in (result.out, dout))
            lse, beside = (piece.lse(x.astype(acc, order="C")) for x in (result.lse, dlse))
            self.piece_gradients(piece, d, out, above, lse, beside, total, p.dtype)
        done = {n: self.finished(total[n], getattr(p, n)) for n in names}
        if not isinstance(p, WindowProblem):
            return AttentionGradients(*(done.get(n) for n in ("q", "k", "v", "bias", "sinks")))
        shared = (done.get("bias"), done.get("scale"))
        if p.qkv is None:
            return WindowGradients(done["q"], done["k"], done["v"], *shared)
        packed = np.stack([total[n] for n in "qkv"], axis=-3)
        return WindowGradients(None, None, None, *shared, self.finished(packed, p.qkv))

    def piece_gradients(
        self,
        piece: Piece,
        d: Dense,
        out: np.ndarray,
        dout: np.ndarray,
        lse: np.ndarray,
        dlse: np.ndarray,
        total: dict[str, np.ndarray],
        dtype: str,
    ) -> None:
        """Add up one dense problem's gradients, a tile of keys at a time."""
        delta = self.delta(dout, out)
        taken = delta - np.where(lse == -np.inf, 0, dlse)
        dq = np.zeros_like(d.q)
        dk, dv = np.zeros_like(d.k), np.zeros_like(d.v)
        for at in self.tiles(d.k.shape[-2]):
            P = self.weights_again(d, at, lse)
            dS = np.where(P > 0, P * (dout @ d.v[..., at, :].mT - taken[..., None]), 0).astype(
                P.dtype
            )
            dA = self.through_cap(dS, d, at)
            kept = self.stored(dA, dtype)
            dq += d.scale * (kept @ d.k[..., at, :])
            dk[..., at, :] = d.scale * (kept.mT @ d.q)
            dv[..., at, :] = self.stored(P, dtype).mT @ dout
            self.add_shared(d, at, dS, dA, total)
        for name, x in (("q", dq), ("k", dk), ("v", dv)):
            piece.put(f"d{name}", total[name], x)
        if "sinks" in total and d.sink is not None:
            weight = np.where(d.sink == -np.inf, 0, self.rescale(d.sink, lse))
            total["sinks"] += (weight * (dlse - delta)).sum(axis=(0, 2), dtype=delta.dtype)

    def delta(self, dout: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Find what normalisation takes back."""
        return np.asarray((dout * out).sum(axis=-1, dtype=dout.dtype))

    def weights_again(self, d: Dense, at: slice, lse: np.ndarray) -> np.ndarray:
        """Form a tile's weights from the log-sum-exp."""
        live = self.seen(d, at) & (lse != -np.inf)[..., None]
        P = self.exponentials(self.score(d, at), lse)
        return np.where(live, P, 0).astype(d.q.dtype)

    def through_cap(self, dS: np.ndarray, d: Dense, at: slice) -> np.ndarray:
        """Pass a gradient back through the soft cap."""
        if d.softcap is None:
            return dS
        c = self.cap(self.product(d, at), d.softcap)
        return (dS * (1 - (c / d.softcap) ** 2)).astype(dS.dtype)

    def add_shared(
        self, d: Dense, at: slice, dS: np.ndarray, dA: np.ndarray, total: dict[str, np.ndarray]
    ) -> None:
        """Add a tile's part of the gradients that are summed over rows."""
        if "bias" in total:
            whole = np.zeros((*d.q.shape[:-1], d.k.shape[-2]), dS.dtype)
            whole[..., at] = dS
            total["bias"] += summed_to(whole, total["bias"].shape)
        if "scale" in total:
            total["scale"] += (dA * (d.q @ d.k[..., at, :].mT)).sum(axis=(0, 2, 3), dtype=dA.dtype)


def _is_array(p: AnyProblem, name: str) -> bool:
    return arrays.library(getattr(p, name, None)) is not None


def summed_to(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum over the axes along which something of `shape` was broadcast."""
    x = x.sum(axis=tuple(range(x.ndim - len(shape))), dtype=x.dtype)
    stretched = tuple(a for a, n in enumerate(shape) if n == 1 and x.shape[a] != 1)
    return np.asarray(x.sum(axis=stretched, keepdims=True, dtype=x.dtype))


FAMILY = (Tiled(tile=16, round_weights=True), Tiled(tile=64, reverse=True, round_weights=True))
"""Honest computations whose worst error sets the quality limit."""


def errors(
    problem: AnyProblem,
    expected: Mapping[str, Expected],
    given: tuple[Result, np.ndarray, np.ndarray | None] | None = None,
) -> dict[str, float]:
    """Return the largest error of the honest family, plus two roundings, per result.

    Args:
        problem: The call, with NumPy arrays.
        expected: The exact results.
        given: What a backward is given: result, dout and dlse; `None` for a forward.
    """
    worst = dict.fromkeys(expected, 0.0)
    for answer in _honest_answers(problem, given):
        named = answer._asdict()
        for name, want in expected.items():
            got = named[name].astype(np.float64)
            both = np.isfinite(got) & np.isfinite(want.value)
            error = np.abs(np.where(both, got, 0) - np.where(both, want.value, 0))
            size = np.abs(want.value[both]).max(initial=0.0)
            room = float(error.max(initial=0.0)) + 2 * UNIT_ROUNDOFF[want.dtype] * size
            worst[name] = max(worst[name], room)
    return worst


def _honest_answers(
    problem: AnyProblem, given: tuple[Result, np.ndarray, np.ndarray | None] | None
) -> Iterator[Any]:
    if given is None:
        yield from (honest.forward(problem) for honest in FAMILY)
        return
    yield from (honest.backward(problem, *given) for honest in FAMILY)
    # What rounding the given out and lse does, whoever computes from them.
    result, dout, dlse = given
    lse = None if result.lse is None else wide(result.lse)
    stored = Result(wide(result.out), lse)
    with np.errstate(all="ignore"):
        yield exact_backward(problem, stored, wide(dout), None if dlse is None else wide(dlse))
