r"""Attention, backward: the weights are recomputed, never stored (E1).

**Counted.** Five products of `2 Sq Sk D` operations are unavoidable: `q k^T` and
`dout v^T` again, then `dv`, `dk` and `dq`. Two passes, one over tiles of queries for `dq` and
one over tiles of keys for `dk` and `dv`, make it seven, and in exchange nobody adds into
anybody else's result: no atomics, no buffer in float32, and the same bits every time.

**The naive form**, with `s` and `c` of the forward:

    p     = exp(s - lse)
    dS    = p (dout v^T - delta)         delta = rowsum(dout out) - dlse
    dA    = dS (1 - (c / cap)^2)
    dq    = scale dA k
    dk    = scale dA^T q
    dv    = p^T dout

**The first kernel** holds a tile of queries and visits keys, as the forward does. It has
`out` and `dout` at hand and computes `delta` on the way, for itself and for the others.
**The second** holds a tile of keys and visits queries, for every query head of its group
in turn, so that the sum over a group stays in the accumulator (E3). It works on transposed
tiles throughout: `p^T` and `dA^T` are then left factors, which stay in registers.
"""

import triton
import triton.language as tl

from attnref_triton.forward import load
from attnref_triton.tiles import (
    INF,
    LOG2E,
    NUMBERS,
    at,
    band,
    in_band,
    keys_of,
    level_of,
    locate,
    other_side,
    queries_of,
    score,
    strided,
    tanh,
    tokens_of,
    weight,
)


