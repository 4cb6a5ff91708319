"""Faults of clause D4: sinks."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref_conformance.dense import Dense
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
