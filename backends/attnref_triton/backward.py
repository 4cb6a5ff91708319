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

from attnref_triton.tiles import (
    INF,
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
    queries_of,
    queries_seeing,
    score,
    slope,
    strided,
    tokens_of,
    unit_of,
    visited,
    visits,
    weight,
    within,
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
    dlse = None if dlse is None else strided(dlse, row_strides[2], False)
    dbias = None if dbias is None else strided(dbias, dbias_strides, DBIAS_EIGHTS)
    mask = None if mask is None else strided(mask, mask_strides, MASK_EIGHTS)
    bias = None if bias is None else strided(bias, bias_strides, BIAS_EIGHTS)
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

    mask_rows = None if mask is None else at(mask, b, head, i[:, None])
    bias_rows = None if bias is None else at(bias, b, head, i[:, None])
    dbias_rows = None if dbias is None else at(dbias, b, head, i[:, None])
    k = (at(k, b, head // group, k_start), k[3], k[4])
    v = (at(v, b, head // group, k_start), v[3], v[4])
    lowest, highest = keys_seen(i, first, last, queries, keys, LEFT, RIGHT)
    limits = (lowest[:, None], highest[:, None])
    unit = unit_of(scale, softcap, SHAPE)
    level = tl.where(seeing, row_lse, INF)
    exponent = binary(level, SHAPE)
    level *= exponent
    exponent *= unit
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for RAGGED in tl.static_range(2):  # first the whole tiles, then the others
        acc = through_keys(
            acc, q_tile, do_tile, level[:, None], exponent[:, None], row_delta[:, None], k, v,
            mask, mask_rows, bias, bias_rows, dbias, dbias_rows, rows, real, limits, keys,
            (low, a, z, high), scale, softcap, D, DV, BLOCK_N, BLOCK_D, BLOCK_DV, SHAPE, RAGGED,
            LEFT, PRECISION, WHOLE, MASK_EIGHTS, BIAS_EIGHTS, DBIAS_EIGHTS,
        )  # fmt: skip
    tl.store(
        at(dq, b, head, q_start + i)[:, None] + d[None, :] * dq[4],
        (acc * scale).to(dq[0].dtype.element_ty), mask=rows[:, None] & (d < D)[None, :],
    )  # fmt: skip


@triton.jit
def through_keys(
    acc, q_tile, do_tile, level, exponent, delta, k, v, mask, mask_rows, bias, bias_rows,
    dbias, dbias_rows, rows, real, limits, keys, reach, scale, softcap, D, DV,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, SHAPE: tl.constexpr,
    RAGGED: tl.constexpr, LEFT: tl.constexpr, PRECISION: tl.constexpr, WHOLE: tl.constexpr,
    MASK_EIGHTS: tl.constexpr, BIAS_EIGHTS: tl.constexpr, DBIAS_EIGHTS: tl.constexpr,
):  # fmt: skip
    """Add up `dA k` over whole tiles of keys, or over ragged ones."""
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    dv = tl.arange(0, BLOCK_DV)
    for t in tl.range(visits(reach, BLOCK_N, RAGGED), num_stages=1 if RAGGED else None):
        j0 = visited(t, reach, BLOCK_N, RAGGED)
        j = (j0 + n)[None, :]
        here = (j0 + n < keys)[:, None]
        k_tile = load(
            k[0] + j0.to(tl.int64) * k[1] + n[:, None] * k[1] + d[None, :] * k[2],
            here, (d < D)[None, :], RAGGED, not WHOLE,
        )  # fmt: skip
        v_tile = load(
            v[0] + j0.to(tl.int64) * v[1] + n[:, None] * v[1] + dv[None, :] * v[2],
            here, (dv < DV)[None, :], RAGGED, not WHOLE,
        )  # fmt: skip
        dot = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION)
        guard = real[:, None] & inside(j, keys, BIAS_EIGHTS)
        s = score(dot, bias, bias_rows, j, guard, scale, softcap, SHAPE)
        p = weight(s, level, exponent)
        if RAGGED:
            p = tl.where(within(j, limits, LEFT), p, 0.0)
        guard = real[:, None] & inside(j, keys, MASK_EIGHTS)
        p = hide(p, 0.0, mask, mask_rows, j, guard)
        dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
        ds = p * (dp - delta)
        if dbias is not None:
            kind = dbias[0].dtype.element_ty
            guard = rows[:, None] & inside(j, keys, DBIAS_EIGHTS)
            tl.store(dbias_rows + j * dbias[4], ds.to(kind), mask=guard)
        if softcap is not None:
            ds *= slope(s, dot, scale, softcap, SHAPE)
        acc = tl.dot(ds.to(k_tile.dtype), k_tile, acc, input_precision=PRECISION)
    return acc


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
    mask = None if mask is None else strided(mask, mask_strides, MASK_EIGHTS)
    bias = None if bias is None else strided(bias, bias_strides, BIAS_EIGHTS)
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
    sources = (q, dout, lse, delta, b, head * group, group, q_start)
    lowest, highest = queries_seeing(j, first, last, queries, keys, LEFT, RIGHT)
    limits = (lowest[:, None], highest[:, None])
    for RAGGED in tl.static_range(2):  # first the whole tiles, then the others
        dk_acc, dv_acc = through_queries(
            dk_acc, dv_acc, k_tile, v_tile, sources, mask, bias, j, limits, queries, keys,
            (low, a, z, high), scale, softcap, D, DV, BLOCK_M, BLOCK_D, BLOCK_DV, GROUPED, SHAPE,
            RAGGED, RIGHT, PRECISION, WHOLE, MASK_EIGHTS, BIAS_EIGHTS,
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
    dk_acc, dv_acc, k_tile, v_tile, sources, mask, bias, j, limits, queries, keys, reach,
    scale, softcap, D, DV, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    GROUPED: tl.constexpr, SHAPE: tl.constexpr, RAGGED: tl.constexpr, RIGHT: tl.constexpr,
    PRECISION: tl.constexpr, WHOLE: tl.constexpr, MASK_EIGHTS: tl.constexpr,
    BIAS_EIGHTS: tl.constexpr,
):  # fmt: skip
    """Add up `dA^T q` and `p^T dout` over whole tiles of queries, or over ragged ones.

    One loop walks the heads of a group, too. A loop around this one would keep the
    accumulators and every address of it alive at once, which is more than the registers hold.
    """
    q, dout, lse, delta, b, h, group, q_start = sources
    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_DV)
    unit = unit_of(scale, softcap, SHAPE)
    count = visits(reach, BLOCK_M, RAGGED)
    total = count
    if GROUPED:
        total = count * group
    for step in tl.range(total, num_stages=1 if RAGGED else None):
        t = step
        head = h
        if GROUPED:
            t = step % count
            head = h + step // count
        i0 = visited(t, reach, BLOCK_M, RAGGED)
        i = (i0 + m)[None, :]
        here = i0 + m < queries
        q_tile = load(
            at(q, b, head, q_start + i0) + m[:, None] * q[3] + d[None, :] * q[4],
            here[:, None], (d < D)[None, :], RAGGED, not WHOLE,
        )  # fmt: skip
        do_tile = load(
            at(dout, b, head, q_start + i0) + m[:, None] * dout[3] + e[None, :] * dout[4],
            here[:, None], (e < DV)[None, :], RAGGED, not WHOLE,
        )  # fmt: skip
        # First what dS multiplies, then the weights: both products of a step follow one another,
        # and so do the two that add up, and neither delta nor lse outlives its use.
        row_delta = load_row(delta, b, head, q_start + i0, m, here, 0.0, RAGGED)
        dp = tl.dot(v_tile, tl.trans(do_tile), input_precision=PRECISION) - row_delta[None, :]
        row_lse = load_row(lse, b, head, q_start + i0, m, here, -INF, RAGGED)
        level = tl.where(row_lse == -INF, INF, row_lse)
        exponent = binary(level, SHAPE)
        level *= exponent
        exponent *= unit
        dot = tl.dot(k_tile, tl.trans(q_tile), input_precision=PRECISION)
        bias_rows = None if bias is None else at(bias, b, head, i)
        guard = inside(j, keys, BIAS_EIGHTS)[:, None] & here[None, :]
        s = score(dot, bias, bias_rows, j[:, None], guard, scale, softcap, SHAPE)
        p = weight(s, level[None, :], exponent[None, :])
        if RAGGED:
            p = tl.where(within(i, limits, RIGHT), p, 0.0)
        mask_rows = None if mask is None else at(mask, b, head, i)
        guard = inside(j, keys, MASK_EIGHTS)[:, None] & here[None, :]
        p = hide(p, 0.0, mask, mask_rows, j[:, None], guard)
        ds = p * dp
        if softcap is not None:
            ds *= slope(s, dot, scale, softcap, SHAPE)
        dv_acc = tl.dot(p.to(do_tile.dtype), do_tile, dv_acc, input_precision=PRECISION)
        dk_acc = tl.dot(ds.to(q_tile.dtype), q_tile, dk_acc, input_precision=PRECISION)
    return dk_acc, dv_acc


@triton.jit
def load_row(x, b, head, row, m, here, other, RAGGED: tl.constexpr):
    """Load one number for each row of a tile."""
    pointers = at(x, b, head, row) + m * x[3]
    if RAGGED:
        return tl.load(pointers, mask=here, other=other)
    return tl.load(pointers)
