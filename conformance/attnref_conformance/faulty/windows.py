"""Faults of clause family G: windows, shifts, padding, position bias."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref.problem import Result, WindowProblem
from attnref.spec import windows
from attnref_conformance.dense import Dense
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.faulty.other import OtherMap
from attnref_conformance.honest import Tiled


@breaks("G1")
class HeadsBeforeThree(Tiled):
    """Reads a packed projection as heads first, then q, k and v."""

    def pieces(self, p: Any) -> Any:
        if isinstance(p, WindowProblem) and p.qkv is not None:
            *rest, three, H, D = p.qkv.shape
            x = np.ascontiguousarray(p.qkv).reshape(*rest, H, three, D)
            p = replace(p, q=x[..., 0, :], k=x[..., 1, :], v=x[..., 2, :])
        return super().pieces(p)


@breaks("G2")
class WindowsShiftedOnce(OtherMap):
    """Shifts the first axis alone."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return replace(p, shift=(p.shift[0], *(0,) * (len(p.shift) - 1)))


@breaks("G2")
class ShiftTheOtherWay(OtherMap):
    """Rolls the map forwards."""

    def other(self, p: WindowProblem) -> WindowProblem:
        turned = tuple((w - s) % w for w, s in zip(p.window, p.shift, strict=True))
        return replace(p, shift=turned)


@breaks("G3")
class WrapPairsVisible(OtherMap):
    """Lets wrapped pairs meet."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return replace(p, wrap_bias=0.0) if p.wrap_bias == -np.inf else p


@breaks("G3")
class WrapBiasTwice(OtherMap):
    """Adds the wrap bias twice."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return replace(p, wrap_bias=2 * p.wrap_bias)


@breaks("G3")
class AlwaysMinusInfinity(OtherMap):
    """Hides wrapped pairs whatever the wrap bias says."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return replace(p, wrap_bias=-np.inf)


@breaks("G4")
class ShiftDroppedOnEveryAxis(OtherMap):
    """Drops the whole shift where one axis has none."""

    def other(self, p: WindowProblem) -> WindowProblem:
        covered = any(w >= g for w, g in zip(p.window, p.extents, strict=True))
        return replace(p, shift=(0,) * len(p.shift)) if covered else p


@breaks("G5")
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


@breaks("G6")
class KeyMaskIgnored(OtherMap):
    """Ignores the key mask."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return replace(p, key_mask=None)


@breaks("G6")
class HiddenTokensDoNotAsk(Tiled):
    """Gives tokens that the key mask hides no output."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        if not isinstance(p, WindowProblem) or p.key_mask is None:
            return Result(out, lse)
        asks = p.key_mask[..., None]
        return Result(np.where(asks[..., None], out, 0).astype(out.dtype), lse)


@breaks("G6")
class ScaleOfTheFirstHead(OtherMap):
    """Takes the first head's scale for all."""

    def other(self, p: WindowProblem) -> WindowProblem:
        scale: Any = p.scale
        return replace(p, scale=np.full_like(scale, scale[0])) if p.scale_per_head else p


@breaks("G6")
class TableKeyMajor(Tiled):
    """Takes the displacement from key to query."""

    def index(self, p: Any) -> np.ndarray:
        return super().index(p).T


@breaks("G7")
class ShiftOfThePreviousCall(OtherMap):
    """Uses the shift that the previous call had."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.previous: tuple[int, ...] = ()

    def other(self, p: WindowProblem) -> WindowProblem:
        previous, self.previous = self.previous, p.shift
        return replace(p, shift=previous) if len(previous) == len(p.shift) else p


@breaks("G1")
class PackedGradientInAnotherOrder(Tiled):
    """Packs the gradients as keys, queries, values."""

    def attention_gradients(self, p: Any, *rest: Any) -> Any:
        done: Any = super().attention_gradients(p, *rest)
        if not isinstance(p, WindowProblem) or done.dqkv is None:
            return done
        return done._replace(dqkv=np.ascontiguousarray(done.dqkv[..., (1, 0, 2), :, :]))


@breaks("G1")
class HeadsPastTheFourth(Tiled):
    """Computes as many heads of a map as its author tried."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        if isinstance(p, WindowProblem):
            out[..., 4:, :] = 0
        return Result(out, lse)


