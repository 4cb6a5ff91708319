// Where a window's tokens lie on a map, and which of them see each other.
//
// A map is shifted, padded and cut by arithmetic on indices alone (G2). Along one axis, token x of
// window w lies at w W + x + shift, and where that is beyond the last window, one turn nearer: it was
// *wrapped*. Two tokens of a window are a wrapped pair if on some axis one of them was wrapped and the
// other was not.
//
// Which places of a window are wrapped or padding depends on whether it is the last one of its axis,
// and for padding on whether it is the last but one. So the windows of a map come in *boxes*, products
// of runs along each axis, within which all windows hide the same pairs. A block of threads stays
// within a box, and has one head: what is added to its pairs, and where its tokens lie from a window's
// origin, is worked out once, before its loop over windows.
//
// Extents are numbers to a kernel, and no constants: they are used before the loop alone. Maps of
// fewer axes than three are given leading axes of length one.

#pragma once

#include "problem.cuh"

constexpr int MAPS = 8;          // arrays of tokens that a call may have
constexpr int ARRAYS = MAPS + 3;
constexpr int CHUNK = 32;        // windows that a block may have
constexpr int BOXES = 27;        // that a map may be cut into
constexpr int ABSENT = -2147483647 - 1;

// What an array is to a call. Rows have one number for each token and head, the mask one for each token.
enum Source { Q, K, V, OUT, DOUT, DQ, DK, DV, LSE, DLSE, MASK };
enum Kind { FLOAT16, BFLOAT16, FLOAT32, FLOAT64 };

// One call; strides are in units, of the batch, three axes, and heads.
struct WindowCall {
    char *data[ARRAYS];
    int strides[ARRAYS][5];
    const void *bias, *scales;
    float *dbias, *dscale;
    int scales_kind;
    float scale, wrap_bias;
    int shifted, heads, batches, chunk;
    int columns[2];  // of q and k, and of v, in eights
    int window[3], shift[3], extents[3], windows[3];
    int runs[3], first[3][3], count[3][3];
    int ends[BOXES];  // the part behind each box
};

struct Box {
    int first[3], count[3], start, stop;
};

// Find the box of a part, which has `chunk` windows of it, or what is left.
DEVICE Box box_of(const WindowCall& call, int part) {
    int n = 0, before = 0;
    while (part >= call.ends[n]) before = call.ends[n++];
    const int at[3] = {n / call.runs[2] / call.runs[1], n / call.runs[2] % call.runs[1], n % call.runs[2]};
    Box box;
    int total = call.batches;
    for (int a = 0; a < 3; a++) {
        box.first[a] = call.first[a][at[a]];
        box.count[a] = call.count[a][at[a]];
        total *= box.count[a];
    }
    box.start = (part - before) * call.chunk;
    box.stop = box.start + call.chunk < total ? box.start + call.chunk : total;
    return box;
}

// How strides and offsets are counted, in bytes, so that 32 bits do for maps of many gigabytes.
DEVICE constexpr int unit(int source) {
    return source < MAPS ? 16 : source == MASK ? 1 : 4;
}

// What a block prepares before its loop.
template <int ROWS, int COUNT> struct Prepared {
    char* origin[CHUNK][COUNT];  // of windows
    int offset[COUNT][ROWS];     // of tokens, in units; ABSENT for padding
    int wrapped[ROWS];           // on which axes, as bits; -1 for padding
};

