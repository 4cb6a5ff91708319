r"""Attention forward for Hopper: who copies, who multiplies, and when they wait.

**Counted.** As in `forward`: `4 D` operations for each visible pair of a query and a key, and
one power of two. A multiprocessor of an H100 does 4096 of these operations a clock and
takes 16 powers, so that at D 128 the powers of a tile take half as long as its products, at
D 64 as long. The kernel of `forward` does one after the other; two programs on a
multiprocessor hide some of it.

**Naive form.** That of `forward`: for each tile of keys `s = q k^T`, `p = 2^(s - max)`,
`acc = alpha acc + p v`, in one loop that also copies.

**The kernel** is that, with its work given to warps that do nothing else (Gluon calls such
groups of warps partitions):

- One warp, `produce`, has TMA copy tiles of keys and values into rings of `STAGES` rooms in
  shared memory, as far ahead as there is room.
- Three warpgroups, `consume`, have 64 queries each. While one takes powers, the products of
  another run. That is the whole schedule, `in_turn`: nothing overlaps inside a warpgroup, and
  the order among them settles by itself. (`overlapped`, with two consumers, has a product in
  flight during its own softmax; it ran level with it, see `docs/hopper.md`.)

Rooms change hands by barriers in shared memory: a `full` one is completed by TMA's bytes, a
`free` one by all consumers, and the phase of both is the parity of how often the ring went
round. A consumer that sees nothing of a tile that another one needs lets it pass: it waits and
arrives, and multiplies nothing (`pass_by`).

**Who does what** is decided by the host (`schedule.turns_of`): there are as many programs as
multiprocessors, and each has a list of tiles of queries, the longest first, balanced in
advance. `table` says what of the keys a tile visits, and for each consumer which of these
visits hide nothing, so that only the others pay for a mask.

**Rows' sums** are kept as each thread's own sums and added up across threads at the end: that
saves the shuffles of every tile, and registers, of which a thread has some 160.

**Scalars are read from memory** where they are needed, and not captured: what a partition
captures stays in registers through all its loops, and made them spill.

**Results** leave by TMA, from rooms of their own, clipped where the head's queries end: the
head is an axis of the descriptor.
"""

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

LOG2E = 1.4426950408889634
"""Turns powers of e into powers of two."""

LN2 = gl.constexpr(0.6931471805599453)
INV_LN2 = gl.constexpr(LOG2E)
INF = gl.constexpr(float("inf"))
KEEP = gl.constexpr(tl.PropagateNan.ALL)
ROWS = gl.constexpr(64)
TURN = gl.constexpr(4)
HEAD = gl.constexpr(10)
COUNTER = gl.constexpr(4)