@breaks("G2")
class HalfAWindow(OtherMap):
    """Shifts by half a window whatever the shift is."""

    def other(self, p: WindowProblem) -> WindowProblem:
        halves = tuple(w // 2 if s else 0 for w, s in zip(p.window, p.shift, strict=True))
        return replace(p, shift=halves)


@breaks("G2")
class ThirdAxisNotShifted(OtherMap):
    """Shifts two axes of a video."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return replace(p, shift=(*p.shift[:2], *(0 for _ in p.shift[2:])))


@breaks("G2")
class WindowsPastThe1024th(Tiled):
    """Computes as many windows as one launch holds."""

    def rows(self, d: Dense, dtype: str) -> Any:
        out, lse = super().rows(d, dtype)
        out[1024:] = 0
        return out, lse


@breaks("G3")
class WrappedOnEveryAxis(Tiled):
    """Takes a pair for wrapped only if it wraps on every axis."""

    def pieces(self, p: Any) -> Any:
        for piece in super().pieces(p):
            if not isinstance(p, WindowProblem) or len(p.window) < 2 or not all(p.shift):
                yield piece
                continue
            zero = (0,) * (len(p.shift) - 1)
            each = [windows.wrapped(p.extents, p.window, (*zero[:a], s, *zero[a:]))
                    for a, s in enumerate(p.shift)]  # fmt: skip
            corner = np.tile(np.all(each, axis=0), (p.q.shape[0], 1, 1))[:, None]
            seen = replace(p, wrap_bias=0.0)
            free = next(iter(super().pieces(seen))).dense
            hidden = free.seen & ~corner if p.wrap_bias == -np.inf else free.seen
            yield replace(piece, dense=replace(piece.dense, seen=hidden))


@breaks("G3")
class WrapBiasScaled(OtherMap):
    """Scales the wrap bias like a score."""

    def other(self, p: WindowProblem) -> WindowProblem:
        if p.wrap_bias == -np.inf or p.scale_per_head:
            return p
        return replace(p, wrap_bias=p.wrap_bias * float(p.scale))


@breaks("G3")
class MinusHundredHides(OtherMap):
    """Takes a wrap bias of minus a hundred for minus infinity."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return replace(p, wrap_bias=-np.inf) if p.wrap_bias <= -100 else p


@breaks("G3")
class WrapBiasWithoutBias(OtherMap):
    """Forgets the wrap bias where there is a position bias too."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return p if p.bias is None or p.wrap_bias == -np.inf else replace(p, wrap_bias=0.0)


@breaks("G4")
class ShiftKeptWhereCovered(OtherMap):
    """Shifts an axis that one window covers."""

    def other(self, p: WindowProblem) -> WindowProblem:
        if not any(p.shift):
            return p
        return replace(p, shift=tuple(s or w // 2 for w, s in zip(p.window, p.shift, strict=True)))


@breaks("G5")
class PartialWindowsDropped(Tiled):
    """Leaves out the windows at the far end that the map does not fill."""

    def attended(self, p: Any) -> Result:
        out, lse = super().attended(p)
        if isinstance(p, WindowProblem):
            for axis, (g, w) in enumerate(zip(p.extents, p.window, strict=True), start=1):
                np.moveaxis(out, axis, 0)[max(g // w, 1) * w :] = 0
        return Result(out, lse)


@breaks("G5")
class WrappedBeforePadding(OtherMap):
    """Lays the pattern of shifted windows as if the map had no padding."""

    def other(self, p: WindowProblem) -> WindowProblem:
        ragged = [g % w for g, w in zip(p.extents, p.window, strict=True)]
        shift = tuple((s + r) % w if s else 0
                      for s, r, w in zip(p.shift, ragged, p.window, strict=True))  # fmt: skip
        return replace(p, shift=shift)


@breaks("G6")
class PositionBiasTransposed(OtherMap):
    """Reads the position bias key-major."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return p if p.bias is None else replace(p, bias=p.bias.mT)


@breaks("G6")
class KeyMaskOfTheFirstEntry(OtherMap):
    """Takes the first map's key mask for all."""

    def other(self, p: WindowProblem) -> WindowProblem:
        if p.key_mask is None:
            return p
        return replace(p, key_mask=np.broadcast_to(p.key_mask[:1], p.key_mask.shape))


@breaks("G6")
class ScaleGradientMissing(Tiled):
    """Passes nothing back to the scales."""

    def attention_gradients(self, p: Any, *rest: Any) -> Any:
        done: Any = super().attention_gradients(p, *rest)
        if not isinstance(p, WindowProblem) or done.dscale is None:
            return done
        return done._replace(dscale=np.zeros_like(done.dscale))


@breaks("G6")
class TableGradientOverwritten(Tiled):
    """Writes to a table's gradient where it must add."""

    def backward(self, problem: Any, result: Result, dout: Any, dlse: Any = None) -> Any:
        done: Any = super().backward(problem, result, dout, dlse)
        if problem.operation != "relative_position_bias":
            return done
        dtable = np.zeros_like(done.dtable)
        dtable[self.index(problem)] = np.moveaxis(dout, 0, -1)
        return done._replace(dtable=dtable)


@breaks("G6")
class TableColumnsFirst(Tiled):
    """Ravels displacements with the first axis running fastest."""

    def index(self, p: Any) -> np.ndarray:
        sizes = [2 * w - 1 for w in p.window]
        return np.ravel_multi_index(np.unravel_index(super().index(p), sizes), sizes, order="F")


@breaks("G7")
class BiasOfThePreviousCall(OtherMap):
    """Keeps the position bias of the first call of a shape."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.kept: dict[Any, np.ndarray] = {}

    def other(self, p: WindowProblem) -> WindowProblem:
        if p.bias is None:
            return p
        return replace(
            p, bias=self.kept.setdefault((p.q.shape, p.bias.shape, p.dtype), p.bias.copy())
        )