@triton.jit(do_not_specialize=NUMBERS)
def queries_kernel(
    q, k, v, out, lse, dout, dlse, dq, delta, mask, bias, dbias,
    strides, row_strides, mask_strides, bias_strides, dbias_strides, q_side, k_side,
    offset, left: tl.int64, right: tl.int64, scale, softcap, n, heads, group, tiles, Sq, Sk, D, DV,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, SHAPE: tl.constexpr,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, OFFSET: tl.constexpr, PRECISION: tl.constexpr,
    WHOLE: tl.constexpr, MASK_EIGHTS: tl.constexpr, BIAS_EIGHTS: tl.constexpr,
    DBIAS_EIGHTS: tl.constexpr,
):  # fmt: skip
    """Compute `dq` and `delta` of one tile of queries, and its part of a dense bias's gradient."""
    D *= 8
    DV *= 8
    q = tokens_of(q, strides[0])
    k = tokens_of(k, strides[1])
    v = tokens_of(v, strides[2])
    out = tokens_of(out, strides[3])
    dout = tokens_of(dout, strides[4])
    dq = tokens_of(dq, strides[5])
    lse = strided(lse, row_strides[0], False)
    delta = strided(delta, row_strides[1], False)
    if dlse is not None:
        dlse = strided(dlse, row_strides[2], False)
    if dbias is not None:
        dbias = strided(dbias, dbias_strides, DBIAS_EIGHTS)
    if mask is not None:
        mask = strided(mask, mask_strides, MASK_EIGHTS)
    if bias is not None:
        bias = strided(bias, bias_strides, BIAS_EIGHTS)
    pid = tl.program_id(0)
    if RIGHT:
        pid = pid // tiles * tiles + tiles - 1 - pid % tiles
    b, head, tile, q_start, extent, queries = locate(
        pid, tiles, heads, q_side[0], q_side[1], n, Sq, BLOCK_M
    )
    k_start, keys = other_side(b, k_side[0], k_side[1], n, Sk)
    first, last = band(b, offset, left, right, queries, keys, OFFSET)
    i0 = tile * BLOCK_M
    i = i0 + tl.arange(0, BLOCK_M)
    keys = tl.where(i0 < queries, keys, 0)
    low, a, z, high = keys_of(
        i0, tl.minimum(i0 + BLOCK_M, queries), first, last, keys, BLOCK_N, LEFT, RIGHT
    )
    rows = i < extent
    real = i < queries
    d = tl.arange(0, BLOCK_D)
    dv = tl.arange(0, BLOCK_DV)
    q_tile = tl.load(
        at(q, b, head, q_start + i)[:, None] + d[None, :] * q[4],
        mask=real[:, None] & (d < D)[None, :], other=0.0,
    )  # fmt: skip
    values = real[:, None] & (dv < DV)[None, :]
    do_tile = tl.load(
        at(dout, b, head, q_start + i)[:, None] + dv[None, :] * dout[4], mask=values, other=0.0
    )
    o_tile = tl.load(
        at(out, b, head, q_start + i)[:, None] + dv[None, :] * out[4], mask=values, other=0.0
    )
    row_lse = tl.load(at(lse, b, head, q_start + i), mask=real, other=-INF)
    row_delta = tl.sum(o_tile.to(tl.float32) * do_tile.to(tl.float32), axis=1)
    if dlse is not None:
        row_delta -= tl.load(at(dlse, b, head, q_start + i), mask=real, other=0.0)
    # A row that saw nothing passes nothing on, whatever it is given (C5).
    seeing = row_lse != -INF
    row_delta = tl.where(seeing, row_delta, 0.0)
    tl.store(at(delta, b, head, q_start + i), row_delta, mask=rows)

    mask_rows = None
    bias_rows = None
    dbias_rows = None
    if mask is not None:
        mask_rows = at(mask, b, head, i)
    if bias is not None:
        bias_rows = at(bias, b, head, i)
    if dbias is not None:
        dbias_rows = at(dbias, b, head, i)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    columns = (
        at(k, b, head // group, k_start),
        k[3],
        k[4],
        at(v, b, head // group, k_start),
        v[3],
        v[4],
    )
    who = (i, first, last, queries, keys, rows)
    level = level_of(tl.where(seeing, row_lse, INF), LOG2E, SHAPE)
    tiles_of = (q_tile, do_tile, level, row_delta)
    acc = through_keys(
        acc, tiles_of, columns, mask, mask_rows, bias, bias_rows, dbias, dbias_rows, who,
        a, a, z, z, scale, softcap, D, DV, BLOCK_N, BLOCK_D, BLOCK_DV, SHAPE,
        False, LEFT, RIGHT, PRECISION, WHOLE,
    )  # fmt: skip
    acc = through_keys(
        acc, tiles_of, columns, mask, mask_rows, bias, bias_rows, dbias, dbias_rows, who,
        low, a, z, high, scale, softcap, D, DV, BLOCK_N, BLOCK_D, BLOCK_DV, SHAPE,
        True, LEFT, RIGHT, PRECISION, WHOLE,
    )  # fmt: skip
    tl.store(
        at(dq, b, head, q_start + i)[:, None] + d[None, :] * dq[4],
        (acc * scale).to(dq[0].dtype.element_ty), mask=rows[:, None] & (d < D)[None, :],
    )  # fmt: skip


@triton.jit
def through_keys(
    acc, tiles_of, columns, mask, mask_rows, bias, bias_rows, dbias, dbias_rows, who,
    low, a, z, high, scale, softcap, D, DV, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, SHAPE: tl.constexpr, RAGGED: tl.constexpr, LEFT: tl.constexpr,
    RIGHT: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Add up `dA k` over whole tiles `[a, z)`, or over the ragged ones around them."""
    q_tile, do_tile, level, delta = tiles_of
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
    for t in tl.range(count, num_stages=1 if RAGGED else None):
        if RAGGED:
            j0 = tl.where(t < before, low + t * BLOCK_N, z + (t - before) * BLOCK_N)
        else:
            j0 = a + t * BLOCK_N
        j = j0 + n
        inside = (j < keys)[:, None]
        k_tile = load(
            k_head + j0.to(tl.int64) * k_row + n[:, None] * k_row + d[None, :] * k_column,
            inside, (d < D)[None, :], RAGGED, not WHOLE,
        )  # fmt: skip
        v_tile = load(
            v_head + j0.to(tl.int64) * v_row + n[:, None] * v_row + dv[None, :] * v_column,
            inside, (dv < DV)[None, :], RAGGED, not WHOLE,
        )  # fmt: skip
        dot = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION)
        both = rows[:, None] & (j < keys)[None, :]
        b_tile = None
        if bias is not None:
            b_tile = tl.load(bias_rows[:, None] + j[None, :] * bias[4], mask=both, other=0.0).to(
                tl.float32
            )
        p = weight(
            score(dot, b_tile, scale, softcap, SHAPE, q_tile.dtype), level[:, None], exponent, SHAPE
        )
        if RAGGED:
            p = tl.where(
                in_band(i[:, None], j[None, :], first, last, queries, keys, LEFT, RIGHT), p, 0.0
            )
        if mask is not None:
            allowed = tl.load(mask_rows[:, None] + j[None, :] * mask[4], mask=both, other=0)
            p = tl.where(allowed != 0, p, 0.0)
        dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
        ds = p * (dp - delta[:, None])
        if dbias is not None:
            tl.store(
                dbias_rows[:, None] + j[None, :] * dbias[4],
                ds.to(dbias[0].dtype.element_ty),
                mask=both,
            )
        if softcap is not None:
            ds *= slope(dot, scale, softcap, q_tile.dtype)
        acc = tl.dot(ds.to(k_tile.dtype), k_tile, acc, input_precision=PRECISION)
    return acc


@triton.jit
def slope(dot, scale, softcap, kind: tl.constexpr):
    """Differentiate the soft cap."""
    bent = tanh(dot * (scale / softcap), kind)
    return 1.0 - bent * bent


@triton.jit(do_not_specialize=NUMBERS)
def keys_kernel(
    q, k, v, lse, delta, dout, dk, dv, mask, bias,
    strides, row_strides, mask_strides, bias_strides, q_side, k_side,
    offset, left: tl.int64, right: tl.int64, scale, softcap, n, heads, group, tiles, Sq, Sk, D, DV,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, GROUPED: tl.constexpr, SHAPE: tl.constexpr,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, OFFSET: tl.constexpr, PRECISION: tl.constexpr,
    WHOLE: tl.constexpr, MASK_EIGHTS: tl.constexpr, BIAS_EIGHTS: tl.constexpr,
):  # fmt: skip
    """Compute `dk` and `dv` of one tile of keys, over all query heads of its group."""
    D *= 8
    DV *= 8
    q = tokens_of(q, strides[0])
    k = tokens_of(k, strides[1])
    v = tokens_of(v, strides[2])
    dout = tokens_of(dout, strides[3])
    dk = tokens_of(dk, strides[4])
    dv = tokens_of(dv, strides[5])
    lse = strided(lse, row_strides[0], False)
    delta = strided(delta, row_strides[1], False)
    if mask is not None:
        mask = strided(mask, mask_strides, MASK_EIGHTS)
    if bias is not None:
        bias = strided(bias, bias_strides, BIAS_EIGHTS)
    pid = tl.program_id(0)
    b, head, tile, k_start, extent, keys = locate(
        pid, tiles, heads, k_side[0], k_side[1], n, Sk, BLOCK_N
    )
    q_start, queries = other_side(b, q_side[0], q_side[1], n, Sq)
    first, last = band(b, offset, left, right, queries, keys, OFFSET)
    j0 = tile * BLOCK_N
    j = j0 + tl.arange(0, BLOCK_N)
    queries = tl.where(j0 < keys, queries, 0)
    low, a, z, high = queries_of(
        j0, tl.minimum(j0 + BLOCK_N, keys), first, last, queries, BLOCK_M, LEFT, RIGHT
    )
    real = (j < keys)[:, None]
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_DV)
    k_tile = tl.load(
        at(k, b, head, k_start + j)[:, None] + d[None, :] * k[4],
        mask=real & (d < D)[None, :],
        other=0.0,
    )
    v_tile = tl.load(
        at(v, b, head, k_start + j)[:, None] + e[None, :] * v[4],
        mask=real & (e < DV)[None, :],
        other=0.0,
    )
    dk_acc = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv_acc = tl.zeros([BLOCK_N, BLOCK_DV], tl.float32)
    rows = (q, dout, lse, delta, b, head * group, group, q_start)
    who = (j, first, last, queries, keys)
    dk_acc, dv_acc = through_queries(
        dk_acc, dv_acc, k_tile, v_tile, rows, mask, bias, who, a, a, z, z, scale, softcap, D, DV,
        BLOCK_M, BLOCK_D, BLOCK_DV, GROUPED, SHAPE, False, LEFT, RIGHT, PRECISION, WHOLE,
    )  # fmt: skip
    dk_acc, dv_acc = through_queries(
        dk_acc, dv_acc, k_tile, v_tile, rows, mask, bias, who, low, a, z, high, scale, softcap,
        D, DV, BLOCK_M, BLOCK_D, BLOCK_DV, GROUPED, SHAPE, True, LEFT, RIGHT, PRECISION, WHOLE,
    )  # fmt: skip
    # A whole tile of queries may meet a last tile of keys that is not: see to its tail here.
    stored = (j < extent)[:, None]
    tl.store(
        at(dk, b, head, k_start + j)[:, None] + d[None, :] * dk[4],
        tl.where(real, dk_acc * scale, 0.0).to(dk[0].dtype.element_ty),
        mask=stored & (d < D)[None, :],
    )  # fmt: skip
    tl.store(
        at(dv, b, head, k_start + j)[:, None] + e[None, :] * dv[4],
        tl.where(real, dv_acc, 0.0).to(dv[0].dtype.element_ty), mask=stored & (e < DV)[None, :],
    )  # fmt: skip


@triton.jit
def through_queries(
    dk_acc, dv_acc, k_tile, v_tile, rows, mask, bias, who, low, a, z, high, scale, softcap, D, DV,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, GROUPED: tl.constexpr,
    SHAPE: tl.constexpr, RAGGED: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    PRECISION: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Add up `dA^T q` and `p^T dout` over whole tiles of queries, or over ragged ones.

    One loop walks the heads of a group, too. A loop around this one would keep the
    accumulators and every address of it alive at once, which is more than the registers hold.
    """
    q, dout, lse, delta, b, h, group, q_start = rows
    j, first, last, queries, keys = who
    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_DV)
    exponent = LOG2E
    if SHAPE == "plain":
        exponent = scale * LOG2E
    before = tl.cdiv(a - low, BLOCK_M)
    if RAGGED:
        count = before + tl.cdiv(high - z, BLOCK_M)
    else:
        count = (z - a) // BLOCK_M
    total = count
    if GROUPED:
        total = count * group
    for step in tl.range(total, num_stages=1 if RAGGED else None):
        t = step
        head = h
        if GROUPED:
            t = step % count
            head = h + step // count
        if RAGGED:
            i0 = tl.where(t < before, low + t * BLOCK_M, z + (t - before) * BLOCK_M)
        else:
            i0 = a + t * BLOCK_M
        i = i0 + m
        inside = i < queries
        q_tile = load(
            at(q, b, head, q_start + i0) + m[:, None] * q[3] + d[None, :] * q[4],
            inside[:, None], (d < D)[None, :], RAGGED, not WHOLE,
        )  # fmt: skip
        do_tile = load(
            at(dout, b, head, q_start + i0) + m[:, None] * dout[3] + e[None, :] * dout[4],
            inside[:, None], (e < DV)[None, :], RAGGED, not WHOLE,
        )  # fmt: skip
        # First what dS multiplies, then the weights: both products of a step follow one another,
        # and so do the two that add up, and neither delta nor lse outlives its use.
        row_delta = load_row(delta, b, head, q_start + i0, m, inside, 0.0, RAGGED)
        dp = tl.dot(v_tile, tl.trans(do_tile), input_precision=PRECISION) - row_delta[None, :]
        row_lse = load_row(lse, b, head, q_start + i0, m, inside, -INF, RAGGED)
        level = level_of(tl.where(row_lse == -INF, INF, row_lse), LOG2E, SHAPE)
        dot = tl.dot(k_tile, tl.trans(q_tile), input_precision=PRECISION)
        both = (j < keys)[:, None] & inside[None, :]
        b_tile = None
        if bias is not None:
            b_tile = tl.load(
                at(bias, b, head, i)[None, :] + j[:, None] * bias[4], mask=both, other=0.0
            ).to(tl.float32)
        p = weight(
            score(dot, b_tile, scale, softcap, SHAPE, q_tile.dtype), level[None, :], exponent, SHAPE
        )
        if RAGGED:
            p = tl.where(
                in_band(i[None, :], j[:, None], first, last, queries, keys, LEFT, RIGHT), p, 0.0
            )
        if mask is not None:
            allowed = tl.load(
                at(mask, b, head, i)[None, :] + j[:, None] * mask[4], mask=both, other=0
            )
            p = tl.where(allowed != 0, p, 0.0)
        ds = p * dp
        if softcap is not None:
            ds *= slope(dot, scale, softcap, q_tile.dtype)
        dv_acc = tl.dot(p.to(do_tile.dtype), do_tile, dv_acc, input_precision=PRECISION)
        dk_acc = tl.dot(ds.to(q_tile.dtype), q_tile, dk_acc, input_precision=PRECISION)
    return dk_acc, dv_acc


@triton.jit
def load_row(x, b, head, row, m, inside, other, RAGGED: tl.constexpr):
    """Load one number for each row of a tile."""
    pointers = at(x, b, head, row) + m * x[3]
    if RAGGED:
        return tl.load(pointers, mask=inside, other=other)
    return tl.load(pointers)
