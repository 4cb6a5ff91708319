"""Faults of clause family G: windows, shifts, padding, position bias."""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref.problem import Result, WindowProblem
from attnref.spec import windows
from attnref_conformance.faulty.fault import breaks
from attnref_conformance.honest import Tiled


class _OtherMap(Tiled):
    """A backend that lays windows differently."""

    def other(self, p: WindowProblem) -> WindowProblem:
        raise NotImplementedError

    def pieces(self, p: Any) -> Any:
        return super().pieces(self.other(p) if isinstance(p, WindowProblem) else p)


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
class WindowsShiftedOnce(_OtherMap):
    """Shifts the first axis alone."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return replace(p, shift=(p.shift[0], *(0,) * (len(p.shift) - 1)))


@breaks("G2")
class ShiftTheOtherWay(_OtherMap):
    """Rolls the map forwards."""

    def other(self, p: WindowProblem) -> WindowProblem:
        turned = tuple((w - s) % w for w, s in zip(p.window, p.shift, strict=True))
        return replace(p, shift=turned)


@breaks("G3")
class WrapPairsVisible(_OtherMap):
    """Lets wrapped pairs meet."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return replace(p, wrap_bias=0.0) if p.wrap_bias == -np.inf else p


@breaks("G3")
class WrapBiasTwice(_OtherMap):
    """Adds the wrap bias twice."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return replace(p, wrap_bias=2 * p.wrap_bias)


@breaks("G3")
class AlwaysMinusInfinity(_OtherMap):
    """Hides wrapped pairs whatever the wrap bias says."""

    def other(self, p: WindowProblem) -> WindowProblem:
        return replace(p, wrap_bias=-np.inf)


@breaks("G4")
class ShiftDroppedOnEveryAxis(_OtherMap):
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
class KeyMaskIgnored(_OtherMap):
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
class ScaleOfTheFirstHead(_OtherMap):
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
class ShiftOfThePreviousCall(_OtherMap):
    """Uses the shift that the previous call had."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.previous: tuple[int, ...] = ()

    def other(self, p: WindowProblem) -> WindowProblem:
        previous, self.previous = self.previous, p.shift
        return replace(p, shift=previous) if len(previous) == len(p.shift) else p