@gluon.jit
def attend_kernel(
    q, k, v, extra, shared, out, results, out_strides, lse, sinks, turns, table,
    exponent, bend, unit,
    CONSUMERS: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr, D: gl.constexpr,
    DV: gl.constexpr, PARTS: gl.constexpr, LEFT: gl.constexpr, OVERLAP: gl.constexpr,
    DIRECT: gl.constexpr, ENTRIES: gl.constexpr, CLEAN: gl.constexpr, PACKED: gl.constexpr,
    TABLED: gl.constexpr, KEYED: gl.constexpr,
):  # fmt: skip
    """Attend; a program takes its turns, see the top of this file.

    `q`, `k`, `v` and `out` are descriptors of `(B, H, S, D)`, and `lse` is `(B, H, Sq)` without
    gaps. A natural score is `unit * s` (`tiles.unit_of`), and `exponent` is that unit times
    `LOG2E`; `bend` is what a capped score's product is multiplied by. What a call
    does not have is `None`, and no code comes of it.

    `DIRECT`: results go from registers to memory, `results` with its strides. `ENTRIES`: the
    device says what each entry of a batch has, turns are taken by whoever is free, and
    `CLEAN` if there are keys that must not be read. `PACKED`: rows past a tile's last are
    another sequence's. `TABLED`: what `extra` is, `"bias"`, `"mask"` or `"no"`; `KEYED`, if it is
    the same for all queries: a pointer, and `shared` its strides of entries and heads.
    """
    P: gl.constexpr = D // PARTS
    q_s = gl.allocate_shared_memory(q.dtype, [CONSUMERS * PARTS, 1, 1, ROWS, P], q.layout)
    # What comes through shared memory; a row for all queries comes from memory.
    LAID: gl.constexpr = "no" if KEYED else TABLED
    extra_s = q_s
    if KEYED:
        extra_s = (extra, shared[0], shared[1])
    elif TABLED != "no":
        extra_s = gl.allocate_shared_memory(
            extra.dtype, [STAGES * CONSUMERS, 1, 1, ROWS, BLOCK_N], extra.layout
        )
    o_s = q_s
    if not DIRECT:
        o_s = gl.allocate_shared_memory(q.dtype, [CONSUMERS, 1, 1, ROWS, DV], out.layout)
    k_s = gl.allocate_shared_memory(k.dtype, [STAGES * PARTS, 1, 1, BLOCK_N, P], k.layout)
    v_s = gl.allocate_shared_memory(v.dtype, [STAGES, 1, 1, BLOCK_N, DV], v.layout)
    bar: gl.constexpr = mbarrier.MBarrierLayout()
    q_full = gl.allocate_shared_memory(gl.int64, [CONSUMERS, 1], bar)
    q_free = gl.allocate_shared_memory(gl.int64, [CONSUMERS, 1], bar)
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
    for i in gl.static_range(CONSUMERS):
        mbarrier.init(q_full.index(i), count=1)
        mbarrier.init(q_free.index(i), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(v_full.index(i), count=1)
        mbarrier.init(k_free.index(i), count=CONSUMERS)
        mbarrier.init(v_free.index(i), count=CONSUMERS)
    mail = q_full
    mail_full = q_full
    mail_free = q_full
    if ENTRIES:
        mail = gl.allocate_shared_memory(gl.int32, [1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
        mail_full = gl.allocate_shared_memory(gl.int64, [1, 1], bar)
        mail_free = gl.allocate_shared_memory(gl.int64, [1, 1], bar)
        mbarrier.init(mail_full.index(0), count=1)
        mbarrier.init(mail_free.index(0), count=CONSUMERS)
    fence_async_shared()
    # Constants are constants only in tuples that are written out.
    if CONSUMERS == 3:
        gl.warp_specialize(
            [
                (consume, (
                    out, results, out_strides, lse, sinks, turns, table, exponent, bend, unit,
                    q_s, o_s, k_s, v_s, extra_s, mail, mail_full, mail_free, q_full, q_free,
                    k_full, k_free, v_full, v_free,
                    3, BLOCK_N, STAGES, D, DV, PARTS, LEFT, OVERLAP, DIRECT, ENTRIES, CLEAN,
                    PACKED, TABLED, KEYED, 0,
                )),
                (consume, (
                    out, results, out_strides, lse, sinks, turns, table, exponent, bend, unit,
                    q_s, o_s, k_s, v_s, extra_s, mail, mail_full, mail_free, q_full, q_free,
                    k_full, k_free, v_full, v_free,
                    3, BLOCK_N, STAGES, D, DV, PARTS, LEFT, OVERLAP, DIRECT, ENTRIES, CLEAN,
                    PACKED, TABLED, KEYED, 1,
                )),
                (produce, (
                    q, k, v, extra, shared, turns, table, q_s, k_s, v_s, extra_s, mail, mail_full,
                    mail_free, q_full, q_free, k_full, k_free, v_full, v_free, 3, BLOCK_N, STAGES,
                    D, PARTS, ENTRIES, LAID,
                )),
                (consume, (
                    out, results, out_strides, lse, sinks, turns, table, exponent, bend, unit,
                    q_s, o_s, k_s, v_s, extra_s, mail, mail_full, mail_free, q_full, q_free,
                    k_full, k_free, v_full, v_free,
                    3, BLOCK_N, STAGES, D, DV, PARTS, LEFT, OVERLAP, DIRECT, ENTRIES, CLEAN,
                    PACKED, TABLED, KEYED, 2,
                )),
            ],
            [4, 1, 4], [160, 24, 160],
        )  # fmt: skip
    else:
        gl.warp_specialize(
            [
                (consume, (
                    out, results, out_strides, lse, sinks, turns, table, exponent, bend, unit,
                    q_s, o_s, k_s, v_s, extra_s, mail, mail_full, mail_free, q_full, q_free,
                    k_full, k_free, v_full, v_free,
                    2, BLOCK_N, STAGES, D, DV, PARTS, LEFT, OVERLAP, DIRECT, ENTRIES, CLEAN,
                    PACKED, TABLED, KEYED, 0,
                )),
                (consume, (
                    out, results, out_strides, lse, sinks, turns, table, exponent, bend, unit,
                    q_s, o_s, k_s, v_s, extra_s, mail, mail_full, mail_free, q_full, q_free,
                    k_full, k_free, v_full, v_free,
                    2, BLOCK_N, STAGES, D, DV, PARTS, LEFT, OVERLAP, DIRECT, ENTRIES, CLEAN,
                    PACKED, TABLED, KEYED, 1,
                )),
                (produce, (
                    q, k, v, extra, shared, turns, table, q_s, k_s, v_s, extra_s, mail, mail_full,
                    mail_free, q_full, q_free, k_full, k_free, v_full, v_free, 2, BLOCK_N, STAGES,
                    D, PARTS, ENTRIES, LAID,
                )),
            ],
            [4, 1], [240, 24],
        )  # fmt: skip


@gluon.jit
def produce(
    q, k, v, extra, shared, turns, table, q_s, k_s, v_s, extra_s, mail, mail_full, mail_free,
    q_full, q_free, k_full, k_free, v_full, v_free, CONSUMERS: gl.constexpr, BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr, D: gl.constexpr, PARTS: gl.constexpr, ENTRIES: gl.constexpr,
    TABLED: gl.constexpr,
):  # fmt: skip
    """Copy what consumers need: a tile's queries once, its keys and values in rings.

    The queries' room is asked for after the first keys are on their way.
    """
    P: gl.constexpr = D // PARTS
    taken = 0
    if ENTRIES:
        here = claim(turns, table, mail, mail_full, mail_free, taken)
        table += COUNTER
    else:
        here = turns + gl.load(turns + gl.program_id(0))
    tile = gl.load(here)
    turn = 0
    c = 0
    while tile >= 0:
        row = table + tile * (HEAD + 4 * CONSUMERS)
        b = gl.load(here + 1)
        h = gl.load(here + 2)
        g = gl.load(here + 3)
        i0 = gl.load(row)
        low = gl.load(row + 1)
        visits = gl.load(row + 2)
        if not ENTRIES:
            here += TURN
            tile = gl.load(here)
        for t in range(visits):
            s = c % STAGES
            phase = (c // STAGES) & 1
            j0 = low + t * BLOCK_N
            mbarrier.wait(k_free.index(s), phase ^ 1)
            if TABLED == "no":
                mbarrier.expect(k_full.index(s), PARTS * k.block_type.nbytes)
            else:
                mbarrier.expect(
                    k_full.index(s),
                    PARTS * k.block_type.nbytes + CONSUMERS * extra.block_type.nbytes,
                )
            for p in gl.static_range(PARTS):
                tma.async_copy_global_to_shared(
                    k, [b, g, j0, p * P], k_full.index(s), k_s.index(s * PARTS + p)
                )
            if TABLED != "no":
                for i in gl.static_range(CONSUMERS):
                    tma.async_copy_global_to_shared(
                        extra, [b * shared[0], h * shared[1], i0 + i * ROWS, j0],
                        k_full.index(s), extra_s.index(s * CONSUMERS + i),
                    )  # fmt: skip
            if t == 0:
                for i in gl.static_range(CONSUMERS):
                    mbarrier.wait(q_free.index(i), (turn & 1) ^ 1)
                    mbarrier.expect(q_full.index(i), PARTS * q.block_type.nbytes)
                    for p in gl.static_range(PARTS):
                        tma.async_copy_global_to_shared(
                            q, [b, h, i0 + i * ROWS, p * P], q_full.index(i),
                            q_s.index(i * PARTS + p),
                        )  # fmt: skip
                turn += 1
            mbarrier.wait(v_free.index(s), phase ^ 1)
            mbarrier.expect(v_full.index(s), v.block_type.nbytes)
            tma.async_copy_global_to_shared(v, [b, g, j0, 0], v_full.index(s), v_s.index(s))
            c += 1
        if ENTRIES:
            taken += 1
            here = claim(turns, table - COUNTER, mail, mail_full, mail_free, taken)
            tile = gl.load(here)


@gluon.jit
def claim(turns, counter, mail, mail_full, mail_free, taken):
    """Take the next turn that no program has, and tell the consumers."""
    at = gl.atomic_add(counter, 1, sem="relaxed")
    mbarrier.wait(mail_free.index(0), (taken & 1) ^ 1)
    mail.store(gl.full([1], at, gl.int32, gl.BlockedLayout([1], [32], [1], [0])))
    mbarrier.arrive(mail_full.index(0))
    return turns + 1 + TURN * at


@gluon.jit
def told(turns, mail, mail_full, mail_free, taken):
    """Hear from the producer which turn is next."""
    mbarrier.wait(mail_full.index(0), taken & 1)
    at = gl.max(mail.load(gl.BlockedLayout([1], [32], [4], [0])), 0)
    mbarrier.arrive(mail_free.index(0))
    return turns + 1 + TURN * at


@gluon.jit
def consume(
    out, results, out_strides, lse, sinks, turns, table, exponent, bend, unit,
    q_s, o_s, k_s, v_s, extra_s, mail, mail_full, mail_free, q_full, q_free,
    k_full, k_free, v_full, v_free,
    CONSUMERS: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr, D: gl.constexpr,
    DV: gl.constexpr, PARTS: gl.constexpr, LEFT: gl.constexpr, OVERLAP: gl.constexpr,
    DIRECT: gl.constexpr, ENTRIES: gl.constexpr, CLEAN: gl.constexpr, PACKED: gl.constexpr,
    TABLED: gl.constexpr, KEYED: gl.constexpr, ME: gl.constexpr,
):  # fmt: skip
    """Attend with 64 queries of each turn's tile: those of consumer `ME`.

    `c` counts the visits of the program, by which rooms of the rings and their phases go.
    """
    dtype: gl.constexpr = q_s.dtype
    s_l: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    o_l: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DV, 16])
    line: gl.constexpr = gl.SliceLayout(1, s_l)
    out_line: gl.constexpr = gl.SliceLayout(1, o_l)
    flat: gl.constexpr = gl.NVMMASharedLayout(128, 16, rank=2)

    taken = 0
    if ENTRIES:
        here = told(turns, mail, mail_full, mail_free, taken)
        table += COUNTER
    else:
        here = turns + gl.load(turns + gl.program_id(0))
    tile = gl.load(here)
    row, visits, begin, a, z, end = span(table, tile, CONSUMERS, ME)
    turn = 0
    c = 0
    while tile >= 0:
        m = gl.full([ROWS], -INF, gl.float32, line)
        l = partial(gl.zeros([ROWS, BLOCK_N], gl.float32, s_l))
        acc = gl.zeros([ROWS, DV], gl.float32, o_l)
        extra_t = extra_s
        if KEYED:
            extra_t = keyed_row(extra_s, gl.load(here + 1), gl.load(here + 2), gl.load(row + 1))
        if visits > 0:
            mbarrier.wait(q_full.index(ME), turn & 1)
        for t in range(begin):
            pass_by(c + t, k_full, k_free, v_full, v_free, STAGES)
        if OVERLAP:
            if end > begin:
                m, l, acc, p = first_tile(
                    begin, end, m, l, acc, row, q_s, k_s, extra_t, k_full, k_free, c, exponent,
                    bend, unit, BLOCK_N, STAGES, D, PARTS, CONSUMERS, LEFT, TABLED, KEYED,
                    ME,
                )  # fmt: skip
                if LEFT:
                    m, l, acc, p = overlapped(
                        begin + 1, a, end, m, l, acc, p, row, q_s, k_s, v_s, extra_t, k_full,
                        k_free, v_full, v_free, c, exponent, bend, unit, BLOCK_N, STAGES, D,
                        DV, PARTS, CONSUMERS, LEFT, TABLED, KEYED, ME, True,
                    )  # fmt: skip
                a = gl.maximum(a, begin + 1)
                m, l, acc, p = overlapped(
                    a, z, end, m, l, acc, p, row, q_s, k_s, v_s, extra_t, k_full,
                    k_free, v_full, v_free, c, exponent, bend, unit, BLOCK_N, STAGES, D,
                    DV, PARTS, CONSUMERS, LEFT, TABLED, KEYED, ME, False,
                )  # fmt: skip
                m, l, acc, p = overlapped(
                    gl.maximum(a, z), end, end, m, l, acc, p, row, q_s, k_s, v_s, extra_t, k_full,
                    k_free, v_full, v_free, c, exponent, bend, unit, BLOCK_N, STAGES, D, DV,
                    PARTS, CONSUMERS, LEFT, TABLED, KEYED, ME, True,
                )  # fmt: skip
                s = (c + end - 1) % STAGES
                mbarrier.wait(v_full.index(s), ((c + end - 1) // STAGES) & 1)
                v_tile = v_s.index(s)._reinterpret(dtype, [BLOCK_N, DV], flat)
                if CLEAN:
                    clean(v_tile, row, (end - 1) * BLOCK_N, BLOCK_N, DV)
                acc = warpgroup_mma(p, v_tile, acc, is_async=True)
                acc = warpgroup_mma_wait(0, deps=(acc,))
                mbarrier.arrive(v_free.index(s))
        else:
            if LEFT:
                m, l, acc = in_turn(
                    begin, a, m, l, acc, row, q_s, k_s, v_s, extra_t, k_full, k_free, v_full,
                    v_free, c, exponent, bend, unit, BLOCK_N, STAGES, D, DV, PARTS,
                    CONSUMERS, LEFT, CLEAN, TABLED, KEYED, ME, True,
                )  # fmt: skip
            m, l, acc = in_turn(
                a, z, m, l, acc, row, q_s, k_s, v_s, extra_t, k_full, k_free, v_full, v_free,
                c, exponent, bend, unit, BLOCK_N, STAGES, D, DV, PARTS, CONSUMERS, LEFT,
                CLEAN, TABLED, KEYED, ME, False,
            )  # fmt: skip
            m, l, acc = in_turn(
                z, end, m, l, acc, row, q_s, k_s, v_s, extra_t, k_full, k_free, v_full, v_free,
                c, exponent, bend, unit, BLOCK_N, STAGES, D, DV, PARTS, CONSUMERS, LEFT,
                CLEAN, TABLED, KEYED, ME, True,
            )  # fmt: skip
        b = gl.load(here + 1)
        h = gl.load(here + 2)
        r0 = gl.load(row) + ME * ROWS
        heads = gl.load(row + 6)
        Sq = gl.load(row + 7)
        after = Sq
        real = Sq
        if ENTRIES:
            real = gl.load(row + 8)
            after = gl.load(row + 9)
        else:
            here += TURN
            tile = gl.load(here)
        if visits > 0:
            mbarrier.arrive(q_free.index(ME))
            turn += 1

        l = gl.convert_layout(gl.sum(l, 1), line, assert_trivial=True)
        e, weight = finish(m, l, exponent, sinks, h)
        i = r0 + gl.arange(0, ROWS, line)
        if ENTRIES:
            e = gl.where(i < real, e, -INF)
            weight = gl.where(i < real, weight, 0.0)
        weight = gl.convert_layout(weight, out_line, assert_trivial=True)
        if not DIRECT:
            tma.store_wait(0)
            gl.thread_barrier()
        weight = gl.expand_dims(weight, 1)
        # Selected, not multiplied: hidden values that are NaN must not reach an empty row.
        o = gl.where(weight == 0.0, 0.0, acc * weight).to(dtype)
        if DIRECT:
            put(results, out_strides, o, b, h, r0, after, DV)
        elif PACKED:
            if r0 + ROWS <= after:
                o_s.index(ME)._reinterpret(dtype, [ROWS, DV], flat).store(o)
                fence_async_shared()
                tma.async_copy_shared_to_global(out, [b, h, r0, 0], o_s.index(ME))
            else:
                put(results, out_strides, o, b, h, r0, after, DV)
        else:
            o_s.index(ME)._reinterpret(dtype, [ROWS, DV], flat).store(o)
            fence_async_shared()
            tma.async_copy_shared_to_global(out, [b, h, r0, 0], o_s.index(ME))
        gl.store(lse + (b.to(gl.int64) * heads + h) * Sq + i, e, mask=i < after)
        for t in range(end, visits):
            pass_by(c + t, k_full, k_free, v_full, v_free, STAGES)
        c += visits
        if ENTRIES:
            # Last: the producer tells once this tile's keys are copied, for which it needs room.
            taken += 1
            here = told(turns, mail, mail_full, mail_free, taken)
            tile = gl.load(here)
        row, visits, begin, a, z, end = span(table, tile, CONSUMERS, ME)
    if not DIRECT:
        tma.store_wait(0)


@gluon.jit
def put(results, strides, o, b, h, r0, after, DV: gl.constexpr):
    """Write rows of results from registers, as far as they are the tile's and have columns."""
    i = r0 + gl.arange(0, ROWS, gl.SliceLayout(1, o.type.layout))
    d = gl.arange(0, DV, gl.SliceLayout(0, o.type.layout))
    to = b.to(gl.int64) * strides[0] + h.to(gl.int64) * strides[1]
    rows = results + (to + i.to(gl.int64) * strides[2]) * 8
    mask = gl.expand_dims(i < after, 1) & gl.expand_dims(d < strides[3] * 8, 0)
    gl.store(gl.expand_dims(rows, 1) + gl.expand_dims(d, 0), o, mask=mask)


@gluon.jit
def clean(v_tile, row, j0, BLOCK_N: gl.constexpr, DV: gl.constexpr):
    """Write zeros over the values of keys that are not there: zero times NaN is NaN (C4).

    All consumers do so, each before its own product: what they write is the same.
    """
    PIECE: gl.constexpr = 32
    by: gl.constexpr = gl.BlockedLayout([1, 8], [256 // DV, DV // 8], [4, 1], [1, 0])
    keys = gl.load(row + 5) + 1 - j0
    if keys < BLOCK_N:
        j = gl.expand_dims(gl.arange(0, PIECE, gl.SliceLayout(1, by)), 1)
        for n in gl.static_range(BLOCK_N // PIECE):
            if keys < n * PIECE + PIECE:
                piece = v_tile.slice(n * PIECE, PIECE)
                x = piece.load(by)
                piece.store(gl.where(j < keys - n * PIECE, x, gl.zeros_like(x)))
        fence_async_shared()
        gl.thread_barrier()


@gluon.jit
def span(table, tile, CONSUMERS: gl.constexpr, ME: gl.constexpr):
    """Read which visits of a tile are a consumer's: from, whole from, whole to, to."""
    row = table + gl.maximum(tile, 0) * (HEAD + 4 * CONSUMERS)
    mine = row + (HEAD + 4 * ME)
    visits = gl.load(row + 2)
    return row, visits, gl.load(mine), gl.load(mine + 1), gl.load(mine + 2), gl.load(mine + 3)


@gluon.jit
def in_turn(
    t0, t1, m, l, acc, row, q_s, k_s, v_s, extra_s, k_full, k_free, v_full, v_free, c,
    exponent, bend, unit, BLOCK_N: gl.constexpr, STAGES: gl.constexpr, D: gl.constexpr,
    DV: gl.constexpr, PARTS: gl.constexpr, CONSUMERS: gl.constexpr, LEFT: gl.constexpr,
    CLEAN: gl.constexpr, TABLED: gl.constexpr, KEYED: gl.constexpr, ME: gl.constexpr,
    RAGGED: gl.constexpr,
):  # fmt: skip
    """Take visits one after the other: product, softmax, product."""
    dtype: gl.constexpr = q_s.dtype
    flat: gl.constexpr = gl.NVMMASharedLayout(128, 16, rank=2)
    for t in range(t0, t1):
        slot = (c + t) % STAGES
        phase = ((c + t) // STAGES) & 1
        mbarrier.wait(k_full.index(slot), phase)
        s = scores(q_s, k_s, slot, BLOCK_N, D, PARTS, ME)
        s = warpgroup_mma_wait(0, deps=(s,))
        s = tabled(s, slot, extra_s, row, t * BLOCK_N, bend, unit, CONSUMERS, TABLED, KEYED, ME)
        mbarrier.arrive(k_free.index(slot))
        if RAGGED:
            s = hide(s, row, t * BLOCK_N, LEFT, ME)
        p, m, l, alpha = softmax(s, m, l, exponent, TABLED, RAGGED)
        acc = acc * spread(alpha, acc)
        mbarrier.wait(v_full.index(slot), phase)
        v_tile = v_s.index(slot)._reinterpret(dtype, [BLOCK_N, DV], flat)
        if RAGGED and CLEAN:
            clean(v_tile, row, t * BLOCK_N, BLOCK_N, DV)
        acc = warpgroup_mma(factor(p, acc, dtype), v_tile, acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=(acc,))
        mbarrier.arrive(v_free.index(slot))
    return m, l, acc


@gluon.jit
def first_tile(
    t, end, m, l, acc, row, q_s, k_s, extra_s, k_full, k_free, c,
    exponent, bend, unit, BLOCK_N: gl.constexpr, STAGES: gl.constexpr, D: gl.constexpr,
    PARTS: gl.constexpr, CONSUMERS: gl.constexpr, LEFT: gl.constexpr, TABLED: gl.constexpr,
    KEYED: gl.constexpr, ME: gl.constexpr,
):  # fmt: skip
    """Begin an overlapping schedule: its first weights, whose product comes with the next visit."""
    dtype: gl.constexpr = q_s.dtype
    slot = (c + t) % STAGES
    mbarrier.wait(k_full.index(slot), ((c + t) // STAGES) & 1)
    s = scores(q_s, k_s, slot, BLOCK_N, D, PARTS, ME)
    s = warpgroup_mma_wait(0, deps=(s,))
    s = tabled(s, slot, extra_s, row, t * BLOCK_N, bend, unit, CONSUMERS, TABLED, KEYED, ME)
    mbarrier.arrive(k_free.index(slot))
    s = hide(s, row, t * BLOCK_N, LEFT, ME)
    p, m, l, _ = softmax(s, m, l, exponent, TABLED, True)
    after = c + t + 1
    mbarrier.wait(k_full.index(after % STAGES), (after // STAGES) & 1, pred=t + 1 < end)
    return m, l, acc, factor(p, acc, dtype)


@gluon.jit
def overlapped(
    t0, t1, end, m, l, acc, p, row, q_s, k_s, v_s, extra_s, k_full, k_free, v_full, v_free,
    c, exponent, bend, unit, BLOCK_N: gl.constexpr, STAGES: gl.constexpr, D: gl.constexpr,
    DV: gl.constexpr, PARTS: gl.constexpr, CONSUMERS: gl.constexpr, LEFT: gl.constexpr,
    TABLED: gl.constexpr, KEYED: gl.constexpr, ME: gl.constexpr, RAGGED: gl.constexpr,
):  # fmt: skip
    """Take visits so that the product of one's weights runs while the next's are worked out.

    The wait for the keys after the next is where it is for the compiler's sake: without a
    barrier between softmax and `wait(0)`, it moves the latter up, and nothing overlaps.
    """
    dtype: gl.constexpr = q_s.dtype
    flat: gl.constexpr = gl.NVMMASharedLayout(128, 16, rank=2)
    for t in range(t0, t1):
        slot = (c + t) % STAGES
        s = scores(q_s, k_s, slot, BLOCK_N, D, PARTS, ME)
        before = (c + t - 1) % STAGES
        mbarrier.wait(v_full.index(before), ((c + t - 1) // STAGES) & 1)
        v_tile = v_s.index(before)._reinterpret(dtype, [BLOCK_N, DV], flat)
        acc = warpgroup_mma(p, v_tile, acc, is_async=True)
        s = warpgroup_mma_wait(1, deps=(s,))
        s = tabled(s, slot, extra_s, row, t * BLOCK_N, bend, unit, CONSUMERS, TABLED, KEYED, ME)
        mbarrier.arrive(k_free.index(slot))
        if RAGGED:
            s = hide(s, row, t * BLOCK_N, LEFT, ME)
        w, m, l, alpha = softmax(s, m, l, exponent, TABLED, RAGGED)
        after = c + t + 1
        mbarrier.wait(k_full.index(after % STAGES), (after // STAGES) & 1, pred=t + 1 < end)
        acc = warpgroup_mma_wait(0, deps=(acc,))
        mbarrier.arrive(v_free.index(before))
        acc = acc * spread(alpha, acc)
        p = factor(w, acc, dtype)
    return m, l, acc, p


@gluon.jit
def scores(
    q_s, k_s, slot, BLOCK_N: gl.constexpr, D: gl.constexpr, PARTS: gl.constexpr, ME: gl.constexpr
):
    """Issue `q k^T`, and do not wait."""
    s_l: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    flat: gl.constexpr = gl.NVMMASharedLayout(128, 16, rank=2)
    P: gl.constexpr = D // PARTS
    s = gl.zeros([ROWS, BLOCK_N], gl.float32, s_l)
    for p in gl.static_range(PARTS):
        q_tile = q_s.index(ME * PARTS + p)._reinterpret(q_s.dtype, [ROWS, P], flat)
        k_tile = k_s.index(slot * PARTS + p)._reinterpret(q_s.dtype, [BLOCK_N, P], flat)
        s = warpgroup_mma(q_tile, k_tile.permute((1, 0)), s, use_acc=p > 0, is_async=True)
    return s


@gluon.jit
def capped(s, bend):
    """Bend products by a soft cap, if there is one (B2); what is left is to multiply by it.

    As `tiles.bent` does, and says why; here the reciprocal is the hardware's own.
    """
    if bend is not None:
        power = gl.exp2(gl.minimum(s * bend, 126.0, propagate_nan=KEEP))
        s = (power - 1.0) * gl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [power + 1.0], gl.float32, True, 1
        )
    return s


@gluon.jit
def keyed_row(extra, b, h, low):
    """Find the numbers of an entry and a head, from a tile's first key on."""
    return extra[0] + (b.to(gl.int64) * extra[1] + h.to(gl.int64) * extra[2] + low)


@gluon.jit
def tabled(
    s, slot, extra_s, row, j0, bend, unit, CONSUMERS: gl.constexpr, TABLED: gl.constexpr,
    KEYED: gl.constexpr, ME: gl.constexpr,
):  # fmt: skip
    """Turn products into scores: with a bias, natural ones; and hide what a mask does (B2 to B4).

    The tiles of either lie in the ring with the keys; what is the same for all queries is read
    from memory, and only here, for want of registers.
    """
    s = capped(s, bend)
    if TABLED != "no":
        if KEYED:
            j = gl.arange(0, s.shape[1], gl.SliceLayout(0, s.type.layout)) + j0
            x = gl.expand_dims(gl.load(extra_s + j, mask=j <= gl.load(row + 5), other=0), 0)
        else:
            bits: gl.constexpr = 16 if TABLED == "bias" else 8
            width: gl.constexpr = min(128, s.shape[1] * bits // 8)
            flat: gl.constexpr = gl.NVMMASharedLayout(width, bits, rank=2)
            room = extra_s.index(slot * CONSUMERS + ME)
            x = room._reinterpret(extra_s.dtype, [ROWS, s.shape[1]], flat).load(s.type.layout)
        if TABLED == "bias":
            s = s * unit + x.to(gl.float32)
        else:
            s = gl.where(x != 0, s, -INF)
    return s


@gluon.jit
def finish(m, l, exponent, sinks, h):
    """Return rows' `lse`, and what their weighted values are multiplied by (C5, D4)."""
    if sinks is None:
        live = l != 0.0
        l = gl.where(live, l, 1.0)
        e = (m * exponent + gl.log2(l)) * LN2
        share = 1.0
    else:
        m = m * (exponent * LN2)
        sink = gl.load(sinks + h).to(gl.float32)
        top = gl.maximum(m, sink)
        level = gl.where(top == -INF, 0.0, top)
        share = gl.exp2((m - level) * INV_LN2)
        l = l * share + gl.exp2((sink - level) * INV_LN2)
        live = l != 0.0
        l = gl.where(live, l, 1.0)
        e = top + gl.log2(l) * LN2
    return gl.where(live, e, -INF), gl.where(live, share / l, 0.0)


@gluon.jit
def hide(s, row, j0, LEFT: gl.constexpr, ME: gl.constexpr):
    """Hide what a row does not see; keys are counted from the tile's first."""
    by_row: gl.constexpr = gl.SliceLayout(1, s.type.layout)
    by_column: gl.constexpr = gl.SliceLayout(0, s.type.layout)
    i = gl.arange(0, ROWS, by_row) + ME * ROWS
    j = gl.expand_dims(gl.arange(0, s.shape[1], by_column), 0)
    highest = gl.minimum(gl.load(row + 4) + i, gl.load(row + 5)) - j0
    seen = j <= gl.expand_dims(highest, 1)
    if LEFT:
        lowest = gl.load(row + 3) + i - j0
        seen = seen & (j >= gl.expand_dims(lowest, 1))
    return gl.where(seen, s, -INF)


@gluon.jit
def softmax(s, m, l, exponent, TABLED: gl.constexpr, RAGGED: gl.constexpr):
    """Return the weights, the new state, and what scales the old one (D1).

    Where scores are natural and may be huge, powers have the base that `tiles.binary` says.
    """
    m_new = gl.maximum(m, gl.max(s, 1))
    top = m_new
    if RAGGED or TABLED != "no":
        top = gl.where(m_new == -INF, 0.0, m_new)
    if TABLED == "bias":
        rate = gl.where(gl.abs(top) > 134217728.0, 1.0, INV_LN2)
        alpha = gl.exp2((m - top) * rate)
        p = gl.exp2(s * gl.expand_dims(rate, 1) - gl.expand_dims(top * rate, 1))
    else:
        alpha = gl.exp2((m - top) * exponent)
        p = gl.exp2(s * exponent - gl.expand_dims(top * exponent, 1))
    sums = partial(p)
    return p, m_new, l * spread(alpha, sums) + sums, alpha


@gluon.jit
def partial(p):
    """Sum what a thread holds of each row: columns in pairs, every eighth."""
    return gl.sum(gl.sum(gl.reshape(p, [ROWS, p.shape[1] // 8, 4, 2]), 3), 1)


@gluon.jit
def spread(x, acc):
    """Lay a number for each row along the columns of `acc`; no number moves."""
    return gl.expand_dims(
        gl.convert_layout(x, gl.SliceLayout(1, acc.type.layout), assert_trivial=True), 1
    )


@gluon.jit
def factor(p, acc, dtype: gl.constexpr):
    """Round weights, and hold them as the left factor of a product into `acc`; they stay put."""
    return gl.convert_layout(p.to(dtype), gl.DotOperandLayout(0, acc.type.layout, 2))


@gluon.jit
def pass_by(c, k_full, k_free, v_full, v_free, STAGES: gl.constexpr):
    """Let a visit pass that is another consumer's."""
    slot = c % STAGES
    phase = (c // STAGES) & 1
    mbarrier.wait(k_full.index(slot), phase)
    mbarrier.arrive(k_free.index(slot))
    mbarrier.wait(v_full.index(slot), phase)
    mbarrier.arrive(v_free.index(slot))