template <int ROWS, int COUNT, int THREADS>
DEVICE void prepare(
    Prepared<ROWS, COUNT> &to, const WindowCall& call, const Box& box, int head, const int (&sources)[COUNT]
) {
    const int tokens = call.window[0] * call.window[1] * call.window[2];
    for (int n = threadIdx.x; n < ROWS; n += THREADS) {
        const int at[3] = {n / (call.window[1] * call.window[2]), n / call.window[2] % call.window[1], n % call.window[2]};
        int x[3], by = 0;
        bool real = n < tokens;
        for (int a = 0; a < 3; a++) {
            x[a] = at[a] + call.shift[a];
            if (box.first[a] == call.windows[a] - 1 && x[a] >= call.window[a]) {
                x[a] -= call.windows[a] * call.window[a];
                by |= 1 << a;
            }
            real = real && box.first[a] * call.window[a] + x[a] < call.extents[a];
        }
        to.wrapped[n] = real ? by : -1;
        for (int c = 0; c < COUNT; c++) {
            const int* strides = call.strides[sources[c]];
            to.offset[c][n] = real ? x[0] * strides[1] + x[1] * strides[2] + x[2] * strides[3] : ABSENT;
        }
    }
    // By other warps than those that have just had tokens.
    for (int t = (threadIdx.x + THREADS / 2) % THREADS; t < box.stop - box.start; t += THREADS) {
        int rest = box.start + t, y[3];
        for (int a = 2; a >= 0; a--) {
            y[a] = (box.first[a] + rest % box.count[a]) * call.window[a];
            rest /= box.count[a];
        }
        for (int c = 0; c < COUNT; c++) {
            const int* strides = call.strides[sources[c]];
            const i64 far = i64(rest) * strides[0] + i64(y[0]) * strides[1] + i64(y[1]) * strides[2] +
                            i64(y[2]) * strides[3] + i64(head) * strides[4];
            to.origin[t][c] = call.data[sources[c]] + far * unit(sources[c]);
        }
    }
}

// A tile of tokens in shared memory, in chunks of sixteen bytes, of which one column of any eight rows
// touches all banks. Rows are an odd number of chunks apart, which places at a fixed distance make the
// best of; or chunks of a row change places with each other from row to row (`TURNED`), which takes no
// room and more instructions.
template <int LENGTH, int COLUMNS, bool TURNED = false> struct Tile {
    static constexpr int ROWS = LENGTH, WIDTH = COLUMNS;
    static constexpr int EIGHTS = WIDTH / 8;
    static constexpr int PITCH = WIDTH * 2 + (TURNED ? 0 : 16);
    static constexpr int BYTES = ROWS * PITCH;
    static constexpr int ALIKE = PITCH >= 128 ? 1 : 128 / PITCH;  // rows that fill all banks
    static constexpr int TURNS = EIGHTS < 8 ? EIGHTS : 8;
    static_assert(!TURNED || (EIGHTS & (EIGHTS - 1)) == 0, "places are exclusive ors");

    // Where a chunk lies; eight rows further, `8 PITCH` further.
    static DEVICE u32 at(int row, int chunk) {
        return row * PITCH + (TURNED ? chunk ^ ((row & 7) / ALIKE % TURNS) : chunk) * 16;
    }
    // From a chunk of a tile to the one `n` after it; its number is a multiple of what `n` counts in.
    template <typename Place> static DEVICE Place after(Place place, int n) {
        return TURNED ? place ^ Place(n * 16) : place + n * 16;
    }
    // Where a lane reads sixteen rows of sixteen columns.
    static DEVICE u32 of_lane(int row) {
        const int lane = threadIdx.x % 32;
        return at(row + lane % 16, lane / 16);
    }
};

