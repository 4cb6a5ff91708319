"""What every attention kernel asks of a tile: where it lies, who sees whom in it, its scores.

An array reaches a kernel as a pointer and its batch, head, row and column strides, so
that any layout and any broadcast (a stride of zero) is just numbers, and an absent array
is `None`, for which no code is generated. One kernel serves every size and layout: it is
compiled anew for what changes its code, and not for what are numbers in it.

Rows of a tile are pairs (query, query head of a group): with `PACK = 1` simply the
queries of one head; with `PACK = Hq / Hkv` all query heads that share a key/value head,
so that a handful of queries still fills the rows of a matrix product and the keys are
read once for all of them.

Visibility costs nothing where it is decided by loop bounds. A row `i` sees the keys
`i + first <= j <= i + last` of its *band* below its sequence's length; `span` turns that
into the tiles nobody sees (never visited), those everybody sees (no mask arithmetic) and
the ragged ones in between.
"""

import triton
import triton.language as tl

FAR = tl.constexpr(1 << 30)
"""Further than any position: a band that ends there is open."""

NUMBERS = [
    "strides", "row_strides", "mask_strides", "bias_strides", "dbias_strides",
    "left", "right", "n", "heads", "group", "tiles", "Sq", "Sk", "D", "DV", "parts", "part_rows",
    "part_size", "owned", "summed", "rows", "batches",
]  # fmt: skip
"""Arguments that are numbers to a kernel whatever their value."""

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
INF = tl.constexpr(float("inf"))


@triton.jit
def tokens_of(pointer, strides):
    """Join an array of tokens with its strides, which are passed in eights.

    The host sees to it that columns are adjacent and rows begin at multiples of eight
    elements (`layout.columns_in_eights`). Said so, the compiler loads sixteen bytes at a time.
    """
    return pointer, strides[0] * 8, strides[1] * 8, strides[2] * 8, 1


@triton.jit
def strided(pointer, strides, EIGHTS: tl.constexpr):
    """Join any other array with its strides, in eights where its rows allow it."""
    if EIGHTS:
        return tokens_of(pointer, strides)
    return pointer, strides[0], strides[1], strides[2], strides[3]


