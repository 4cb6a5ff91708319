r"""Window attention, backward: the weights are recomputed from lse, never stored (E1).

**Counted.** A token and head reads `q`, `k`, `v`, `out` and `dout` and writes `dq`, `dk` and
`dv`: `16 D` bytes in half precision, for five products of `2 N D` operations. Bound by memory
again, for windows of 49 tokens by a factor of five.

**The naive form**, with `s` of the forward and `delta = rowsum(dout out) - dlse`:

    p      = exp(s - lse)
    dS     = p (dout v^T - delta)
    dq     = scale dS k             dk = scale dS^T q             dv = p^T dout
    dbias  = sum of dS              dscale = sum of dS (q k^T)    over windows and batch

**The first kernel** has a tile of pairs of one head, and walks through windows as the forward
does. Where that tile is the whole window, everything is at hand: it reads each array once and
writes the three gradients. On the way it adds `dS` up in registers, and what it has in the
end is one program's part of `dbias` and `dscale`, for a sum in one order. Tiles are queries by
keys, though `p` and `dS` then pass through shared memory to be turned for `dv` and `dk`: with
keys down, each thread has sixteen columns' `lse` and `delta` instead of two rows', loads them
one by one, and computes a level for each. That took 915 instructions for a window, head and
warp (7 x 7, D 32) where this takes 690, and 1.3 times as long. Two programs fit on a
multiprocessor, so that windows must be in flight early: four deep is 1.17 times as fast as
three. Tried, and no better: the tile of bias kept in sixteen bits, which the compiler widens
outside the loop.

**Larger windows** need sums over tiles that such a program does not see. They have a second
kernel, which keeps a tile of keys for `dk` and `dv`, and a third, which keeps a tile of queries
for `dq`; the first runs for `dbias` and `dscale` alone, if they are due.
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
from attnref_triton.window_forward import unmasked


@triton.jit(do_not_specialize=NUMBERS)
def window_pairs_kernel(
    q, k, v, out, dout, dq, dk, dv, lse, dlse, dbias, dscale, bias, key_mask, scales,
    strides, row_strides, mask_strides, bias_stride, runs, windows, extents, shift,
    wrap_bias, scale, heads, batches, chunk, D, DV,
    WINDOW: tl.constexpr, AXES: tl.constexpr, RUNS: tl.constexpr, SHIFTED: tl.constexpr,
    ALIKE: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add up `dS` of one tile of pairs of one head, over `chunk` windows of one box.

    If the tile is the whole window, compute `dq`, `dk` and `dv` on the way.
    """
    D *= 8
    DV *= 8
    N: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    TILES: tl.constexpr = (N + BLOCK - 1) // BLOCK
    q = tokens_on(q, strides[ALIKE[0]])
    k = tokens_on(k, strides[ALIKE[1]])
    v = tokens_on(v, strides[ALIKE[2]])
    out = tokens_on(out, strides[ALIKE[3]])
    dout = tokens_on(dout, strides[ALIKE[4]])
    if TILES == 1:
        dq = tokens_on(dq, strides[ALIKE[5]])
        dk = tokens_on(dk, strides[ALIKE[6]])
        dv = tokens_on(dv, strides[ALIKE[7]])
    pid = tl.program_id(0)
    head = pid % heads
    tile = pid // heads % (TILES * TILES)
    part = pid // heads // (TILES * TILES)
    first, n, start, stop = box_of(part, runs, batches, chunk, RUNS)
    if scales is not None:
        scale = tl.load(scales + head).to(tl.float32)
    d = tl.arange(0, BLOCK_D)[None, :]
    e = tl.arange(0, BLOCK_DV)[None, :]
    i = tile % TILES * BLOCK + tl.arange(0, BLOCK)
    j = tile // TILES * BLOCK + tl.arange(0, BLOCK)
    here, real, by = places(i, first, windows, shift, extents, WINDOW, AXES)
    there, seen, j_by = places(j, first, windows, shift, extents, WINDOW, AXES)
    together = pair_bias(bias, bias_stride, head, i, j, by, j_by, seen, wrap_bias, N, SHIFTED)
    total = tl.zeros([BLOCK, BLOCK], tl.float32)
    drawn = tl.zeros([BLOCK], tl.float32)
    origin = window_at(start, first, n, WINDOW, AXES)
    for _ in range(start, stop):
        k_tile = tile_of(k, origin, head, there, seen, d, D, WHOLE)
        v_tile = tile_of(v, origin, head, there, seen, e, DV, WHOLE)
        asking = queries(
            q, out, dout, lse, dlse, row_strides, origin, head, here, real, d, e, D, DV, WHOLE
        )
        p, ds, dot = pairs(
            asking, k_tile, v_tile, key_mask, mask_strides, origin, there, seen, together, scale,
            PRECISION,
        )  # fmt: skip
        if dbias is not None:
            total += ds
        if dscale is not None:
            drawn += tl.sum(ds * dot, axis=1)
        if TILES == 1:
            kind = k_tile.dtype
            ds = ds.to(kind)
            dv_tile = tl.dot(tl.trans(p.to(kind)), asking[1], input_precision=PRECISION)
            dk_tile = tl.dot(tl.trans(ds), asking[0], input_precision=PRECISION) * scale
            dq_tile = tl.dot(ds, k_tile, input_precision=PRECISION) * scale
            put(dv, dv_tile, origin, head, there, seen, e, DV, WHOLE)
            put(dk, dk_tile, origin, head, there, seen, d, D, WHOLE)
            put(dq, dq_tile, origin, head, here, real, d, D, WHOLE)
        origin = after(origin, first, n, WINDOW, AXES)
    # Parts lie one after another, and in each heads, then tokens.
    lane = part * heads + head
    if dbias is not None:
        to = dbias + tl.cast(lane, tl.int64) * N * N + i[:, None] * N + j[None, :]
        tl.store(to, total, mask=(i[:, None] < N) & (j[None, :] < N))
    if dscale is not None:
        tl.store(dscale + lane * TILES * TILES + tile, tl.sum(drawn, axis=0))