// The sixteens of bytes that a thread copies of a window: how far each lies from the window's origin,
// in sixteens; ABSENT for padding, and for columns that there are not. A window's tokens are dealt to
// PACE threads in turn, and the n-th that a thread has lies `n PACE` sixteens behind its first. They
// stay in registers where they are few.
template <typename T, int REAL, int PACE> struct Pieces {
    static constexpr int TOTAL = REAL * T::EIGHTS, COUNT = (TOTAL + PACE - 1) / PACE;
    static constexpr bool HELD = COUNT <= 2;
    static_assert(PACE % T::EIGHTS == 0, "a thread has one column");

    const int* offset;
    int row, column;  // of the first
    bool real;        // whether there is such a column
    int held[HELD ? COUNT : 1];

    DEVICE Pieces(const int* offsets, int first, int thread, int columns)
        : offset(offsets), row(first + thread / T::EIGHTS), column(thread % T::EIGHTS), real(column < columns) {
        if constexpr (HELD) {
#pragma unroll
            for (int n = 0; n < COUNT; n++) held[n] = far(n);
        }
    }
    DEVICE int far(int n) const {
        const int behind = n * (PACE / T::EIGHTS);
        const bool any = real && (TOTAL % PACE == 0 || n + 1 < COUNT || row + behind < REAL);
        const int at = any ? offset[row + behind] : ABSENT;
        return at == ABSENT ? ABSENT : at + column;
    }
    DEVICE int at(int n) const {
        if constexpr (HELD) return held[n];
        return far(n);
    }
    // Where the n-th lies in a tile.
    DEVICE u32 inside(int n) const {
        constexpr int STEP = PACE / T::EIGHTS;
        return STEP % 8 == 0 ? T::at(row, column) + n * STEP * T::PITCH : T::at(row + n * STEP, column);
    }

    // Queue copies of a window's tokens into a tile; rows of padding, and columns that there are not, stay.
    DEVICE void fetch(u32 tile, const char* from) const {
#pragma unroll
        for (int n = 0; n < COUNT; n++) {
            const int far = at(n);
            copy_sixteen_if(far != ABSENT, tile + inside(n), from + far * 16LL);
        }
    }
    // Write what a tile has of them.
    DEVICE void store(const unsigned char* tile, char* to) const {
#pragma unroll
        for (int n = 0; n < COUNT; n++) {
            const int far = at(n);
            if (far != ABSENT) write_sixteen(to + far * 16LL, *reinterpret_cast<const uint4*>(tile + inside(n)));
        }
    }
};

// Fill shared memory with zeros.
template <int BYTES, int THREADS>
DEVICE void clear(unsigned char* to) {
    for (int p = threadIdx.x * 16; p < BYTES; p += THREADS * 16)
        *reinterpret_cast<uint4*>(to + p) = uint4{0, 0, 0, 0};
}

// Work out what is added to the pairs of a warp's sixteen queries, minus infinity for those that do
// not see each other: in the layout of the matrix units, queries `row` and `row + 8`.
template <typename Bias, int TILES>
DEVICE void pair_bias(float (&together)[TILES][4], const WindowCall& call, int head, const int* wrapped, int row) {
    const int tokens = call.window[0] * call.window[1] * call.window[2], first = threadIdx.x % 4 * 2;
    // All numbers are asked for before one is waited for; those of padding are others' again.
    Bias given[TILES][4];
    if constexpr (!is_none<Bias>::value) {
        const Bias* mine = static_cast<const Bias*>(call.bias) + i64(head) * tokens * tokens;
        const Bias* rows[2] = {mine + lesser(row, tokens - 1) * tokens, mine + lesser(row + 8, tokens - 1) * tokens};
#pragma unroll
        for (int n = 0; n < TILES; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int j = first + n * 8 + e % 2;
                given[n][e] = rows[e / 2][n + 1 < TILES ? j : lesser(j, tokens - 1)];
            }
    }
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float s = 0.0f;
            if constexpr (!is_none<Bias>::value) s = widen(given[n][e]);
            together[n][e] = wrapped[first + n * 8 + e % 2] >= 0 ? s : -infinity();
        }
    if (!call.shifted) return;
    const int by[2] = {wrapped[row], wrapped[row + 8]};
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            // By selection where wrapped pairs are hidden (B4): a bias there may be anything.
            if (by[e / 2] != wrapped[first + n * 8 + e % 2])
                together[n][e] = call.wrap_bias == -infinity() ? -infinity() : together[n][e] + call.wrap_bias;
        }
}

// Put `nothing` at the pairs whose key a mask hides.
template <int TILES>
DEVICE void unmasked(float (&x)[TILES][4], float nothing, const char* mask, const int* offset) {
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int far = offset[n * 8 + threadIdx.x % 4 * 2 + e];
            if (far == ABSENT || !mask[far]) x[n][e] = x[n][e + 2] = nothing;
        }
}

