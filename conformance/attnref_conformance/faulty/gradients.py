"""Faults of clause family E: the way back."""

from typing import Any

import numpy as np

from attnref.problem import Result
from attnref_conformance.dense import Dense, Piece
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.honest import Tiled


@breaks("E1")
class GradientWithoutDelta(Tiled):
    """Forgets what normalisation takes back."""

    def delta(self, dout: np.ndarray, out: np.ndarray) -> np.ndarray:
        return np.zeros_like(super().delta(dout, out))


@breaks("E1")
class DlseIgnored(Tiled):
    """Ignores the gradient of the log-sum-exp."""

    def attention_gradients(self, p: Any, result: Result, dout: Any, dlse: Any) -> Any:
        return super().attention_gradients(p, result, dout, None)


@breaks("E1")
class DlseSubtracted(Tiled):
    """Has one sign wrong: subtracts the gradient of the log-sum-exp."""

    def attention_gradients(self, p: Any, result: Result, dout: Any, dlse: Any) -> Any:
        return super().attention_gradients(p, result, dout, None if dlse is None else -dlse)


@breaks("E2")
class LseRecomputed(Tiled):
    """Uses its own log-sum-exp instead of the one it was given."""

    def piece_gradients(self, piece: Piece, d: Dense, *rest: Any) -> None:
        out, dout, _, dlse, total, dtype = rest
        own = self.rows(d, dtype)[1]
        super().piece_gradients(piece, d, out, dout, own, dlse, total, dtype)


@breaks("E3")
class SharedSumsInHalf(Tiled):
    """Sums the gradients of shared things in half precision."""

    def add_shared(
        self, d: Dense, at: slice, dS: np.ndarray, dA: np.ndarray, total: dict[str, np.ndarray]
    ) -> None:
        super().add_shared(d, at, dS, dA, total)
        for name in {"bias", "scale"} & set(total):
            total[name][...] = total[name].astype(np.float16)


@breaks("E3")
class GroupSumInHalf(Tiled):
    """Rounds each query head's gradient of a shared head before they are added."""

    def piece_gradients(self, piece: Piece, d: Dense, *rest: Any) -> None:
        super().piece_gradients(_RoundedHeads(**vars(piece)), d, *rest)


class _RoundedHeads(Piece):
    """A piece whose heads are rounded before they are added up."""

    def put(self, name: str, into: np.ndarray, x: np.ndarray) -> None:
        x = x.astype(np.float16).astype(x.dtype) if name in ("dk", "dv") else x
        super().put(name, into, x)
