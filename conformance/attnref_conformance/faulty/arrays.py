"""Faults of clauses A1 to A3 and A6: memory order, heads, dtypes, precision."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref.problem import AttentionProblem, Problem, Result, WindowProblem
from attnref_conformance.dense import Dense, Piece
from attnref_conformance.faulty.fault import breaks
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
class ConstantAnswer(Tiled):
    """Returns zeros of the right shape."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        return Result(np.zeros_like(out), np.zeros_like(lse))
