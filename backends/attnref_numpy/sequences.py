"""A call as a list of sequences, and a sequence as a list of key/value heads.

Padded and packed attention differ only in where a sequence lies. Both become four-axis
views `(batch, heads, tokens, size)` and one `Place` per sequence; everything past a
length is outside its place and so is never read (C4).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from attnref.problem import AttentionProblem, VarlenProblem

from .precision import Dtype, compute_dtype, number, ready, widened
from .rows import Values

Bounds = tuple[int | None, int | None]


class Place(NamedTuple):
    """Where one sequence lies, and the keys that its query `i` sees.

    The offset is folded into the bounds: query `i` sees `i - left` to `i + right`,
    and both may be negative.
    """

    b: int
    rows: slice
    keys: slice
    bounds: Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One key/value head of one sequence with the query heads that share it."""

    q: Float[np.ndarray, "group Sq D"]
    """A view in the input's dtype, as is the bias; the rest is in the compute dtype."""
    k: Float[np.ndarray, "Sk D"]
    values: Values
    bounds: Bounds
    scale: float
    softcap: float | None
    mask: Bool[np.ndarray, "#group #Sq #Sk"] | None
    bias: Float[np.ndarray, "#group #Sq #Sk"] | None
    sinks: Float[np.ndarray, " group"] | None

    @property
    def dtype(self) -> Dtype:
        """The compute dtype."""
        return self.k.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The arrays of a call as four-axis views, and where its sequences lie."""

    q: Float[np.ndarray, "b Hq Tq D"]
    k: Float[np.ndarray, "b Hkv Tk D"]
    v: Float[np.ndarray, "b Hkv Tk Dv"]
    places: list[Place]
    scale: float
    softcap: float | None
    mask: Bool[np.ndarray, "#b #Hq #Tq #Tk"] | None
    bias: Float[np.ndarray, "#b #Hq #Tq #Tk"] | None
    sinks: Float[np.ndarray, " Hq"] | None

    @property
    def scores(self) -> int:
        """How many pairs of a query and a key there are, seen or not."""
        sizes = ((p.rows.stop - p.rows.start) * (p.keys.stop - p.keys.start) for p in self.places)
        return sum(sizes) * self.q.shape[1]

    def heads(self) -> Iterator[tuple[Place, int, slice]]:
        """Walk the independent units of work: sequence, key/value head, its group."""
        Hq, Hkv = self.q.shape[1], self.k.shape[1]
        group = Hq // Hkv if Hkv else 0
        for place in self.places:
            for h in range(Hkv):
                yield place, h, slice(h * group, (h + 1) * group)

    def head(self, place: Place, h: int, group: slice) -> Head:
        """Take one unit of work; k and v are copied only if BLAS cannot read them."""
        dtype = compute_dtype(self.q)
        cap = self.softcap
        least = float(np.finfo(dtype).tiny)
        return Head(
            q=self.q[place.b, group, place.rows],
            k=ready(self.k[place.b, h, place.keys], dtype),
            values=Values.of(ready(self.v[place.b, h, place.keys], dtype)),
            bounds=place.bounds,
            scale=number(self.scale, dtype),
            softcap=None if cap is None else number(cap, dtype, least=least),
            mask=None if self.mask is None else taken(self.mask, place, group),
            bias=None if self.bias is None else taken(self.bias, place, group),
            sinks=None if self.sinks is None else widened(self.sinks[group], dtype),
        )


def call_of(problem: AttentionProblem | VarlenProblem) -> Call:
    """Describe a problem by views of its arrays."""
    if isinstance(problem, VarlenProblem):
        return _call(problem, _packed(problem))
    mask, bias = four_axes(problem.mask), four_axes(problem.bias)
    return _call(problem, _padded(problem), mask, bias)


def _call(
    problem: AttentionProblem | VarlenProblem,
    places: list[Place],
    mask: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> Call:
    q, k, v = (heads_first(problem, x) for x in (problem.q, problem.k, problem.v))
    return Call(
        q=q,
        k=k,
        v=v,
        places=places,
        scale=problem.scale,
        softcap=problem.softcap,
        mask=mask,
        bias=bias,
        sinks=problem.sinks,
    )


def heads_first(problem: AttentionProblem | VarlenProblem, x: np.ndarray) -> np.ndarray:
    """View tokens or their log-sum-exp as `(batch, heads, tokens, ...)`.

    Packed tokens `(T, H, size)` are a batch of one, and so is their lse `(H, T)`.
    """
    if isinstance(problem, AttentionProblem):
        return x
    return x[None] if x.ndim == 2 else x.swapaxes(0, 1)[None]


def four_axes(x: np.ndarray | None) -> np.ndarray | None:
    """View an array that broadcasts to the scores with all four of their axes."""
    return None if x is None else x[(None,) * (4 - x.ndim)]


def part(x: np.ndarray, *at: slice) -> np.ndarray:
    """Take a part of an array whose axes of length one are broadcast."""
    whole = slice(0, 1)
    return x[tuple(whole if n == 1 else a for n, a in zip(x.shape, at, strict=True))]


def taken(x: np.ndarray, place: Place, group: slice) -> np.ndarray:
    """Take one head's part of an array that broadcasts to the scores."""
    b = slice(place.b, place.b + 1)
    return part(x, b, group, place.rows, place.keys)[0]


def _padded(p: AttentionProblem) -> list[Place]:
    s, places = p.sizes, []
    for b in range(s.B):
        Sq = s.Sq if p.q_lens is None else int(p.q_lens[b])
        Sk = s.Sk if p.kv_lens is None else int(p.kv_lens[b])
        bounds = _bounds(p.window, _at(p.offset, b), Sq, Sk)
        places.append(Place(b, slice(0, Sq), slice(0, Sk), bounds))
    return places


def _packed(p: VarlenProblem) -> list[Place]:
    cu_q, cu_k, places = p.cu_q.tolist(), p.cu_k.tolist(), []
    for n in range(len(cu_q) - 1):
        rows, keys = slice(cu_q[n], cu_q[n + 1]), slice(cu_k[n], cu_k[n + 1])
        Sq, Sk = rows.stop - rows.start, keys.stop - keys.start
        places.append(Place(0, rows, keys, _bounds(p.window, _at(p.offset, n), Sq, Sk)))
    return places


def _at(offset: Any, n: int) -> int:
    return int(offset[n]) if np.ndim(offset) else int(offset)


def _bounds(window: Bounds, offset: int, Sq: int, Sk: int) -> Bounds:
    """Fold the offset into the window, in Python's integers, which never wrap around.

    Past the sizes of the sequence a bound changes nothing, so that clamped bounds fit
    any index dtype.
    """
    left, right = window
    return (
        None if left is None else max(-Sk, min(left - offset, Sq)),
        None if right is None else max(-Sq, min(right + offset, Sk)),
    )
