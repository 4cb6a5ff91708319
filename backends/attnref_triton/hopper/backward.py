r"""Attention backward for Hopper: one pass over the pairs, `dq` added up in memory.

**Counted.** The five products that `backward` cannot do without, `10 D` operations for each
visible pair, and one power of two; `backward` pays for seven products to have nobody add into
anybody else's result. Here the programs, one for each tile of keys, share `dq`: a buffer in
float32, into which each adds a tile for every tile of queries that it visits.

**Naive form.** For a tile of keys, over tiles of queries, with everything transposed so that
`p^T` and `dS^T` are left factors and stay in registers:

    s^T  = k q^T                p^T  = 2^(s^T - lse)
    dp^T = v dout^T             dS^T = p^T (dp^T - delta)
    dv  += p^T dout             dk  += dS^T q             dq += dS k

**The kernel** is that, given to nine warps. One, `produce`, has TMA copy tiles of `q` and
`dout`, and with them the rows of `lse` and `delta`, into rings in shared memory. The other
eight, `consume`, have the tile of keys: 64 keys for each four of them in every product but
the last, for which they exchange `dS` through shared memory. So the sum over the keys of a
tile is taken by the tensor cores, and a program adds to `dq` once for a tile of queries.

**What runs under what.** The powers of a tile are taken while `dp^T` is multiplied, `dS^T`
while `dv` is, and the tile of `dq` is written while `dk` is. For the first of these, `s^T`
must be there already: it is multiplied one tile ahead, behind the barrier at which
`dS` is exchanged. Nothing is in flight across the end of the loop, which the assembler would
not allow.

**Adding** is TMA's, which reads a tile from shared memory and adds it in the L2 cache. In which
order the programs' tiles arrive there is up to the chip, so the last bits of `dq` vary from
call to call; those of `dk` and `dv` do not.

**Before and after**, `rows_kernel` computes `delta = rowsum(out dout) - dlse`, lays it and
`lse` out in rows padded to whole tiles, where a row past the end or one that sees nobody has
an infinite `lse` and hence no weights, and clears the buffer; `scale_kernel` brings `dq` from
the buffer to where it is due.

**Lengths** are known to the device only. What lies past one may be anything, NaN included, and
no weight of zero silences that (C4). So `rows_kernel` copies the last queries of an entry, with
zeros behind them, and that copy is what `produce` takes; keys are cleared where they lie in
shared memory. Heads of more than 128 columns are for `wide`.
"""

import triton
import triton.language as tl
from triton._C.libtriton import ir
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language._core import builtin
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from attnref_triton.tiles import at, locate, strided, tokens_of

LOG2E = 1.4426950408889634
"""Turns powers of e into powers of two."""

RATE = gl.constexpr(LOG2E)
INF = gl.constexpr(float("inf"))
KEYS = gl.constexpr(128)
FAR = gl.constexpr(1e18)
"""Stands for a hidden score beneath a cap: its power is zero, and its square is finite."""


@builtin
def add_to_global(desc, coord, src, _semantic=None):
    """Have TMA add a tile in shared memory to one in global memory; Gluon has no name for it."""
    coord = _semantic._convert_to_ir_values(coord, require_i64=False)
    _semantic.builder.create_async_tma_reduce(
        ir.DESCRIPTOR_REDUCE_KIND.ADD, desc.handle, coord, src.handle
    )