// s += a b^T, of sixteen rows of the tile `a` from `row` on, and TILES eights of rows of `b`.
template <typename T, typename Lies, int TILES>
DEVICE void multiply_across(float (&s)[TILES][4], u32 a, int row, u32 b) {
    const int lane = threadIdx.x % 32;
    if constexpr (Lies::WIDTH == 16) {  // two eights of keys at a time
        u32 x[4];
        load_matrices(x, a + Lies::of_lane(row));
        b += Lies::at(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
        for (int n = 0; n < TILES; n += 2) {
            u32 y[4];
            load_matrices(y, b + n * 8 * Lies::PITCH);
            multiply<T>(s[n], x, y[0], y[1]);
            if (n + 1 < TILES) multiply<T>(s[n + 1], x, y[2], y[3]);
        }
    } else {  // two sixteens of columns at a time
        a += Lies::of_lane(row);
        b += Lies::at(lane % 8, lane / 8);
#pragma unroll
        for (int d = 0; d < Lies::EIGHTS; d += 4) {
            u32 x[2][4];
            load_matrices(x[0], Lies::after(a, d));
            load_matrices(x[1], Lies::after(a, d + 2));
            const u32 from = Lies::after(b, d);
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                u32 y[4];
                load_matrices(y, from + n * 8 * Lies::PITCH);
                multiply<T>(s[n], x[0], y[0], y[1]);
                multiply<T>(s[n], x[1], y[2], y[3]);
            }
        }
    }
}

// o += x b, of sixteen rows of the tile `b` from `row` on, and all its columns.
template <typename T, typename Lies>
DEVICE void multiply_down(float (&o)[Lies::EIGHTS][4], const u32 (&x)[4], u32 b, int row) {
    b += Lies::of_lane(0);
#pragma unroll
    for (int n = 0; n < Lies::EIGHTS; n += 2) {
        u32 y[4];
        load_transposed(y, Lies::after(b, n) + row * Lies::PITCH);
        multiply<T>(o[n], x, y[0], y[1]);
        multiply<T>(o[n + 1], x, y[2], y[3]);
    }
}

// Take two eights of columns of scores as the first factor of a product.
template <typename T, int TILES>
DEVICE void as_factor(u32 (&x)[4], const float (&p)[TILES][4], int step) {
    x[0] = pack<T>(p[2 * step][0], p[2 * step][1]);
    x[1] = pack<T>(p[2 * step][2], p[2 * step][3]);
    x[2] = x[3] = 0;
    if (2 * step + 1 < TILES) {
        x[2] = pack<T>(p[2 * step + 1][0], p[2 * step + 1][1]);
        x[3] = pack<T>(p[2 * step + 1][2], p[2 * step + 1][3]);
    }
}

// Put sixteen rows of results into a tile, and write them from there, where they lie next to each other.
template <typename T, typename Lies, typename Lines>
DEVICE void put(const float (&o)[Lies::EIGHTS][4], float upper, float lower, unsigned char* tile, int row, char* to,
                const Lines& lines) {
    const int lane = threadIdx.x % 32;
    const u32 chunk = Lies::at(row + lane / 4, 0);
    __syncwarp();
#pragma unroll
    for (int n = 0; n < Lies::EIGHTS; n++) {
        unsigned char* mine = tile + lane % 4 * 4 + Lies::after(chunk, n);
        *reinterpret_cast<u32*>(mine) = pack<T>(o[n][0] * upper, o[n][1] * upper);
        *reinterpret_cast<u32*>(mine + 8 * Lies::PITCH) = pack<T>(o[n][2] * lower, o[n][3] * lower);
    }
    __syncwarp();
    lines.store(tile, to);
}

// The binary logarithm of e, with which powers of two are powers of e, for a row of such a level.
//
// A bias may reach the ends of the range of float32, where a rounded product with it would say nothing,
// or overflow. Scores of that size differ by sixteen or not at all, and each is itself uncertain by as
// much, so that one does as well there, which multiplies exactly.
DEVICE float binary(float level) { return fabsf(level) > 134217728.0f ? 1.0f : LOG2E; }
