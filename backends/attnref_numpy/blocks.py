"""Blocks of query rows, each with the few keys that any of its rows can see.

A block holds whole rows, so that a softmax is one pass; its scores stay within a fixed
number of elements, so that memory grows with the keys and not with their square.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from attnref.spec.visibility import in_window, key_span

from .sequences import Head, part

ELEMENTS = 2**18
"""Scores in a block: a mebibyte of float32, which a core's cache holds."""

ROWS = 128
"""Rows in a block behind a bounded window, where more rows see more unshared keys."""


class Block(NamedTuple):
    """Some rows of a head, and the keys that they see between them.

    Attributes:
        rows: Of the head's queries.
        keys: Of the head's keys; empty where nobody sees anything.
        visible: Which row sees which key; `None` if all see all.
    """

    rows: slice
    keys: slice
    visible: Bool[np.ndarray, "#group #rows #keys"] | None


def blocks(head: Head) -> Iterator[Block]:
    """Cut a head into blocks that cover its rows once."""
    Sq = head.q.shape[1]
    first = 0
    while first < Sq:
        stop = first + _fitting(head, first)
        yield _block(head, first, stop)
        first = stop


def stacked(x: np.ndarray) -> np.ndarray:
    """Stack the query heads of a group, so that one product serves them all."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _fitting(head: Head, first: int) -> int:
    """Choose how many rows fit into a block; one row always does."""
    group, Sq, _ = head.q.shape
    most = Sq - first if head.bounds == (None, None) else min(ROWS, Sq - first)
    start, stop = _span(head, first, first + most)
    return max(1, min(most, ELEMENTS // max(1, group * (stop - start))))


def _span(head: Head, first: int, stop: int) -> tuple[int, int]:
    return key_span(first, stop - 1, *head.bounds, len(head.k))


def _block(head: Head, first: int, stop: int) -> Block:
    rows, keys, mask = slice(first, stop), slice(*_span(head, first, stop)), None
    if head.mask is not None:
        mask = part(head.mask, slice(None), rows, slice(None))
        keys = _narrowed(mask, keys)
        mask = part(mask, slice(None), slice(None), keys)
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
    i = np.arange(rows.start, rows.stop)[:, None]
    near = in_window(i, np.arange(keys.start, keys.stop), left, right)[None]
    return near if mask is None else near & mask
