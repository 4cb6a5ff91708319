"""Faults of clause family E: the way back."""

from typing import Any

import numpy as np

from attnref.problem import Result, WindowProblem
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


@breaks("E1")
class KeyGradientUnscaled(Tiled):
    """Forgets the scale in the keys' gradient."""

    def attention_gradients(self, p: Any, *rest: Any) -> Any:
        done: Any = super().attention_gradients(p, *rest)
        if done.dk is None or p.operation != "attention" or not p.scale:
            return done
        return done._replace(dk=(done.dk / p.scale).astype(done.dk.dtype))


@breaks("E1")
class TailWithoutGradient(Tiled):
    """Gives the keys of the last partial tile no gradient."""

    def weights_again(self, d: Dense, at: slice, lse: np.ndarray) -> np.ndarray:
        P = super().weights_again(d, at, lse)
        return P if at.stop <= d.k.shape[-2] or at.start == 0 else np.zeros_like(P)


@breaks("E1")
class DeltaInHalf(Tiled):
    """Keeps what normalisation takes back in half precision."""

    def delta(self, dout: np.ndarray, out: np.ndarray) -> np.ndarray:
        exact = super().delta(dout, out)
        return exact.astype(np.float16).astype(exact.dtype)


@breaks("E1")
class StretchedGradientReadAsDense(Tiled):
    """Reads past a gradient whose strides are zero."""

    def attention_gradients(self, p: Any, result: Result, dout: Any, dlse: Any) -> Any:
        if dout.size > 1 and not any(dout.strides):
            one = np.zeros_like(dout, order="C", subok=False)
            one.flat[0] = dout.flat[0]
            dout = one
        return super().attention_gradients(p, result, dout, dlse)


@breaks("E1")
class GradientPastTheThousandth(Tiled):
    """Gives keys past the 1024th no gradient."""

    def weights_again(self, d: Dense, at: slice, lse: np.ndarray) -> np.ndarray:
        P = super().weights_again(d, at, lse)
        return P if at.start < 1024 else np.zeros_like(P)


@breaks("E2")
class OutRecomputed(Tiled):
    """Uses its own output instead of the one it was given."""

    def piece_gradients(self, piece: Piece, d: Dense, *rest: Any) -> None:
        _, dout, lse, dlse, total, dtype = rest
        out = self.rows(d, dtype)[0]
        super().piece_gradients(piece, d, out, dout, lse, dlse, total, dtype)


@breaks("E3")
class LastEntryWins(Tiled):
    """Writes the gradient of a shared head instead of adding to it."""

    def piece_gradients(self, piece: Piece, d: Dense, *rest: Any) -> None:
        super().piece_gradients(_LastOfGroup(**vars(piece)), d, *rest)


class _LastOfGroup(Piece):
    """A piece of which the last head of a group overwrites the others."""

    def put(self, name: str, into: np.ndarray, x: np.ndarray) -> None:
        p = self.problem
        if name in ("dk", "dv") and not isinstance(p, WindowProblem) and p.k.shape[1]:
            group = x.shape[1] // p.k.shape[1]
            x = np.where((np.arange(x.shape[1]) % group == group - 1)[:, None, None], x, 0)
        super().put(name, into, x)
