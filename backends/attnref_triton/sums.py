r"""Gradients that are sums over rows: of a broadcast bias, and of sinks.

**Counted.** A dense bias's gradient is `dS` itself, and the pass over queries writes it. A
broadcast one is a sum of `dS` over batch, heads, queries or keys. To write `dS` out first
would take `4 B Hq Sq Sk` bytes; here every program owns one tile of the *bias*, visits all
tiles of scores that it was added to, and keeps their sum in registers, for two products
each. Nothing is larger than the bias, but for `parts` copies of it where it has too few
tiles to occupy the chip.

A sink's gradient is `sum exp(sink - lse) (dlse - delta)` over the rows of its head (D4), of
which the pass over queries left `delta - dlse` behind.

Both add up in one fixed order, in float32 (E3).
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
    clamp,
    hide,
    inside,
    keys_seen,
    other_side,
    score,
    strided,
    tokens_of,
    weight,
    within,
)


@triton.jit(do_not_specialize=NUMBERS)
def bias_kernel(
    q, k, v, lse, delta, dout, dbias, mask, bias,
    strides, row_strides, mask_strides, bias_strides, dbias_strides, q_side, k_side,
    offset, left: tl.int64, right: tl.int64, scale, softcap, group, Sq, Sk, D, DV,
    owned, summed, part_size,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, SHAPE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, OFFSET: tl.constexpr, PRECISION: tl.constexpr,
    MASK_EIGHTS: tl.constexpr, BIAS_EIGHTS: tl.constexpr,
):  # fmt: skip
    """Sum `dS` over the tiles that share one tile of the bias.

    `owned` counts the bias's own heads, rows and columns of tiles; `summed` the batch
    entries, heads, rows and columns that share it, and `chunk` of them are this part's.
    """
    D *= 8
    DV *= 8
    q = tokens_of(q, strides[0])
    k = tokens_of(k, strides[1])
    v = tokens_of(v, strides[2])
    dout = tokens_of(dout, strides[3])
    lse = strided(lse, row_strides[0], False)
    delta = strided(delta, row_strides[1], False)
    bias = strided(bias, bias_strides, BIAS_EIGHTS)
    dbias = strided(dbias, dbias_strides, False)
    mask = None if mask is None else strided(mask, mask_strides, MASK_EIGHTS)
    pid = tl.program_id(0)
    own_heads, own_rows, own_columns = owned
    batches, heads, rows, columns, chunk = summed
    tj = pid % own_columns
    ti = pid // own_columns % own_rows
    own_head = pid // own_columns // own_rows % own_heads
    own_b = pid // own_columns // own_rows // own_heads
    part = tl.program_id(1)
    total = batches * heads * rows * columns
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    start = part * chunk
    stop = tl.minimum(start + chunk, total)
    if ROWS and COLUMNS and OFFSET == "number":  # one tile of scores in each head, seen or not
        first, last = band(0, offset, left, right, Sq, Sk, OFFSET)
        if not meets(ti * BLOCK_M, tj * BLOCK_N, first, last, BLOCK_M, BLOCK_N, LEFT, RIGHT):
            stop = start
    for t in range(start, stop):
        i0 = (ti + t // columns % rows) * BLOCK_M
        j0 = (tj + t % columns) * BLOCK_N
        h = own_head + t // columns // rows % heads
        b = own_b + t // columns // rows // heads
        _, queries = other_side(b, q_side[0], q_side[1], 0, Sq)
        _, keys = other_side(b, k_side[0], k_side[1], 0, Sk)
        first, last = band(b, offset, left, right, queries, keys, OFFSET)
        if (ROWS and COLUMNS) or (
            (i0 < queries) & (j0 < keys) & meets(i0, j0, first, last, BLOCK_M, BLOCK_N, LEFT, RIGHT)
        ):  # without a branch, so that loads are taken ahead
            acc += score_gradient(
                q, k, v, lse, delta, dout, mask, bias, b, h, h // group, i0, j0, queries, keys,
                first, last, scale, softcap, D, DV, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_DV, SHAPE,
                LEFT, RIGHT, PRECISION, MASK_EIGHTS, BIAS_EIGHTS,
            )  # fmt: skip
    to = at(dbias, own_b, own_head, 0) + tl.cast(part, tl.int64) * part_size
    i = ti * BLOCK_M + tl.arange(0, BLOCK_M)
    j = tj * BLOCK_N + tl.arange(0, BLOCK_N)
    kind = dbias[0].dtype.element_ty
    if ROWS and COLUMNS:
        tl.store(
            to + i.to(tl.int64)[:, None] * dbias[3] + j[None, :] * dbias[4], acc.to(kind),
            mask=(i < Sq)[:, None] & (j < Sk)[None, :],
        )  # fmt: skip
    elif ROWS:
        tl.store(to + i.to(tl.int64) * dbias[3], tl.sum(acc, axis=1).to(kind), mask=i < Sq)
    elif COLUMNS:
        tl.store(to + j * dbias[4], tl.sum(acc, axis=0).to(kind), mask=j < Sk)
    else:
        tl.store(to, tl.sum(tl.sum(acc, axis=1), axis=0).to(kind))


@triton.jit
def meets(
    i0, j0, first, last, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    LEFT: tl.constexpr, RIGHT: tl.constexpr,
):  # fmt: skip
    """Tell whether a band passes through a tile of scores."""
    met = i0 >= 0
    if LEFT:
        met &= j0 + BLOCK_N > i0 + first
    if RIGHT:
        met &= j0 <= i0 + BLOCK_M - 1 + last
    return met


@triton.jit
def score_gradient(
    q, k, v, lse, delta, dout, mask, bias, b, h, kv_head, i0, j0, queries, keys, first, last,
    scale, softcap, D, DV, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, SHAPE: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    PRECISION: tl.constexpr, MASK_EIGHTS: tl.constexpr, BIAS_EIGHTS: tl.constexpr,
):  # fmt: skip
    """Compute `dS` of one tile of scores."""
    i = i0 + tl.arange(0, BLOCK_M)
    j = j0 + tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_DV)
    real = (i < queries)[:, None]
    here = (j < keys)[:, None]
    q_tile = tl.load(
        at(q, b, h, i)[:, None] + d[None, :] * q[4], mask=real & (d < D)[None, :], other=0.0
    )
    do_tile = tl.load(
        at(dout, b, h, i)[:, None] + e[None, :] * dout[4], mask=real & (e < DV)[None, :], other=0.0
    )
    k_tile = tl.load(
        at(k, b, kv_head, j)[:, None] + d[None, :] * k[4], mask=here & (d < D)[None, :], other=0.0
    )
    v_tile = tl.load(
        at(v, b, kv_head, j)[:, None] + e[None, :] * v[4], mask=here & (e < DV)[None, :], other=0.0
    )
    row_lse = tl.load(at(lse, b, h, i), mask=i < queries, other=-INF)
    row_delta = tl.load(at(delta, b, h, i), mask=i < queries, other=0.0)
    level = tl.where(row_lse == -INF, INF, row_lse)
    exponent = binary(level, SHAPE)
    level *= exponent
    mask_rows = None if mask is None else at(mask, b, h, i[:, None])
    dot = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION)
    guard = real & inside(j, keys, BIAS_EIGHTS)[None, :]
    bias_rows = at(bias, b, h, i[:, None])
    s = score(dot, bias, bias_rows, j[None, :], guard, scale, softcap, SHAPE)
    p = weight(s, level[:, None], exponent[:, None])
    lowest, highest = keys_seen(i, first, last, queries, keys, LEFT, RIGHT)
    p = tl.where(within(j[None, :], (lowest[:, None], highest[:, None]), LEFT), p, 0.0)
    guard = real & inside(j, keys, MASK_EIGHTS)[None, :]
    p = hide(p, 0.0, mask, mask_rows, j[None, :], guard)
    dp = tl.dot(do_tile, tl.trans(v_tile), input_precision=PRECISION)
    return p * (dp - row_delta[:, None])


@triton.jit(do_not_specialize=NUMBERS)
def sinks_kernel(
    lse, delta, sinks, dsinks, row_strides, q_side, n, batches, Sq, BLOCK: tl.constexpr
):  # fmt: skip
    """Sum what the rows of one head say to its sink."""
    lse = strided(lse, row_strides[0], False)
    delta = strided(delta, row_strides[1], False)
    head = tl.program_id(0)
    sink = tl.load(sinks + head).to(tl.float32)
    starts, lens = q_side
    acc = tl.zeros([BLOCK], tl.float32)
    for t in range(batches * tl.cdiv(Sq, BLOCK)):
        b = t // tl.cdiv(Sq, BLOCK)
        i = t % tl.cdiv(Sq, BLOCK) * BLOCK + tl.arange(0, BLOCK)
        length = Sq
        if starts is not None:
            length = clamp(tl.load(starts + n).to(tl.int32), Sq)
        if lens is not None:
            length = clamp(tl.load(lens + b).to(tl.int32), Sq)
        e = tl.load(at(lse, b, head, i), mask=i < length, other=-INF)
        taken = tl.load(at(delta, b, head, i), mask=i < length, other=0.0)
        told = tl.exp2((sink - e) * LOG2E) * taken
        acc -= tl.where(e == -INF, 0.0, told)
    tl.store(dsinks + head, tl.sum(acc, axis=0).to(dsinks.dtype.element_ty))
