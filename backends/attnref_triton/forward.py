r"""Attention, forward: one pass over the keys, with nothing of size `Sq x Sk`.

**Counted.** A head reads `q`, `k`, `v` and writes `out` and `lse`: `2 (2 Sq + 2 Sk) D`
bytes in half precision, and spends `4 Sq Sk D` operations. On a GPU whose matrix units do
some 250 operations per byte of memory, that is bound by arithmetic from a few hundred keys
on, as long as the scores stay on chip. With one query it is bound by reading the keys.

**The naive form** is the specification's tile update. Per tile of keys:

    s     = q k^T                        scores, in float32
    m'    = max(m, max_j s)              running maximum
    alpha = exp(m - m')
    p     = exp(s - m')
    l     = alpha l + sum_j p            running sum
    acc   = alpha acc + p v

and at the end `out = acc / l`, `lse = m + log l`.

**The kernel** is that, with three changes. The exponential has base two, and its argument
is one fused multiply-add into which the scale is folded. The loop over keys is split in
two: tiles that every row sees run without any mask arithmetic, and the ragged ones at the
ends of the band, or at a sequence's end, run with it. Emptiness of a row is told by its
sum and not by its maximum (C5).

**Few queries, many keys.** There are then not enough tiles of queries to fill the chip, so
the keys are cut into parts, each with a program of its own; the parts' states go to memory
in float32, and a second kernel merges them (D3). The query heads of a group share the rows
of a tile, so that their keys are read once.
"""

import triton
import triton.language as tl

from attnref_triton.tiles import (
    INF,
    LOG2E,
    NUMBERS,
    at,
    band,
    binary,
    hide,
    inside,
    keys_of,
    keys_seen,
    load,
    locate,
    other_side,
    score,
    strided,
    tokens_of,
    unit_of,
    visited,
    visits,
    weight,
    within,
)


