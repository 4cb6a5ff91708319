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
the ragged ones in between, where a row's limits cost one comparison for each score.
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
KEEP = tl.constexpr(tl.PropagateNan.ALL)


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
        tile = tl.maximum(tile - tl.load(starts + b).to(tl.int32) // BLOCK - b, 0)
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
def visits(reach, BLOCK: tl.constexpr, RAGGED: tl.constexpr):
    """Count the whole tiles of a span, or the ragged ones around them."""
    low, a, z, high = reach
    if RAGGED:
        return tl.cdiv(a - low, BLOCK) + tl.cdiv(high - z, BLOCK)
    return (z - a) // BLOCK


@triton.jit
def visited(t, reach, BLOCK: tl.constexpr, RAGGED: tl.constexpr):
    """Return where the `t`-th of them begins."""
    low, a, z, _ = reach
    if RAGGED:
        before = tl.cdiv(a - low, BLOCK)
        return tl.where(t < before, low + t * BLOCK, z + (t - before) * BLOCK)
    return a + t * BLOCK


@triton.jit
def keys_seen(i, first, last, queries, keys, LEFT: tl.constexpr, RIGHT: tl.constexpr):
    """Return the lowest and the highest key that each query sees by position (C2, C4)."""
    lowest = tl.zeros_like(i)
    highest = lowest + keys - 1
    if LEFT:
        lowest = i + first
    if RIGHT:
        highest = tl.minimum(highest, i + last)
    return lowest, tl.where(i < queries, highest, -1)


@triton.jit
def queries_seeing(j, first, last, queries, keys, LEFT: tl.constexpr, RIGHT: tl.constexpr):
    """Return the lowest and the highest query that sees each key by position (C2, C4)."""
    lowest = tl.zeros_like(j)
    highest = lowest + queries - 1
    if RIGHT:
        lowest = j - last
    if LEFT:
        highest = tl.minimum(highest, j - first)
    return lowest, tl.where(j < keys, highest, -1)


@triton.jit
def within(x, limits, LOWEST: tl.constexpr):
    """Tell which positions lie within limits; where the lowest is no limit, skip it."""
    lowest, highest = limits
    if LOWEST:
        return (x >= lowest) & (x <= highest)
    return x <= highest


@triton.jit
def at(x, b, head, row):
    """Return a pointer to a row of an array; 64-bit, for arrays of any size."""
    ptr, sb, sh, si, _ = x
    return ptr + (
        tl.cast(b, tl.int64) * sb + tl.cast(head, tl.int64) * sh + tl.cast(row, tl.int64) * si
    )


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
def inside(j, keys, EIGHTS: tl.constexpr):
    """Tell which keys of a row of a mask or bias may be read.

    Eight at a time where rows lie so (`call.aligned`): a guard that changes between them
    would have them loaded one by one. What is read beyond the keys is hidden by its position.
    """
    if EIGHTS:
        j = j // 8 * 8
    return j < keys


@triton.jit
def hide(x, nothing, mask, rows, j, guard):
    """Put `nothing` where a mask hides, if there is one (C1)."""
    if mask is not None:
        x = tl.where(tl.load(rows + j * mask[4], mask=guard, other=0) != 0, x, nothing)
    return x


@triton.jit
def score(dot, bias, rows, j, guard, scale, softcap, SHAPE: tl.constexpr):
    """Turn a product into a score: scale, cap, bias, in order (B1 to B3).

    What is returned is natural only where the shape is `"scaled"` or `"biased"`. Otherwise
    it is to be multiplied by `unit_of`, and the exponential, which multiplies anyway, does the
    rest.
    """
    if SHAPE == "plain":
        s = dot
    elif SHAPE == "capped":
        s = bent(dot * (scale / softcap))
    else:
        s = dot * scale
        if softcap is not None:
            s = softcap * tanh(s * (1.0 / softcap))
        if bias is not None:
            s += tl.load(rows + j * bias[4], mask=guard, other=0.0).to(tl.float32)
    return s


@triton.jit
def unit_of(scale, softcap, SHAPE: tl.constexpr):
    """Return what `score(...)` is to be multiplied by to be natural."""
    unit = 1.0
    if SHAPE == "plain":
        unit = scale
    elif SHAPE == "capped":
        unit = softcap
    return unit


@triton.jit
def slope(s, dot, scale, softcap, SHAPE: tl.constexpr):
    """Differentiate the soft cap, with the score `s` at hand."""
    if SHAPE == "capped":
        change = 1.0 - s * s
    else:
        t = tanh(dot * (scale / softcap))
        change = 1.0 - t * t
    return change


@triton.jit
def bent(x):
    """Approximate `tanh x` as `(e^{2x} - 1) / (e^{2x} + 1)`, for a cap that is mild.

    All but the power is exact or off in proportion, which leaves an error of one rounding at one,
    times half the cap; `1 - 2 / (e^{2x} + 1)` would add up four. A reciprocal square root,
    squared, is one instruction where a division is six. NaN stays NaN.
    """
    power = tl.exp2(tl.minimum(x * (2.0 * LOG2E), 126.0, propagate_nan=KEEP))
    root = tl.rsqrt(power + 1.0)
    return (power - 1.0) * root * root


@triton.jit
def tanh(x):
    """Compute a hyperbolic tangent: `1 - 2 / (e^{2x} + 1)`, near zero a short odd polynomial.

    The former cancels near zero, by as much as half a unit of float32 at one. The hardware's
    own approximation has eleven bits, and even bfloat16 would notice them once they are
    multiplied by a cap.
    """
    far = 1.0 - 2.0 / (tl.exp2(x * (2.0 * LOG2E)) + 1.0)
    y = x * x
    near = x + x * y * (-0.333333333 + y * (0.133333333 + y * (-0.0539682540 + y * 0.0218694885)))
    return tl.where(tl.abs(x) < 0.25, near, far)


@triton.jit
def binary(level, SHAPE: tl.constexpr):
    """Return the binary logarithm of e, with which powers of two are powers of e, for each row.

    A bias may reach the ends of the range of float32, where a rounded product with it would
    say nothing, or overflow. Scores of that size differ by sixteen or not at all, and each is
    itself uncertain by as much, so that one does as well there, which multiplies exactly.
    """
    if SHAPE == "biased":
        factor = tl.where(tl.abs(level) > 1 << 27, 1.0, LOG2E)
    else:
        factor = tl.full(level.shape, LOG2E, tl.float32)
    return factor


@triton.jit
def weight(s, level, exponent):
    """Compute `exp(unit (s - m))`, with `exponent = unit log2 e` and `level = m exponent`.

    That is one fused multiply-add and one power of two. The rounded product in `level` is
    the same for a whole row of a tile, so that it cancels there. It does not between tiles:
    what is carried over is rescaled by the difference itself.
    """
    return tl.exp2(s * exponent - level)