@triton.jit(do_not_specialize=NUMBERS)
def window_keys_kernel(
    q, k, v, out, dout, dk, dv, lse, dlse, bias, key_mask, scales,
    strides, row_strides, mask_strides, bias_stride, runs, windows, extents, shift,
    wrap_bias, scale, heads, batches, chunk, D, DV,
    WINDOW: tl.constexpr, AXES: tl.constexpr, RUNS: tl.constexpr, SHIFTED: tl.constexpr,
    ALIKE: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute `dk` and `dv` of one tile of keys of one head, in `chunk` windows of one box."""
    D *= 8
    DV *= 8
    N: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    TILES: tl.constexpr = (N + BLOCK - 1) // BLOCK
    q = tokens_on(q, strides[ALIKE[0]])
    k = tokens_on(k, strides[ALIKE[1]])
    v = tokens_on(v, strides[ALIKE[2]])
    out = tokens_on(out, strides[ALIKE[3]])
    dout = tokens_on(dout, strides[ALIKE[4]])
    dk = tokens_on(dk, strides[ALIKE[5]])
    dv = tokens_on(dv, strides[ALIKE[6]])
    pid = tl.program_id(0)
    head = pid % heads
    tile = pid // heads % TILES
    part = pid // heads // TILES
    first, n, start, stop = box_of(part, runs, batches, chunk, RUNS)
    if scales is not None:
        scale = tl.load(scales + head).to(tl.float32)
    d = tl.arange(0, BLOCK_D)[None, :]
    e = tl.arange(0, BLOCK_DV)[None, :]
    j = tile * BLOCK + tl.arange(0, BLOCK)
    there, seen, j_by = places(j, first, windows, shift, extents, WINDOW, AXES)
    origin = window_at(start, first, n, WINDOW, AXES)
    for _ in range(start, stop):
        k_tile = tile_of(k, origin, head, there, seen, d, D, WHOLE)
        v_tile = tile_of(v, origin, head, there, seen, e, DV, WHOLE)
        dk_tile = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        dv_tile = tl.zeros([BLOCK, BLOCK_DV], tl.float32)
        for i0 in range(0, N, BLOCK):
            i = i0 + tl.arange(0, BLOCK)
            here, real, by = places(i, first, windows, shift, extents, WINDOW, AXES)
            together = pair_bias(
                bias, bias_stride, head, i, j, by, j_by, seen, wrap_bias, N, SHIFTED
            )
            asking = queries(
                q, out, dout, lse, dlse, row_strides, origin, head, here, real, d, e, D, DV, WHOLE
            )
            p, ds = pairs(
                asking, k_tile, v_tile, key_mask, mask_strides, origin, there, seen, together,
                scale, PRECISION,
            )[:2]  # fmt: skip
            kind = k_tile.dtype
            p, ds = tl.trans(p.to(kind)), tl.trans(ds.to(kind))
            dv_tile = tl.dot(p, asking[1], dv_tile, input_precision=PRECISION)
            dk_tile = tl.dot(ds, asking[0], dk_tile, input_precision=PRECISION)
        put(dk, dk_tile * scale, origin, head, there, seen, d, D, WHOLE)
        put(dv, dv_tile, origin, head, there, seen, e, DV, WHOLE)
        origin = after(origin, first, n, WINDOW, AXES)


@triton.jit(do_not_specialize=NUMBERS)
def window_queries_kernel(
    q, k, v, out, dout, dq, lse, dlse, bias, key_mask, scales,
    strides, row_strides, mask_strides, bias_stride, runs, windows, extents, shift,
    wrap_bias, scale, heads, batches, chunk, D, DV,
    WINDOW: tl.constexpr, AXES: tl.constexpr, RUNS: tl.constexpr, SHIFTED: tl.constexpr,
    ALIKE: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute `dq` of one tile of queries of one head, in `chunk` windows of one box."""
    D *= 8
    DV *= 8
    N: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    TILES: tl.constexpr = (N + BLOCK - 1) // BLOCK
    q = tokens_on(q, strides[ALIKE[0]])
    k = tokens_on(k, strides[ALIKE[1]])
    v = tokens_on(v, strides[ALIKE[2]])
    out = tokens_on(out, strides[ALIKE[3]])
    dout = tokens_on(dout, strides[ALIKE[4]])
    dq = tokens_on(dq, strides[ALIKE[5]])
    pid = tl.program_id(0)
    head = pid % heads
    tile = pid // heads % TILES
    part = pid // heads // TILES
    first, n, start, stop = box_of(part, runs, batches, chunk, RUNS)
    if scales is not None:
        scale = tl.load(scales + head).to(tl.float32)
    d = tl.arange(0, BLOCK_D)[None, :]
    e = tl.arange(0, BLOCK_DV)[None, :]
    i = tile * BLOCK + tl.arange(0, BLOCK)
    here, real, by = places(i, first, windows, shift, extents, WINDOW, AXES)
    origin = window_at(start, first, n, WINDOW, AXES)
    for _ in range(start, stop):
        asking = queries(
            q, out, dout, lse, dlse, row_strides, origin, head, here, real, d, e, D, DV, WHOLE
        )
        dq_tile = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        for j0 in range(0, N, BLOCK):
            j = j0 + tl.arange(0, BLOCK)
            there, seen, j_by = places(j, first, windows, shift, extents, WINDOW, AXES)
            together = pair_bias(
                bias, bias_stride, head, i, j, by, j_by, seen, wrap_bias, N, SHIFTED
            )
            k_tile = tile_of(k, origin, head, there, seen, d, D, WHOLE)
            v_tile = tile_of(v, origin, head, there, seen, e, DV, WHOLE)
            ds = pairs(
                asking, k_tile, v_tile, key_mask, mask_strides, origin, there, seen, together,
                scale, PRECISION,
            )[1]  # fmt: skip
            dq_tile = tl.dot(ds.to(k_tile.dtype), k_tile, dq_tile, input_precision=PRECISION)
        put(dq, dq_tile * scale, origin, head, here, real, d, D, WHOLE)
        origin = after(origin, first, n, WINDOW, AXES)


@triton.jit
def queries(
    q, out, dout, lse, dlse, row_strides, origin, head, place, real, d, e, D, DV,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """Load what queries have to say: `(q, dout, lse, delta)` of a tile of them."""
    q_tile = tile_of(q, origin, head, place, real, d, D, WHOLE)
    o_tile = tile_of(out, origin, head, place, real, e, DV, WHOLE)
    do_tile = tile_of(dout, origin, head, place, real, e, DV, WHOLE)
    told = rows_on(lse, row_strides[0])
    row_lse = tl.load(start_of(told, origin, head) + offsets(told, place), mask=real, other=-INF)
    delta = tl.sum(o_tile.to(tl.float32) * do_tile.to(tl.float32), axis=1)
    if dlse is not None:
        asked = rows_on(dlse, row_strides[1])
        delta -= tl.load(
            start_of(asked, origin, head) + offsets(asked, place), mask=real, other=0.0
        )
    # A row that saw nothing has no weights, and so passes nothing finite on (C5).
    seeing = row_lse != -INF
    return q_tile, do_tile, tl.where(seeing, row_lse, INF), tl.where(seeing, delta, 0.0)


@triton.jit
def pairs(
    asking, k_tile, v_tile, key_mask, mask_strides, origin, there, seen, together, scale,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Return `(p, dS, q k^T)` of a tile of pairs."""
    q_tile, do_tile, level, delta = asking
    dot = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION)
    exponent = binary(level, "biased")
    p = weight(dot * scale + together, (level * exponent)[:, None], exponent[:, None])
    p = unmasked(p, 0.0, key_mask, mask_strides, origin, there, seen)
    dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
    return p, p * (dp - delta[:, None]), dot
