"""Blocks of query rows, each with the few keys that any of its rows can see.

A block holds whole rows, so that a softmax is one pass; its scores stay within a fixed
number of elements, so that memory grows with the keys and not with their square. What needs
no whole rows goes through a block's tiles of keys, which stay in a core's own cache.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from attnref.spec.visibility import in_window, key_span

from .sequences import Head, part

ELEMENTS = 2**18
"""Scores in a block: a mebibyte of float32, of which gradients hold several."""

ROWS = 128
"""Rows in a block behind a bounded window, where more rows see more unshared keys."""

WHOLE = 64
"""Keys that all rows see are counted in multiples of it: products like even sizes."""


class Block(NamedTuple):
    """Some rows of a head, and the keys that they see between them.

    Attributes:
        rows: Of the head's queries.
        keys: Of the head's keys; empty where nobody sees anything.
        visible: Which row sees which of the ragged keys; `None` if all see all.
        ragged: Of these keys, those that some row may not see.
    """

    rows: slice
    keys: slice
    visible: Bool[np.ndarray, "#group #rows #ragged"] | None
    ragged: slice = slice(None)

    @property
    def seen_by_all(self) -> int:
        """How many keys, from the first one on, every row sees."""
        if self.visible is None:
            return self.keys.stop - self.keys.start
        return self.ragged.start or 0

    def tiles(self, size: int) -> Iterator["Block"]:
        """Cut it into tiles of so many keys, of which none mixes whole keys and ragged ones."""
        start, ragged, stop = self.keys.start, self.keys.start + self.seen_by_all, self.keys.stop
        for j in range(start, ragged, size):
            yield Block(self.rows, slice(j, min(j + size, ragged)), None)
        for j in range(ragged, stop, size):
            keys = slice(j, min(j + size, stop))
            seen = self.visible
            if seen is not None and seen.shape[-1] > 1:
                seen = seen[..., keys.start - ragged : keys.stop - ragged]
            yield Block(self.rows, keys, seen)


def strips(head: Head, size: int) -> Iterator[Block]:
    """Cut a head into blocks of so many rows, those of its group together; one row always fits.

    Behind a bound they are half as high: less is scored of what nobody sees.
    """
    group, Sq, _ = head.q.shape
    size = size if head.bounds == (None, None) else size // 2
    size = max(1, size // max(group, 1))
    for first in range(0, Sq, size):
        yield _block(head, first, min(first + size, Sq))


def blocks(head: Head, most: int) -> Iterator[Block]:
    """Cut a head into blocks that cover its rows once, of so many scores at most."""
    Sq = head.q.shape[1]
    first = 0
    while first < Sq:
        stop = first + _fitting(head, first, most)
        yield _block(head, first, stop)
        first = stop


def room_for(head: Head, most: int) -> np.ndarray:
    """Allocate what the scores of any such block fit into; one row always does."""
    group, Sq, _ = head.q.shape
    return np.empty(min(group * Sq * len(head.k), max(most, group * len(head.k))), head.dtype)


def stacked(x: np.ndarray) -> np.ndarray:
    """Stack the query heads of a group, so that one product serves them all."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _fitting(head: Head, first: int, most: int) -> int:
    """Choose how many rows fit into a block; one row always does."""
    group, Sq, _ = head.q.shape
    rows = Sq - first if head.bounds == (None, None) else min(ROWS, Sq - first)
    start, stop = _span(head, first, first + rows)
    return max(1, min(rows, most // max(1, group * (stop - start))))


def _span(head: Head, first: int, stop: int) -> tuple[int, int]:
    return key_span(first, stop - 1, *head.bounds, len(head.k))


def _block(head: Head, first: int, stop: int) -> Block:
    rows, keys, mask = slice(first, stop), slice(*_span(head, first, stop)), None
    if head.mask is not None:
        mask = part(head.mask, slice(None), rows, slice(None))
        keys = _narrowed(mask, keys)
        mask = part(mask, slice(None), slice(None), keys)
    if mask is None and head.bounds[0] is None and head.bounds[1] is not None:
        # Behind an open left side, all rows see what the first one does.
        first = max(0, rows.start + head.bounds[1] + 1 - keys.start)
        first = min(first, keys.stop - keys.start) // WHOLE * WHOLE
        late = slice(keys.start + first, keys.stop)
        return Block(rows, keys, _visible(head, rows, late, None), slice(first, None))
    return Block(rows, keys, _visible(head, rows, keys, mask))


def _narrowed(mask: np.ndarray, keys: slice) -> slice:
    """Shrink the span to the keys that the mask shows to some row."""
    nobody = slice(keys.start, keys.start)
    if mask.shape[-1] == 1:
        return keys if mask.any() else nobody
    at = np.flatnonzero(mask[..., keys].any(axis=(0, 1)))
    if len(at) == 0:
        return nobody
    return slice(keys.start + int(at[0]), keys.start + int(at[-1]) + 1)


def _visible(head: Head, rows: slice, keys: slice, mask: np.ndarray | None) -> np.ndarray | None:
    """Intersect window and mask, leaving out what hides nothing here."""
    left, right = head.bounds
    last_sees_all = left is None or rows.stop - 1 - left <= keys.start
    first_sees_all = right is None or keys.stop - 1 <= rows.start + right
    if mask is not None and mask.all():
        mask = None
    if last_sees_all and first_sees_all:
        return mask
    ahead = rows.start - keys.start
    near = _near(
        rows.stop - rows.start,
        keys.stop - keys.start,
        None if left is None else left - ahead,
        None if right is None else right + ahead,
    )
    return near if mask is None else near & mask


@lru_cache(maxsize=4)
def _near(
    rows: int, keys: int, left: int | None, right: int | None
) -> Bool[np.ndarray, "1 rows keys"]:
    """Tell which rows see which keys, both counted from a block's first: often the same."""
    near = in_window(np.arange(rows)[:, None], np.arange(keys), left, right)[None]
    near.flags.writeable = False
    return near
