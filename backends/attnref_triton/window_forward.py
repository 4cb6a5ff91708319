r"""Window attention, forward: shift, partition, bias, attention and reverse in one pass.

**Counted.** A token and head reads `q`, `k`, `v` and writes `out`: `8 D` bytes in half
precision, for `4 N D` operations. With windows of 49 tokens that is 24 operations per byte,
a tenth of what the matrix units could do meanwhile: bound by memory, as long as nothing but
these four is touched. The bias alone, read again for each window, would add a third to
that; and the common way, with copies for shift, partition and reverse and the scores in
memory, moves six times as much.

**The naive form** is the specification's, see `attnref.spec.windows`: roll, cut, attend, put
back.

**The kernel** computes where each token lies, see `maps`, and reads and writes it there. A
program has one head and walks through windows that hide the same pairs, so that bias and
visibility are one tile of numbers that it prepares once. A window of up to 64 tokens is one
tile, and one of up to 256 is cut into strips, some queries by all keys: the whole row is at
hand, and softmax needs no running state. A larger one is cut into tiles, each program has one
tile of queries of its windows and looks at the keys in turn as dense attention does, with bias
and visibility made anew for each tile.

**Measured**, and kept: instructions are what fills the time that memory leaves. Next windows
by addition instead of by division, and rows that saw nothing left to a division by one,
brought the loop from 499 instructions to 401 for a window, head and warp (7 x 7, D 32), and
Swin-T's first stage from 88 % of the copy rate to 92 %. Axes that a map does not have, left
out of the arithmetic of places, and pairs of a bias that lie next to each other, brought a
shifted map from 127 registers to 80, and its cost over an unshifted one from 5 % to 2 %. The
tile of bias costs a program some 1100 instructions, so that three windows at least share one;
many short programs balance better than few long ones.

Windows of 144 to 256 tokens reach a quarter of the copy rate: a strip of 16 queries reads all
keys and values again, from the cache, and its bias fills the registers. Cut into tiles, which
make their bias again for each window, they take 1.1 to 1.4 times as long. Tried there, and no
better: the bias read sixteen bytes at a time.
"""

import triton
import triton.language as tl

from attnref_triton.maps import (
    NUMBERS,
    after,
    box_of,
    offsets,
    pair_bias,
    places,
    put,
    rows_on,
    start_of,
    tile_of,
    tokens_on,
    window_at,
)
from attnref_triton.tiles import INF, binary, weight


@triton.jit(do_not_specialize=NUMBERS)
def window_kernel(
    q, k, v, out, lse, bias, key_mask, scales,
    strides, row_strides, mask_strides, bias_stride, runs, windows, extents, shift,
    wrap_bias, scale, heads, batches, chunk, D, DV,
    WINDOW: tl.constexpr, AXES: tl.constexpr, RUNS: tl.constexpr, SHIFTED: tl.constexpr,
    ALIKE: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr, KEYS: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend with one tile of queries of one head, in `chunk` windows of one box."""
    D *= 8
    DV *= 8
    N: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    TILES: tl.constexpr = (N + BLOCK - 1) // BLOCK
    q = tokens_on(q, strides[ALIKE[0]])
    k = tokens_on(k, strides[ALIKE[1]])
    v = tokens_on(v, strides[ALIKE[2]])
    out = tokens_on(out, strides[ALIKE[3]])
    pid = tl.program_id(0)
    head = pid % heads  # of one window first: they lie next to each other
    tile = pid // heads % TILES
    first, n, start, stop = box_of(pid // heads // TILES, runs, batches, chunk, RUNS)
    if scales is not None:
        scale = tl.load(scales + head).to(tl.float32)
    d = tl.arange(0, BLOCK_D)[None, :]
    e = tl.arange(0, BLOCK_DV)[None, :]
    i = tile * BLOCK + tl.arange(0, BLOCK)
    place, real, by = places(i, first, windows, shift, extents, WINDOW, AXES)
    j = tl.arange(0, KEYS)
    if KEYS >= N:
        there, seen, j_by = places(j, first, windows, shift, extents, WINDOW, AXES)
        together = pair_bias(bias, bias_stride, head, i, j, by, j_by, seen, wrap_bias, N, SHIFTED)
    origin = window_at(start, first, n, WINDOW, AXES)
    for _ in range(start, stop):
        q_tile = tile_of(q, origin, head, place, real, d, D, WHOLE)
        if KEYS >= N:
            m, l, acc = attend(
                None, None, None, q_tile, k, v, key_mask, mask_strides, origin, head,
                there, seen, together, scale, d, e, D, DV, WHOLE, PRECISION,
            )  # fmt: skip
        else:
            m = tl.full([BLOCK], -INF, tl.float32)
            l = tl.zeros([BLOCK], tl.float32)
            acc = tl.zeros([BLOCK, BLOCK_DV], tl.float32)
            for j0 in range(0, N, KEYS):
                there, seen, j_by = places(j0 + j, first, windows, shift, extents, WINDOW, AXES)
                together = pair_bias(
                    bias, bias_stride, head, i, j0 + j, by, j_by, seen, wrap_bias, N, SHIFTED
                )
                m, l, acc = attend(
                    m, l, acc, q_tile, k, v, key_mask, mask_strides, origin, head,
                    there, seen, together, scale, d, e, D, DV, WHOLE, PRECISION,
                )  # fmt: skip
        nothing = l == 0  # was seen, and the sum of values is zero already (C5)
        l = tl.where(nothing, 1.0, l)
        put(out, acc * (1.0 / l)[:, None], origin, head, place, real, e, DV, WHOLE)
        if lse is not None:
            told = tl.where(nothing, -INF, m + tl.log(l))
            told_to = rows_on(lse, row_strides)
            tl.store(start_of(told_to, origin, head) + offsets(told_to, place), told, mask=real)
        origin = after(origin, first, n, WINDOW, AXES)


@triton.jit
def attend(
    m, l, acc, q_tile, k, v, key_mask, mask_strides, origin, head, place, real, together,
    scale, d, e, D, DV, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Take a tile of a window's keys into the state; `m` is `None` for the first and only one."""
    k_tile = tile_of(k, origin, head, place, real, d, D, WHOLE)
    v_tile = tile_of(v, origin, head, place, real, e, DV, WHOLE)
    s = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION) * scale + together
    s = unmasked(s, -INF, key_mask, mask_strides, origin, place, real)
    top = tl.max(s, axis=1)
    if m is not None:
        top = tl.maximum(m, top)
    level = tl.where(top == -INF, 0.0, top)
    exponent = binary(level, "biased")
    p = weight(s, (level * exponent)[:, None], exponent[:, None])
    total = tl.sum(p, axis=1)
    kind = v_tile.dtype
    if m is None:
        acc = tl.dot(p.to(kind), v_tile, input_precision=PRECISION)
    else:
        alpha = tl.exp2((m - level) * exponent)
        total += l * alpha
        acc = tl.dot(p.to(kind), v_tile, acc * alpha[:, None], input_precision=PRECISION)
    return top, total, acc


@triton.jit
def unmasked(x, nothing, key_mask, strides, origin, place, real):
    """Put `nothing` at keys that a mask hides, if there is one."""
    if key_mask is not None:
        shown = rows_on(key_mask, strides)
        seen = tl.load(start_of(shown, origin, 0) + offsets(shown, place), mask=real, other=0) != 0
        x = tl.where(seen[None, :], x, nothing)
    return x
