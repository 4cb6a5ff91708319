"""Honest variants: backends that differ from each other, and are all right.

They cut the keys elsewhere, walk them in another order, add up in another precision, fold
constants together and round where their profile says. The judge must accuse none of them.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from attnref.backend import Backend
from attnref.problem import MergeProblem, Problem
from attnref_conformance.dense import Dense
from attnref_conformance.honest import State, Tiled


class _Doubled(Tiled):
    """Accumulates in float64, all but merges, which have the dtype of their log-sum-exp."""

    def accumulator(self, p: Problem) -> np.dtype[Any]:
        return super().accumulator(p) if isinstance(p, MergeProblem) else np.dtype("float64")


class _BaseTwo(Tiled):
    """Exponentiates in base two, as hardware does."""

    def rescale(self, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        base = np.where(new == -np.inf, 0, new).astype(new.dtype)
        return np.exp2((old - base) * _log2e(new))

    def exponentials(self, s: np.ndarray, m: np.ndarray) -> np.ndarray:
        base = np.where(m == -np.inf, 0, m).astype(m.dtype)[..., None]
        return np.exp2((s - base) * _log2e(m))


def _log2e(x: np.ndarray) -> Any:
    return x.dtype.type(1 / np.log(2))


class _FusedScale(Tiled):
    """Scales the queries once, in the accumulator, instead of every score."""

    def product(self, d: Dense, at: slice) -> np.ndarray:
        return np.asarray((d.scale * d.q) @ d.k[..., at, :].mT)


class _SplitKeys(Tiled):
    """Carries every second tile in a state of its own, and merges the two at the end."""

    def rows(self, d: Dense, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        states = [self.start(d), self.start(replace(d, sink=None))]
        for n, at in enumerate(self.tiles(d.k.shape[-2])):
            s = np.where(self.seen(d, at), self.score(d, at), -np.inf).astype(d.q.dtype)
            states[n % 2] = self.update(states[n % 2], s, d.v[..., at, :], dtype)
        return self.finish(self.joined(*states), d)

    def joined(self, a: State, b: State) -> State:
        """Merge two states."""
        m = np.maximum(a.m, b.m)
        first, second = self.rescale(a.m, m), self.rescale(b.m, m)
        acc = first[..., None] * a.acc + second[..., None] * b.acc
        return State(m, first * a.l + second * b.l, acc)


class _InnerFirst(Tiled):
    """Visits the tiles from the middle outwards."""

    def tiles(self, Sk: int) -> list[slice]:
        cuts = super().tiles(Sk)
        return sorted(cuts, key=lambda at: abs(at.start + at.stop - Sk))


class _LazyMaximum(Tiled):
    """Raises the running maximum only where a score would overflow otherwise."""

    def maximum(self, m: np.ndarray, s: np.ndarray) -> np.ndarray:
        higher = super().maximum(m, s)
        return np.where((higher - m > 8) | (m == -np.inf), higher, m).astype(m.dtype)


class _Flushing(Tiled):
    """Flushes weights and dS that are not normal numbers to zero, as much hardware does."""

    def exponentials(self, s: np.ndarray, m: np.ndarray) -> np.ndarray:
        return _flushed(super().exponentials(s, m))

    def through_cap(self, dS: np.ndarray, d: Dense, at: slice) -> np.ndarray:
        return super().through_cap(_flushed(dS), d, at)


def _flushed(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, 0, x).astype(x.dtype)


class _TensorFloat(Tiled):
    """Rounds the factors of float32 products to TF32."""

    def __init__(self, name: str) -> None:
        super().__init__(name, tile=32, round_weights=True)
        self.profile = "tf32"

    def narrow(self, d: Dense, acc: np.dtype[Any]) -> Dense:
        d = super().narrow(d, acc)
        return replace(d, q=_short(d.q), k=_short(d.k), v=_short(d.v))

    def stored(self, p: np.ndarray, dtype: str) -> np.ndarray:
        return _short(super().stored(p, dtype)) if dtype == "float32" else super().stored(p, dtype)


def _short(x: np.ndarray) -> np.ndarray:
    """Round float32 to the ten bits of TF32, to nearest even."""
    if x.dtype != np.float32:
        return x
    bits = np.ascontiguousarray(x).view(np.uint32)
    near = (bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & ~np.uint32(0x1FFF)
    return np.where(np.isfinite(x), near.view(np.float32), x)


HONEST: dict[str, Backend] = {
    b.name: b
    for b in (
        Tiled("honest_16", tile=16),
        Tiled("honest_64", tile=64),
        Tiled("honest_one_tile", tile=10**6),
        Tiled("honest_one_key", tile=1),
        Tiled("honest_backwards", tile=32, reverse=True),
        Tiled("honest_half_weights", tile=16, round_weights=True),
        Tiled("honest_half_weights_128", tile=128, round_weights=True),
        Tiled("honest_half_weights_backwards", tile=48, reverse=True, round_weights=True),
        _TensorFloat("honest_tf32"),
        _Doubled("honest_doubled", tile=32),
        _BaseTwo("honest_base_two", tile=64),
        _FusedScale("honest_fused_scale", tile=32),
        _SplitKeys("honest_split_keys", tile=16),
        _InnerFirst("honest_inner_first", tile=16),
        _LazyMaximum("honest_lazy_maximum", tile=16),
        _Flushing("honest_flushing", tile=32),
    )
}
"""Correct variants by name."""
