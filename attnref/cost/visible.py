"""How many pairs see each other, and which keys a tile of queries has to load.

Both follow from clauses C1 to C4 and G2 to G6 without the matrix of all pairs, but
where a mask is given: its values have to be looked at.
"""

from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from attnref.problem import Window
from attnref.spec import visibility, windows


class Form(NamedTuple):
    """Entries of a batch that are alike: their place on the key axis, lengths and number."""

    offset: int
    queries: int
    keys: int
    times: int


def forms(
    B: int,
    Sq: int,
    Sk: int,
    q_offset: int | tuple[int, ...],
    q_lens: tuple[int, ...] | None,
    kv_lens: tuple[int, ...] | None,
) -> list[Form]:
    """Gather the entries of a batch by what tells them apart."""
    given = (q_offset, Sq if q_lens is None else q_lens, Sk if kv_lens is None else kv_lens)
    rows = [np.broadcast_to(np.asarray(x, np.int64), (B,)) for x in given]
    found, times = np.unique(np.stack(rows, axis=1), axis=0, return_counts=True)
    alike = zip(found.tolist(), times.tolist(), strict=True)
    return [Form(offset, queries, keys, n) for (offset, queries, keys), n in alike]


def keys_of(
    first: Int[np.ndarray, " n"], last: Int[np.ndarray, " n"], form: Form, window: Window
) -> Int[np.ndarray, " n"]:
    """Count the keys between the first and the last that some query of a range may see.

    Args:
        first: The first query of each range.
        last: Its last query.
        form: Where the queries stand, and how many keys there are.
        window: Inclusive bounds; `None` is unbounded.
    """
    left, right = window
    start = np.zeros_like(first) if left is None else first + form.offset - left
    stop = np.full_like(last, form.keys) if right is None else last + form.offset + right + 1
    start, stop = np.clip(start, 0, form.keys), np.clip(stop, 0, form.keys)
    return np.maximum(stop - start, 0)


def queries_of(
    first: Int[np.ndarray, " n"], last: Int[np.ndarray, " n"], form: Form, window: Window
) -> Int[np.ndarray, " n"]:
    """Count the queries that may see some key of a range: `keys_of`, seen from the other side."""
    swapped = Form(-form.offset, form.keys, form.queries, form.times)
    return keys_of(first, last, swapped, (window[1], window[0]))


def pairs(form: Form, window: Window) -> int:
    """Count the pairs of one head of one entry that see each other, without a mask."""
    i = np.arange(form.queries, dtype=np.int64)
    return int(keys_of(i, i, form, window).sum())


def masked_pairs(
    B: int,
    Hq: int,
    Sq: int,
    Sk: int,
    mask: Bool[np.ndarray, "..."],
    window: Window,
    q_offset: int | tuple[int, ...],
    q_lens: tuple[int, ...] | None,
    kv_lens: tuple[int, ...] | None,
) -> int:
    """Count the pairs that see each other under a mask, one entry of the batch at a time."""
    mask = np.broadcast_to(mask, (*(1,) * (4 - mask.ndim), *mask.shape))
    offset = np.broadcast_to(np.asarray(q_offset, np.int64), (B,))
    found = 0
    for b in range(B):
        seen = visibility.visible(
            1,
            Sq,
            Sk,
            window=window,
            q_offset=offset[b : b + 1],
            mask=mask[b if len(mask) > 1 else 0][None],
            q_lens=None if q_lens is None else np.array(q_lens[b : b + 1]),
            kv_lens=None if kv_lens is None else np.array(kv_lens[b : b + 1]),
        )
        found += int(seen.sum()) * (Hq // seen.shape[1] if seen.shape[1] else 0)
    return found


class Region(NamedTuple):
    """Tokens that share a window, or a window and both sides of the cut."""

    asking: Int[np.ndarray, " n"]
    seen: Int[np.ndarray, " n"]


def regions(
    G: tuple[int, ...],
    window: tuple[int, ...],
    shift: tuple[int, ...],
    key_mask: Bool[np.ndarray, "B *G"],
    *,
    wrap: bool,
) -> Region:
    """Count the tokens of each region of each map, or of each window if `wrap` joins them."""
    shift = windows.effective_shift(G, window, shift)
    name = np.zeros(G, np.int64)
    for axis, (g, w, s) in enumerate(zip(G, window, shift, strict=True)):
        region = (np.arange(g) - s) // w
        line = region % ceil(g / w) if wrap else region - region.min()
        shape = [1] * len(G)
        shape[axis] = g
        name = name * (g + 1) + line.reshape(shape)
    _, name = np.unique(name.ravel(), return_inverse=True)
    several = int(name.max()) + 1
    asking = np.bincount(name, minlength=several)
    hidden: Iterator[np.ndarray] = (m.ravel() for m in key_mask)
    seen = [np.bincount(name[m], minlength=several) for m in hidden]
    none = np.zeros(0, np.int64)
    return Region(np.tile(asking, len(seen)), np.concatenate([none, *seen]))
