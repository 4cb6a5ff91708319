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
    LN2,
    LOG2E,
    NUMBERS,
    at,
    band,
    in_band,
    keys_of,
    level_of,
    locate,
    other_side,
    score,
    strided,
    tokens_of,
    weight,
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
    if mask is not None:
        mask = strided(mask, mask_strides, MASK_EIGHTS)
    if bias is not None:
        bias = strided(bias, bias_strides, BIAS_EIGHTS)
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
    mask_rows = None
    bias_rows = None
    if mask is not None:
        mask_rows = at(mask, b, head_of_row, i)
    if bias is not None:
        bias_rows = at(bias, b, head_of_row, i)
    kv_head = head * PACK // group
    k_head = at(k, b, kv_head, k_start)
    v_head = at(v, b, kv_head, k_start)

    m = tl.full([BLOCK_M], -INF, tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    state = (m, l, acc)
    columns = (k_head, k[3], k[4], v_head, v[3], v[4])
    who = (i, first, last, queries, keys, rows)
    state = attend(
        state, q_tile, columns, mask, mask_rows, bias, bias_rows, who, a, a, z, z, scale, softcap,
        D, DV, BLOCK_N, BLOCK_D, BLOCK_DV, SHAPE, False, LEFT, RIGHT, PRECISION, WHOLE,
    )  # fmt: skip
    state = attend(
        state, q_tile, columns, mask, mask_rows, bias, bias_rows, who, low, a, z, high,
        scale, softcap, D, DV, BLOCK_N, BLOCK_D, BLOCK_DV, SHAPE, True, LEFT, RIGHT,
        PRECISION, WHOLE,
    )  # fmt: skip
    m, l, acc = state

    if SHAPE == "plain":
        m = m * (scale * LOG2E) * LN2
    if sinks is not None:
        sink = tl.load(sinks + head_of_row).to(tl.float32)
        m, l, acc = with_sink(m, l, acc, sink)
    live = (i < queries) & (l != 0)
    l = tl.where(live, l, 1.0)
    o = tl.where(live[:, None], acc / l[:, None], 0.0)
    e = tl.where(live, m + tl.log(l), -INF)
    dv = tl.arange(0, BLOCK_DV)
    out_rows = at(out, b, head_of_row, q_start + i) + tl.cast(part, tl.int64) * part_rows * DV
    tl.store(
        out_rows[:, None] + dv[None, :] * out[4],
        o.to(out[0].dtype.element_ty),
        mask=rows[:, None] & (dv < DV)[None, :],
    )
    tl.store(
        at(lse, b, head_of_row, q_start + i) + tl.cast(part, tl.int64) * part_rows, e, mask=rows
    )


@triton.jit
def attend(
    state, q_tile, columns, mask, mask_rows, bias, bias_rows, who, low, a, z, high, scale, softcap,
    D, DV, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    SHAPE: tl.constexpr, RAGGED: tl.constexpr,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Take keys into the state: whole tiles `[a, z)`, or the ragged ones around them."""
    m, l, acc = state
    k_head, k_row, k_column, v_head, v_row, v_column = columns
    i, first, last, queries, keys, rows = who
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    dv = tl.arange(0, BLOCK_DV)
    exponent = LOG2E
    if SHAPE == "plain":
        exponent = scale * LOG2E
    before = tl.cdiv(a - low, BLOCK_N)
    if RAGGED:
        count = before + tl.cdiv(high - z, BLOCK_N)
    else:
        count = (z - a) // BLOCK_N
    for t in range(count):
        if RAGGED:
            j0 = tl.where(t < before, low + t * BLOCK_N, z + (t - before) * BLOCK_N)
        else:
            j0 = a + t * BLOCK_N
        j = j0 + n
        k_tile = load(
            k_head + j0.to(tl.int64) * k_row + n[:, None] * k_row + d[None, :] * k_column,
            (j < keys)[:, None], (d < D)[None, :], RAGGED, not WHOLE,
        )  # fmt: skip
        s = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION)
        b_tile = None
        if bias is not None:
            b_tile = tl.load(
                bias_rows[:, None] + j[None, :] * bias[4],
                mask=rows[:, None] & (j < keys)[None, :],
                other=0.0,
            ).to(tl.float32)
        s = score(s, b_tile, scale, softcap, SHAPE, q_tile.dtype)
        if RAGGED:
            seen = in_band(i[:, None], j[None, :], first, last, queries, keys, LEFT, RIGHT)
            s = tl.where(seen, s, -INF)
        if mask is not None:
            allowed = tl.load(
                mask_rows[:, None] + j[None, :] * mask[4],
                mask=rows[:, None] & (j < keys)[None, :],
                other=0,
            )
            s = tl.where(allowed != 0, s, -INF)
        m_new = tl.maximum(m, tl.max(s, axis=1))
        level = m_new
        if RAGGED or mask is not None or bias is not None:
            level = tl.where(m_new == -INF, 0.0, m_new)
        level = level_of(level, exponent, SHAPE)
        alpha = weight(m, level, exponent, SHAPE)
        p = weight(s, level[:, None], exponent, SHAPE)
        l = l * alpha + tl.sum(p, axis=1)
        v_tile = load(
            v_head + j0.to(tl.int64) * v_row + n[:, None] * v_row + dv[None, :] * v_column,
            (j < keys)[:, None], (dv < DV)[None, :], RAGGED, not WHOLE,
        )  # fmt: skip
        acc = tl.dot(p.to(v_tile.dtype), v_tile, acc * alpha[:, None], input_precision=PRECISION)
        m = m_new
    return m, l, acc


@triton.jit
def load(pointers, rows, columns, RAGGED: tl.constexpr, PADDED: tl.constexpr):
    """Load a tile, guarded only where it may reach beyond its rows or columns."""
    if RAGGED and PADDED:
        return tl.load(pointers, mask=rows & columns, other=0.0)
    if RAGGED:
        return tl.load(pointers, mask=rows, other=0.0)
    if PADDED:
        return tl.load(pointers, mask=columns, other=0.0)
    return tl.load(pointers)


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
    live = (i < length) & (l != 0)
    l = tl.where(live, l, 1.0)
    o = tl.where(live[:, None], acc / l[:, None], 0.0)
    tl.store(
        at(out, b, head, i)[:, None] + dv[None, :] * out[4],
        o.to(out[0].dtype.element_ty), mask=real[:, None] & (dv < DV)[None, :],
    )  # fmt: skip
    tl.store(lse + r, tl.where(live, m + tl.log(l), -INF), mask=real)