@triton.jit(do_not_specialize=NUMBERS)
def forward_kernel(
    q, k, v, out, lse, mask, bias, sinks,
    strides, row_strides, mask_strides, bias_strides, q_side, k_side,
    offset, left: tl.int64, right: tl.int64, scale, softcap, n, heads, group, tiles, Sq, Sk,
    D, DV, parts, part_rows, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, PACK: tl.constexpr, SHAPE: tl.constexpr,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, OFFSET: tl.constexpr, PRECISION: tl.constexpr,
    WHOLE: tl.constexpr, MASK_EIGHTS: tl.constexpr, BIAS_EIGHTS: tl.constexpr,
):  # fmt: skip
    """Attend with one tile of rows of one head, over one part of the keys."""
    D *= 8
    DV *= 8
    q = tokens_of(q, strides[0])
    k = tokens_of(k, strides[1])
    v = tokens_of(v, strides[2])
    out = tokens_of(out, strides[3])
    lse = strided(lse, row_strides[0], False)
    mask = None if mask is None else strided(mask, mask_strides, MASK_EIGHTS)
    bias = None if bias is None else strided(bias, bias_strides, BIAS_EIGHTS)
    pid = tl.program_id(0)
    part = pid % parts
    # Late rows of a causal head see most, and a short program makes a better last one.
    pid = pid // parts
    if RIGHT:
        pid = pid // tiles * tiles + tiles - 1 - pid % tiles
    b, head, tile, q_start, extent, queries = locate(
        pid, tiles, heads, q_side[0], q_side[1], n, Sq, BLOCK_M
    )
    k_start, keys = other_side(b, k_side[0], k_side[1], n, Sk)
    first, last = band(b, offset, left, right, queries, keys, OFFSET)

    r = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    i = r // PACK
    head_of_row = head * PACK + r % PACK
    i0 = tile * BLOCK_M // PACK
    i1 = tl.minimum((tile * BLOCK_M + BLOCK_M - 1) // PACK + 1, queries)
    keys = tl.where(i0 < queries, keys, 0)
    low, a, z, high = keys_of(i0, i1, first, last, keys, BLOCK_N, LEFT, RIGHT)
    length = tl.cdiv(tl.cdiv(high - low, BLOCK_N), parts) * BLOCK_N
    low += part * length
    high = tl.minimum(high, low + length)
    a = tl.minimum(tl.maximum(a, low), tl.maximum(low + length, low))
    z = tl.minimum(tl.maximum(z, a), tl.maximum(low + length, low))

    rows = i < extent
    d = tl.arange(0, BLOCK_D)
    q_rows = at(q, b, head_of_row, q_start + i)
    q_tile = tl.load(
        q_rows[:, None] + d[None, :] * q[4],
        mask=(i < queries)[:, None] & (d < D)[None, :],
        other=0.0,
    )
    kv_head = head * PACK // group
    k = (at(k, b, kv_head, k_start), k[3], k[4])
    v = (at(v, b, kv_head, k_start), v[3], v[4])
    mask_rows = None if mask is None else at(mask, b, head_of_row[:, None], i[:, None])
    bias_rows = None if bias is None else at(bias, b, head_of_row[:, None], i[:, None])
    lowest, highest = keys_seen(i, first, last, queries, keys, LEFT, RIGHT)
    limits = (lowest[:, None], highest[:, None])
    unit = unit_of(scale, softcap, SHAPE)

    m = tl.full([BLOCK_M], -INF, tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    for RAGGED in tl.static_range(2):  # first the whole tiles, then the others
        m, l, acc = attend(
            m, l, acc, q_tile, k, v, mask, mask_rows, bias, bias_rows, rows, limits, keys,
            (low, a, z, high), scale, softcap, D, DV, BLOCK_N, BLOCK_D, BLOCK_DV, SHAPE, RAGGED,
            LEFT, PRECISION, WHOLE, MASK_EIGHTS, BIAS_EIGHTS,
        )  # fmt: skip

    m = m * unit
    if sinks is not None:
        sink = tl.load(sinks + head_of_row).to(tl.float32)
        m, l, acc = with_sink(m, l, acc, sink)
    out_rows = at(out, b, head_of_row, q_start + i) + tl.cast(part, tl.int64) * part_rows * DV
    lse_rows = at(lse, b, head_of_row, q_start + i) + tl.cast(part, tl.int64) * part_rows
    dv = tl.arange(0, BLOCK_DV)
    o, e = finish(m, l, acc, i < queries)
    tl.store(
        out_rows[:, None] + dv[None, :] * out[4],
        o.to(out[0].dtype.element_ty),
        mask=rows[:, None] & (dv < DV)[None, :],
    )
    tl.store(lse_rows, e, mask=rows)


@triton.jit
def attend(
    m, l, acc, q_tile, k, v, mask, mask_rows, bias, bias_rows, rows, limits, keys, reach,
    scale, softcap, D, DV, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    SHAPE: tl.constexpr, RAGGED: tl.constexpr, LEFT: tl.constexpr, PRECISION: tl.constexpr,
    WHOLE: tl.constexpr, MASK_EIGHTS: tl.constexpr, BIAS_EIGHTS: tl.constexpr,
):  # fmt: skip
    """Take the keys of whole tiles into the state, or those of ragged ones."""
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    dv = tl.arange(0, BLOCK_DV)
    unit = unit_of(scale, softcap, SHAPE)
    for t in range(visits(reach, BLOCK_N, RAGGED)):
        j0 = visited(t, reach, BLOCK_N, RAGGED)
        j = (j0 + n)[None, :]
        here = (j0 + n < keys)[:, None]
        k_tile = load(
            k[0] + j0.to(tl.int64) * k[1] + n[:, None] * k[1] + d[None, :] * k[2],
            here, (d < D)[None, :], RAGGED, not WHOLE,
        )  # fmt: skip
        s = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION)
        guard = rows[:, None] & inside(j, keys, BIAS_EIGHTS)
        s = score(s, bias, bias_rows, j, guard, scale, softcap, SHAPE)
        if RAGGED:
            s = tl.where(within(j, limits, LEFT), s, -INF)
        guard = rows[:, None] & inside(j, keys, MASK_EIGHTS)
        s = hide(s, -INF, mask, mask_rows, j, guard)
        m_new = tl.maximum(m, tl.max(s, axis=1))
        top = m_new
        if RAGGED or mask is not None or bias is not None:
            top = tl.where(m_new == -INF, 0.0, m_new)
        exponent = binary(top, SHAPE) * unit
        # The difference first: where the maximum stays, what was carried stays to the bit.
        alpha = tl.exp2((m - top) * exponent)
        p = weight(s, (top * exponent)[:, None], exponent[:, None])
        l = l * alpha + tl.sum(p, axis=1)
        v_tile = load(
            v[0] + j0.to(tl.int64) * v[1] + n[:, None] * v[1] + dv[None, :] * v[2],
            here, (dv < DV)[None, :], RAGGED, not WHOLE,
        )  # fmt: skip
        acc = tl.dot(p.to(v_tile.dtype), v_tile, acc * alpha[:, None], input_precision=PRECISION)
        m = m_new
    return m, l, acc


@triton.jit
def finish(m, l, acc, real):
    """Turn a natural state into `(out, lse)`: zeros and `-inf` for rows that saw nothing (C5)."""
    live = real & (l != 0)
    l = tl.where(live, l, 1.0)
    out = tl.where(live[:, None], acc * (1.0 / l)[:, None], 0.0)
    return out, tl.where(live, m + tl.log(l), -INF)


@triton.jit
def with_sink(m, l, acc, sink):
    """Count a logit without a value into a state whose scores are natural (D4)."""
    top = tl.maximum(m, sink)
    level = tl.where(top == -INF, 0.0, top)
    alpha = tl.exp2((m - level) * LOG2E)
    return top, l * alpha + tl.exp2((sink - level) * LOG2E), acc * alpha[:, None]


@triton.jit(do_not_specialize=NUMBERS)
def merge_parts_kernel(
    part_out, part_lse, out, lse, sinks, strides, q_side, n, heads, Sq, rows, parts, DV,
    BLOCK_R: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """Merge the parts of `BLOCK_R` rows, give them their sink, and round once."""
    DV *= 8
    out = tokens_of(out, strides)
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    real = r < rows
    i = r % Sq
    head = r // Sq % heads
    b = r // Sq // heads
    dv = tl.arange(0, BLOCK_DV)
    m = tl.full([BLOCK_R], -INF, tl.float32)
    l = tl.zeros([BLOCK_R], tl.float32)
    acc = tl.zeros([BLOCK_R, BLOCK_DV], tl.float32)
    for part in range(parts):
        at_part = tl.cast(part, tl.int64) * rows + r
        e = tl.load(part_lse + at_part, mask=real, other=-INF)
        o = tl.load(
            part_out + at_part[:, None] * DV + dv[None, :],
            mask=real[:, None] & (dv < DV)[None, :], other=0.0,
        )  # fmt: skip
        top = tl.maximum(m, e)
        level = tl.where(top == -INF, 0.0, top)
        alpha = tl.exp2((m - level) * LOG2E)
        w = tl.exp2((e - level) * LOG2E)
        l = l * alpha + w
        acc = acc * alpha[:, None] + o * w[:, None]
        m = top
    length = tl.full([BLOCK_R], Sq, tl.int32)
    starts, lens = q_side
    if starts is not None:
        length = tl.zeros_like(i) + tl.load(starts + n).to(tl.int32)
    if lens is not None:
        length = tl.load(lens + b, mask=real, other=0).to(tl.int32)
    if sinks is not None:
        sink = tl.load(sinks + head, mask=real, other=0.0).to(tl.float32)
        m, l, acc = with_sink(m, l, acc, sink)
    o, e = finish(m, l, acc, i < length)
    tl.store(
        at(out, b, head, i)[:, None] + dv[None, :] * out[4],
        o.to(out[0].dtype.element_ty), mask=real[:, None] & (dv < DV)[None, :],
    )  # fmt: skip
    tl.store(lse + r, e, mask=real)
