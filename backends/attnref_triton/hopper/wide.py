r"""Attention backward for Hopper with wide heads: more than 128 columns.

**The naive form** is that of `backward`, and so is everything around it: the rows
laid out before, the sum of `dq` in memory, and who copies.

**What is different.** `dk` and `dv` of 128 keys and 256 columns would take all registers
of a multiprocessor. So a program has 64 keys, and its eight warps share every product by
columns: of `s^T` and `dp^T`, whose columns are queries, and of the accumulators. Then no
group of warps has all of a row of `p^T` and `dS^T`, and both are left factors in shared
memory instead of in registers.

**Room.** With 256 columns in keys and values a tile of 64 queries takes 32 KB, and so do one
of `dout` and half of one of `dq` in float32; a second tile of queries is all that fits
beside them. `dout` is needed first and done with first: the next tile of it is copied while
`dk` and the second half of `dq` are multiplied, and the scores of the next step.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from attnref_triton.hopper.backward import (
    FAR,
    INF,
    add_to_global,
    clear,
    copy_queries,
    following,
    hide,
    is_ragged,
    keep,
    lowered,
    placed,
    row_of,
    share_of,
)

KEYS = gl.constexpr(64)


@gluon.jit(
    do_not_specialize=[
        "token_strides", "first", "last", "n", "Sq", "Sk", "tiles", "heads", "group", "lines",
        "together", "padded",
    ]
)  # fmt: skip
def wide_kernel(
    q, k, v, dout, q_tails, do_tails, q_side, k_side, offsets, rows, sums, dk, dv, dk_to, dv_to,
    token_strides, first, last, n, Sq, Sk, tiles, heads, group, lines, together, padded,
    bend, exponent, scale,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, DO_STAGES: gl.constexpr, D: gl.constexpr,
    DV: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_DV: gl.constexpr, LEFT: gl.constexpr,
    RIGHT: gl.constexpr, OFFSET: gl.constexpr, CAPPED: gl.constexpr,
):  # fmt: skip
    """Compute `dk` and `dv` of one tile of keys, and add its part of `dq`.

    Arguments are those of `backward.gradients_kernel`, but for `STAGES`, of queries and
    of `dout`.
    """
    HALF: gl.constexpr = BLOCK_D // 2
    k_s = gl.allocate_shared_memory(k.dtype, [1, 1, KEYS, BLOCK_D], k.layout)
    v_s = gl.allocate_shared_memory(k.dtype, [1, 1, KEYS, BLOCK_DV], v.layout)
    q_s = gl.allocate_shared_memory(q.dtype, [STAGES, 1, 1, BLOCK_M, BLOCK_D], q.layout)
    do_s = gl.allocate_shared_memory(q.dtype, [DO_STAGES, 1, 1, BLOCK_M, BLOCK_DV], dout.layout)
    lse_s = gl.allocate_shared_memory(gl.float32, [STAGES, 1, BLOCK_M], rows.layout)
    delta_s = gl.allocate_shared_memory(gl.float32, [DO_STAGES, 1, BLOCK_M], rows.layout)
    exchange: gl.constexpr = gl.NVMMASharedLayout(128, 16, rank=2)
    p_s = gl.allocate_shared_memory(q.dtype, [KEYS, BLOCK_M], exchange)
    ds_s = gl.allocate_shared_memory(q.dtype, [KEYS, BLOCK_M], exchange)
    dq_s = gl.allocate_shared_memory(gl.float32, [BLOCK_M, HALF], sums.layout)
    bar: gl.constexpr = mbarrier.MBarrierLayout()
    kv_full = gl.allocate_shared_memory(gl.int64, [1], bar)
    q_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    q_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    do_full = gl.allocate_shared_memory(gl.int64, [DO_STAGES, 1], bar)
    do_free = gl.allocate_shared_memory(gl.int64, [DO_STAGES, 1], bar)
    mbarrier.init(kv_full, count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(q_full.index(i), count=1)
        mbarrier.init(q_free.index(i), count=1)
    for i in gl.static_range(DO_STAGES):
        mbarrier.init(do_full.index(i), count=1)
        mbarrier.init(do_free.index(i), count=1)
    fence_async_shared()

    PACKED: gl.constexpr = k_side[0] is not None
    CUT: gl.constexpr = PACKED or k_side[1] is not None
    b, g, j0, k_start, keys, extent, q_start, queries, base, first, last, i_low, count = share_of(
        q_side, k_side, offsets, first, last, n, Sq, Sk, tiles, heads, lines // group, together,
        BLOCK_M, KEYS, LEFT, RIGHT, OFFSET,
    )  # fmt: skip
    gl.warp_specialize(
        [
            (consume, (
                sums, dk, dv, dk_to, dv_to, token_strides, k_s, v_s, q_s, do_s, lse_s, delta_s,
                p_s, ds_s, dq_s, kv_full, q_full, do_full, q_free, do_free, b, g, j0, k_start,
                i_low, base, count, first, last, keys, extent, heads, group, padded,
                bend, exponent, scale,
                BLOCK_M, STAGES, DO_STAGES, D, DV, BLOCK_D, BLOCK_DV, LEFT, RIGHT, CAPPED, CUT,
                PACKED,
            )),
            (produce, (
                q, k, v, dout, q_tails, do_tails, rows, k_s, v_s, q_s, do_s, lse_s, delta_s,
                kv_full, q_full, do_full, q_free, do_free, b, g, j0, k_start, i_low, q_start,
                base, count, queries, heads, group, lines, BLOCK_M, STAGES, DO_STAGES,
                q_tails is not None, PACKED,
            )),
        ],
        [1], [24],
    )  # fmt: skip


@gluon.jit
def produce(
    q, k, v, dout, q_tails, do_tails, rows, k_s, v_s, q_s, do_s, lse_s, delta_s,
    kv_full, q_full, do_full, q_free, do_free, b, g, j0, k_start, i_low, q_start, base, count,
    queries, heads, group, lines,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, DO_STAGES: gl.constexpr, TAILS: gl.constexpr,
    PACKED: gl.constexpr,
):  # fmt: skip
    """Copy what consumers need, as `backward.produce` does, but `dout` in its own ring."""
    entry, token = placed(b, j0, k_start, PACKED)
    mbarrier.expect(kv_full, k.block_type.nbytes + v.block_type.nbytes)
    tma.async_copy_global_to_shared(k, [entry, g, token, 0], kv_full, k_s)
    tma.async_copy_global_to_shared(v, [entry, g, token, 0], kv_full, v_s)
    at = 0
    member = 0
    for step in range(count * group):
        i0 = i_low + at * BLOCK_M
        h = g * group + member
        line = entry * heads * group + h
        _, row = placed(b, i0, base, PACKED)
        _, token = placed(b, i0, q_start, PACKED)
        cut = i0 + BLOCK_M > queries
        slot = step % STAGES
        mbarrier.wait(q_free.index(slot), ((step // STAGES) & 1) ^ 1)
        full = q_full.index(slot)
        mbarrier.expect(full, q.block_type.nbytes + rows.block_type.nbytes)
        copy_queries(q, q_tails, b, [entry, h, token, 0], cut, full, q_s.index(slot), TAILS)
        tma.async_copy_global_to_shared(rows, [line, row], full, lse_s.index(slot))
        slot = step % DO_STAGES
        mbarrier.wait(do_free.index(slot), ((step // DO_STAGES) & 1) ^ 1)
        full = do_full.index(slot)
        mbarrier.expect(full, dout.block_type.nbytes + rows.block_type.nbytes)
        copy_queries(dout, do_tails, b, [entry, h, token, 0], cut, full, do_s.index(slot), TAILS)
        tma.async_copy_global_to_shared(rows, [lines + line, row], full, delta_s.index(slot))
        at, member = following(at, member, count)


@gluon.jit
def consume(
    sums, dk, dv, dk_to, dv_to, token_strides, k_s, v_s, q_s, do_s, lse_s, delta_s,
    p_s, ds_s, dq_s, kv_full, q_full, do_full, q_free, do_free, b, g, j0, k_start,
    i_low, base, count, first, last, keys, extent, heads, group, padded,
    bend, exponent, scale,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, DO_STAGES: gl.constexpr, D: gl.constexpr,
    DV: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_DV: gl.constexpr, LEFT: gl.constexpr,
    RIGHT: gl.constexpr, CAPPED: gl.constexpr, CUT: gl.constexpr, PACKED: gl.constexpr,
):  # fmt: skip
    """Multiply; in each product four warps have half of the columns."""
    HALF: gl.constexpr = BLOCK_D // 2
    dtype: gl.constexpr = q_s.dtype
    flat: gl.constexpr = gl.NVMMASharedLayout(128, 16, rank=2)
    s_l: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 2], [16, BLOCK_M // 2, 16])
    dk_l: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 2], [16, HALF, 16])
    dv_l: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 2], [16, BLOCK_DV // 2, 16])
    dq_l: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 2], [16, HALF // 2, 16])

    k_tile = k_s._reinterpret(dtype, [KEYS, BLOCK_D], flat)
    v_tile = v_s._reinterpret(dtype, [KEYS, BLOCK_DV], flat)
    # Columns lie in shared memory in blocks of 64, each with all rows: halves lie apart.
    halves = k_s._reinterpret(dtype, [2, KEYS, HALF], flat)
    if CUT:
        mbarrier.wait(kv_full, 0)
        if j0 + KEYS > keys:
            clear(k_tile, keys - j0, BLOCK_D)
            clear(v_tile, keys - j0, BLOCK_DV)
            fence_async_shared()
            gl.thread_barrier()
    dk_acc = gl.zeros([KEYS, BLOCK_D], gl.float32, dk_l)
    dv_acc = gl.zeros([KEYS, BLOCK_DV], gl.float32, dv_l)
    no_sum = gl.zeros([BLOCK_M, HALF], gl.float32, dq_l)
    s = gl.zeros([KEYS, BLOCK_M], gl.float32, s_l)
    total = count * group
    mbarrier.wait(kv_full, 0)
    if total > 0:
        mbarrier.wait(q_full.index(0), 0)
        s = transposed_product(k_s, q_s.index(0), BLOCK_M, D, BLOCK_D)
        s = warpgroup_mma_wait(0, deps=(s,))
    at = 0
    member = 0
    gl.thread_barrier()
    for step in range(total):
        slot = step % STAGES
        do_slot = step % DO_STAGES
        q_tile = q_s.index(slot)._reinterpret(dtype, [BLOCK_M, BLOCK_D], flat)
        do_tile = do_s.index(do_slot)._reinterpret(dtype, [BLOCK_M, BLOCK_DV], flat)
        i0 = i_low + at * BLOCK_M
        mbarrier.wait(do_full.index(do_slot), (step // DO_STAGES) & 1)
        dp = transposed_product(v_s, do_s.index(do_slot), BLOCK_M, DV, BLOCK_DV)
        if CAPPED:
            s = lowered(s, bend)
        if is_ragged(i0, j0, first, last, keys, BLOCK_M, KEYS, LEFT, RIGHT):
            s = hide(s, i0, j0, first, last, keys, LEFT, RIGHT, FAR if CAPPED else -INF)
        p = gl.exp2(s * exponent - row_of(lse_s.index(slot), s_l, BLOCK_M))
        p_s.store(p.to(dtype))
        if CAPPED:
            p *= s * (2.0 - s)
        dp = warpgroup_mma_wait(0, deps=(dp,))
        ds = p * (dp - row_of(delta_s.index(do_slot), s_l, BLOCK_M))
        ds_s.store(ds.to(dtype))
        fence_async_shared()
        tma.store_wait(0)
        gl.thread_barrier()  # the last tile of `dq` was read, and `p` and `dS` are written
        dq = warpgroup_mma(
            ds_s.permute((1, 0)), halves.index(0), no_sum, use_acc=False, is_async=True
        )
        dv_acc = warpgroup_mma(p_s, do_tile, dv_acc, is_async=True)
        dk_acc = warpgroup_mma(ds_s, q_tile, dk_acc, is_async=True)
        dq, dv_acc = warpgroup_mma_wait(1, deps=(dq, dv_acc))
        dq_s.store(dq)
        fence_async_shared()
        mbarrier.arrive(do_free.index(do_slot))
        entry, row = placed(b, i0, base, PACKED)
        row += ((entry * heads + g) * group + member) * padded
        add_to_global(sums, [row, 0], dq_s)
        dq = warpgroup_mma(
            ds_s.permute((1, 0)), halves.index(1), no_sum, use_acc=False, is_async=True
        )
        after = step + 1
        ahead = after % STAGES
        mbarrier.wait(q_full.index(ahead), (after // STAGES) & 1, pred=after < total)
        s = transposed_product(k_s, q_s.index(ahead), BLOCK_M, D, BLOCK_D)
        dq, dk_acc = warpgroup_mma_wait(1, deps=(dq, dk_acc))
        tma.store_wait(0)
        mbarrier.arrive(q_free.index(slot))
        dq_s.store(dq)
        fence_async_shared()
        gl.thread_barrier()
        add_to_global(sums, [row, HALF], dq_s)
        at, member = following(at, member, count)
        s = warpgroup_mma_wait(0, deps=(s,))
    gl.thread_barrier()  # others' products may read keys until here
    k_tile.store((dk_acc * scale).to(dtype))
    v_tile.store(dv_acc.to(dtype))
    fence_async_shared()
    gl.thread_barrier()
    if PACKED and j0 + KEYS > extent:  # what follows is another sequence's
        keep(dk_to, token_strides[0], k_tile, g, k_start + j0, extent - j0, dk.shape[3])
        keep(dv_to, token_strides[1], v_tile, g, k_start + j0, extent - j0, dv.shape[3])
    else:
        entry, token = placed(b, j0, k_start, PACKED)
        tma.async_copy_shared_to_global(dk, [entry, g, token, 0], k_s)
        tma.async_copy_shared_to_global(dv, [entry, g, token, 0], v_s)
    tma.store_wait(0)


@gluon.jit
def transposed_product(x, y, BLOCK_M: gl.constexpr, COLUMNS: gl.constexpr, WIDTH: gl.constexpr):
    """Issue `x y^T` for tiles of keys and of queries of so many columns, and do not wait.

    Columns lie in blocks of 64, and those that are zeros throughout are left out.
    """
    s_l: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 2], [16, BLOCK_M // 2, 16])
    flat: gl.constexpr = gl.NVMMASharedLayout(128, 16, rank=2)
    PARTS: gl.constexpr = COLUMNS // 64
    s = gl.zeros([KEYS, BLOCK_M], gl.float32, s_l)
    if PARTS * 64 == WIDTH:
        x = x._reinterpret(x.dtype, [KEYS, WIDTH], flat)
        y = y._reinterpret(x.dtype, [BLOCK_M, WIDTH], flat)
        return warpgroup_mma(x, y.permute((1, 0)), s, use_acc=False, is_async=True)
    x = x._reinterpret(x.dtype, [WIDTH // 64, KEYS, 64], flat)
    y = y._reinterpret(x.dtype, [WIDTH // 64, BLOCK_M, 64], flat)
    for part in gl.static_range(PARTS):
        right = y.index(part).permute((1, 0))
        s = warpgroup_mma(x.index(part), right, s, use_acc=part > 0, is_async=True)
    return s
