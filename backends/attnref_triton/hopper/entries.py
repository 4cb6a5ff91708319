"""The Hopper path's table, where only the device knows what each entry of a batch has.

`schedule.table_of` says for each tile of queries what its program does. With lengths, an
offset for each entry, or packed sequences, that depends on numbers which lie on the device,
so that the same arithmetic runs there, one program for each tile of all heads: a few
microseconds, and no call waits for the device.
"""

import triton
import triton.language as tl

from attnref_triton.tiles import NUMBERS, band, locate, other_side

ROWS = tl.constexpr(64)
HEAD = tl.constexpr(10)
COUNTER = tl.constexpr(4)


@triton.jit(do_not_specialize=NUMBERS)
def table_kernel(
    table, q_side, k_side, offset, left: tl.int64, right: tl.int64, n, heads, tiles, Sq, Sk,
    CONSUMERS: tl.constexpr, BLOCK_N: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    OFFSET: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Write one tile's row of the table, and that no turn was taken yet."""
    BLOCK_M: tl.constexpr = CONSUMERS * 64
    pid = tl.program_id(0)
    b, _, tile, q_start, extent, queries = locate(
        pid, tiles, 1, q_side[0], q_side[1], n, Sq, BLOCK_M
    )
    k_start, keys = other_side(b, k_side[0], k_side[1], n, Sk)
    first, last = band(b, offset, left, right, queries, keys, OFFSET)
    i0 = tile * BLOCK_M
    keys = tl.where(i0 < queries, keys, 0)
    low, high = seen(i0, tl.minimum(i0 + BLOCK_M, queries), keys, first, last, LEFT, RIGHT)
    low = tl.where(low < high, low // STEP * STEP, low)
    row = table + COUNTER + pid * (HEAD + 4 * CONSUMERS)
    tl.store(row, q_start.to(tl.int32) + i0)
    tl.store(row + 1, k_start.to(tl.int32) + low)
    tl.store(row + 2, tl.cdiv(high - low, BLOCK_N))
    lowest = tl.zeros_like(low)
    highest = keys
    if LEFT:
        lowest = tl.minimum(i0 + first, keys) - low
    if RIGHT:
        highest = tl.minimum(i0 + last, keys) - low
    tl.store(row + 3, lowest)
    tl.store(row + 4, highest)
    tl.store(row + 5, keys - 1 - low)
    tl.store(row + 6, heads)
    tl.store(row + 7, Sq)
    tl.store(row + 8, q_start.to(tl.int32) + queries)
    tl.store(row + 9, q_start.to(tl.int32) + extent)
    for me in tl.static_range(CONSUMERS):
        r0 = i0 + me * ROWS
        r1 = tl.minimum(r0 + ROWS, queries)
        own_low, own_high = seen(r0, r1, tl.where(r0 < queries, keys, 0), first, last, LEFT, RIGHT)
        begin = tl.maximum(own_low - low, 0) // BLOCK_N
        end = tl.maximum(tl.cdiv(own_high - low, BLOCK_N), begin)
        end = tl.where(own_low < own_high, end, begin)
        all_low = low
        all_high = keys
        if LEFT:
            all_low = tl.maximum(r1 - 1 + first, low)
        if RIGHT:
            all_high = tl.minimum(r0 + last + 1, keys)
        a = tl.minimum(tl.maximum(tl.cdiv(all_low - low, BLOCK_N), begin), end)
        z = tl.minimum(tl.maximum(tl.maximum(all_high - low, 0) // BLOCK_N, a), end)
        own = row + HEAD + 4 * me
        tl.store(own, begin)
        tl.store(own + 1, a)
        tl.store(own + 2, z)
        tl.store(own + 3, end)
    if pid == 0:
        tl.store(table, 0)


@triton.jit
def seen(r0, r1, keys, first, last, LEFT: tl.constexpr, RIGHT: tl.constexpr):
    """Return the keys that some of the queries `r0 <= i < r1` see."""
    low = tl.zeros_like(keys)
    high = keys
    if LEFT:
        low = tl.minimum(tl.maximum(r0 + first, 0), keys)
    if RIGHT:
        high = tl.minimum(tl.maximum(r1 + last, 0), keys)
    return low, tl.maximum(low, high)
