"""What a program of the forward kernel does: which tiles of queries, and which keys for each."""

import heapq
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from attnref_triton.call import Call
from attnref_triton.tables import Form

ROWS = 64
"""Queries of a consumer: the height of a matrix product of four warps."""

HEAD = 10
"""Numbers of a tile that all consumers read, see `table_of`."""

TURN = 4
"""Numbers of a turn, see `turns_of`."""

TOGETHER = 2**25
"""Bytes of keys and values that programs at work at one time should share: most of the L2 cache."""

OVERHEAD = 0.7
"""What a tile of queries costs beside its visits, in visits."""

SORTED = 2**16
"""Tiles of queries up to which each is given to the program that is free first.

Where there are more, programs have so many that taking turns is as fair.
"""


@lru_cache(maxsize=64)
def plan_of(
    shape: tuple[Any, ...],
    form: Form,
    step: int,
    batch: int,
    group: int,
    programs: int,
    together: int,
    entries: bool,
    packed: int,
    device: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return turns and table, as they lie on a device; for shapes seen before, as they lay.

    Where the device writes the table, turns are one list, in the order of a batch without
    lengths, and end as often as there are programs. Packed sequences have so many tiles.
    """
    table = [] if packed else table_of(shape, form, step)
    visits = [1] * packed or [row[2] for row in table]
    if not entries:
        turns = turns_of(visits, batch, shape[4], group, programs, together)
        return sent(turns, device), sent(torch.tensor(table, dtype=torch.int32).flatten(), device)
    turns = turns_of(visits, batch, shape[4], group, 1, together, len(visits))
    ends = turns.new_tensor([-1, 0, 0, 0]).repeat(programs)
    return sent(torch.cat([turns, ends]), device), ends


def table_of(shape: tuple[Any, ...], form: Form, step: int = 1) -> list[list[int]]:
    """Say for each tile of queries of a head what its program does.

    Its keys begin at a multiple of `step`.

    Numbers of all: the first row, the first key, visits to tiles of keys, and then, counted
    from that key, what row `i` of the tile sees: from `left + i` to `right + i`, and not past
    the last key; heads and rows of `lse` to a head; and where real rows end, and those that
    are written. Numbers of each consumer: of those visits it takes part
    from `begin` to `end`, and from `a` to `z` all its rows see every key (`tiles.span`).
    """
    Sq, Sk, first, last, heads = shape
    M, N = form.consumers * ROWS, form.keys
    rows = []
    for i0 in range(0, Sq, M):
        low, high = _seen(i0, min(i0 + M, Sq), Sk, first, last)
        if low < high:
            low = low // step * step
        visits = -(-(high - low) // N)
        left = 0 if first is None else i0 + first - low
        right = Sk if last is None else i0 + last - low
        row = [i0, low, visits, left, right, Sk - 1 - low, heads, Sq, Sq, Sq]
        for r0 in range(i0, i0 + M, ROWS):
            r1 = min(r0 + ROWS, Sq)
            if r0 >= Sq:
                row += [0, 0, 0, 0]
                continue
            own_low, own_high = _seen(r0, r1, Sk, first, last)
            begin = (own_low - low) // N
            end = max(begin, -(-(own_high - low) // N))
            if own_low == own_high:
                end = begin = min(begin, visits)
            all_low = low if first is None else max(r1 - 1 + first, low)
            all_high = Sk if last is None else min(r0 + last + 1, Sk)
            a = min(max(-(-(all_low - low) // N), begin), end)
            z = min(max((all_high - low) // N, a), end)
            row += [begin, a, z, end]
        rows.append(row)
    return rows


def _seen(r0: int, r1: int, Sk: int, first: int | None, last: int | None) -> tuple[int, int]:
    low = 0 if first is None else min(max(r0 + first, 0), Sk)
    high = Sk if last is None else min(max(r1 + last, 0), Sk)
    return low, max(low, high)


def turns_of(
    visits: Sequence[int],
    batch: int,
    heads: int,
    group: int,
    programs: int,
    together: int,
    apart: int = 0,
) -> torch.Tensor:
    """Give each program its tiles of queries: `(row, b, query head, key/value head)` in turn.

    The row is that of the table, in which entries of a batch are so many apart.

    The longest come first, and each goes to the program that is free first; but only heads
    whose keys fit into the cache together are worked on at a time. What is returned begins
    with where each program's turns begin; a row of `-1` ends them.
    """
    T, n = len(visits), batch * heads
    longest = torch.tensor(visits).argsort(descending=True, stable=True)
    if min(visits) == max(visits):
        together = 1
    at = torch.arange(n * T)
    section = at // (together * T)
    inside = at - section * together * T
    width = torch.minimum(n - section * together, torch.tensor(together))
    tile = longest[inside // width]
    head = section * together + inside % width
    program = at % programs
    if programs > 1 and len(at) <= SORTED:
        free = [(0.0, p) for p in range(programs)]
        chosen = []
        for t in tile.tolist():
            cost, p = heapq.heappop(free)
            heapq.heappush(free, (cost + visits[t] + OVERHEAD, p))
            chosen.append(p)
        program = torch.tensor(chosen)
    order = program.argsort(stable=True)
    h = head % heads
    b = head // heads
    items = torch.stack([tile + b * apart, b, h, h // group], 1)[order]
    counts = torch.bincount(program, minlength=programs)
    ends = torch.tensor([[-1, 0, 0, 0]])
    parts = [torch.cat([part, ends]) for part in items.split(counts.tolist())]
    begins = programs + TURN * (torch.cat([torch.zeros(1), (counts + 1).cumsum(0)[:-1]]))
    return torch.cat([begins.long(), torch.cat(parts).flatten()]).to(torch.int32)


def bounds(call: Call) -> tuple[int | None, int | None]:
    """Return `(first, last)`: row `i` sees the keys from `i + first` to `i + last`.

    A bound that hides nobody is `None`. Both are kept so near that sums with positions stay
    within 32 bits.
    """
    left, right = call.window
    Sq, Sk = call.tokens
    offset = Sk - Sq if isinstance(call.offset, str) and call.offset == "end" else call.offset
    if isinstance(offset, str):
        offset = 0
    assert isinstance(offset, int)
    first = None if left is None else max(min(offset - left, Sk), -Sq)
    last = None if right is None else max(min(offset + right, Sk), -Sq)
    if first is not None and first + Sq - 1 <= 0:
        first = None
    if last is not None and last >= Sk - 1:
        last = None
    return first, last


def band_of(call: Call) -> tuple[int | None, int | None, str]:
    """Return `bounds`, and what is added to them on the device: the offset of an entry, or nothing.

    Where it is for the device to say, `(first, last)` are the window's own.
    """
    left, right = call.window
    by_length = call.offset == "end" if isinstance(call.offset, str) else False
    if (left, right) == (None, None):
        return None, None, "number"
    if isinstance(call.offset, torch.Tensor):
        return None if left is None else -left, right, "array"
    if by_length and (call.packed or call.lens != (None, None)):
        return None if left is None else -left, right, "end"
    return *bounds(call), "number"


def sent(x: torch.Tensor, device: str) -> torch.Tensor:
    """Copy to a device on a stream of its own, and wait for that copy alone (A7)."""
    if torch.device(device).type != "cuda":
        return x
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        copied = x.pin_memory().to(device, non_blocking=True)
        stream.synchronize()
    return copied