@triton.jit
def locate(pid, tiles, heads, starts, lens, n, extent, BLOCK: tl.constexpr):
    """Find the tile of a program: `(b, head, tile, first token, extent, length)`.

    A padded batch has `n` entries of `extent` tokens, of which `lens` are real. In a
    packed one `starts` are prefix sums, and sequence `b` owns the tiles from
    `starts[b] // BLOCK + b` on: never fewer than it needs, and found by bisection
    without anybody having counted. What lies past the last offset is sequence `n`,
    of no length.
    """
    tile = pid % tiles
    head = (pid // tiles) % heads
    b = pid // tiles // heads
    start = tl.zeros_like(b).to(tl.int64)
    length = extent
    if starts is not None:
        low = tl.zeros_like(tile)
        high = low + n
        while low < high:
            middle = (low + high + 1) // 2
            here = tl.load(starts + middle).to(tl.int32) // BLOCK + middle <= tile
            low = tl.where(here, middle, low)
            high = tl.where(here, high, middle - 1)
        b = low
        tile -= tl.load(starts + b).to(tl.int32) // BLOCK + b
        start, length = other_side(b, starts, lens, n, extent)
        extent = tl.where(b == n, extent - start.to(tl.int32), length)
    if lens is not None:
        length = clamp(tl.load(lens + b).to(tl.int32), extent)
    return b, head, tile, start, extent, length


@triton.jit
def other_side(b, starts, lens, n, extent):
    """Return `(first token, length)` of entry `b` on the side that is looped over.

    Prefix sums and lengths are known to the device only, and clamped there.
    """
    start = tl.zeros_like(b).to(tl.int64)
    length = extent
    if starts is not None:
        first = clamp(tl.load(starts + b).to(tl.int32), extent)
        length = clamp(tl.load(starts + tl.minimum(b + 1, n)).to(tl.int32) - first, extent - first)
        start = first.to(tl.int64)
    if lens is not None:
        length = clamp(tl.load(lens + b).to(tl.int32), extent)
    return start, length


@triton.jit
def clamp(x, most):
    """Keep a number that only the device knows within an array, whatever it is (A7)."""
    return tl.minimum(tl.maximum(x, 0), most)


@triton.jit
def band(b, offset, left, right, queries, keys, OFFSET: tl.constexpr):
    """Return `(first, last)`: row `i` sees keys from `i + first` to `i + last`.

    Positions are 64-bit (C3) until they are clamped to where they cannot matter.
    """
    # A number is already in the bounds.
    if OFFSET == "end":
        left -= keys - queries
        right += keys - queries
    elif OFFSET == "array":
        left -= tl.load(offset + b).to(tl.int64)
        right += tl.load(offset + b).to(tl.int64)
    first = -tl.minimum(tl.maximum(left, -FAR), FAR).to(tl.int32)
    last = tl.minimum(tl.maximum(right, -FAR), FAR).to(tl.int32)
    return first, last


@triton.jit
def span(low, high, all_low, all_high, length, BLOCK: tl.constexpr):
    """Cut `[low, high)` into ragged, whole and ragged tiles: `(low, a, b, high)`.

    `[all_low, all_high)` is what everybody sees; the tiles from `a` to `b` are whole. All
    begin at multiples of `BLOCK`, so that rows of a mask or bias are read in line.
    """
    low = tl.minimum(tl.maximum(low, 0), length) // BLOCK * BLOCK
    high = tl.maximum(tl.minimum(high, length), low)
    end = low + tl.cdiv(high - low, BLOCK) * BLOCK
    a = low + tl.cdiv(tl.maximum(all_low - low, 0), BLOCK) * BLOCK
    a = tl.minimum(a, end)
    b = low + tl.maximum(tl.minimum(all_high, high) - low, 0) // BLOCK * BLOCK
    return low, a, tl.maximum(a, b), high


@triton.jit
def keys_of(
    i0, i1, first, last, length, BLOCK: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr
):
    """Span the keys that the queries `i0 <= i < i1` see."""
    low = tl.zeros_like(length)
    all_low = low
    high = length
    all_high = length
    if LEFT:
        low = i0 + first
        all_low = i1 - 1 + first
    if RIGHT:
        high = i1 + last
        all_high = i0 + last + 1
    return span(low, high, all_low, all_high, length, BLOCK)


@triton.jit
def queries_of(
    j0, j1, first, last, length, BLOCK: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr
):
    """Span the queries that see some of the keys `j0 <= j < j1`."""
    low = tl.zeros_like(length)
    all_low = low
    high = length
    all_high = length
    if RIGHT:
        low = j0 - last
        all_low = j1 - 1 - last
    if LEFT:
        high = j1 - first
        all_high = j0 - first + 1
    return span(low, high, all_low, all_high, length, BLOCK)


@triton.jit
def in_band(i, j, first, last, queries, keys, LEFT: tl.constexpr, RIGHT: tl.constexpr):
    """Tell who sees whom by position (C2, C4)."""
    seen = (i < queries) & (j < keys)
    if LEFT:
        seen &= j >= i + first
    if RIGHT:
        seen &= j <= i + last
    return seen


@triton.jit
def at(x, b, head, row):
    """Return a pointer to a row of an array; 64-bit, for arrays of any size."""
    ptr, sb, sh, si, _ = x
    return ptr + (
        tl.cast(b, tl.int64) * sb + tl.cast(head, tl.int64) * sh + tl.cast(row, tl.int64) * si
    )


@triton.jit
def score(dot, bias, scale, softcap, SHAPE: tl.constexpr, kind: tl.constexpr):
    """Turn products of arrays of a `kind` into scores: scale, cap, bias, in order (B1 to B3).

    `SHAPE == "plain"` leaves the scale to the exponential, which multiplies anyway.
    """
    s = dot
    if SHAPE != "plain":
        s = dot * scale
    if softcap is not None:
        s = softcap * tanh(s * (1.0 / softcap), kind)
    if bias is not None:
        s += bias
    return s


@triton.jit
def tanh(x, kind: tl.constexpr):
    """Compute a hyperbolic tangent: `1 - 2 / (e^{2x} + 1)`.

    That cancels near zero, by as much as half a unit of float32 at one. Half precisions
    do not notice, whose weights are rounded to far less; float32 does, and there a short odd
    polynomial takes over. The hardware's own approximation has eleven bits, and even
    bfloat16 would notice them once they are multiplied by a cap.
    """
    far = 1.0 - 2.0 / (tl.exp2(x * (2.0 * LOG2E)) + 1.0)
    if kind != tl.float32:
        return far
    y = x * x
    near = x + x * y * (-0.333333333 + y * (0.133333333 + y * (-0.0539682540 + y * 0.0218694885)))
    return tl.where(tl.abs(x) < 0.25, near, far)


@triton.jit
def level_of(x, exponent, SHAPE: tl.constexpr):
    """Prepare what `weight` subtracts: a row's maximum or its log-sum-exp."""
    if SHAPE == "biased":
        return x
    return x * exponent


@triton.jit
def weight(s, level, exponent, SHAPE: tl.constexpr):
    """Compute `exp(scale (s - m))`, with `level = level_of(m)`.

    `exponent` is the binary logarithm of e, times the scale where scores are still
    without it. One fused multiply-add then does both, and the rounded product in `level`
    is the same for a whole row, so that it cancels. A bias may reach the ends of the range
    of float32, so there the difference comes first.
    """
    if SHAPE == "biased":
        return tl.exp2((s - level) * exponent)
    return tl.exp2(s * exponent - level)
