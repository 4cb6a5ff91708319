"""Where a window's tokens lie on a map, and which of them see each other.

A map is shifted, padded and cut by arithmetic on indices alone (G2). Along one axis, token
`x` of window `w` lies at `w W + x + shift`, and where that is beyond the last window, one
turn nearer: it was *wrapped*. Two tokens of a window are a wrapped pair if on some axis
one of them was wrapped and the other was not.

Which places of a window are wrapped or padding depends on whether it is the last one of
its axis, and for padding on whether it is the last but one. So the windows of a map come in
*boxes*, products of runs along each axis, within which all windows hide the same pairs. A
program stays within a box: what it hides is joined to the bias once, before its loop over
windows, and neither the shift nor the padding costs anything inside.

Maps of fewer axes than three are given leading axes of length one, so that there is one
kernel for all.
"""

import triton
import triton.language as tl

from attnref_triton.tiles import INF, load

NUMBERS = [
    "strides", "row_strides", "mask_strides", "bias_stride", "runs", "windows", "extents",
    "shift", "wrap_bias", "scale", "heads", "batches", "chunk", "D", "DV",
]  # fmt: skip
"""Arguments that are numbers to a kernel whatever their value."""


@triton.jit
def box_of(part, runs, batches, chunk, RUNS: tl.constexpr):
    """Find the box of a program, `chunk` windows of which are its own.

    Returns `(first window, windows, start, stop)`: the former two along each axis, the latter
    among the box's windows of all maps of the batch.
    """
    first0 = part * 0
    first1, first2 = first0, first0
    n0, n1, n2 = first0, first0, first0
    start, stop = first0, first0
    for box in tl.static_range(RUNS[0] * RUNS[1] * RUNS[2]):
        run0 = runs[0][box // (RUNS[1] * RUNS[2])]
        run1 = runs[1][box // RUNS[2] % RUNS[1]]
        run2 = runs[2][box % RUNS[2]]
        total = batches * run0[1] * run1[1] * run2[1]
        parts = tl.cdiv(total, chunk)
        mine = (part >= 0) & (part < parts)
        first0 = tl.where(mine, run0[0], first0)
        first1 = tl.where(mine, run1[0], first1)
        first2 = tl.where(mine, run2[0], first2)
        n0 = tl.where(mine, run0[1], n0)
        n1 = tl.where(mine, run1[1], n1)
        n2 = tl.where(mine, run2[1], n2)
        start = tl.where(mine, part * chunk, start)
        stop = tl.where(mine, tl.minimum((part + 1) * chunk, total), stop)
        part -= parts
    return (first0, first1, first2), (n0, n1, n2), start, stop


@triton.jit
def window_at(t, first, n, WINDOW: tl.constexpr, AXES: tl.constexpr):
    """Return `(b, y0, y1, y2)`: whose the `t`-th window of a box is, and its origin."""
    y0, y1, y2 = first
    y2 += t % n[2]
    t = t // n[2]
    if AXES > 1:
        y1 += t % n[1]
        t = t // n[1]
    if AXES > 2:
        y0 += t % n[0]
        t = t // n[0]
    return t, y0 * WINDOW[0], y1 * WINDOW[1], y2 * WINDOW[2]


@triton.jit
def after(origin, first, n, WINDOW: tl.constexpr, AXES: tl.constexpr):
    """Return the next window of a box, without the divisions of `window_at`."""
    b, y0, y1, y2 = origin
    y2 += WINDOW[2]
    over = y2 >= (first[2] + n[2]) * WINDOW[2]
    y2 = tl.where(over, first[2] * WINDOW[2], y2)
    if AXES > 1:
        y1 += over.to(tl.int32) * WINDOW[1]
        over = y1 >= (first[1] + n[1]) * WINDOW[1]
        y1 = tl.where(over, first[1] * WINDOW[1], y1)
    if AXES > 2:
        y0 += over.to(tl.int32) * WINDOW[0]
        over = y0 >= (first[0] + n[0]) * WINDOW[0]
        y0 = tl.where(over, first[0] * WINDOW[0], y0)
    return b + over.to(tl.int32), y0, y1, y2


@triton.jit
def along(x, first, windows, shift, extent, W: tl.constexpr):
    """Place the tokens `x` of a window on one axis: `(from its origin, real, wrapped)`."""
    x += shift
    wrapped = (first == windows - 1) & (x >= W)
    x = tl.where(wrapped, x - windows * W, x)
    return x, first * W + x < extent, wrapped


@triton.jit
def places(n, first, windows, shift, extents, WINDOW: tl.constexpr, AXES: tl.constexpr):
    """Place the tokens `n` of the windows of a box: `(from the origin, real, wrapped)`.

    The origins of windows are added where they are read. What is not real is padding, or beyond
    the window's tokens; which axes a token was wrapped on are the bits of the last.
    """
    real = n < WINDOW[0] * WINDOW[1] * WINDOW[2]
    x2, there, by = along(n % WINDOW[2], first[2], windows[2], shift[2], extents[2], WINDOW[2])
    real, by = real & there, by.to(tl.int32)
    x0, x1 = n * 0, n * 0
    if AXES > 1:
        x1, there, wrapped = along(
            n // WINDOW[2] % WINDOW[1], first[1], windows[1], shift[1], extents[1], WINDOW[1]
        )
        real, by = real & there, by + wrapped.to(tl.int32) * 2
    if AXES > 2:
        x0, there, wrapped = along(
            n // (WINDOW[1] * WINDOW[2]), first[0], windows[0], shift[0], extents[0], WINDOW[0]
        )
        real, by = real & there, by + wrapped.to(tl.int32) * 4
    return (x0, x1, x2), real, by


@triton.jit
def tokens_on(pointer, strides):
    """Join an array of tokens with its strides, which are passed in eights; columns adjoin."""
    return pointer, strides, 8


@triton.jit
def rows_on(pointer, strides):
    """Join an array of one number for each token and head with its strides."""
    return pointer, strides, 1


@triton.jit
def start_of(x, origin, head):
    """Return a pointer to where a window begins in an array of a map, for one head."""
    pointer, strides, unit = x
    b, y0, y1, y2 = origin
    far = tl.cast(b, tl.int64) * strides[0] + tl.cast(head, tl.int64) * strides[4]
    far += tl.cast(y0, tl.int64) * strides[1] + tl.cast(y1, tl.int64) * strides[2]
    return pointer + (far + tl.cast(y2, tl.int64) * strides[3]) * unit


@triton.jit
def offsets(x, place):
    """Return how far places lie from a window's origin in an array; 64-bit, for any size."""
    _, strides, unit = x
    far = place[0].to(tl.int64) * strides[1] + place[1].to(tl.int64) * strides[2]
    return (far + place[2].to(tl.int64) * strides[3]) * unit


@triton.jit
def pair_bias(
    bias, bias_stride, head, i, j, i_by, j_by, j_real, wrap_bias,
    N: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """Join what is added to pairs to who sees whom: minus infinity where nobody does."""
    i, j = i[:, None], j[None, :]
    s = tl.zeros((i + j).shape, tl.float32)
    if bias is not None:
        pointers = bias + tl.cast(head, tl.int64) * bias_stride + (i * N + j)
        s += tl.load(pointers, mask=(i < N) & (j < N), other=0.0).to(tl.float32)
    if SHIFTED:
        # By selection where wrapped pairs are hidden (B4): a bias there may be anything.
        wrapped = -INF if wrap_bias is None else s + wrap_bias
        s = tl.where(i_by[:, None] != j_by[None, :], wrapped, s)
    return tl.where(j_real[None, :], s, -INF)


@triton.jit
def tile_of(x, origin, head, place, real, columns, width, WHOLE: tl.constexpr):
    """Load a tile of tokens of a window; what is not real is zero."""
    pointers = start_of(x, origin, head) + offsets(x, place)[:, None] + columns
    return load(pointers, real[:, None], columns < width, True, not WHOLE)


@triton.jit
def put(x, tile, origin, head, place, real, columns, width, WHOLE: tl.constexpr):
    """Store a tile of tokens of a window."""
    pointers = start_of(x, origin, head) + offsets(x, place)[:, None] + columns
    rows = real[:, None]
    if not WHOLE:
        rows = rows & (columns < width)
    tl.store(pointers, tile.to(x[0].dtype.element_ty), mask=rows)
