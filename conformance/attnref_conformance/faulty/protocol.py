"""Faults of clause A5: what a backend does to its inputs, and what it remembers."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref.problem import AttentionProblem, Result
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.honest import Tiled


@breaks("A5")
class MutatedInput(Tiled):
    """Scales the queries in place."""

    def attended(self, p: Any) -> Result:
        result = super().attended(p)
        if p.q.flags.writeable and p.q.size:
            p.q[...] = p.q * 0.5
        return result


@breaks("A5")
class ReturnedView(Tiled):
    """Returns its input where every query has one key."""

    def attended(self, p: Any) -> Result:
        result = super().attended(p)
        same = np.array_equal(result.out, p.v) and result.out.dtype == p.v.dtype
        return Result(p.v, result.lse) if same else result


@breaks("A5")
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


@breaks("A5")
class TransposedRememberedByAddress(Tiled):
    """Turns the values for a backward pass once per address, and keeps that for the next."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.turned: dict[int, np.ndarray] = {}

    def attention_gradients(self, p: Any, result: Result, dout: Any, dlse: Any) -> Any:
        kept = self.turned.setdefault(p.v.__array_interface__["data"][0], p.v.copy())
        if kept.shape == p.v.shape and kept.dtype == p.v.dtype:
            p = replace(p, v=kept)
        return super().attention_gradients(p, result, dout, dlse)


@breaks("A5")
class MutatedGradient(Tiled):
    """Multiplies the gradient that it was given in place."""

    def attention_gradients(self, p: Any, result: Result, dout: Any, dlse: Any) -> Any:
        done = super().attention_gradients(p, result, dout, dlse)
        if dout.flags.writeable:
            dout *= 2
        return done


@breaks("A5")
class GradientIsAView(Tiled):
    """Returns the gradient that it was given where every query has one key."""

    def attention_gradients(self, p: Any, result: Result, dout: Any, dlse: Any) -> Any:
        done: Any = super().attention_gradients(p, result, dout, dlse)
        alone = p.operation == "attention" and np.array_equal(done.dv, dout)
        return done._replace(dv=dout) if alone else done


@breaks("A5")
class OneBuffer(Tiled):
    """Writes every result of a shape into the same memory."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.buffers: dict[Any, np.ndarray] = {}

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        kept = self.buffers.setdefault((out.shape, out.strides, out.dtype), out)
        kept[...] = out
        return Result(kept, lse)


@breaks("A5")
class MaskRememberedByAddress(Tiled):
    """Prepares a mask once per address, and does not notice that it changed."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.prepared: dict[int, np.ndarray] = {}

    def pieces(self, p: Any) -> Any:
        mask = getattr(p, "mask", None)
        if mask is None:
            return super().pieces(p)
        kept = self.prepared.setdefault(mask.__array_interface__["data"][0], mask.copy())
        return super().pieces(replace(p, mask=kept) if kept.shape == mask.shape else p)


@breaks("A5")
class SinksRememberedByShape(Tiled):
    """Keeps what it prepared for a shape, sinks included, for every call of that shape."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.prepared: dict[Any, np.ndarray] = {}

    def pieces(self, p: Any) -> Any:
        if not isinstance(p, AttentionProblem) or p.sinks is None:
            return super().pieces(p)
        key = (p.q.shape, p.k.shape, p.dtype)
        return super().pieces(replace(p, sinks=self.prepared.setdefault(key, p.sinks.copy())))


@breaks("A5")
class OtherEverySecondTime(Tiled):
    """Answers the same call differently the second time."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls = 0

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        self.calls += 1
        return Result((out * (1 + self.calls % 2)).astype(out.dtype), lse)
