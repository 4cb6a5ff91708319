"""Faults of clause D4: sinks."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref.problem import Result
from attnref_conformance.dense import Dense, Piece
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.honest import State, Tiled


@breaks("D4")
class SinkScaled(Tiled):
    """Scales the sinks like scores."""

    def start(self, d: Dense) -> State:
        if d.sink is None:
            return super().start(d)
        return super().start(replace(d, sink=(d.sink * d.scale.ravel()[0]).astype(d.sink.dtype)))


@breaks("D4")
class SinkNotInLse(Tiled):
    """Leaves the sink out of the log-sum-exp."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        if d.sink is None:
            return out, lse
        rest = np.exp(lse) - np.exp(np.where(np.isfinite(d.sink), d.sink, -np.inf))
        return out, np.log(np.maximum(rest, 0)).astype(lse.dtype)


@breaks("D4")
class SinkGradientMissing(Tiled):
    """Passes nothing back to the sinks."""

    def attention_gradients(self, p: Any, *rest: Any) -> Any:
        done: Any = super().attention_gradients(p, *rest)
        if getattr(p, "sinks", None) is None:
            return done
        return done._replace(dsinks=np.zeros_like(done.dsinks))


@breaks("D4")
class SinkCapped(Tiled):
    """Bounds the sinks like scores."""

    def start(self, d: Dense) -> State:
        if d.sink is not None:
            d = replace(d, sink=self.cap(d.sink, d.softcap))
        return super().start(d)


@breaks("D4")
class SinkOfTheKeyHead(Tiled):
    """Reads the sinks by key/value head."""

    def pieces(self, p: Any) -> Any:
        if getattr(p, "sinks", None) is not None:
            Hq, Hkv = p.q.shape[1], p.k.shape[1]
            p = replace(p, sinks=p.sinks[np.arange(Hq) // (Hq // Hkv)])
        return super().pieces(p)


@breaks("D4")
class SinkInEveryTile(Tiled):
    """Adds the sink's weight once per tile."""

    def rows(self, d: Dense, dtype: str) -> Any:
        if d.sink is not None:
            more = len(self.tiles(d.k.shape[-2])) or 1
            d = replace(d, sink=(d.sink + np.log(more)).astype(d.sink.dtype))
        return super().rows(d, dtype)


@breaks("D4")
class SinkOfMinusInfinityIsNan(Tiled):
    """Subtracts minus infinity from a sink that is none."""

    def start(self, d: Dense) -> State:
        state = super().start(d)
        if d.sink is not None:
            state.l = np.exp(d.sink - d.sink)
        return state


@breaks("D4")
class SinkLostWithoutKeys(Tiled):
    """Gives rows that see nothing but a sink no log-sum-exp."""

    def finish(self, state: State, d: Dense) -> Any:
        out, lse = super().finish(state, d)
        seen = np.broadcast_to(d.seen, (*d.q.shape[:-1], d.k.shape[-2])).any(axis=-1)
        return out, np.where(seen, lse, -np.inf).astype(lse.dtype)


@breaks("D4")
class SinkPastALength(Tiled):
    """Gives rows past a length their sink."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        if p.operation == "attention" and p.sinks is not None and p.q_lens is not None:
            past = np.arange(lse.shape[-1]) >= p.q_lens[:, None, None]
            lse = np.where(past, p.sinks[:, None], lse).astype(lse.dtype)
        return Result(out, lse)


@breaks("D4")
class SinkGradientOfOneEntry(Tiled):
    """Sums a sink's gradient over the first batch entry alone."""

    def piece_gradients(self, piece: Piece, d: Dense, *rest: Any) -> None:
        if d.sink is not None:
            first = np.arange(d.sink.shape[0])[:, None, None] == 0
            d = replace(d, sink=np.where(first, d.sink, -np.inf).astype(d.sink.dtype))
        super().piece_gradients(piece, d, *rest)
