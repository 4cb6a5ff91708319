r"""
# Visibility

Which keys may a query see? Up to four constraints answer, and a key is visible only
if every one of them agrees (clause family C). None of them is ever expressed by
adding a large negative number: a position is either in the sum or it is not.

Where a window or causality is asked for, queries need a place on the axis of the
keys. Query `i` stands at position `i + q_offset`: an offset of zero lines up the
first query with the first key, and the difference of the lengths lines up the last
ones. The former is `q_offset="start"`. The latter is `q_offset="end"`: the keys of a
sequence less its queries, each counted up to its length where lengths are given. Peers
split evenly between the two, so a caller must say which is meant whenever they differ
(C3).

The predicates below use operators only. They mean the same on NumPy integers and on
the index arrays of any other library, which is why backends may import this chapter
and no other.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int

Index = Any
"""An integer, or an integer array of any library."""


def in_window(p: Index, j: Index, left: int | None, right: int | None) -> Any:
    r"""
    Tell whether the query at position `p` may see key `j`.

    $$p - \mathrm{left} \le j \le p + \mathrm{right}$$

    Both ends are inclusive; `None` leaves an end open (C2). Causality is a right end
    of zero.
    """
    seen = j == j  # noqa: PLR0124  # all True, in the shape and library of j
    if left is not None:
        seen = seen & (p - left <= j)
    if right is not None:
        seen = seen & (j <= p + right)
    return seen


def within(index: Index, length: Index) -> Any:
    """
    Tell whether a position lies inside its sequence.

    Positions from `length` on belong to nobody: they are neither seen nor do they
    see (C4).
    """
    return index < length


def key_span(
    first: int, last: int, left: int | None, right: int | None, Sk: int
) -> tuple[int, int]:
    """
    Bound the keys that the positions `first` to `last` may see between them.

    Returns `(start, stop)`; no key outside it is visible to any of these queries, and
    `start == stop` where there is none. A tiled implementation visits these and skips
    the rest.
    """
    start = 0 if left is None else max(0, first - left)
    stop = Sk if right is None else min(Sk, last + right + 1)
    return min(start, Sk), max(start, stop) if start < Sk else Sk


def visible(
    B: int,
    Sq: int,
    Sk: int,
    *,
    window: tuple[int | None, int | None],
    q_offset: int | Int[np.ndarray, " B"],
    mask: Bool[np.ndarray, "..."] | None,
    q_lens: Int[np.ndarray, " B"] | None,
    kv_lens: Int[np.ndarray, " B"] | None,
) -> Bool[np.ndarray, "B #Hq Sq Sk"]:
    r"""
    Tell which keys each query may see: those that every constraint lets it see.

    $$\text{visible}_{ij} = \text{mask}_{ij} \wedge \text{in window}_{ij} \wedge
    i < \mathrm{q\_lens} \wedge j < \mathrm{kv\_lens}$$

    Constraints intersect and none replaces another (C1 to C4). Positions are 64-bit,
    so that an offset near the end of a shorter type cannot wrap around.
    """
    i = np.arange(Sq, dtype=np.int64)[:, None]
    j = np.arange(Sk, dtype=np.int64)
    offset = np.broadcast_to(np.asarray(q_offset, np.int64), (B,))
    seen = in_window(i + offset[:, None, None, None], j, *window)
    seen = np.broadcast_to(seen, (B, 1, Sq, Sk))
    if mask is not None:
        seen = seen & mask
    if q_lens is not None:
        seen = seen & within(i, q_lens[:, None, None, None])
    if kv_lens is not None:
        seen = seen & within(j, kv_lens[:, None, None, None])
    return seen
