"""Where windows lie on a map, as index arrays (G2, G5).

Along one axis the rolled line has place `t` for the token at `x = (t + s) mod n`, cut
into windows of `w`; `n` is the padded extent. A token came round the edge if `x < s`.
Since `s < w`, such tokens fall into the last window only, and there they are the ones
of another region: a pair is wrapped if on some axis one of the two came round.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from attnref.problem import WindowProblem

from .blocks import ELEMENTS


@dataclass(frozen=True, slots=True)
class Lattice:
    """The windows of a map, their tokens in row-major order.

    Attributes:
        at: The coordinate on each axis, inside the map also for padding.
        real: False where there is only padding.
        turned: One bit per axis, set where the token came round the edge.
    """

    at: tuple[Int[np.ndarray, "windows N"], ...]
    real: Bool[np.ndarray, "windows N"]
    turned: UInt8[np.ndarray, "windows N"]


def lattice(problem: WindowProblem) -> Lattice:
    """Lay the windows of a problem on its map."""
    axes = zip(problem.extents, problem.window, problem.shift, strict=True)
    lines = [_line(g, w, s) for g, w, s in axes]
    counts = [len(x) for x, _ in lines]
    shape = (prod(counts), prod(problem.window))
    full = (*counts, *problem.window)
    at, real, turned = [], np.ones(shape, bool), np.zeros(shape, np.uint8)
    for axis, (x, came) in enumerate(lines):
        here = [1] * len(full)
        here[axis], here[len(lines) + axis] = x.shape
        flat = np.broadcast_to(x.reshape(here), full).reshape(shape)
        bit = np.broadcast_to(came.reshape(here), full).reshape(shape)
        g = problem.extents[axis]
        real &= flat < g
        turned |= bit.astype(np.uint8) << axis
        at.append(np.minimum(flat, g - 1))
    return Lattice(tuple(at), real, turned)


def _line(g: int, w: int, s: int) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinate and "came round" of each place: `(windows, w)` on one axis."""
    n = -(-g // w) * w
    x = (np.arange(n) + s) % n
    return x.reshape(-1, w), (x < s).reshape(-1, w)


class Chunk(NamedTuple):
    """Some windows of the batch and some heads, worked on at once.

    Attributes:
        tokens: Numbers of the windows' tokens among those of all maps, in row-major order.
        maps: Batch and extents, which the numbers count through.
        heads: The heads.
        real: As in `Lattice`.
        turned: As in `Lattice`.
    """

    tokens: Int[np.ndarray, "windows N"]
    maps: tuple[int, ...]
    heads: slice
    real: Bool[np.ndarray, "windows N"]
    turned: UInt8[np.ndarray, "windows N"]

    def gather(self, x: np.ndarray) -> np.ndarray:
        """Take `(windows, heads, N, ...)` from `(B, *G, H, ...)`, of any strides."""
        line = self._in_a_row(x)
        if line is not None:
            return line[:, self.heads][self.tokens].swapaxes(1, 2)
        return self._of_heads(x)[self._places(self.tokens)].swapaxes(1, 2)

    def gather_mask(self, x: Bool[np.ndarray, "B *G"]) -> Bool[np.ndarray, "windows N"]:
        """Take what has no heads."""
        return x[self._places(self.tokens)]

    def put(self, into: np.ndarray, rows: np.ndarray) -> None:
        """Write `(windows, heads, N, ...)` back; padding has no place to go."""
        rows, tokens = rows.swapaxes(1, 2), self.tokens
        if not self.real.all():
            rows, tokens = rows[self.real], tokens[self.real]
        line = self._in_a_row(into)
        if line is not None:
            line[:, self.heads][tokens] = rows
        else:
            self._of_heads(into)[self._places(tokens)] = rows

    def _in_a_row(self, x: np.ndarray) -> np.ndarray | None:
        """View all tokens on one axis; `None` if strides do not allow it.

        One number for each token picks rows several times faster than a coordinate per axis.
        """
        axes = [(n, s) for n, s in zip(self.maps, x.strides, strict=False) if n > 1]
        if any(outer != n * s for (_, outer), (n, s) in pairwise(axes)):
            return None
        return x.reshape(prod(self.maps), *x.shape[len(self.maps) :])

    def _of_heads(self, x: np.ndarray) -> np.ndarray:
        return x[(slice(None),) * len(self.maps) + (self.heads,)]

    def _places(self, tokens: np.ndarray) -> tuple[np.ndarray, ...]:
        return np.unravel_index(tokens, self.maps)


def chunks(problem: WindowProblem) -> list[Chunk]:
    """Cut a problem into chunks whose arrays stay within the elements of a block.

    Windows in which all see all come first, so that only the last chunks hide anything.
    """
    B, H = problem.q.shape[0], problem.q.shape[-2]
    line = lattice(problem)
    count, N = line.real.shape
    size = N * max(N, problem.q.shape[-1], problem.v.shape[-1])
    heads = max(1, min(H, ELEMENTS // size))
    step = max(1, ELEMENTS // (heads * size))
    places = np.ravel_multi_index(line.at, problem.extents)
    plain = line.real.all(axis=1) & (line.turned == line.turned[:, :1]).all(axis=1)
    order = np.argsort(~plain, kind="stable")
    found = []
    for h in range(0, H, heads):
        for first in range(0, B * count, step):
            number = np.arange(first, min(first + step, B * count))
            w, b = order[number // B], number % B
            tokens = places[w] + (b * prod(problem.extents))[:, None]
            maps = (B, *problem.extents)
            found.append(Chunk(tokens, maps, slice(h, h + heads), line.real[w], line.turned[w]))
    return found