@triton.jit(do_not_specialize=["n", "heads", "lines", "tiles", "Sq", "padded"])
def rows_kernel(
    q, out, dout, lse, dlse, delta, rows, sums, q_tails, do_tails, strides, row_strides, q_side,
    origin, rate, n, heads, lines, tiles, Sq, padded,
    BLOCK_M: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Lay out `lse` and `delta` of a tile of rows, and clear its part of `dq`.

    `rows` is `(2, B Hq, padded)`, `sums` is `(B Hq, padded, D)`; tiles are those of
    `tiles.locate`; `lse` is laid out from `origin` on, times `rate`. Where a tile is cut by the
    length of its entry, what of its queries is real goes to `q_tails` and `do_tails`,
    `(n, Hq, BLOCK_M, D or DV)`. A sink wants `delta` as it is.
    """
    out = tokens_of(out, strides[0])
    dout = tokens_of(dout, strides[1])
    lse = strided(lse, row_strides[0], False)
    pid = tl.program_id(0)
    line = pid // tiles
    b, h, tile, start, _, queries = locate(pid, tiles, heads, q_side[0], q_side[1], n, Sq, BLOCK_M)
    i0 = tile * BLOCK_M
    m = tl.arange(0, BLOCK_M)
    i = i0 + m
    d = tl.arange(0, BLOCK_D)
    real = i < queries
    whole = real[:, None] & (d < DV)[None, :]
    o_tile = tl.load(at(out, b, h, start + i)[:, None] + d[None, :], mask=whole, other=0.0)
    do_tile = tl.load(at(dout, b, h, start + i)[:, None] + d[None, :], mask=whole, other=0.0)
    taken = tl.sum(o_tile.to(tl.float32) * do_tile.to(tl.float32), axis=1)
    if dlse is not None:
        dlse = strided(dlse, row_strides[1], False)
        taken -= tl.load(at(dlse, b, h, start + i), mask=real, other=0.0)
    level = tl.load(at(lse, b, h, start + i), mask=real, other=float("-inf"))
    seeing = level != float("-inf")
    taken = tl.where(seeing, taken, 0.0)
    if delta is not None:
        delta = strided(delta, row_strides[2], False)
        tl.store(at(delta, b, h, start + i), taken, mask=real)
    row = line.to(tl.int64) * padded + pid % tiles * BLOCK_M + m
    tl.store(rows + row, tl.where(seeing, (level - origin) * rate, float("inf")))
    tl.store(rows + lines.to(tl.int64) * padded + row, taken)
    columns = (d < D)[None, :]
    tl.store(
        sums + row[:, None] * D + d[None, :], tl.zeros([BLOCK_M, BLOCK_D], tl.float32), mask=columns
    )
    if q_tails is not None:
        cut = (i0 < queries) & (queries < i0 + BLOCK_M)
        q = tokens_of(q, strides[2])
        there = real[:, None] & columns & cut
        q_tile = tl.load(at(q, b, h, start + i)[:, None] + d[None, :], mask=there, other=0.0)
        # Of packed sequences `b` does not say where in an array an entry is, but which it is.
        row = ((b.to(tl.int64) * heads + h) * BLOCK_M + m)[:, None]
        tl.store(q_tails + row * D + d[None, :], q_tile, mask=columns & cut)
        tl.store(do_tails + row * DV + d[None, :], do_tile, mask=(d < DV)[None, :] & cut)


@triton.jit(do_not_specialize=["n", "heads", "tiles", "Sq", "padded"])
def scale_kernel(
    sums, dq, strides, q_side, n, heads, tiles, Sq, padded, scale,
    BLOCK_M: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Scale and round a tile of `dq`; past a length it is clear (C4)."""
    dq = tokens_of(dq, strides)
    pid = tl.program_id(0)
    b, h, tile, start, extent, _ = locate(pid, tiles, heads, q_side[0], None, n, Sq, BLOCK_M)
    m = tl.arange(0, BLOCK_M)
    i = tile * BLOCK_M + m
    d = tl.arange(0, BLOCK_D)
    real = (i < extent)[:, None] & (d < D)[None, :]
    row = (pid // tiles).to(tl.int64) * padded + pid % tiles * BLOCK_M + m
    x = tl.load(sums + row[:, None] * D + d[None, :], mask=real)
    to = at(dq, b, h, start + i)[:, None] + d[None, :]
    tl.store(to, (x * scale).to(dq[0].dtype.element_ty), mask=real)


@gluon.jit(
    do_not_specialize=[
        "token_strides", "first", "last", "n", "Sq", "Sk", "tiles", "heads", "group", "lines",
        "together", "padded",
    ]
)  # fmt: skip
def gradients_kernel(
    q, k, v, dout, q_tails, do_tails, q_side, k_side, offsets, rows, sums, dk, dv, dk_to, dv_to,
    token_strides, extra, shared, dextra, first, last, n, Sq, Sk, tiles, heads, group, lines,
    together, padded, bend, exponent, scale,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, BLOCK_D: gl.constexpr, LEFT: gl.constexpr,
    RIGHT: gl.constexpr, OFFSET: gl.constexpr, CAPPED: gl.constexpr, TABLED: gl.constexpr,
    KEYED: gl.constexpr,
):  # fmt: skip
    """Compute `dk` and `dv` of one tile of keys, and add its part of `dq`.

    `q`, `k`, `v`, `dout`, `dk` and `dv` are descriptors of `(B, H, S, D)`; `rows` is one of
    `(2 B Hq, padded)`, and `sums` of `(B Hq padded, D)`. Packed sequences are one entry, whose
    tiles are those of `tiles.locate`, and have `dk` and `dv` as pointers, too. Row `i` sees the
    keys from `i + first` to `i + last`, to which is added what `OFFSET` says of an entry. Powers
    are those of the score times `exponent`, or of one minus its tangent, for which it is
    multiplied by `bend` first. There are `lines` query heads in all, `heads` of keys in an
    entry, of which `together` are worked on at a time.

    `TABLED` says what `extra` is: a `"bias"`, beside which `exponent` makes a product a natural
    score and `lse` is natural, a `"mask"`, or `"no"`. It is a descriptor, of which `shared` says
    along which axes it is no single one, or where it is `KEYED`, the same for all queries,
    a pointer, and `shared` its strides of entries and heads. The gradient of a bias goes to
    `dextra`: likewise a descriptor, or sums over queries `(B, Hq, Sk)`.
    """
    k_s = gl.allocate_shared_memory(k.dtype, [1, 1, KEYS, BLOCK_D], k.layout)
    v_s = gl.allocate_shared_memory(k.dtype, [1, 1, KEYS, BLOCK_D], v.layout)
    q_s = gl.allocate_shared_memory(q.dtype, [STAGES, 1, 1, BLOCK_M, BLOCK_D], q.layout)
    do_s = gl.allocate_shared_memory(q.dtype, [STAGES, 1, 1, BLOCK_M, BLOCK_D], dout.layout)
    lse_s = gl.allocate_shared_memory(gl.float32, [STAGES, 1, BLOCK_M], rows.layout)
    delta_s = gl.allocate_shared_memory(gl.float32, [STAGES, 1, BLOCK_M], rows.layout)
    exchange: gl.constexpr = gl.NVMMASharedLayout(128, 16, rank=2)
    # As the gradient of a bias lies in memory, if there is one for each score.
    GRADED: gl.constexpr = dextra is not None and not KEYED
    if GRADED:
        ds_s = gl.allocate_shared_memory(q.dtype, [1, 1, BLOCK_M, KEYS], dextra.layout)
    else:
        ds_s = gl.allocate_shared_memory(q.dtype, [KEYS, BLOCK_M], exchange)
    x_s = q_s
    if KEYED:
        x_s = (extra, shared[0], shared[1])
    elif TABLED != "no":
        x_s = gl.allocate_shared_memory(extra.dtype, [STAGES, 1, 1, BLOCK_M, KEYS], extra.layout)
    dq_s = gl.allocate_shared_memory(gl.float32, [BLOCK_M, BLOCK_D], sums.layout)
    bar: gl.constexpr = mbarrier.MBarrierLayout()
    kv_full = gl.allocate_shared_memory(gl.int64, [1], bar)
    q_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    do_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    mbarrier.init(kv_full, count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(q_full.index(i), count=1)
        mbarrier.init(do_full.index(i), count=1)
        mbarrier.init(free.index(i), count=1)
    fence_async_shared()

    PACKED: gl.constexpr = k_side[0] is not None
    CUT: gl.constexpr = PACKED or k_side[1] is not None
    TAILS: gl.constexpr = q_tails is not None
    b, g, j0, k_start, keys, extent, q_start, queries, base, first, last, i_low, count = share_of(
        q_side, k_side, offsets, first, last, n, Sq, Sk, tiles, heads, lines // group, together,
        BLOCK_M, KEYS, LEFT, RIGHT, OFFSET,
    )  # fmt: skip
    gl.warp_specialize(
        [
            (consume, (
                sums, dk, dv, dk_to, dv_to, token_strides, dextra, k_s, v_s, q_s, do_s, x_s, lse_s,
                delta_s, ds_s, dq_s, kv_full, q_full, do_full, free, b, g, j0, k_start, i_low, base,
                count, first, last, keys, extent, heads, group, padded, bend, exponent, scale,
                BLOCK_M, STAGES, BLOCK_D, LEFT, RIGHT, CAPPED, CUT, TAILS, PACKED, TABLED, KEYED,
                GRADED,
            )),
            (produce, (
                q, k, v, dout, q_tails, do_tails, rows, extra, shared, k_s, v_s, q_s, do_s, x_s,
                lse_s, delta_s, kv_full, q_full, do_full, free, b, g, j0, k_start, i_low, q_start,
                base, count, queries, heads, group, lines,
                BLOCK_M, STAGES, TAILS, PACKED, TABLED != "no" and not KEYED,
            )),
        ],
        [1], [24],
    )  # fmt: skip


@gluon.jit
def sequence_of(tile, starts, n, BLOCK: gl.constexpr):
    """Return the sequence of a tile, and the tile in it, as `tiles.locate` does."""
    low = tile * 0
    high = low + n
    while low < high:
        middle = (low + high + 1) // 2
        here = gl.load(starts + middle).to(gl.int32) // BLOCK + middle <= tile
        low = gl.where(here, middle, low)
        high = gl.where(here, high, middle - 1)
    return low, gl.maximum(tile - gl.load(starts + low).to(gl.int32) // BLOCK - low, 0)


@gluon.jit
def bounds_of(b, starts, n, extent):
    """Return the first token and the length of a sequence, within the array (A7)."""
    start = gl.minimum(gl.maximum(gl.load(starts + b).to(gl.int32), 0), extent)
    end = gl.load(starts + gl.minimum(b + 1, n)).to(gl.int32)
    return start, gl.minimum(gl.maximum(end - start, 0), extent - start)


@gluon.jit
def share_of(
    q_side, k_side, offsets, first, last, n, Sq, Sk, tiles, heads, n_heads, together,
    BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, LEFT: gl.constexpr, RIGHT: gl.constexpr,
    OFFSET: gl.constexpr,
):  # fmt: skip
    """Find what a program does, from what only the device knows.

    Return the entry and the head of keys; where its tile begins in the entry, where that begins
    in the array, how many keys are seen and how many written; the same of queries, and where
    the rows of their tiles begin; the band, the first query that is visited, and the tiles.
    """
    PACKED: gl.constexpr = k_side[0] is not None
    line, tile = tile_of(gl.program_id(0), tiles, n_heads, together)
    b = line // heads
    g = line % heads
    q_start, queries = 0, Sq
    k_start, keys = 0, Sk
    extent = Sk
    base = 0
    if PACKED:
        b, tile = sequence_of(tile, k_side[0], n, BLOCK_N)
        q_start, queries = bounds_of(b, q_side[0], n, Sq)
        k_start, keys = bounds_of(b, k_side[0], n, Sk)
        extent = gl.where(b == n, Sk - k_start, keys)
        base = (q_start // BLOCK_M + b) * BLOCK_M
    if q_side[1] is not None:
        queries = gl.minimum(gl.maximum(gl.load(q_side[1] + b).to(gl.int32), 0), Sq)
    if k_side[1] is not None:
        keys = gl.minimum(gl.maximum(gl.load(k_side[1] + b).to(gl.int32), 0), Sk)
    j0 = tile * BLOCK_N
    if OFFSET != "number":
        offset = (keys - queries).to(gl.int64)
        if OFFSET == "array":
            offset = gl.load(offsets + b, mask=b < n, other=0).to(gl.int64)
        first = near(first + offset, Sq, Sk)
        last = near(last + offset, Sq, Sk)
    i_low, count = visited(j0, first, last, queries, keys, BLOCK_M, BLOCK_N, LEFT, RIGHT)
    if PACKED or k_side[1] is not None:
        count = gl.where(j0 < keys, count, 0)
    return b, g, j0, k_start, keys, extent, q_start, queries, base, first, last, i_low, count


@gluon.jit
def near(bound, Sq, Sk):
    """Keep a bound, of 64 bits until here (C3), to where it may matter."""
    return gl.minimum(gl.maximum(bound, -Sq), Sk).to(gl.int32)


@gluon.jit
def tile_of(pid, tiles, n, together):
    """Return the head, of all, and the tile of a program.

    Only so many heads as have their queries in the L2 cache together are worked on at a time,
    and of these the first tiles first: below a causal bound they have most to do.
    """
    section = pid // (together * tiles)
    inside = pid % (together * tiles)
    width = gl.minimum(n - section * together, together)
    return section * together + inside % width, inside // width


@gluon.jit
def visited(
    j0, first, last, Sq, Sk, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, LEFT: gl.constexpr,
    RIGHT: gl.constexpr,
):  # fmt: skip
    """Return where the queries begin that see some key of a tile, and how many tiles they are."""
    low = 0
    high = Sq
    if RIGHT:
        low = gl.maximum(j0 - last, 0) // BLOCK_M * BLOCK_M
    if LEFT:
        high = gl.minimum(gl.minimum(j0 + BLOCK_N, Sk) - first, Sq)
    return low, gl.maximum(high - low + BLOCK_M - 1, 0) // BLOCK_M


@gluon.jit
def placed(b, at, start, PACKED: gl.constexpr):
    """Return the entry of the arrays and the place in it that are `at` of an entry of the call."""
    if PACKED:
        b = b * 0
        at += start
    return b, at


@gluon.jit
def following(at, member, count):
    """Return the tile of queries and the query head of the group after these, without dividing."""
    at = gl.where(at + 1 == count, 0, at + 1)
    return at, gl.where(at == 0, member + 1, member)


@gluon.jit
def produce(
    q, k, v, dout, q_tails, do_tails, rows, extra, shared, k_s, v_s, q_s, do_s, x_s,
    lse_s, delta_s, kv_full, q_full, do_full, free, b, g, j0, k_start, i_low, q_start,
    base, count, queries, heads, group, lines,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, TAILS: gl.constexpr, PACKED: gl.constexpr,
    LAID: gl.constexpr,
):  # fmt: skip
    """Copy what consumers need: keys and values once, queries and what belongs to them in rings."""
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
        slot = step % STAGES
        mbarrier.wait(free.index(slot), ((step // STAGES) & 1) ^ 1)
        full = q_full.index(slot)
        if LAID:
            mbarrier.expect(
                full, q.block_type.nbytes + rows.block_type.nbytes + extra.block_type.nbytes
            )
            tma.async_copy_global_to_shared(
                extra, [b * shared[0], h * shared[1], i0, j0], full, x_s.index(slot)
            )
        else:
            mbarrier.expect(full, q.block_type.nbytes + rows.block_type.nbytes)
        cut = i0 + BLOCK_M > queries
        copy_queries(q, q_tails, b, [entry, h, token, 0], cut, full, q_s.index(slot), TAILS)
        tma.async_copy_global_to_shared(rows, [line, row], full, lse_s.index(slot))
        full = do_full.index(slot)
        mbarrier.expect(full, dout.block_type.nbytes + rows.block_type.nbytes)
        copy_queries(dout, do_tails, b, [entry, h, token, 0], cut, full, do_s.index(slot), TAILS)
        tma.async_copy_global_to_shared(rows, [lines + line, row], full, delta_s.index(slot))
        at, member = following(at, member, count)


@gluon.jit
def copy_queries(x, tails, b, where, cut, full, room, TAILS: gl.constexpr):
    """Copy a tile of queries or of `dout`; where a length cuts it, what `rows_kernel` kept."""
    if TAILS:
        if cut:
            tma.async_copy_global_to_shared(tails, [b, where[1], 0, 0], full, room)
        else:
            tma.async_copy_global_to_shared(x, where, full, room)
    else:
        tma.async_copy_global_to_shared(x, where, full, room)


@gluon.jit
def consume(
    sums, dk, dv, dk_to, dv_to, token_strides, dextra, k_s, v_s, q_s, do_s, x_s, lse_s,
    delta_s, ds_s, dq_s, kv_full, q_full, do_full, free, b, g, j0, k_start, i_low, base,
    count, first, last, keys, extent, heads, group, padded, bend, exponent, scale,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, BLOCK_D: gl.constexpr, LEFT: gl.constexpr,
    RIGHT: gl.constexpr, CAPPED: gl.constexpr, CUT: gl.constexpr, TAILS: gl.constexpr,
    PACKED: gl.constexpr, TABLED: gl.constexpr, KEYED: gl.constexpr, GRADED: gl.constexpr,
):  # fmt: skip
    """Multiply; see the top of this file for what runs under what."""
    dtype: gl.constexpr = q_s.dtype
    NOTHING: gl.constexpr = FAR if CAPPED else -INF
    flat: gl.constexpr = gl.NVMMASharedLayout(128, 16, rank=2)
    s_l: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [8, 1], [16, BLOCK_M, 16])
    acc_l: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [8, 1], [16, BLOCK_D, 16])
    # Of the tile of `dq` four warps have 64 rows, or, if there are no more, 64 columns.
    split: gl.constexpr = [8, 1] if BLOCK_M == 128 else [4, 2]
    width: gl.constexpr = BLOCK_D if BLOCK_M == 128 else BLOCK_D // 2
    dq_l: gl.constexpr = gl.NVMMADistributedLayout([3, 0], split, [16, width, 16])

    k_tile = k_s._reinterpret(dtype, [KEYS, BLOCK_D], flat)
    v_tile = v_s._reinterpret(dtype, [KEYS, BLOCK_D], flat)
    if CUT:
        mbarrier.wait(kv_full, 0)
        if j0 + KEYS > keys:
            clear(k_tile, keys - j0, BLOCK_D)
            clear(v_tile, keys - j0, BLOCK_D)
            fence_async_shared()
            gl.thread_barrier()
    dk_acc = gl.zeros([KEYS, BLOCK_D], gl.float32, acc_l)
    dv_acc = gl.zeros([KEYS, BLOCK_D], gl.float32, acc_l)
    nothing = gl.zeros([KEYS, BLOCK_M], gl.float32, s_l)
    no_sum = gl.zeros([BLOCK_M, BLOCK_D], gl.float32, dq_l)
    dx = gl.zeros([KEYS], gl.float32, gl.SliceLayout(1, s_l))
    if GRADED:
        ds_t = ds_s._reinterpret(dtype, [BLOCK_M, KEYS], flat)
    else:
        ds_t = ds_s.permute((1, 0))
    s = nothing
    total = count * group
    mbarrier.wait(kv_full, 0)
    if total > 0:
        mbarrier.wait(q_full.index(0), 0)
        s = scores(k_tile, q_s.index(0), BLOCK_M, BLOCK_D)
        s = warpgroup_mma_wait(0, deps=(s,))
    at = 0
    member = 0
    gl.thread_barrier()  # once, or the compiler has one at each step
    for step in range(total):
        slot = step % STAGES
        q_tile = q_s.index(slot)._reinterpret(dtype, [BLOCK_M, BLOCK_D], flat)
        do_tile = do_s.index(slot)._reinterpret(dtype, [BLOCK_M, BLOCK_D], flat)
        i0 = i_low + at * BLOCK_M
        mbarrier.wait(do_full.index(slot), (step // STAGES) & 1)
        delta = row_of(delta_s.index(slot), s_l, BLOCK_M)
        dp = gl.zeros([KEYS, BLOCK_M], gl.float32, s_l) - delta
        dp = warpgroup_mma(v_tile, do_tile.permute((1, 0)), dp, is_async=True)
        if CAPPED:
            s = lowered(s, bend)
        if TABLED != "no":
            x = numbers(x_s, slot, b, g * group + member, j0, keys, s_l, TABLED, KEYED)
            s = s * exponent + x if TABLED == "bias" else gl.where(x != 0, s, NOTHING)
        if is_ragged(i0, j0, first, last, keys, BLOCK_M, KEYS, LEFT, RIGHT):
            s = hide(s, i0, j0, first, last, keys, LEFT, RIGHT, NOTHING)
        level = row_of(lse_s.index(slot), s_l, BLOCK_M)
        if TABLED == "bias":
            if TAILS and not KEYED:  # a bias may be anything where there is no query (C4)
                s = gl.where(level < INF, s, -INF)
            p = gl.exp2((s - level) * RATE)
        else:
            p = gl.exp2(s * exponent - level)
        dv_acc = warpgroup_mma(factor(p, dv_acc, dtype), do_tile, dv_acc, is_async=True)
        if CAPPED:
            p *= s * (2.0 - s)  # the slope, taken here for want of registers
        dp = warpgroup_mma_wait(1, deps=(dp,))
        ds = p * dp
        if KEYED and TABLED == "bias":
            line = (b * heads + g) * group + member
            dx = tallied(dx, ds, dextra, line, j0, keys, extent, at + 1 == count)
        if GRADED:
            tma.store_wait(0)
            gl.thread_barrier()
            ds_t.permute((1, 0)).store(ds.to(dtype))
        else:
            ds_s.store(ds.to(dtype))
        fence_async_shared()
        tma.store_wait(0)
        mbarrier.arrive(free.index((step + STAGES - 1) % STAGES), pred=step > 0)
        dq = warpgroup_mma(ds_t, k_tile, no_sum, use_acc=False, is_async=True)
        if GRADED:
            tma.async_copy_shared_to_global(dextra, [b, g * group + member, i0, j0], ds_s)
        dk_acc = warpgroup_mma(factor(ds, dk_acc, dtype), q_tile, dk_acc, is_async=True)
        dq, dv_acc = warpgroup_mma_wait(1, deps=(dq, dv_acc))
        dq_s.store(dq)
        fence_async_shared()
        after = step + 1
        ahead = after % STAGES
        phase = (after // STAGES) & 1
        mbarrier.wait(q_full.index(ahead), phase, pred=after < total)
        s = scores(k_tile, q_s.index(ahead), BLOCK_M, BLOCK_D)
        entry, row = placed(b, i0, base, PACKED)
        line = (entry * heads + g) * group + member
        add_to_global(sums, [line * padded + row, 0], dq_s)
        at, member = following(at, member, count)
        s, dk_acc = warpgroup_mma_wait(0, deps=(s, dk_acc))
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
def keep(to, strides, tile, g, start, rows, columns):
    """Write so many rows of a tile from shared memory; strides come in eights."""
    width: gl.constexpr = tile.shape[1]
    lines: gl.constexpr = gl.BlockedLayout([1, 8], [256 // width, width // 8], [8, 1], [1, 0])
    j = gl.expand_dims(gl.arange(0, tile.shape[0], gl.SliceLayout(1, lines)), 1)
    d = gl.expand_dims(gl.arange(0, width, gl.SliceLayout(0, lines)), 0)
    to += g.to(gl.int64) * strides[1] * 8
    at = to + (start + j).to(gl.int64) * strides[2] * 8 + d
    gl.store(at, tile.load(lines), mask=(j < rows) & (d < columns))


@gluon.jit
def scores(k_tile, q_room, BLOCK_M: gl.constexpr, BLOCK_D: gl.constexpr):
    """Issue `k q^T`, and do not wait."""
    s_l: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [8, 1], [16, BLOCK_M, 16])
    nothing = gl.zeros([KEYS, BLOCK_M], gl.float32, s_l)
    q_tile = q_room._reinterpret(k_tile.dtype, [BLOCK_M, BLOCK_D], k_tile.layout)
    return warpgroup_mma(k_tile, q_tile.permute((1, 0)), nothing, use_acc=False, is_async=True)


@gluon.jit
def numbers(
    x_s, slot, b, h, j0, keys, s_l: gl.constexpr, TABLED: gl.constexpr, KEYED: gl.constexpr
):
    """Read what is added to a tile of scores, or says which of them are seen (B3, B4)."""
    if KEYED:
        j = j0 + gl.arange(0, KEYS, gl.SliceLayout(1, s_l))
        row = x_s[0] + (b.to(gl.int64) * x_s[1] + h.to(gl.int64) * x_s[2])
        x = gl.expand_dims(gl.load(row + j, mask=j < keys, other=0), 1)
    else:
        bits: gl.constexpr = 16 if TABLED == "bias" else 8
        flat: gl.constexpr = gl.NVMMASharedLayout(128, bits, rank=2)
        room = x_s.index(slot)
        tile = room._reinterpret(x_s.dtype, [room.shape[2], KEYS], flat)
        x = tile.permute((1, 0)).load(s_l)
    return x.to(gl.float32) if TABLED == "bias" else x


@gluon.jit
def tallied(dx, ds, sums, line, j0, keys, Sk, done):
    """Add a tile's part of the gradient of a bias for each key; hand it over with the last."""
    dx += gl.sum(ds, 1)
    j = j0 + gl.arange(0, KEYS, dx.type.layout)
    row = sums + line.to(gl.int64) * Sk
    gl.store(row + j, dx, mask=(j < keys) & done)
    return gl.where(done, 0.0, dx)


@gluon.jit
def lowered(dot, bend):
    r"""Return `1 - tanh x` for a product, that is `2 / (e^{2x} + 1)`; as good as `tiles.score`.

    Its square root is one instruction, where a division is six. The slope of the cap is
    `s (2 - s)` then.
    """
    root = gl.rsqrt(gl.exp2(dot * bend - 1.0) + 0.5)
    return root * root


@gluon.jit
def clear(tile, rows, BLOCK_D: gl.constexpr):
    """Clear what follows so many rows of a tile in shared memory: it may be anything (C4)."""
    lines: gl.constexpr = gl.BlockedLayout([1, 8], [256 // BLOCK_D, BLOCK_D // 8], [8, 1], [1, 0])
    j = gl.arange(0, tile.shape[0], gl.SliceLayout(1, lines))
    x = tile.load(lines)
    tile.store(gl.where(gl.expand_dims(j < rows, 1), x, gl.zeros_like(x)))


@gluon.jit
def row_of(room, s_l: gl.constexpr, BLOCK_M: gl.constexpr):
    """Read one number for each query of a tile."""
    linear: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    row = room._reinterpret(gl.float32, [BLOCK_M], linear)
    return gl.expand_dims(row.load(gl.SliceLayout(0, s_l)), 0)


@gluon.jit
def is_ragged(
    i0, j0, first, last, Sk, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, LEFT: gl.constexpr,
    RIGHT: gl.constexpr,
):  # fmt: skip
    """Tell whether some query of a tile does not see some key of one."""
    ragged = j0 + BLOCK_N > Sk
    if RIGHT:
        ragged = ragged | (i0 + last < j0 + BLOCK_N - 1)
    if LEFT:
        ragged = ragged | (i0 + BLOCK_M - 1 + first > j0)
    return ragged


@gluon.jit
def hide(
    s, i0, j0, first, last, Sk, LEFT: gl.constexpr, RIGHT: gl.constexpr, NOTHING: gl.constexpr
):
    """Hide the pairs that do not see each other, and keys past the last."""
    j = j0 + gl.arange(0, s.shape[0], gl.SliceLayout(1, s.type.layout))
    i = gl.expand_dims(gl.arange(0, s.shape[1], gl.SliceLayout(0, s.type.layout)), 0)
    lowest = gl.where(j < Sk, 0, s.shape[1])
    if RIGHT:
        lowest = gl.maximum(lowest, j - last - i0)
    seen = i >= gl.expand_dims(lowest, 1)
    if LEFT:
        seen = seen & (i <= gl.expand_dims(j - first - i0, 1))
    return gl.where(seen, s, NOTHING)


@gluon.jit
def factor(p, acc, dtype: gl.constexpr):
    """Round a tile, and hold it as the left factor of a product into `acc`; it stays put."""
    return gl.convert_layout(p.to(dtype), gl.DotOperandLayout(0, acc.type.layout, 2))
